"""What goes into a container and what comes out of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from comparison import AUTOLOAD, Run, run_pytest

from pytest_shardrun.executors.docker_client import Daemon
from pytest_shardrun.executors.docker_sweep import IMAGE_LABEL

EXAMPLE: Final = Path(__file__).parents[2] / "examples/docker"

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("nothing_left")]


def in_containers(directory: Path, image: str, *arguments: str) -> Run:
    return run_pytest(
        directory, "--shards=2", "--shard-executor=docker", f"--shard-image={image}", *arguments
    )


@pytest.fixture
def _no_new_images(docker_daemon: Daemon) -> Iterator[None]:
    before = {each["Id"] for each in docker_daemon.images(IMAGE_LABEL)}
    yield
    for each in docker_daemon.images(IMAGE_LABEL):
        if each["Id"] not in before:
            subprocess.run(["docker", "rmi", "-f", each["Id"]], check=True, capture_output=True)


@pytest.mark.usefixtures("_no_new_images")
def test_a_setup_is_run_once_and_kept_while_its_inputs_stay_the_same(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "lock.txt").write_text("1")
    (tmp_path / "install.sh").write_text(
        'where=$(python3 -c "import site; print(site.getsitepackages()[0])")\n'
        'echo "VERSION = $(cat lock.txt)" > $where/installed_by_setup.py\n'
        "mkdir -p build\necho compiled > build/thing.txt\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib\n"
        "def test_it():\n"
        "    import installed_by_setup\n"
        "    assert installed_by_setup.VERSION == int(pathlib.Path('lock.txt').read_text())\n"
        "    assert pathlib.Path('build/thing.txt').read_text() == 'compiled\\n'\n"
        "    assert os.getuid() != 0\n"
    )
    setup = ("--shard-setup=sh install.sh", "--shard-setup-inputs=lock.txt")

    first = in_containers(tmp_path, docker_image, *setup)
    second = in_containers(tmp_path, docker_image, *setup)
    (tmp_path / "lock.txt").write_text("2")
    third = in_containers(tmp_path, docker_image, *setup)

    assert [each.counts for each in (first, second, third)] == [{"passed": 1}] * 3, first.show()
    told = [f"setting up {docker_image} once" in each.stdout for each in (first, second, third)]
    assert told == [True, False, True]
    assert not (tmp_path / "build").exists()


@pytest.mark.usefixtures("_no_new_images")
def test_a_setup_compiles_what_each_container_would_compile(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "forget.py").write_text(
        "import colorsys, os, pathlib, anyio\n"
        "os.remove(colorsys.__cached__)\n"
        "for each in pathlib.Path(anyio.__file__).parent.rglob('*-pytest-*.pyc'):\n"
        "    each.unlink()\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import colorsys, pathlib\n"
        "from anyio import abc\n"
        "from _pytest.assertion.rewrite import PYC_TAIL, _read_pyc\n"
        "def test_it():\n"
        "    assert pathlib.Path(colorsys.__cached__).exists()\n"
        "    source = pathlib.Path(abc.__file__)\n"
        "    kept = source.with_name('__pycache__') / f'__init__{PYC_TAIL}'\n"
        # It answers None where pytest would rewrite the module anew.
        "    assert _read_pyc(source, kept) is not None\n"
    )

    run = in_containers(tmp_path, docker_image, "--shard-setup=python3 -B forget.py")

    assert run.counts == {"passed": 1}, run.show()


@pytest.fixture
def only_there(tmp_path: Path) -> str:
    """The option for a setup that installs a module which this environment does not have."""
    (tmp_path / "install.sh").write_text(
        'where=$(python3 -c "import site; print(site.getsitepackages()[0])")\n'
        "echo 'VALUE = 7' > $where/only_there.py\n"
    )
    return "--shard-setup=sh install.sh"


@pytest.mark.usefixtures("_no_new_images")
@pytest.mark.parametrize(
    "line", ["from only_there import VALUE", "pytest_plugins = ['only_there']\nVALUE = 7"]
)
def test_a_conftest_may_need_what_is_in_the_image_alone(
    line: str, tmp_path: Path, docker_image: str, only_there: str
) -> None:
    (tmp_path / "conftest.py").write_text(
        f"import pytest\n{line}\n@pytest.fixture\ndef value(): return VALUE\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(value): assert value == 7")

    run = in_containers(tmp_path, docker_image, only_there)

    assert run.counts == {"passed": 1}, run.show()
    assert "conftest.py is loaded in the containers only, for it cannot be here: " in run.stdout
    assert "No module named 'only_there'" in run.stdout


def test_a_refused_option_is_told_with_the_conftest_that_may_define_it(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "conftest.py").write_text(
        "import only_there\ndef pytest_addoption(parser): parser.addoption('--slow')"
    )

    run = in_containers(tmp_path, docker_image, "--slow=yes")

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert "unrecognized arguments: --slow=yes" in run.stderr
    assert f"conftest: {tmp_path}/conftest.py is loaded in the containers only" in run.stderr


def test_a_conftest_that_can_be_imported_nowhere_is_reported_as_by_pytest(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "conftest.py").write_text("import in_no_place")
    (tmp_path / "test_it.py").write_text("def test_it(): pass")

    plain = run_pytest(tmp_path)
    run = in_containers(tmp_path, docker_image)

    assert run.exitcode == plain.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    for each in (plain, run):
        assert f"ImportError while loading conftest '{tmp_path}/conftest.py'." in each.stderr
        assert "E   ModuleNotFoundError: No module named 'in_no_place'" in each.stderr


def test_a_setup_that_fails_shows_what_it_said(tmp_path: Path, docker_image: str) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")

    run = in_containers(tmp_path, docker_image, "--shard-setup=echo no such thing; exit 3")

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR
    assert "--shard-setup=echo no such thing; exit 3 ended with exit code 3:" in run.stderr
    assert "    no such thing" in run.stderr


@pytest.mark.usefixtures("_no_new_images")
def test_an_image_can_be_built_from_a_dockerfile(tmp_path: Path, docker_image: str) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {docker_image}\nENV FROM_BUILD=yes\n")
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_it(): assert os.environ['FROM_BUILD'] == 'yes'\n"
    )

    run = run_pytest(tmp_path, "--shards=1", "--shard-executor=docker", "--shard-build=Dockerfile")

    assert run.counts == {"passed": 1}, run.show()


@pytest.mark.parametrize("code", ["bind", "volume"])
def test_a_big_project_can_be_mounted_or_put_into_a_volume(
    code: str, tmp_path: Path, docker_image: str
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "test_it.py").write_text(
        """
