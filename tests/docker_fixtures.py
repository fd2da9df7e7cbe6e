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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, final

import pytest

from pytest_shardrun.executors.docker_client import Daemon, DaemonError
from pytest_shardrun.executors.docker_sweep import (
    RUN_LABEL,
    left_over_containers,
    left_over_volumes,
)

_SCRIPTS: Final = Path(__file__).parents[1] / "scripts"


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
