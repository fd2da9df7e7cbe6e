from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun import events
from pytest_shardrun.events import BrokenStream, Event, read_event
from pytest_shardrun.model import Attempt
from pytest_shardrun.nodes import Headings, Node, ReportNode, worker_id
from pytest_shardrun.replay import warning_message
from pytest_shardrun.worker import wire
from pytest_shardrun.worker.identity import ShardIdentity
from pytest_shardrun.worker.recorder import XmlRecorder, record_xml
from pytest_shardrun.worker.stream import Stream

#: What a worker puts on its stream, and what it means.
WORDS: Final[list[tuple[list[Any], Event]]] = [
    (["hello", wire.PROTOCOL, {"pid": 7}], events.Hello({"pid": 7})),
    (["collecting", "tests/test_ä.py"], events.Collecting("tests/test_ä.py")),
    (["collect_report", {"a": [1]}], events.CollectReport({"a": [1]})),
    (["collected", 3, "0f", 1], events.Collected(3, "0f", 1)),
    (
        ["collection", [["a", "a.py", None, "a", None, False, "class"]], ["b"], ["line"]],
        events.Collection([["a", "a.py", None, "a", None, False, "class"]], ["b"], ["line"]),
    ),
    (["usage_error", ["no such file"]], events.UsageRefused(["no such file"])),
    (["start", 0], events.Started(0)),
    (
        ["report", 0, "call", "passed", True, {"x": "\udc80"}],
        events.Reported(0, "call", "passed", True, {"x": "\udc80"}),
    ),
    (
        ["report", None, None, "rerun", False, None],
        events.Reported(None, None, "rerun", False, None),
    ),
    (["finish", 4, 0.25], events.Finished(4, 0.25)),
    (
        ["passed", 4, 0.25, [0.1, 1.0, 1.1, ["a"]], [0.1, 1.1, 1.2, None], [0.0, 1.2, 1.2, None]],
        events.Passed(
            4, 0.25, [0.1, 1.0, 1.1, ["a"]], [0.1, 1.1, 1.2, None], [0.0, 1.2, 1.2, None]
        ),
    ),
    (["keeping"], events.Keeping()),
    (["child", 4321], events.ChildSeen(4321)),
    (["finish", 4, 0.25, 0.2, 0.1], events.Finished(4, 0.25, 0.2, 0.1)),
    (
        ["warning", None, {"message": "old"}, "collect", "", ["a.py", 1, "f"]],
        events.Warned(None, {"message": "old"}, "collect", "", ["a.py", 1, "f"]),
    ),
    (
        ["warning", 3, {}, "runtest", "a.py::a", None],
        events.Warned(3, {}, "runtest", "a.py::a", None),
    ),
    (["xml", "a.py::a", "name", "value"], events.XmlRecorded("a.py::a", "name", "value")),
    (["xml", None, "name", "value"], events.XmlRecorded(None, "name", "value")),
    (["lossy", 2, "user_properties", "Thing"], events.Lossy(2, "user_properties", "Thing")),
    (["stop", "fail", "enough"], events.StopAsked("fail", "enough")),
    (["exit", "enough", 7], events.ExitAsked("enough", 7)),
    (["exit", "enough", None], events.ExitAsked("enough", None)),
    (["interrupted", "KeyboardInterrupt"], events.Interrupted("KeyboardInterrupt")),
    (["out_of_memory"], events.OutOfMemory()),
    (["internal_error", "Traceback"], events.InternalError("Traceback")),
    (["finishing"], events.Finishing()),
    (["goodbye", 0, {"exitstatus": 0}], events.Goodbye(0, {"exitstatus": 0})),
]

JSON: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda each: st.one_of(st.lists(each), st.dictionaries(st.text(), each)),
    max_leaves=8,
)


