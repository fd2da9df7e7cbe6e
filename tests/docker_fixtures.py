"""A Docker daemon and an image with this Python, for tests that need them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, final

import pytest
from comparison import run_pytest

from pytest_shardrun.executors.docker_client import Daemon, DaemonError
from pytest_shardrun.executors.docker_sweep import (
    RUN_LABEL,
    left_over_containers,
    left_over_volumes,
)

_SSH_PORT: Final = 2222
_SCRIPTS: Final = Path(__file__).parents[1] / "scripts"
_HEAVY_TRAFFIC: Final = """
import os, pathlib, signal, sys

def test_big_in():
    assert len(pathlib.Path("big").read_bytes()) == 3 << 20

def test_crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def test_flood():
    for number in range(20000):
        print(number, "x" * 100)
    sys.stdout.flush()
    pathlib.Path("made").write_bytes(bytes(3 << 20))
"""


def options(image: str, *more: str, shards: int = 2) -> tuple[str, ...]:
    """What a run in containers of this image is asked for."""
    return (f"--shards={shards}", "--shard-executor=docker", f"--shard-image={image}", *more)


def check_heavy_traffic(directory: Path, image: str, environment: Mapping[str, str]) -> None:
    """Big files both ways, a flood of output and a crash, with the daemon of this environment."""
    suite = directory / "suite"
    suite.mkdir()
    (suite / "test_it.py").write_text(_HEAVY_TRAFFIC)
    (suite / "big").write_bytes(bytes(3 << 20))

    run = run_pytest(suite, *options(image, "--shard-collect-files=made"), env=environment)

    assert run.counts == {"passed": 2, "failed": 1}, run.show()
    assert "crashed with SIGSEGV" in run.stdout
    [made] = (suite / "shard-files").rglob("made")
    assert made.stat().st_size == 3 << 20


@pytest.fixture(scope="session")
def docker_daemon() -> Daemon:
    """The local daemon; without one the test is skipped, but in CI it fails."""
    try:
        return Daemon()
    except DaemonError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true asks for the tests in containers: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def docker_image(docker_daemon: Daemon) -> str:
    """An image with this very Python and its pytest."""
    return make_test_image()


def make_test_image(*arguments: str) -> str:
    """The tag of an image that scripts/test_image.py has made, now or earlier."""
    done = subprocess.run(
        [sys.executable, str(_SCRIPTS / "test_image.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def nothing_left(docker_daemon: Daemon) -> Iterator[None]:
    """Check that the runs of a test, which are over, have left no container and no volume."""
    sweep(docker_daemon)
    yield
    assert not sweep(docker_daemon)


def sweep(daemon: Daemon) -> list[str]:
    """Remove what runs that are over have left; the names of it."""
    containers = left_over_containers([*daemon.containers(RUN_LABEL)])
    volumes = left_over_volumes([*daemon.volumes(RUN_LABEL)])
    for name in containers:
        daemon.remove(name)
    for name in volumes:
        daemon.remove_volume(name)
    return [*containers, *volumes]


def wait_until(is_ready: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    """Wait for what a server does when it has started; it must live and not take long."""
    deadline = time.monotonic() + 60
    while not is_ready():
        assert server.poll() is None, f"{server.args!r} has ended"
        assert time.monotonic() < deadline, f"{server.args!r} is not ready"
        time.sleep(0.05)


@final
class RemoteDaemon:
    """A second daemon with namespaces of its own, reached over TCP as if it were far away.

    It sees no file of this machine by its path's name, and can be frozen or killed.
    """

    def __init__(self, directory: Path, *, is_strict: bool = False) -> None:
        """A strict one wants certificates, and has no control group to limit processes."""
        self._directory = directory
        self._is_strict = is_strict
        octet = os.getpid() % 250 + 1
        self._link = f"shd{os.getpid()}{'s' if is_strict else ''}"
        net = 98 if is_strict else 99
        self._near, self.host = f"10.{net}.{octet}.1", f"10.{net}.{octet}.2"
        self.address = f"tcp://{self.host}:{2376 if is_strict else 2375}"
        #: What a client needs to talk to it.
        self.environment = {"DOCKER_HOST": self.address}
        if is_strict:
            self.environment |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(directory)}
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        tls, prepare = "--tls=false", ":"
        if self._is_strict:
            make_certificates(self._directory, self.host)
            names = {"tlscacert": "ca", "tlscert": "server-cert", "tlskey": "server-key"}
            files = (f"--{name}={self._directory}/{file}.pem" for name, file in names.items())
            tls = " ".join(("--tlsverify", *files))
            prepare = "umount /sys/fs/cgroup/pids"
        script = textwrap.dedent(
            f"""
            set -e
            mount --make-rprivate /
            {prepare}
            mount -t tmpfs none /var/run
            # Nothing that the tests write is there.
            mount -t tmpfs none /tmp
            read line
            ip link set lo up
            ip addr add {self.host}/30 dev {self._link}b
            ip link set {self._link}b up
            exec dockerd --data-root {self._directory}/data --exec-root /var/run/exec \\
                --pidfile /var/run/docker.pid {tls} --log-level warn \\
                -H unix:///var/run/docker.sock -H {self.address}
            """
        )
        with (self._directory / "dockerd.log").open("ab") as log:
            self._popen = subprocess.Popen(
                ["unshare", "-m", "-n", "-p", "-f", "--mount-proc", "sh", "-c", script],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._connect(self._popen)

    def docker(
        self, *arguments: str, stdin: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Call the docker command for this daemon."""
        return subprocess.run(
            ["docker", *arguments],
            env={**os.environ, **self.environment},
            stdin=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )

    def containers(self) -> list[str]:
        """The names of all containers that it has, dead ones included."""
        listed = self.docker("ps", "--all", "--format", "{{.Names}}")
        assert listed.returncode == 0, listed.stderr
        return listed.stdout.decode("ascii").split()

    @property
    def pid(self) -> int:
        """The number of the daemon itself."""
        assert self._popen is not None
        [inner] = _children(self._popen.pid)
        return inner

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """End it with all its containers."""
        if self._popen is None:
            return
        # The first process of its namespace: the kernel ends all the others.
        for pid in _children(self._popen.pid):
            os.kill(pid, signal.SIGKILL)
        self._popen.kill()
        self._popen.communicate()
        self._popen = None
        subprocess.run(["ip", "link", "del", f"{self._link}a"], check=False, capture_output=True)

    def _connect(self, popen: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: bool(_children(popen.pid)), popen)
        for line in (
            f"ip link add {self._link}a type veth peer name {self._link}b",
            f"ip link set {self._link}b netns {self.pid}",
            f"ip addr add {self._near}/30 dev {self._link}a",
            f"ip link set {self._link}a up",
        ):
            subprocess.run(line.split(), check=True, timeout=30)
        assert popen.stdin is not None
        popen.stdin.write(b"go\n")
        popen.stdin.flush()
        wait_until(lambda: not self.docker("version").returncode, popen)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(each) for each in text.split()]