import os, pathlib
import pytest

HERE = pathlib.Path(__file__).parent

def test_the_project_is_there():
    assert (HERE / "data.txt").read_text() == "data"

def test_it_can_be_written_or_not():
    try:
        (HERE / "new.txt").write_text("new")
    except OSError as error:
        assert "Read-only" in str(error)
        pytest.skip("read-only")
"""
    )
    (tmp_path / "data.txt").write_text("data")

    run = in_containers(tmp_path, docker_image, f"--shard-code={code}")

    second = {"bind": "skipped", "volume": "passed"}[code]
    expected = {"passed": 1, "skipped": 1} if second == "skipped" else {"passed": 2}
    assert run.counts == expected, run.show()
    assert not (tmp_path / "new.txt").exists()


def test_what_is_ignored_stays_at_home_and_what_pytest_is_told_does_not(
    tmp_path: Path, docker_image: str
) -> None:
    for name in (".git/HEAD", "env/pyvenv.cfg", "secret/key", "notes/a.md", "notes/keep.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / ".dockerignore").write_text("secret\nnotes/*\n!notes/keep.md\ntests\n*.ini\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text(
        """
import os, pathlib

def test_it():
    here = pathlib.Path(__file__).parents[1]
    found = {str(each.relative_to(here)) for each in here.rglob("*") if each.is_file()}
    found = {each for each in found if "cache" not in each}
    assert found == {".dockerignore", "notes/keep.md", "pytest.ini", "tests/test_it.py"}
"""
    )

    run = in_containers(tmp_path, docker_image, "tests")

    assert run.counts == {"passed": 1}, run.show()


def test_results_come_home(tmp_path: Path, docker_image: str) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots/old.txt").write_text("old")
    (tmp_path / "untouched.txt").write_text("untouched")
    (tmp_path / "test_it.py").write_text(
        """
import logging, pathlib

HERE = pathlib.Path(__file__).parent

def test_writes(tmp_path):
    logging.getLogger().warning("for the log file")
    (HERE / "shots").mkdir()
    (HERE / "shots/one.png").write_bytes(b"png")
    (HERE / "snapshots/old.txt").write_text("new")
    (HERE / "snapshots/made.txt").write_text("made")
    (HERE / ".hidden").write_text("hidden")
    (HERE / "conftest.py").write_text("raise RuntimeError")
    (tmp_path / "artefact").write_text("artefact")
