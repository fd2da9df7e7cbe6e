"""A daemon on another machine, reached by ssh."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from comparison import CORPUS, differences, run_pytest
from docker_fixtures import RemoteDaemon, SshAddress, check_heavy_traffic, options
from faults.support import check_books, started, write_suite
from test_same_as_pytest import read_suite

from pytest_shardrun.executors.docker_ssh import SshDoor, SshError, ssh_command

pytestmark = pytest.mark.docker


def test_shards_behind_ssh_report_what_pytest_reports(
    tmp_path: Path, docker_image: str, ssh_address: SshAddress, remote_daemon: RemoteDaemon
) -> None:
    suite = read_suite(CORPUS / "fixtures.txtar")
    directories = tmp_path / "one/suite", tmp_path / "two/suite"
    for each in directories:
        suite.write(each)

    plain = run_pytest(directories[0])
    # Nothing is left behind that Python would warn of.
    sharded = run_pytest(
        directories[1],
        *options(docker_image, *suite.shard_arguments),
        env={**ssh_address.environment, "PYTHONDEVMODE": "1"},
    )

    assert differences(plain, sharded) == [], sharded.show()
    assert "ResourceWarning" not in sharded.stderr
    assert not remote_daemon.containers()


def test_crashes_floods_and_files_come_by_ssh(
    tmp_path: Path, docker_image: str, ssh_address: SshAddress, remote_daemon: RemoteDaemon
) -> None:
    check_heavy_traffic(tmp_path, docker_image, ssh_address.environment)

    assert not remote_daemon.containers()


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_containers_behind_ssh_end_with_the_controller(
    way: signal.Signals,
    tmp_path: Path,
    docker_image: str,
    ssh_address: SshAddress,
    remote_daemon: RemoteDaemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ssh_address.environment.items():
        monkeypatch.setenv(name, value)
    write_suite(
        tmp_path,
        {"test_it.py": "import time\ndef test_it():\n    print('waiting')\n    time.sleep(600)"},
    )

    with started(tmp_path, *options(docker_image, "-s", shards=1)) as run:
        run.wait_for_output("waiting")
        if way == signal.SIGINT:
            run.press_ctrl_c()
        else:
            run.popen.kill()
        finished = run.finish(within=60)

    if way == signal.SIGINT:
        check_books(finished, code=2, kinds={"test_it.py::test_it": "not-run"})
        assert not remote_daemon.containers()
    else:
        assert finished.code == -signal.SIGKILL
        assert remote_daemon.docker("wait", *remote_daemon.containers()).returncode == 0
        again = run_pytest(tmp_path, *options(docker_image, "-k", "nothing", shards=1))
        assert again.exitcode == pytest.ExitCode.NO_TESTS_COLLECTED, again.show()
        assert not remote_daemon.containers()


def test_what_ssh_says_of_a_server_that_is_out_of_reach_is_told(
    tmp_path: Path, ssh_address: SshAddress
) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    address = ssh_address.address.replace(":2222", ":2223")

    run = run_pytest(
        tmp_path, *options("any"), env={**ssh_address.environment, "DOCKER_HOST": address}
    )

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert f"could not connect at {address}: ssh says: " in run.stderr
    assert "Connection refused" in run.stderr


def test_without_the_ssh_command_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SshError, match="the Docker daemon at ssh://box needs the ssh command"):
        SshDoor("ssh://box")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ssh://box", ["--", "box", "docker system dial-stdio"]),
        (
            "ssh://me@box:22022",
            ["-l", "me", "-p", "22022", "--", "box", "docker system dial-stdio"],
        ),
        (
            "ssh://box/run/user/7/docker.sock",
            ["--", "box", "docker --host unix:///run/user/7/docker.sock system dial-stdio"],
        ),
    ],
)
def test_ssh_is_called_with_what_the_address_names(address: str, words: list[str]) -> None:
    command = ssh_command(address)

    assert command[0] == "ssh"
    assert [each for each in command[1:] if each not in ("-o", "BatchMode=yes")] == words


@pytest.mark.parametrize("address", ["ssh://", "ssh://box:port"])
def test_an_impossible_address_is_refused(address: str) -> None:
    with pytest.raises(SshError, match="the Docker daemon's address ssh://"):
        ssh_command(address)