@pytest.fixture(scope="session")
def remote_daemon(docker_image: str) -> Iterator[RemoteDaemon]:
    """A second daemon that has the image; skips where none can be started."""
    with _second_daemon(docker_image, is_strict=False) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def strict_daemon(docker_image: str) -> Iterator[RemoteDaemon]:
    """The same with certificates, and without a limit for processes."""
    if shutil.which("openssl") is None or not Path("/sys/fs/cgroup/pids").is_mount():
        pytest.skip("needs openssl, and control groups of version 1 to hide one")
    with _second_daemon(docker_image, is_strict=True) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def ssh_address(
    remote_daemon: RemoteDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SshAddress]:
    """The second daemon behind a server for ssh; without one skipped, but in CI it fails.

    Tests of other modules end that daemon and start it anew, with another network.
    """
    missing = [each for each in ("ssh", "sshd", "ssh-keygen") if _find(each) is None]
    if missing:
        reason = f"needs OpenSSH's client and server: there is no {' and no '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true asks for the tests with ssh, which {reason[6:]}", pytrace=False)
        pytest.skip(reason)
    with _ssh_server(remote_daemon, tmp_path_factory.mktemp("ssh")) as address:
        yield address


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


@final
@dataclass(frozen=True, slots=True)
class SshAddress:
    """A daemon behind ssh."""

    address: str
    #: What a client's environment needs: an ssh that knows the key and the server.
    environment: Mapping[str, str]
    #: The ssh of that environment.
    program: Path


