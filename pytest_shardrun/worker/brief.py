"""Reports that only tell how long a phase took."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any, Final

import pytest

#: What every report has; a plugin may have added to it.
_USUAL: Final = frozenset(
    (
        "nodeid",
        # In its place since pytest 9.1.
        "_id",
        "location",
        "keywords",
        "outcome",
        "longrepr",
        "when",
        "user_properties",
        "sections",
        "duration",
        "start",
        "stop",
    )
)
_HOOK: Final = "pytest_report_to_serializable"

#: The phases of a test of which nothing but times is told.
PHASES: Final = ("setup", "call", "teardown")


def nobody_else_serialises(config: pytest.Config) -> bool:
    """Whether pytest itself alone decides how reports are sent."""
    implementations = getattr(config.hook, _HOOK).get_hookimpls()
    return all(each.function.__module__.startswith("_pytest.") for each in implementations)


def abridge(report: pytest.TestReport, item: pytest.Item, *, is_first: bool) -> list[Any] | None:
    """Such a report in short: duration, start, stop, keywords; None where it says more.

    The keywords are left out but for the first report of a test: they are the same in all phases.
    """
    if (
        type(report) is not pytest.TestReport
        or report.outcome != "passed"
        or report.longrepr is not None
        or report.sections
        or report.user_properties
        or not _USUAL.issuperset(vars(report))
        or str(report.nodeid) != str(item.nodeid)
        or report.location != item.location
        or report.when not in PHASES
        or not _are_times(report.duration, report.start, report.stop)
    ):
        return None
    keywords = list(report.keywords) if is_first else None
    if keywords is not None and any(type(name) is not str for name in keywords):
        return None
    return [report.duration, report.start, report.stop, keywords]


def _are_times(*values: object) -> bool:
    return all(type(value) is float and isfinite(value) for value in values)


def text_of(brief: list[Any]) -> str:
    """A report in short as JSON, which takes an encoder several times as long."""
    duration, start, stop, keywords = brief
    if keywords is None:
        return f"[{duration!r},{start!r},{stop!r},null]"
    names = ",".join(map(encode_basestring_ascii, keywords))
    return f"[{duration!r},{start!r},{stop!r},[{names}]]"


def restore(
    brief: list[Any],
    before: pytest.TestReport | None,
    nodeid: str,
    location: tuple[str, int | None, str],
    when: Any,
) -> pytest.TestReport:
    """The report that was abridged; ``before`` is the test's last one."""
    duration, start, stop, names = brief
    keywords = before.keywords if names is None and before is not None else names or ()
    return pytest.TestReport(
        nodeid=nodeid,
        location=location,
        keywords=dict.fromkeys(keywords, 1),
        outcome="passed",
        longrepr=None,
        when=when,
        duration=duration,
        start=start,
        stop=stop,
    )


def restore_next(brief: list[Any], before: pytest.TestReport, when: Any) -> pytest.TestReport:
    """What ``restore`` returns where ``before`` was abridged, too, in a fraction of the time.

    What was added to ``before`` since then is in it as well.
    """
    duration, start, stop, _ = brief
    report = pytest.TestReport.__new__(pytest.TestReport)
    content = vars(report)
    content.update(vars(before))
    content.update(
        keywords=dict(before.keywords),
        outcome="passed",
        longrepr=None,
        when=when,
        user_properties=[],
        sections=[],
        duration=duration,
        start=start,
        stop=stop,
    )
    return report
