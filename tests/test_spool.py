"""What a worker has put outlives it, and costs no system call."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pytest_shardrun.executors.spools import SharedSpool
from pytest_shardrun.worker.spool import SIZE
from pytest_shardrun.worker.stream import Stream

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")


@dataclass
class Worker:
    stream: Stream
    spool: SharedSpool
    read_descriptor: int

    def sent(self) -> bytes:
        """What has come through the pipe by now."""
        try:
            return os.read(self.read_descriptor, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def worker() -> Iterator[Worker]:
    commands, ours = os.pipe()
    theirs, words = os.pipe()
    os.set_blocking(theirs, False)
    # Room for all that is sent before it is read.
    fcntl.fcntl(words, fcntl.F_SETPIPE_SZ, 1 << 20)
    spool = SharedSpool()
    stream = Stream(commands, words)
    stream.keep_in(spool.path)
    stream.flush()
    yield Worker(stream, spool, theirs)
    spool.close()
    for descriptor in (commands, ours, theirs, words):
        os.close(descriptor)


def test_an_event_is_kept_before_it_is_sent(worker: Worker) -> None:
    worker.stream.put("start", 3)
    worker.stream.secure()

    assert worker.spool.read() == b'[0,"start",3]\n'
    assert worker.sent() == b""


def test_what_was_sent_is_not_kept(worker: Worker) -> None:
    worker.stream.put("start", 3)
    worker.stream.flush()

    assert worker.spool.read() == b""
    assert worker.sent() == b'[0,"start",3]\n'


def test_folded_events_are_sent_as_one_and_kept_as_they_came(worker: Worker) -> None:
    stream = worker.stream
    stream.put("collecting", "")
    first = stream.sequence
    for content in ('"start",3', '"report"'):
        stream.put_text(content)
    assert stream.holds(first)
    stream.fold(first, '"passed",3')
    stream.put("start", 4)

    assert worker.spool.read() == (
        b'[0,"collecting",""]\n[1,"start",3]\n[2,"report"]\n[1,"passed",3]\n[4,"start",4]\n'
    )
    stream.flush()
    assert worker.sent() == b'[0,"collecting",""]\n[1,"passed",3]\n[4,"start",4]\n'
    assert not stream.holds(first)


def test_events_that_find_no_room_are_sent_at_once(worker: Worker) -> None:
    worker.stream.put("start", 3)
    worker.stream.put("internal_error", "x" * (SIZE - 40))

    assert worker.spool.read() == b""
    sent = worker.sent()
    while not sent.endswith(b"\n"):
        sent += worker.sent()
    assert sent.count(b"\n") == 2


def test_a_child_of_a_test_keeps_and_sends_nothing(worker: Worker) -> None:
    worker.stream.put("start", 3)
    pid = os.fork()
    if pid == 0:
        worker.stream.put("finish", 3, 0.5)
        worker.stream.put_text('"start",4')
        worker.stream.fold(0, '"passed",3')
        worker.stream.flush()
        os._exit(0)
    os.waitpid(pid, 0)

    assert worker.spool.read() == b'[0,"start",3]\n'
    assert worker.sent() == b""


def test_the_map_takes_no_low_number() -> None:
    """Tests count on them."""
    spool = SharedSpool()
    read_end, write_end = os.pipe()
    stream = Stream(read_end, write_end)
    before = set(os.listdir("/proc/self/fd"))
    stream.keep_in(spool.path)
    new = set(os.listdir("/proc/self/fd")) - before

    assert [int(number) >= 200 for number in new] == [True]
    stream.keep_in(None)
    spool.close()
    os.close(read_end)
    os.close(write_end)


def test_without_memory_to_share_each_event_is_sent_when_it_must_not_be_lost() -> None:
    read_end, write_end = os.pipe()
    stream = Stream(read_end, write_end)
    stream.keep_in("/proc/0/fd/99")
    stream.put("start", 3)
    stream.secure()

    assert os.read(read_end, 100) == b'[0,"start",3]\n'
    os.close(read_end)
    os.close(write_end)