@contextmanager
def _ssh_server(daemon: RemoteDaemon, client: Path) -> Iterator[SshAddress]:
    # The server's files lie where the daemon's namespace has them, too.
    server = Path(tempfile.mkdtemp(prefix="shardrun-sshd-", dir="/var/tmp"))
    for path in (server / "host_key", client / "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(command, check=True, timeout=60)
    shutil.copy(client / "key.pub", server / "authorized_keys")
    (server / "config").write_text(
        f"HostKey {server}/host_key\nAuthorizedKeysFile {server}/authorized_keys\n"
        "StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPidFile none\nMaxStartups 100\n"
    )
    name, kind_and_key = f"[{daemon.host}]:{_SSH_PORT}", (server / "host_key.pub").read_text()
    (client / "known_hosts").write_text(f"{name} {kind_and_key}")
    # ssh looks for its configuration in the home of the account, whatever HOME says.
    (client / "config").write_text(
        f"IdentityFile {client}/key\nIdentitiesOnly yes\nUserKnownHostsFile {client}/known_hosts\n"
        "StrictHostKeyChecking yes\n"
    )
    program = client / "bin/ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {_find("ssh")} -F {client}/config "$@"\n')
    program.chmod(0o755)
    script = f"mkdir -p /run/sshd && exec {_find('sshd')} -D -e -p {_SSH_PORT} -f {server}/config"
    with (server / "log").open("wb") as log:
        popen = subprocess.Popen(
            ["nsenter", f"--target={daemon.pid}", "--mount", "--net", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: b"Server listening" in (server / "log").read_bytes(), popen)
        yield SshAddress(
            address=f"ssh://root@{daemon.host}:{_SSH_PORT}",
            environment={
                "DOCKER_HOST": f"ssh://root@{daemon.host}:{_SSH_PORT}",
                "PATH": f"{program.parent}:{os.environ['PATH']}",
            },
            program=program,
        )
    finally:
        popen.kill()
        popen.wait()
        shutil.rmtree(server, ignore_errors=True)


@contextmanager
def _second_daemon(image: str, *, is_strict: bool) -> Iterator[RemoteDaemon]:
    missing = [each for each in ("dockerd", "ip", "unshare") if shutil.which(each) is None]
    if os.getuid() != 0 or missing:
        pytest.skip("a second daemon needs root, dockerd, ip and unshare")
    # Not below /tmp, which it hides from itself.
    directory = Path(tempfile.mkdtemp(prefix="shardrun-remote-", dir="/var/tmp"))
    daemon = RemoteDaemon(directory, is_strict=is_strict)
    try:
        daemon.start()
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            loaded = daemon.docker("load", "-q", stdin=saved.stdout)
        assert loaded.returncode == 0, loaded.stderr
        yield daemon
    finally:
        daemon.stop()
        shutil.rmtree(directory, ignore_errors=True)


def make_certificates(directory: Path, host: str) -> None:
    """An authority of our own, and what a daemon at this address and its clients need of it."""

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60
        )

    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(
        "req", "-x509", *new, "-subj", "/CN=shardrun", "-keyout", "ca-key.pem", "-out", "ca.pem"
    )
    purposes = {
        "server-": f"subjectAltName=IP:{host}\nextendedKeyUsage=serverAuth\n",
        "": "extendedKeyUsage=clientAuth\n",
    }
    for prefix, extensions in purposes.items():
        (directory / "extensions").write_text(extensions)
        request = ("-keyout", f"{prefix}key.pem", "-out", f"{prefix}request.pem")
        openssl("req", *new[:3], "-subj", f"/CN={prefix}shardrun", *request)
        openssl(
            "x509", "-req", "-days", "2", "-in", f"{prefix}request.pem", "-CA", "ca.pem",
            "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "extensions",
            "-out", f"{prefix}cert.pem",
        )  # fmt: skip