class Pipes:
    """A worker's stream, and the controller's ends of it."""

    def __init__(self) -> None:
        commands, self.write_descriptor = os.pipe()
        self.read_descriptor, words = os.pipe()
        self._descriptors = [commands, self.write_descriptor, self.read_descriptor, words]
        self.stream = Stream(commands, words)

    def lines(self) -> list[bytes]:
        *lines, rest = os.read(self.read_descriptor, 1 << 16).split(b"\n")
        assert rest == b""
        return lines

    def hang_up(self) -> None:
        os.close(self.write_descriptor)
        self._descriptors.remove(self.write_descriptor)

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.close()


def line_of(sequence: object, *word: object) -> bytes:
    return wire.encode([sequence, *word]).rstrip(b"\n")


def test_there_is_an_example_of_every_event() -> None:
    assert {type(event) for _, event in WORDS} == set(get_args(Event))


@pytest.mark.parametrize(("word", "event"), WORDS, ids=lambda value: str(value)[:40])
def test_what_a_worker_says_is_what_the_controller_reads(
    word: list[Any], event: Event, pipes: Pipes
) -> None:
    pipes.stream.put(*word)
    pipes.stream.flush()

    (line,) = pipes.lines()
    assert read_event(line, 0) == event


def test_events_are_numbered_in_their_order(pipes: Pipes) -> None:
    for word, _ in WORDS:
        pipes.stream.put(*word)
    pipes.stream.flush()

    lines = pipes.lines()

    read = [read_event(line, sequence) for sequence, line in enumerate(lines)]
    assert read == [event for _, event in WORDS]


def test_a_child_that_a_test_forked_says_nothing(pipes: Pipes) -> None:
    pipes.stream.put("finishing")
    child = os.fork()
    if not child:
        pipes.stream.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    pipes.stream.flush()

    assert [read_event(line, 0) for line in pipes.lines()] == [events.Finishing()]


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (events.run_command([3, 4], more=True), ["run", [3, 4], True]),
        (events.run_command([], more=False), ["run", [], False]),
        (events.LIST_COMMAND, ["list"]),
        (events.FINISH_COMMAND, ["finish"]),
        (events.STOP_COMMAND, ["stop"]),
    ],
    ids=lambda value: str(value),
)
def test_a_command_is_what_the_worker_receives(
    data: bytes, command: list[Any], pipes: Pipes
) -> None:
    assert pipes.stream.receive(wait=False) is None

    os.write(pipes.write_descriptor, data)

    assert pipes.stream.receive(wait=True) == command
    assert pipes.stream.receive(wait=False) is None


def test_commands_may_arrive_in_pieces(pipes: Pipes) -> None:
    data = events.run_command([1], more=True) + events.FINISH_COMMAND
    for at in range(len(data)):
        os.write(pipes.write_descriptor, data[at : at + 1])

    assert pipes.stream.receive(wait=True) == ["run", [1], True]
    assert pipes.stream.receive(wait=True) == ["finish"]


def test_a_worker_notices_the_end_of_the_controller(pipes: Pipes) -> None:
    pipes.hang_up()

    with pytest.raises(EOFError):
        pipes.stream.receive(wait=False)


@pytest.mark.parametrize("got", [0, 2, 4, None, "3", 3.5, [3], True], ids=repr)
def test_a_gap_in_the_sequence_breaks_the_stream(got: object) -> None:
    with pytest.raises(BrokenStream, match="event 3 is missing"):
        read_event(line_of(got, "finishing"), 3)


def test_another_protocol_breaks_the_stream() -> None:
    with pytest.raises(BrokenStream, match="protocol 7 instead of"):
        read_event(line_of(0, "hello", 7, {}), 0)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"[]",
        b"0",
        b"null",
        b'"finishing"',
        b"{}",
        b"[0]",
        b'[0,"unknown"]',
        b'[0,"start"]',
        b'[0,"start","0"]',
        b'[0,"start",0,0]',
        b'[0,"finish",0,1]',
        b'[0,"finishing"',
        b'[0,"finishing"]]',
        b'[0,"finishing"]\xff',
        b"collected 3 items",
        b"\x00\x01\x02",
        b"[" + b"9" * 10_000 + b"]",
    ],
    ids=lambda line: repr(line[:24]),
)
def test_a_line_that_is_no_event_breaks_the_stream(line: bytes) -> None:
    with pytest.raises(BrokenStream):
        read_event(line, 0)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'[0,"start",' + b"[" * 100_000])
