"""Catches what fixtures want in the JUnit file."""

from __future__ import annotations

from collections.abc import Callable

import pytest

# The fixtures record_xml_attribute and record_testsuite_property look here, and nowhere public.
from _pytest.junitxml import xml_key

#: Called with the node id, or None for the whole suite, the name and the value.
Record = Callable[["str | None", str, str], None]


class NodeRecorder:
    """The part of pytest's own node reporter that fixtures and plugins write to."""

    def __init__(self, nodeid: str, record: Record) -> None:
        self._nodeid = nodeid
        self._record = record

    def add_attribute(self, name: str, value: object) -> None:
        self._record(self._nodeid, str(name), str(value))


class XmlRecorder:
    """Stands where pytest keeps its own JUnit writer, for one file that is written elsewhere."""

    def __init__(self, family: str, record: Record) -> None:
        self.family = family
        self._record = record

    def node_reporter(self, report: object) -> NodeRecorder:
        """The recorder of a test, by its node id or one of its reports."""
        # A node id is a str or, since pytest 9, an object of its own.
        return NodeRecorder(str(getattr(report, "nodeid", report)), self._record)

    def add_global_property(self, name: str, value: object) -> None:
        """Add a property of the whole suite."""
        self._record(None, str(name), str(value))


def record_xml(config: pytest.Config, record: Record) -> None:
    """Take the place of pytest's JUnit writer, if ``--junitxml`` asked for one."""
    if not config.getoption("xmlpath", None):
        return
    own = config.stash.get(xml_key, None)
    if own is not None:
        config.pluginmanager.unregister(own)
    recorder = XmlRecorder(config.getini("junit_family"), record)
    config.stash[xml_key] = recorder  # type: ignore[misc]
    # pytest_unconfigure of pytest's junitxml unregisters what it finds there.
    config.pluginmanager.register(recorder)
