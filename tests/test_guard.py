"""Real processes: how they are started, talked to, and ended together with all they started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from pytest_shardrun.executors import guard
from pytest_shardrun.executors.base import LaunchError, LaunchOrder
from pytest_shardrun.executors.subprocess import SubprocessExecutor, WorkerProcess
from pytest_shardrun.model import Attempt, Exit
from pytest_shardrun.worker import boot

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")

DEADLINE_SECONDS: Final = 20.0

#: Stands where the worker's own code would be found, and runs what the launch says.
BOOT: Final = """\
def main(launch):
    exec(launch["program"], {"__name__": "program"})
"""

#: A child in the same group, and one that has left it; their numbers are the first line said.
WITH_CHILDREN: Final = """\
import os, subprocess, sys, time
sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep)
escaped = subprocess.Popen(sleep, start_new_session=True)
print(child.pid, escaped.pid, flush=True)
"""


@pytest.fixture
def run_id() -> str:
    return uuid.uuid4().hex


@dataclass
class Workplace:
    """Starts programs as attempts of a run, and leaves nothing of them behind."""

    directory: Path
    run_id: str
    executor: SubprocessExecutor
    started: list[WorkerProcess] = field(default_factory=list)

    def order(
        self,
        program: str,
        *,
        shard: int = 1,
        attempt: int = 1,
        directory: Path | None = None,
        more: Mapping[str, str] | None = None,
    ) -> LaunchOrder:
        line = {
            "sys_path": [str(self.directory / "code"), *sys.path],
            "package_path": "",
            "program": textwrap.dedent(program),
        }
        environment = {
            **os.environ,
            "SHARDRUN_RUN": self.run_id,
            "SHARDRUN_SHARD": str(shard),
            "SHARDRUN_ATTEMPT": str(attempt),
            **(more or {}),
        }
        return LaunchOrder(
            Attempt(shard, attempt),
            json.dumps(line).encode() + b"\n",
            environment,
            directory or self.directory,
        )

    def start(self, program: str, *, shard: int = 1, attempt: int = 1) -> WorkerProcess:
        process = self.executor.start(self.order(program, shard=shard, attempt=attempt))
        self.started.append(process)
        return process


@pytest.fixture
def workplace(tmp_path: Path, run_id: str) -> Iterator[Workplace]:
    worker = tmp_path / "code" / "pytest_shardrun" / "worker"
    worker.mkdir(parents=True)
    for name, source in (("../__init__.py", ""), ("__init__.py", ""), ("boot.py", BOOT)):
        (worker / name).write_text(source)
    workplace = Workplace(tmp_path, run_id, SubprocessExecutor(run_id))
    yield workplace
    for process in workplace.started:
        process.kill()
    workplace.executor.close()
    guard.kill_marked(f"SHARDRUN_RUN={run_id}")


def read_all(receive: Callable[[], bytes]) -> bytes:
    data = b""
    while chunk := receive():
        data += chunk
    return data


def read_line(receive: Callable[[], bytes]) -> str:
    data = b""
    while not data.endswith(b"\n"):
        chunk = receive()
        assert chunk, "the stream has ended"
        data += chunk
    return data.decode().strip()


def read_numbers(receive: Callable[[], bytes]) -> list[int]:
    return [int(number) for number in read_line(receive).split()]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.01)


def wait_until_stopped(pid: int) -> None:
    wait_until(lambda: " T " in Path(f"/proc/{pid}/stat").read_text())


# One attempt


def test_a_worker_gets_what_is_sent_and_says_something_on_two_streams(workplace: Workplace) -> None:
    process = workplace.start(
        """
        import sys
        print("ready", flush=True)
        for line in sys.stdin.buffer:
            sys.stdout.buffer.write(b"heard " + line)
            sys.stdout.buffer.flush()
            if line == b"finish\\n":
                break
        sys.stderr.write("the output")
        sys.exit(3)
        """
    )

    assert read_line(process.receive) == "ready"

    process.send(b"run 1\n")

    assert read_line(process.receive) == "heard run 1"
    process.send(b"finish\n")
    assert read_all(process.receive) == b"heard finish\n"
    assert read_all(process.receive_output) == b"the output"
    assert process.wait() == Exit(code=3)


def test_a_worker_lives_in_the_directory_and_environment_of_its_order(
    workplace: Workplace,
) -> None:
    directory = workplace.directory / "elsewhere"
    directory.mkdir()
    program = 'import os; print(os.getcwd(), os.environ["WORD"], os.getsid(0) == os.getpid())'
    order = workplace.order(program, directory=directory, more={"WORD": "hello"})

    process = workplace.executor.start(order)

    workplace.started.append(process)
    assert read_line(process.receive) == f"{directory} hello True"
    assert process.wait() == Exit(code=0)


def test_a_worker_that_cannot_be_started_is_a_launch_error(workplace: Workplace) -> None:
    order = workplace.order("", directory=workplace.directory / "missing")

    with pytest.raises(LaunchError, match=r"could not start .*missing"):
        workplace.executor.start(order)


def test_much_of_both_streams_arrives_whole(workplace: Workplace) -> None:
    process = workplace.start(
        """
        import os
        for _ in range(40):
            os.write(1, b"s" * 50_000)
        os.close(1)
        for _ in range(40):
            os.write(2, b"o" * 50_000)
        """
    )

    assert read_all(process.receive) == b"s" * 2_000_000
    assert read_all(process.receive_output) == b"o" * 2_000_000
    assert process.wait() == Exit(code=0)


def test_a_start_does_not_wait_for_a_worker_that_reads_nothing(workplace: Workplace) -> None:
    # Longer than a pipe holds, and nobody receives.
    process = workplace.start("#" * 1_000_000)

    process.kill()
    assert process.wait() == Exit(signal=int(signal.SIGKILL))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_an_end_by_a_signal_is_told_apart_from_an_exit_code(
    number: signal.Signals, workplace: Workplace
) -> None:
    process = workplace.start(f"import os; os.kill(os.getpid(), {int(number)})")
    read_all(process.receive)

    assert process.wait() == Exit(signal=int(number))


# Asking it to end

ANSWERS: Final = """\
import signal, sys, time
def answer(number, frame):
    print(signal.Signals(number).name, flush=True)