def test_a_line_that_nests_too_deeply_breaks_the_stream(line: bytes) -> None:
    with pytest.raises(BrokenStream):
        read_event(line, 0)


def test_a_broken_line_is_shown_but_not_at_any_length() -> None:
    with pytest.raises(BrokenStream) as caught:
        read_event(b"x" * 100_000, 0)

    assert "xxx" in str(caught.value)
    assert len(str(caught.value)) < 1000


def is_event_or_broken(line: bytes) -> bool:
    try:
        event = read_event(line, 0)
    except BrokenStream:
        return True
    return isinstance(event, get_args(Event))


@given(st.binary())
def test_any_bytes_are_an_event_or_break_the_stream(line: bytes) -> None:
    assert is_event_or_broken(line)


@given(st.sampled_from(WORDS), st.data())
def test_a_damaged_event_is_an_event_or_breaks_the_stream(
    word: tuple[list[Any], Event], data: st.DataObject
) -> None:
    line = line_of(0, *word[0])
    at = data.draw(st.integers(0, len(line)))
    until = data.draw(st.integers(at, len(line)))
    damage = data.draw(st.binary(max_size=4))

    assert is_event_or_broken(line[:at] + damage + line[until:])


@given(st.sampled_from([word[0][0] for word in WORDS]), st.lists(JSON, max_size=6))
def test_any_json_with_a_known_name_is_an_event_or_breaks_the_stream(
    name: str, content: list[Any]
) -> None:
    assert is_event_or_broken(json.dumps([0, name, *content]).encode())


@given(st.data())
def test_an_event_of_the_wrong_kind_of_content_breaks_the_stream(data: st.DataObject) -> None:
    word, event = data.draw(st.sampled_from([each for each in WORDS if len(each[0]) > 1]))
    line = line_of(0, *word[:-1])

    # Cut short, no event is another.
    with pytest.raises(BrokenStream):
        read_event(line, 0)
    assert read_event(line_of(0, *word), 0) == event


# A warning that a shard described


class Outer:
    class Inner(DeprecationWarning):
        pass


class Detailed(UserWarning):
    def __init__(self, message: str, *, details: str) -> None:
        super().__init__(message)
        self.details = details


class Worded(UserWarning):
    def __str__(self) -> str:
        return f"warning: {self.args[0]}"


class Dated(UserWarning):
    """As pydantic's own do, it has its text from what it was made with."""

    def __init__(self, message: str, since: int) -> None:
        super().__init__(message)
        self.since = since

    def __str__(self) -> str:
        return f"{self.args[0]} since {self.since}"


class Demanding(UserWarning):
    def __new__(cls, message: str, since: int) -> Demanding:
        return super().__new__(cls, message, since)


def described(category: str, message: str = "old", module: str = __name__) -> dict[str, Any]:
    return {
        "message": message,
        "module": module,
        "category": category,
        "filename": "test_a.py",
        "lineno": 3,
        "line": None,
    }


@pytest.mark.parametrize(
    ("module", "name", "category"),
    [
        ("builtins", "UserWarning", UserWarning),
        (__name__, "Outer.Inner", Outer.Inner),
        (__name__, "Detailed", Detailed),
    ],
)
def test_a_warning_of_a_known_class_has_that_class(
    module: str, name: str, category: type[Warning]
) -> None:
    recorded = warning_message(described(name, "it's old", module))

    assert recorded.category is category
    assert isinstance(recorded.message, category)
    assert str(recorded.message) == "it's old"
    assert (recorded.filename, recorded.lineno, recorded.line) == ("test_a.py", 3, None)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("not_imported_here", "Old"),
        ("not_imported_here", "Outer.Old"),
        ("os", "path"),
        ("os", "environ.get"),
        ("os", "missing"),
        ("builtins", "ValueError"),
    ],
)
def test_a_warning_of_an_unknown_class_has_one_of_that_name(module: str, name: str) -> None:
    recorded = warning_message(described(name, "old", module))

    assert "not_imported_here" not in sys.modules
    assert issubclass(recorded.category, Warning)
    assert recorded.category.__module__ == module
    assert recorded.category.__name__ == name.rpartition(".")[2]
    assert str(recorded.message) == "old"