"""
    )

    run = in_containers(
        tmp_path,
        docker_image,
        "--shard-collect-files=shots/**",
        "--shard-write-back=snapshots/*",
        "--shard-write-back=.hidden",
        "--basetemp=tmp",
        "--log-file=log.txt",
    )

    assert run.counts == {"passed": 1}, run.show()
    [collected] = [each for each in (tmp_path / "shard-files").rglob("*") if each.is_file()]
    assert collected.relative_to(tmp_path / "shard-files").as_posix() in (
        "shard-1/shots/one.png",
        "shard-2/shots/one.png",
    )
    assert (tmp_path / "snapshots/old.txt").read_text() == "new"
    assert (tmp_path / "snapshots/made.txt").read_text() == "made"
    assert not (tmp_path / ".hidden").exists()
    assert not (tmp_path / "conftest.py").exists()
    assert not (tmp_path / "shots").exists()
    assert "for the log file" in (tmp_path / "log.txt").read_text()
    [artefact] = tmp_path.glob("tmp/**/artefact")
    assert artefact.read_text() == "artefact"
    assert "--shard-write-back=GLOB brings them home" in run.stdout


def test_files_of_a_test_that_was_ended_come_home_however_many_they_are(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import pathlib, time

def test_hangs():
    pathlib.Path("shots").mkdir()
    for number in range(200):
        pathlib.Path(f"shots/{number}").write_bytes(bytes(1 << 20))
    time.sleep(600)
"""
    )

    run = in_containers(
        tmp_path,
        docker_image,
        "--shard-collect-files=shots/*",
        "--shard-test-timeout=5s",
        "--shard-grace=0.1s",
    )

    assert run.counts == {"failed": 1}, run.show()
    sizes = [each.stat().st_size for each in (tmp_path / "shard-files").rglob("shots/*")]
    assert sizes == [1 << 20] * 200


def test_coverage_is_that_of_a_plain_run(tmp_path: Path, docker_image: str) -> None:
    runs = []
    for name in ("one", "two"):
        directory = tmp_path / name / "suite"
        directory.mkdir(parents=True)
        (directory / "library.py").write_text(
            "def used():\n    return 1\n\n\ndef unused():\n    return 2\n"
        )
        (directory / "test_it.py").write_text(
            "import library\n\ndef test_one(): assert library.used() == 1\n\ndef test_two(): pass\n"
        )
        runs.append(directory)
    cov = ("-p", "pytest_cov", "--cov=library", "--cov-report=term-missing")

    plain = run_pytest(runs[0], *cov)
    sharded = in_containers(runs[1], docker_image, *cov)

    def table(run: Run) -> list[str]:
        return [line for line in run.stdout.splitlines() if "library.py" in line or "TOTAL" in line]

    assert table(sharded) == table(plain) != [], sharded.show()
    assert (runs[1] / ".coverage").exists()


def test_failed_tests_of_the_last_run_are_known_in_containers(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert 0\n")

    first = in_containers(tmp_path, docker_image)
    second = in_containers(tmp_path, docker_image, "--lf")

    assert first.counts == {"passed": 1, "failed": 1}, first.show()
    assert second.counts == {"failed": 1}, second.show()


def test_shards_join_a_network_and_reach_what_runs_there(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import socket
import pytest

@pytest.mark.parametrize("number", range(2))
def test_it(number):
    with socket.create_connection(("database", 5000), timeout=20) as connection:
        assert connection.recv(100) == b"ready"

def test_the_address_is_our_own():
    with socket.socket() as server:
        server.bind(("0.0.0.0", 5000))
"""
    )
    name = f"shardrun-test-{os.getpid()}"
    serve = (
        "import socket\nserver = socket.create_server(('0.0.0.0', 5000))\n"
        "while True:\n    server.accept()[0].sendall(b'ready')\n"
    )

    def docker(*arguments: str) -> None:
        subprocess.run(["docker", *arguments], check=True, capture_output=True, timeout=60)

    docker("network", "create", name)
    try:
        docker(
            "run", "-d", "--rm", "--name", name, "--network", name, "--network-alias", "database",
            docker_image, "python3", "-c", serve,
        )  # fmt: skip
        run = in_containers(tmp_path, docker_image, f"--shard-network={name}")
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=False, capture_output=True)
        docker("network", "rm", name)

    assert run.counts == {"passed": 3}, run.show()


def test_a_failure_that_the_container_explains_says_which_option_would_allow_it(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import socket

def test_name():
    socket.getaddrinfo("example.org", 80)

def test_root():
    open("/etc/file", "w")

def test_plain():
    assert 1 == 2
"""
    )

    run = in_containers(tmp_path, docker_image)

    assert run.counts == {"failed": 3}, run.show()
    assert run.stdout.count("--shard-network=bridge would give it one") == 1
    assert run.stdout.count("--shard-docker-opt read_only=false") == 1


def test_plugins_are_loaded_as_in_processes(tmp_path: Path, docker_image: str) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.anyio\nasync def test_it(): pass\n"
    )

    run = run_pytest(
        tmp_path,
        "--shards=1",
        "--shard-executor=docker",
        f"--shard-image={docker_image}",
        "-k",
        "asyncio",
        env=AUTOLOAD,
    )

    assert run.counts.get("passed") == 1, run.show()


@pytest.mark.usefixtures("_no_new_images")
def test_the_example_runs_with_one_command(tmp_path: Path, docker_image: str) -> None:
    example = tmp_path / "docker"
    shutil.copytree(EXAMPLE, example, ignore=shutil.ignore_patterns("__pycache__", ".*"))

    # But for the image, which would be pulled.
    run = run_pytest(example, f"--shard-image={docker_image}")

    assert run.counts == {"passed": 6}, run.show()
    assert "setting up" in run.stdout
