from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Final

import pytest

from pytest_shardrun.cpus import usable_cpus
from pytest_shardrun.model import (
    Amount,
    Halt,
    HaltWhen,
    HaltWhy,
    LeakPolicy,
    LossPolicy,
    Policy,
    Retries,
)
from pytest_shardrun.settings import Settings, choose, read_settings
from pytest_shardrun.worker.options import CONTAINER_OPTIONS, OPTIONS, wants_shards


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def settings_of(pytester: pytest.Pytester, *arguments: str) -> Settings:
    return read_settings(pytester.parseconfig(*arguments))


def value_of(settings: Settings, name: str) -> Any:
    holder = settings.policy if name in {each.name for each in fields(Policy)} else settings
    return getattr(holder, name)


# What is refused

PERSON: Final = "needs a terminal and --shards runs tests in processes without one: "
LEAVE_OUT: Final = "leave out --shards (or add --shards=0), or leave out"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--shards=many",
            "--shards=many is no number of at least 1: give a whole number or auto",
        ),
        ("--shards=-1", "--shards=-1 is no number of at least 1: give a whole number or auto"),
        ("--shards=1.5", "--shards=1.5 is no number of at least 1: give a whole number or auto"),
        ("--shards=00", "--shards=00 is no number of at least 1: give a whole number or auto"),
        (
            "--shards=1001",
            "--shards=1001 is more than the 1000 that there may be: give fewer, "
            "or --shard-isolate=test for a process for each test",
        ),
        ("--shard-jobs=0", "--shard-jobs=0 is no number of at least 1: give a whole number"),
        ("--shard-jobs=auto", "--shard-jobs=auto is no number of at least 1: give a whole number"),
        (
            "--shard-restarts=-1",
            "--shard-restarts=-1 is no number of at least 0: give a whole number",
        ),
        (
            "--shard-timeout=soon",
            "--shard-timeout=soon is no time: give seconds, or a number with s, m or h, like 90s, "
            "5m or 1h",
        ),
        (
            "--shard-run-timeout=1d",
            "--shard-run-timeout=1d is no time: give seconds, or a number with s, m or h, like "
            "90s, 5m or 1h",
        ),
        (
            "--shard-grace=-1",
            "--shard-grace=-1 is no time: give seconds, or a number with s, m or h, like 90s, 5m "
            "or 1h",
        ),
        (
            "--shard-memory=much",
            "--shard-memory=much is no size: give bytes, or a number with k, m or g, like 512m",
        ),
        ("--shard-leak=no", "--shard-leak=no is unknown: choose ignore, report or fail"),
        ("--shard-lost-data=no", "--shard-lost-data=no is unknown: choose fail or warn"),
        ("--shard-steal=maybe", "--shard-steal=maybe is unknown: choose yes or no"),
        (
            "--shard-scope=function",
            "--shard-scope=function is unknown: choose auto, test, class, module, package or group",
        ),
        ("--pdb", f"--pdb {PERSON}{LEAVE_OUT} --pdb"),
        ("--trace", f"--trace {PERSON}{LEAVE_OUT} --trace"),
        ("--pdbcls=pdb:Pdb", f"--pdbcls {PERSON}{LEAVE_OUT} --pdbcls"),
        (
            "-n 2",
            "-n 2 of pytest-xdist and --shards both split the tests: leave out one of them (-n 0 "
            "switches pytest-xdist off where it stands in addopts)",
        ),
        (
            "--tx=2*popen",
            "--tx of pytest-xdist and --shards do not go together: leave out one of them",
        ),
        (
            "--looponfail",
            "--looponfail of pytest-xdist and --shards do not go together: leave out one of them",
        ),
        (
            "--dist=loadfile",
            "--dist=loadfile of pytest-xdist and --shards do not go together: leave out --dist, "
            "and use --shard-scope to keep tests together",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do_instead(
    arguments: str, sentence: str, pytester: pytest.Pytester
) -> None:
    given = [] if arguments.startswith("--shards") else ["--shards=2"]
    config = pytester.parseconfig(*given, *arguments.split())
    assert wants_shards(config)

    with pytest.raises(pytest.UsageError) as caught:
        read_settings(config)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("time", ["s", "1 2", "1ms", "0x1", "1e3", "nan", "inf", ".5", "5."])
def test_what_is_no_time_is_refused(time: str, pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match="is no time"):
        settings_of(pytester, "--shards=2", f"--shard-timeout={time}")


@pytest.mark.parametrize("option", ["shard-timeout", "shard-run-timeout"])
def test_a_timeout_of_no_time_is_refused(option: str, pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match=f"--{option}=0 is no time"):
        settings_of(pytester, "--shards=2", f"--{option}=0")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    choose("--shard-executor", "docker", ["subprocess", "docker"])

    with pytest.raises(pytest.UsageError) as caught:
        choose("--shard-executor", "moon", ["subprocess", "docker", "cluster"])
    assert str(caught.value) == (
        "--shard-executor=moon is unknown: choose cluster, docker or subprocess"
    )
    with pytest.raises(pytest.UsageError, match=r"--x=y is unknown: choose z$"):
        choose("--x", "y", ["z"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--shards=x", "ERROR: --shards=x is no number of at least 1*"),
        ("--shards=2 --shard-executor=moon", "ERROR: --shard-executor=moon is unknown: choose *"),
        ("--shards=2 --shard-split=moon", "ERROR: --shard-split=moon is unknown: choose *"),
    ],
)
def test_a_refusal_is_exit_code_4_before_anything_starts(
    arguments: str, sentence: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("raise RuntimeError('imported')")

    result = pytester.runpytest_subprocess(*arguments.split())

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([sentence])
    assert "imported" not in result.stdout.str()


def test_what_an_interpreter_needs_a_person_for_is_no_matter_without_shards(
    pytester: pytest.Pytester,
) -> None:
    for given in ("--pdb", "--trace", "-n 2"):
        assert not wants_shards(pytester.parseconfig(*given.split()))


# What is understood


def test_without_options_there_are_defaults(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    settings = settings_of(pytester, "--shards=3")

    assert settings == Settings(
        shards=3,
        automatic=False,
        executor="subprocess",
        start="auto",
        isolate="no",
        split="duration",
        scope="auto",
        durations=None,
        policy=Policy(
            jobs=max(5, 4 * usable_cpus()),
            shard_timeout=None,
            run_timeout=None,
            grace=10.0,
            restarts=None,
            steal=True,
            leak=LeakPolicy.REPORT,
        ),
        plan_only=False,
    )


#: Option, what is given, the field and what is in it then.
UNDERSTOOD: Final[list[tuple[str, str, str, object]]] = [
    ("shards", "7", "shards", 7),
    ("shard_jobs", "3", "jobs", 3),
    ("shard_executor", "docker", "executor", "docker"),
    ("shard_start", "spawn", "start", "spawn"),
    ("shard_isolate", "module", "isolate", "module"),
    ("shard_split", "hash", "split", "hash"),
    ("shard_scope", "module", "scope", "module"),
    ("shard_steal", "no", "steal", False),
    ("shard_steal", "yes", "steal", True),
    ("shard_memory", "2G", "memory", 2 << 30),
    ("shard_memory", "1.5 kB", "memory", 1536),
    ("shard_memory", "0", "memory", None),
    ("shard_memory", "1000", "memory", 1000),
    ("shard_leak", "fail", "leak", LeakPolicy.FAIL),
    ("shard_lost_data", "warn", "lost_data", LossPolicy.WARN),
    ("shard_test_timeout", "0.5", "test_timeout", 0.5),
    ("shard_timeout", "90", "shard_timeout", 90.0),
    ("shard_timeout", "250%", "shard_timeout_share", 2.5),
    ("shard_run_timeout", "1h", "run_timeout", 3600.0),
    ("shard_grace", "0", "grace", 0.0),
    ("shard_restarts", "0", "restarts", 0),
    ("shard_halt", "never", "halts", ()),
    (
        "shard_halt",
        "now,fail=10%",
        "halts",
        (
            Halt(
                HaltWhen.NOW,
                HaltWhy.FAIL,
                Amount(0.1, is_share=True),
                "stopping after {count} failures (--shard-halt=now,fail=10%)",
            ),
        ),
    ),
    ("shard_retries", "0", "retries", None),
    ("shard_retries", "3", "retries", Retries(3)),
]


@pytest.mark.parametrize(("option", "given", "name", "value"), UNDERSTOOD)
def test_an_option_has_an_ini_name_and_comes_before_it(
    option: str, given: str, name: str, value: object, pytester: pytest.Pytester
) -> None:
    flag = f"--{option.replace('_', '-')}"
    shards = [] if option == "shards" else ["--shards=2"]
    assert value_of(settings_of(pytester, *shards, f"{flag}={given}"), name) == value

    pytester.makeini(f"[pytest]\n{option} = {given}\n")
    assert value_of(settings_of(pytester, *shards), name) == value

    pytester.makeini(f"[pytest]\n{option} = nonsense\n")
    assert value_of(settings_of(pytester, *shards, f"{flag}={given}"), name) == value


def test_options_of_retries_are_understood(pytester: pytest.Pytester) -> None:
    settings = settings_of(
        pytester,
        "--shards=2",
        "--shard-retries=2",
        "--shard-retry-only=Timeout|Reset",
        "--shard-retry-delay=1m",
        "--shard-retry-max-failures=5%",
        "--shard-flaky=fail",
    )

    assert settings.policy.retries == Retries(
        2,
        only="Timeout|Reset",
        delay=60.0,
        most=(Amount(0.05, is_share=True),),
        flaky_fails=True,
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--shard-retries=-1", "no number of at least 0"),
        ("--shard-retry-only=(", "is no regular expression"),
        ("--shard-retry-delay=soon", "is no time"),
        ("--shard-retry-max-failures=few", "is no number of tests"),
        ("--shard-flaky=maybe", "is unknown: choose pass or fail"),
    ],
)
def test_impossible_retries_are_refused(
    pytester: pytest.Pytester, option: str, message: str
) -> None:
    with pytest.raises(pytest.UsageError, match=re.escape(option)) as refused:
        settings_of(pytester, "--shards=2", "--shard-retries=1", option)

    assert message in str(refused.value)


@pytest.mark.parametrize(("option", "most"), [("-x", 1), ("--maxfail=3", 3)])
def test_options_of_pytest_stand_for_a_halt(
    pytester: pytest.Pytester, option: str, most: int
) -> None:
    settings = settings_of(pytester, "--shards=2", option)

    (halt,) = settings.policy.halts
    assert (halt.when, halt.why, halt.amount) == (HaltWhen.SOON, HaltWhy.FAIL, Amount(most))


@pytest.mark.parametrize("given", ["soon", "later,fail=1", "now,fail", "now,fail=0", "now,fail=x"])
def test_an_impossible_halt_is_refused(pytester: pytest.Pytester, given: str) -> None:
    with pytest.raises(pytest.UsageError, match="--shard-halt"):
        settings_of(pytester, "--shards=2", f"--shard-halt={given}")


def test_every_option_with_an_ini_name_was_given() -> None:
    options = set(OPTIONS) - set(CONTAINER_OPTIONS)
    of_retries = {f"shard_retry_{name}" for name in ("only", "delay", "max_failures")}
    given = {option for option, *_ in UNDERSTOOD} | of_retries | {"shard_flaky", "shard_durations"}

    assert given == {each.dest for each in options if each.ini}


def test_a_file_of_durations_is_relative_to_who_names_it(pytester: pytest.Pytester) -> None:
    inner = pytester.mkdir("inner")
    pytester.makeini("[pytest]\nshard_durations = d.json\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inner)

        assert settings_of(pytester, "--shards=2").durations == pytester.path / "d.json"
        given = settings_of(pytester, "--shards=2", "--shard-durations=d.json").durations
        assert given == inner / "d.json"
        assert settings_of(pytester, "--shards=2", "--shard-durations=").durations is None


def test_a_directory_of_durations_is_refused(pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match="is a directory: give a file"):
        settings_of(pytester, "--shards=2", "--shard-durations=.")


def test_an_empty_option_switches_off_what_the_ini_file_says(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshard_timeout = 60\nshard_restarts = 3\n")

    policy = settings_of(pytester, "--shards=2", "--shard-timeout=", "--shard-restarts=").policy

    assert policy.shard_timeout is None
    assert policy.restarts is None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("90", 90.0),
        ("0.5", 0.5),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        (" 5 m ", 300.0),
    ],
)
def test_times_are_seconds_or_have_a_unit(
    given: str, seconds: float, pytester: pytest.Pytester
) -> None:
    policy = settings_of(pytester, "--shards=2", f"--shard-timeout={given}").policy

    assert policy.shard_timeout == seconds


@pytest.mark.parametrize("given", ["--shards=auto", "--shard-plan"])
def test_as_many_shards_as_there_are_processors(given: str, pytester: pytest.Pytester) -> None:
    settings = settings_of(pytester, given)

    assert settings.shards == usable_cpus()
    assert settings.automatic


@pytest.mark.parametrize(
    ("ini", "arguments", "wanted"),
    [
        ("", "", False),
        ("", "--shards=2", True),
        ("", "--shards=0", False),
        ("", "--shard-plan", True),
        ("", "--shard-jobs=3", False),
        ("shards = 4", "", True),
        ("shards = auto", "", True),
        ("shards = 0", "", False),
        ("shards =", "", False),
        ("shards = 4", "--shards=0", False),
        ("shards = 0", "--shards=2", True),
        ("addopts = --shards=4", "--shards=0", False),
    ],
)
def test_shards_are_switched_on_by_a_number_and_off_by_0(
    ini: str, arguments: str, wanted: bool, pytester: pytest.Pytester
) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")

    assert wants_shards(pytester.parseconfig(*arguments.split())) is wanted


def test_stepwise_is_one_test_after_the_other(pytester: pytest.Pytester) -> None:
    assert settings_of(pytester, "--shards=4", "--stepwise").shards == 1


@pytest.mark.parametrize("given", ["--shard-plan", "--collect-only"])
def test_the_plan_alone_may_be_wanted(given: str, pytester: pytest.Pytester) -> None:
    assert settings_of(pytester, "--shards=4", given).plan_only


def test_xdist_may_be_installed_and_switched_off(pytester: pytest.Pytester) -> None:
    assert settings_of(pytester, "--shards=4", "-n0").shards == 4
    assert settings_of(pytester, "--shards=4", "--dist=no").shards == 4


def test_a_disabled_plugin_s_options_are_missed_by_nobody(pytester: pytest.Pytester) -> None:
    arguments = ["-p", "no:xdist", "-p", "no:debugging", "-p", "no:stepwise"]

    assert settings_of(pytester, "--shards=4", *arguments).shards == 4


def test_the_help_shows_every_option_under_one_heading(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--help")

    _, _, rest = result.stdout.str().partition("shards (pytest-shardrun):\n")
    section, _, _ = rest.partition("\n\n")
    for option in OPTIONS:
        assert f"  {option.flag}" in section
        if option.ini:
            assert f"default of {option.flag}" in result.stdout.str()