@pytest.mark.parametrize("name", ["Worded", "Dated", "Demanding"])
def test_a_warning_shows_the_text_that_the_shard_saw(name: str) -> None:
    recorded = warning_message(described(name, "the text"))

    assert str(recorded.message) == "the text"
    assert recorded.category.__name__ == name
    formatted = warnings.formatwarning(
        recorded.message, recorded.category, recorded.filename, recorded.lineno, recorded.line
    )
    assert formatted.startswith(f"test_a.py:3: {name}: the text")


# What is recorded for the JUnit file


def test_what_fixtures_and_plugins_record_is_passed_on_as_text() -> None:
    recorded: list[tuple[str | None, str, str]] = []
    recorder = XmlRecorder("xunit1", lambda *given: recorded.append(given))

    recorder.node_reporter("a.py::a").add_attribute("owner", 7)
    recorder.add_global_property("build", None)

    assert recorder.family == "xunit1"
    assert recorded == [("a.py::a", "owner", "7"), (None, "build", "None")]


def test_a_test_is_known_by_its_report_as_well() -> None:
    recorded: list[tuple[str | None, str, str]] = []
    recorder = XmlRecorder("xunit2", lambda *given: recorded.append(given))
    report = pytest.TestReport("a.py::a", ("a.py", 0, "a"), {}, "passed", None, "call")

    recorder.node_reporter(report).add_attribute("owner", "ada")

    assert recorded == [("a.py::a", "owner", "ada")]


def test_pytest_s_own_writer_gives_way(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfigure("--junitxml=report.xml")

    record_xml(config, lambda *given: None)

    config._ensure_unconfigure()
    assert not pytester.path.joinpath("report.xml").exists()


def test_without_a_junit_file_nothing_is_recorded(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfigure()
    before = config.pluginmanager.get_plugins()

    record_xml(config, lambda *given: None)

    assert config.pluginmanager.get_plugins() == before


# What plugins written for pytest-xdist see


def identity(shard: int, attempt: int = 1) -> ShardIdentity:
    return ShardIdentity(number=shard, shards=13, run="a-run", attempt=attempt, slot=5)


def test_all_attempts_of_a_shard_have_the_name_of_one_worker() -> None:
    names = [worker_id(each) for each in (identity(1), identity(1, attempt=7), identity(12))]

    assert names == ["gw0", "gw0", "gw11"]


def test_a_node_has_what_plugins_look_for(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig()

    node = Node(config, identity(2), "0f")

    assert node.config is config
    assert node.gateway.id == "gw1"
    assert node.workerinput == {
        "workerid": "gw1",
        "workercount": 13,
        "testrunuid": "0f",
        "mainargv": sys.argv,
        "shardrun": {"number": 2, "shards": 13, "run": "a-run", "attempt": 1, "slot": 5},
    }
    assert node.variables == {
        "PYTEST_XDIST_WORKER": "gw1",
        "PYTEST_XDIST_WORKER_COUNT": "13",
        "PYTEST_XDIST_TESTRUNUID": "0f",
    }
    # Its absence is how plugins know that a worker has crashed.
    assert not hasattr(node, "workeroutput")
    assert len(node.nodemanager.specs) == 13
    headings = Headings()
    report_node = ReportNode(Attempt(2, 1), node, headings)
    assert report_node.gateway.id == "shard 2"
    assert report_node.workerinput is node.workerinput