signal.signal(signal.SIGINT, answer)
signal.signal(signal.SIGTERM, answer)
print("ready", flush=True)
while True:
    time.sleep(600)
"""


def test_a_worker_is_asked_to_end_and_then_killed(workplace: Workplace) -> None:
    process = workplace.start(ANSWERS)
    assert read_line(process.receive) == "ready"

    process.interrupt()
    assert read_line(process.receive) == "SIGINT"
    process.terminate()
    assert read_line(process.receive) == "SIGTERM"
    process.kill()
    assert process.wait() == Exit(signal=int(signal.SIGKILL))


def test_a_worker_that_stopped_itself_can_act_on_a_signal(workplace: Workplace) -> None:
    process = workplace.start(
        """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        print(os.getpid(), flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        """
    )
    (pid,) = read_numbers(process.receive)
    wait_until_stopped(pid)

    process.terminate()

    assert process.wait() == Exit(code=5)


def test_the_stacks_come_on_the_output_and_the_worker_goes_on(workplace: Workplace) -> None:
    process = workplace.start(
        f"""
        import faulthandler, sys
        faulthandler.register({int(boot.STACKS_SIGNAL)}, file=sys.stderr, all_threads=True)
        def wait_in_vain():
            print("ready", flush=True)
            sys.stdin.readline()
        wait_in_vain()
        """
    )
    assert read_line(process.receive) == "ready"

    process.dump_stacks()

    output = b""
    while b"in main" not in output:
        output += process.receive_output()
    assert b"in wait_in_vain" in output
    process.send(b"\n")
    assert process.wait() == Exit(code=0)


def test_nothing_is_harmful_when_the_worker_is_gone(workplace: Workplace) -> None:
    process = workplace.start("")
    read_all(process.receive)
    read_all(process.receive_output)
    # Nobody has waited for it yet.
    process.send(b"hello?\n" * 100_000)
    process.dump_stacks()
    process.interrupt()
    assert process.wait() == Exit(code=0)

    process.send(b"hello?\n")
    process.dump_stacks()
    process.interrupt()
    process.terminate()
    process.kill()


# What it has started itself


def test_what_a_worker_has_left_behind_ends_with_it(workplace: Workplace) -> None:
    process = workplace.start(WITH_CHILDREN)
    children = read_numbers(process.receive)

    ended = process.wait()
    wait_until_gone(*children)
    assert ended.code == 0
    assert {left.pid for left in ended.left} == set(children)
    assert all("time.sleep(600)" in left.command for left in ended.left)


def test_what_ends_by_itself_soon_after_its_worker_is_not_left_behind(workplace: Workplace) -> None:
    process = workplace.start(
        """
        import os, subprocess, sys
        # It lives as long as the worker holds the other end of its stdin.
        subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
        print("started", flush=True)
        os._exit(0)
        """
    )
    assert read_line(process.receive) == "started"

    assert process.wait() == Exit(code=0)


def test_what_a_killed_worker_could_not_end_is_not_left_behind(workplace: Workplace) -> None:
    process = workplace.start(WITH_CHILDREN + "os.kill(os.getpid(), 9)")
    children = read_numbers(process.receive)

    assert process.wait() == Exit(signal=int(signal.SIGKILL))
    wait_until_gone(*children)


def test_each_attempt_has_a_temporary_directory_of_its_own_until_it_ends(
    workplace: Workplace,
) -> None:
    program = """
    import os, sys, tempfile
    directory = tempfile.mkdtemp()
    os.mkdir(f"{directory}/inner")
    open(f"{directory}/inner/file", "w").close()
    os.chmod(f"{directory}/inner", 0o500)
    print(directory, flush=True)
    sys.stdin.readline()
    """
    first, second = (workplace.start(program, shard=shard) for shard in (1, 2))

    directories = [Path(read_line(each.receive)) for each in (first, second)]

    assert directories[0].parent != directories[1].parent
    assert directories[0].parent.parent == directories[1].parent.parent
    first.send(b"\n")
    assert first.wait() == Exit(code=0)
    assert [each.parent.exists() for each in directories] == [False, True]
    second.send(b"\n")
    assert second.wait() == Exit(code=0)
    workplace.executor.close()
    assert not directories[0].parent.parent.exists()


def test_a_kill_reaches_the_whole_group(workplace: Workplace) -> None:
    process = workplace.start(WITH_CHILDREN + "time.sleep(600)")
    child, escaped = read_numbers(process.receive)

    process.kill()

    wait_until_gone(child)
    assert process.wait() == Exit(signal=int(signal.SIGKILL))
    wait_until_gone(escaped)


def test_the_end_of_an_attempt_leaves_other_attempts_alone(workplace: Workplace) -> None:
    others = [
        workplace.start(WITH_CHILDREN + "time.sleep(600)", shard=shard, attempt=attempt)
        for shard, attempt in ((1, 2), (2, 1), (11, 1))
    ]
    children = [pid for other in others for pid in read_numbers(other.receive)]
    process = workplace.start(WITH_CHILDREN)
    own = read_numbers(process.receive)

    process.wait()

    wait_until_gone(*own)
    assert all(is_alive(pid) for pid in children)
    for other in others:
        other.kill()
        other.wait()
    wait_until_gone(*children)


# The guard

CONTROLLER: Final = """\
import json, os, signal, sys
from pathlib import Path
from pytest_shardrun.executors.base import LaunchOrder
from pytest_shardrun.executors.subprocess import SubprocessExecutor
from pytest_shardrun.model import Attempt

given = json.loads(sys.argv[1])
executor = SubprocessExecutor(given["run_id"])
processes = []
for shard in (1, 2):
    environment = {**os.environ, "SHARDRUN_RUN": given["run_id"], "SHARDRUN_SHARD": str(shard)}
    order = LaunchOrder(
        Attempt(shard, 1), given["first_line"].encode(), environment, Path(given["directory"])
    )
    processes.append(executor.start(order))
    line = b""
    while not line.endswith(b"\\n"):
        line += processes[-1].receive()
    print(line.decode().strip(), flush=True)
exec(given["then"])
"""


def controller(workplace: Workplace, program: str, then: str, *flags: str) -> list[str]:
    """What workers of a controller of its own say, which ends as ``then`` says."""
    given = {
        "run_id": workplace.run_id,
        "first_line": workplace.order(program).first_line.decode(),
        "directory": str(workplace.directory),
        "then": then,
    }
    done = subprocess.run(
        [sys.executable, *flags, "-c", CONTROLLER, json.dumps(given)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    return done.stdout.decode().splitlines()


def test_no_process_outlives_a_killed_controller(workplace: Workplace) -> None:
    said = 'print(os.environ["SHARDRUN_SHARED"], os.getpid(), '
    program = WITH_CHILDREN.replace("print(", said) + "time.sleep(600)"

    lines = controller(workplace, program, "os.kill(os.getpid(), signal.SIGKILL)")

    pids = [int(pid) for line in lines for pid in line.split()[1:]]
    assert len(pids) == 6
    wait_until_gone(*pids)
    wait_until(lambda: not Path(lines[0].split()[0]).parent.exists())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_run_goes_on_when_somebody_kills_or_stops_its_guard(
    number: signal.Signals, workplace: Workplace
) -> None:
    waiting = "import sys; print('ready', flush=True); sys.stdin.readline()"
    process = workplace.start(waiting)
    for pid in guards_of(workplace.run_id):
        os.kill(pid, number)
        if number == signal.SIGKILL:
            wait_until_gone(pid)
        else:
            wait_until_stopped(pid)

    other = workplace.start(waiting, shard=2)

    for each in (process, other):
        assert read_line(each.receive) == "ready"
        each.send(b"\n")
        assert read_all(each.receive) == b""
        assert each.wait() == Exit(code=0)
    workplace.executor.close()


def test_the_guard_lives_from_the_first_start_to_the_close(workplace: Workplace) -> None:
    assert guards_of(workplace.run_id) == []
    workplace.executor.close()

    for shard in (1, 2):
        process = workplace.start("", shard=shard)
        read_all(process.receive)
        process.wait()

    assert len(guards_of(workplace.run_id)) == 1
    workplace.executor.close()
    assert guards_of(workplace.run_id) == []
    workplace.executor.close()


def guards_of(run_id: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = path.read_bytes().split(b"\0")
            if (
                guard.__file__.encode() in arguments
                and f"SHARDRUN_RUN={run_id}".encode() in arguments
            ):
                found.append(int(path.parent.name))
    return found


def sleeper(**environment: str) -> subprocess.Popen[bytes]:
    """A process in a group of its own; it is there when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


@pytest.fixture
def sleepers(run_id: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    started = {
        "told": sleeper(),
        "forgotten": sleeper(),
        "marked": sleeper(SHARDRUN_RUN=run_id, SHARDRUN_SHARD="1"),
        "marked otherwise": sleeper(SHARDRUN_RUN=run_id + "0", SHARDRUN_SHARD="1"),
    }
    yield started
    for process in started.values():
        process.kill()
        process.wait()


def test_the_guard_ends_what_it_was_told_of_and_what_is_marked(
    sleepers: dict[str, subprocess.Popen[bytes]], run_id: str
) -> None:
    told, forgotten = sleepers["told"].pid, sleepers["forgotten"].pid
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, f"SHARDRUN_RUN={run_id}"],
        stdin=subprocess.PIPE,
    )

    process.communicate(f"+{told}\n+{forgotten}\n-{forgotten}\n-1234567\n".encode(), timeout=30)

    assert process.returncode == 0
    wait_until_gone(told, sleepers["marked"].pid)
    assert is_alive(forgotten)
    assert is_alive(sleepers["marked otherwise"].pid)


