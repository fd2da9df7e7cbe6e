"""Whatever bytes come in whatever pieces are events, a banner, or a loud end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun import events
from pytest_shardrun.reading import LONGEST_BANNER, LONGEST_LINE, EventReader
from pytest_shardrun.worker import wire

HELLO: Final = ["hello", wire.PROTOCOL, {}]
CONTENTS: Final[list[list[Any]]] = [
    ["start", 3],
    ["report", 3, "call", "passed", False, {"text": "a\nb"}],
    ["finish", 3, 0.5],
    ["collecting", "test_é.py"],
    ["goodbye", 0, {}],
]


def lines_of(contents: Iterable[list[Any]]) -> bytes:
    return b"".join(wire.encode([at, *each]) for at, each in enumerate(contents))


def read_all(pieces: Iterable[bytes]) -> tuple[list[events.Event], bytes, str]:
    """The events, the banner, and why the stream broke, if it did."""
    reader = EventReader()
    found: list[events.Event] = []
    banner = b""
    try:
        for piece in pieces:
            for each in reader.feed(piece):
                if isinstance(each, bytes):
                    banner += each
                else:
                    found.append(each)
    except events.BrokenStream as error:
        return found, banner, str(error)
    return found, banner, ""


def expected(contents: Iterable[list[Any]]) -> list[events.Event]:
    return [events.read_event(wire.encode([at, *each]), at) for at, each in enumerate(contents)]


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The data in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


CONVERSATIONS: Final = st.lists(st.sampled_from(CONTENTS), max_size=8).map(lambda c: [HELLO, *c])


@given(CONVERSATIONS, st.data())
def test_events_may_arrive_in_any_pieces(contents: list[list[Any]], data: st.DataObject) -> None:
    pieces = data.draw(cut(lines_of(contents)))

    assert read_all(pieces) == (expected(contents), b"", "")


@given(
    st.binary(max_size=200) | st.text(" \t\r\n", max_size=3).map(str.encode),
    CONVERSATIONS,
    st.data(),
)
def test_what_comes_before_the_first_event_is_a_banner(
    banner: bytes, contents: list[list[Any]], data: st.DataObject
) -> None:
    """Also where its last line has no end."""
    pieces = data.draw(cut(banner + lines_of(contents)))

    found, shown, broken = read_all(pieces)

    assert broken == ""
    assert found == expected(contents)
    assert shown.rstrip(b"\n") == banner.rstrip(b"\n")


@given(CONVERSATIONS, st.data())
def test_rubbish_in_the_middle_never_makes_or_hides_an_event(
    contents: list[list[Any]], data: st.DataObject
) -> None:
    stream = lines_of(contents)
    at = data.draw(st.integers(stream.index(b"\n") + 1, len(stream)))
    rubbish = data.draw(st.binary(min_size=1, max_size=50))
    pieces = data.draw(cut(stream[:at] + rubbish + b"\n" + stream[at:]))

    found, _, broken = read_all(pieces)

    whole = stream[:at].count(b"\n")
    if broken:
        assert found[:whole] == expected(contents)[:whole]
        assert len(found) <= whole + 1
    else:
        # The rubbish was inside a text, or is JSON like the rest of its line.
        assert len(found) == len(contents)


@given(CONVERSATIONS, st.data())
def test_a_damaged_stream_breaks_at_the_damage_or_is_one_of_events(
    contents: list[list[Any]], data: st.DataObject
) -> None:
    stream = bytearray(lines_of(contents))
    first = stream.index(b"\n") + 1
    for at in data.draw(st.lists(st.integers(0, len(stream) - 1), min_size=1, max_size=4)):
        stream[max(at, first) % len(stream)] = data.draw(st.integers(0, 255))

    found, _, broken = read_all(data.draw(cut(bytes(stream))))

    assert len(found) <= len(contents)
    assert broken or all(isinstance(each, events.Event) for each in found)


@given(CONVERSATIONS, st.data())
def test_a_lost_or_repeated_line_breaks_the_stream_there(
    contents: list[list[Any]], data: st.DataObject
) -> None:
    lines = lines_of([*contents, ["finishing"]]).splitlines(keepends=True)
    at = data.draw(st.integers(1, len(lines) - 1))
    is_repeated = data.draw(st.booleans()) or at == len(lines) - 1
    lines[at : at + 1] = [lines[at]] * 2 if is_repeated else []

    found, _, broken = read_all([b"".join(lines)])

    assert len(found) == at + is_repeated
    assert "is missing" in broken


TIMES: Final = [[0.1, 1.0, 1.1, ["a"]], [0.1, 1.1, 1.2, None], [0.0, 1.2, 1.2, None]]


def parts_of(local: int, *, passed: bool) -> list[list[Any]]:
    """What a worker says of a test, one event after the other."""
    reports = [
        ["report", local, when, "passed", False, times]
        for when, times in zip(("setup", "call", "teardown"), TIMES, strict=True)
    ]
    return [["start", local], *(reports if passed else reports[:1]), ["finish", local, 0.5]]


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.data())
def test_what_a_worker_keeps_is_read_once_in_whatever_order_it_comes_to_be_known(
    tests: list[bool], data: st.DataObject
) -> None:
    """A worker writes, folds, sends and dies at any point; its reader looks at any point."""
    reader = EventReader()
    found = list(reader.feed(wire.encode([0, *HELLO])))
    said: list[list[Any]] = [HELLO]
    pipe = spool = b""
    pending: list[bytes] = []

    def read() -> None:
        # Any part of what was sent, and then perhaps what was not.
        nonlocal pipe
        at = data.draw(st.integers(0, len(pipe)))
        found.extend(reader.feed(pipe[:at]))
        pipe = pipe[at:]
        if data.draw(st.booleans()):
            found.extend(reader.catch_up(spool))

    for local, passed in enumerate(tests):
        for part in parts_of(local, passed=passed):
            line = wire.encode([len(said), *part])
            if part[0] == "finish" and len(pending) == len(TIMES):
                line = wire.encode([len(said) - len(TIMES), "passed", local, 0.5, *TIMES])
                pending.clear()
            said.append(part)
            pending.append(line)
            spool += line
            if data.draw(st.booleans()):
                read()
            # A start is always sent, and with it what was not.
            if part[0] == "start" or data.draw(st.sampled_from([True, False, False, False])):
                pipe, pending, spool = pipe + b"".join(pending), [], b""
                read()
    # Its last write may have come to an end or not; what it keeps is there in any case.
    sent = b"".join(pending)
    found.extend(reader.feed(pipe + sent[: data.draw(st.integers(0, len(sent)))]))
    found.extend(reader.catch_up(spool))

    parts = [part for each in found for part in split(each)]
    assert parts == expected(said)


def split(event: events.Event | bytes) -> list[events.Event]:
    assert not isinstance(event, bytes)
    return event.parts() if isinstance(event, events.Passed) else [event]


@given(st.binary(max_size=60))
def test_what_is_no_event_in_what_a_worker_keeps_makes_none(rubbish: bytes) -> None:
    reader = EventReader()
    list(reader.feed(wire.encode([0, *HELLO])))

    found = list(reader.catch_up(wire.encode([1, "start", 3]) + rubbish + b"\n"))

    assert found == [events.Started(3)]
    assert list(reader.feed(wire.encode([1, "start", 3]))) == []
    assert list(reader.feed(wire.encode([2, "finish", 3, 0.5]))) == [events.Finished(3, 0.5)]


def test_what_a_worker_keeps_waits_for_what_it_has_sent_before() -> None:
    reader = EventReader()
    list(reader.feed(wire.encode([0, *HELLO])))

    assert list(reader.catch_up(wire.encode([2, "finish", 3, 0.5]))) == []
    assert list(reader.feed(wire.encode([1, "start", 3]))) == [events.Started(3)]
    assert list(reader.catch_up(wire.encode([2, "finish", 3, 0.5]))) == [events.Finished(3, 0.5)]


def test_a_line_that_cannot_become_an_event_is_not_waited_for() -> None:
    """Rubbish without a line's end breaks the stream before it fills the memory."""
    found, _, broken = read_all([lines_of([HELLO]), b"x" * 10, b"x" * 10])

    assert len(found) == 1
    assert broken.startswith("not an event: b'xxx")


def test_an_endless_banner_is_passed_on_in_pieces() -> None:
    chunk = b"x" * (LONGEST_BANNER // 2 + 1)
    reader = EventReader()

    assert list(reader.feed(chunk)) == []
    assert list(reader.feed(chunk)) == [chunk * 2]
    assert list(reader.feed(b"\n")) == [b"\n"]


def test_no_line_is_endless() -> None:
    found, _, broken = read_all(
        [lines_of([HELLO]), b'[1,"start",', *[b"x" * (LONGEST_LINE // 16)] * 16]
    )

    assert len(found) == 1
    assert broken.startswith("a line of more than")