FORKING: Final = """\
import os, sys
from pytest_shardrun.executors.guardian import fork_guard
mark, early, late, forgotten, forgotten_late = sys.argv[1:]
guardian = fork_guard(mark, None)
for group in (early, forgotten, forgotten_late):
    guardian.watch(int(group))
guardian.forget(int(forgotten))
os.write(guardian._descriptor, b"+")
print("forked", flush=True)
input()
os.write(guardian._descriptor, late.encode() + b"\\n")
guardian.forget(int(forgotten_late))
print("told", flush=True)
input()
os._exit(0)
"""


def test_a_guard_that_was_forked_becomes_a_program_and_forgets_nothing(run_id: str) -> None:
    sleepers = [sleeper() for _ in range(4)]
    early, late, forgotten, forgotten_late = (each.pid for each in sleepers)
    arguments = [f"SHARDRUN_RUN={run_id}", *(str(each.pid) for each in sleepers)]
    controller = subprocess.Popen(
        [sys.executable, "-c", FORKING, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert controller.stdin is not None
    assert controller.stdout is not None
    try:
        assert controller.stdout.readline() == b"forked\n"
        # In the middle of a line.
        wait_until(lambda: bool(guards_of(run_id)))
        controller.stdin.write(b"\n")
        controller.stdin.flush()
        assert controller.stdout.readline() == b"told\n"
        controller.communicate(b"\n", timeout=30)

        wait_until_gone(early, late)
        wait_until(lambda: not guards_of(run_id))
        assert is_alive(forgotten)
        assert is_alive(forgotten_late)
    finally:
        for each in (controller, *sleepers):
            each.kill()
            each.wait()


def test_a_guard_that_was_forked_ends_with_a_quick_run_and_kills_what_is_left(
    run_id: str,
) -> None:
    process = sleeper()
    program = (
        "import sys; from pytest_shardrun.executors.guardian import fork_guard; "
        "guardian = fork_guard(sys.argv[1], None); guardian.watch(int(sys.argv[2])); "
        "guardian.close()"
    )
    try:
        subprocess.run(
            [sys.executable, "-c", program, f"SHARDRUN_RUN={run_id}", str(process.pid)],
            check=True,
            timeout=30,
        )

        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_only_what_has_all_marks_is_killed(
    sleepers: dict[str, subprocess.Popen[bytes]], run_id: str
) -> None:
    marked = sleepers["marked"].pid

    assert guard.kill_marked(f"SHARDRUN_RUN={run_id}", "SHARDRUN_SHARD=2") == []
    assert guard.kill_marked(f"SHARDRUN_RUN={run_id}", "SHARDRUN_SHARD=1") == [marked]
    wait_until_gone(marked)
    assert guard.kill_marked(f"SHARDRUN_RUN={run_id}", "SHARDRUN_SHARD=1") == []


def test_a_group_that_is_gone_is_no_harm(sleepers: dict[str, subprocess.Popen[bytes]]) -> None:
    process = sleepers["told"]
    guard.kill_group(process.pid)
    process.wait()

    guard.kill_group(process.pid)


# The interpreter


def test_a_worker_s_interpreter_has_the_controller_s_flags(workplace: Workplace) -> None:
    program = """
    import sys
    print(sys.flags.optimize, sys.warnoptions, sys.flags.utf8_mode, flush=True)
    """
    flags = ("-O", "-W", "error::UserWarning", "-X", "utf8")

    lines = controller(workplace, program, "os._exit(0)", *flags)

    assert lines == ["1 ['error::UserWarning'] 1"] * 2
