"""What the user asked for, as one frozen value."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path
from typing import Final, final

import pytest

from .cpus import usable_cpus
from .model import (
    MOST_RETRIED,
    Amount,
    Halt,
    HaltWhen,
    HaltWhy,
    LeakPolicy,
    LossPolicy,
    Policy,
    Retries,
)
from .planning.scopes import SCOPES
from .records import record
from .worker.times import read_seconds

DEFAULT_GRACE: Final = 10.0
#: Seconds after which a test is called slow again, where nobody watches but a machine.
SLOW_EVERY: Final = 60.0
#: More than anybody has use for; each costs the controller some memory and time.
MOST_SHARDS: Final = 1000


@final
@record
class Settings:
    """The options of a run in shards."""

    shards: int
    #: ``--shards auto``: the number may fall to that of the tests without a word.
    automatic: bool
    executor: str
    #: How processes on this machine are started: auto, fork or spawn.
    start: str
    #: What gets a process of its own: no, module or test.
    isolate: str
    split: str
    scope: str
    #: A file of durations that people share, besides pytest's cache.
    durations: Path | None
    policy: Policy
    plan_only: bool


def read_settings(config: pytest.Config) -> Settings:
    """The settings of the command line and the ini file; ``pytest.UsageError`` names the option."""
    _refuse_what_needs_a_person(config)
    _refuse_xdist(config)
    given = _given(config, "shards")
    given = "auto" if given in ("", "0") else given
    cpus = usable_cpus()
    shards = cpus if given == "auto" else _count(given, "--shards", least=1, other="auto")
    if shards > MOST_SHARDS:
        raise pytest.UsageError(
            f"--shards={given} is more than the {MOST_SHARDS} that there may be: give fewer, "
            "or --shard-isolate=test for a process for each test"
        )
    if _option(config, "stepwise"):
        # Stepwise means one test after the other.
        shards = 1
    jobs = _given(config, "shard_jobs")
    restarts = _given(config, "shard_restarts")
    share = _percent(_given(config, "shard_timeout"))
    policy = Policy(
        jobs=_count(jobs, "--shard-jobs", least=1) if jobs else max(5, 4 * cpus),
        shard_timeout=None if share is not None else _seconds(config, "shard_timeout"),
        shard_timeout_share=share,
        test_timeout=_seconds(config, "shard_test_timeout"),
        slow_every=SLOW_EVERY if os.environ.get("CI", "") not in ("", "0", "false") else None,
        run_timeout=_seconds(config, "shard_run_timeout"),
        grace=DEFAULT_GRACE if (grace := _seconds(config, "shard_grace")) is None else grace,
        retries=_retries(config),
        halts=_halts(config),
        restarts=_count(restarts, "--shard-restarts", least=0) if restarts else None,
        steal=_choice(config, "shard_steal", ("yes", "no"), "yes") == "yes",
        isolates=_isolate(config) != "no",
        memory=_bytes(config, "shard_memory"),
        leak=LeakPolicy(
            _choice(config, "shard_leak", tuple(each.value for each in LeakPolicy), "report")
        ),
        lost_data=LossPolicy(
            _choice(config, "shard_lost_data", tuple(each.value for each in LossPolicy), "fail")
        ),
    )
    return Settings(
        shards=shards,
        automatic=given == "auto",
        executor=_given(config, "shard_executor") or "subprocess",
        start=_start(config),
        isolate=_isolate(config),
        split=_given(config, "shard_split") or "duration",
        scope=_choice(config, "shard_scope", SCOPES, "auto"),
        durations=_durations_file(config),
        policy=policy,
        plan_only=bool(config.getoption("shard_plan")) or bool(_option(config, "collectonly")),
    )


def _given(config: pytest.Config, name: str) -> str:
    """The option, else the ini value, else nothing."""
    value = config.getoption(name)
    if value is None:
        value = config.getini(name)
    return str(value).strip() if value else ""


def _durations_file(config: pytest.Config) -> Path | None:
    """The file as the command line means it, or relative to the ini file that names it."""
    name = "shard_durations"
    given = _given(config, name)
    if not given:
        return None
    home = config.invocation_params.dir
    if config.getoption(name) is None:
        home = config.rootpath if config.inipath is None else config.inipath.parent
    path = Path(home, given)
    if path.is_dir():
        raise pytest.UsageError(
            f"--shard-durations={path} is a directory: give a file, which need not exist yet"
        )
    return path


def _option(config: pytest.Config, name: str) -> object:
    """An option of pytest's own or of another plugin, which may be disabled."""
    return getattr(config.option, name, None)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _count(text: str, flag: str, *, least: int, other: str = "") -> int:
    if re.fullmatch(r"\d+", text) and int(text) >= least:
        return int(text)
    also = f" or {other}" if other else ""
    raise pytest.UsageError(
        f"{flag}={text} is no number of at least {least}: give a whole number{also}"
    )


def _seconds(config: pytest.Config, name: str) -> float | None:
    text = _given(config, name)
    if not text:
        return None
    seconds = read_seconds(text)
    if not seconds and not (seconds == 0 and name in ("shard_grace", "shard_retry_delay")):
        raise pytest.UsageError(
            f"{_flag(name)}={text} is no time: give seconds, or a number with s, m or h, "
            "like 90s, 5m or 1h"
        )
    return seconds


def _halts(config: pytest.Config) -> tuple[Halt, ...]:
    """What ends the run early; -x and --maxfail are the oldest names for it."""
    halts = []
    most = _option(config, "maxfail")
    if isinstance(most, int) and most > 0:
        # In pytest's words, which sets the same limit itself.
        reason = "stopping after {count} failures"
        halts.append(Halt(HaltWhen.SOON, HaltWhy.FAIL, Amount(most), reason))
    given = _given(config, "shard_halt")
    if given in ("", "never"):
        return tuple(halts)
    match = re.fullmatch(r"(now|soon)\s*,\s*(fail|success|done)\s*=\s*(\S+)", given)
    if match is None:
        raise pytest.UsageError(
            f"--shard-halt={given} is unknown: give never, or when and why, like soon,fail=1, "
            "now,fail=10%, soon,done=80% or now,success=1"
        )
    why = HaltWhy(match[2])
    what = {HaltWhy.FAIL: "failures", HaltWhy.SUCCESS: "successes", HaltWhy.DONE: "tests"}[why]
    reason = f"stopping after {{count}} {what} (--shard-halt={given})"
    amount = _amount(match[3], "--shard-halt")
    if amount.value == 0:
        raise pytest.UsageError(f"--shard-halt={given} would run nothing: give at least 1")
    return (*halts, Halt(HaltWhen(match[1]), why, amount, reason))


def _retries(config: pytest.Config) -> Retries | None:
    count = _given(config, "shard_retries")
    if count in ("", "0"):
        return None
    only = _given(config, "shard_retry_only")
    try:
        re.compile(only)
    except re.error as error:
        raise pytest.UsageError(
            f"--shard-retry-only={only} is no regular expression: {error}"
        ) from error
    most = _given(config, "shard_retry_max_failures")
    return Retries(
        count=_count(count, "--shard-retries", least=0),
        only=only,
        delay=_seconds(config, "shard_retry_delay") or 0.0,
        most=(_amount(most, "--shard-retry-max-failures"),) if most else MOST_RETRIED,
        flaky_fails=_choice(config, "shard_flaky", ("pass", "fail"), "pass") == "fail",
    )


def _amount(text: str, flag: str) -> Amount:
    share = _percent(text)
    if share is not None:
        return Amount(share, is_share=True)
    if re.fullmatch(r"\d+", text):
        return Amount(int(text))
    raise pytest.UsageError(
        f"{flag}={text} is no number of tests: give a whole number or a share, like 10 or 5%"
    )


def _percent(text: str) -> float | None:
    """0.5 for ``50%``; None where that is no share of anything."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
    return float(match[1]) / 100 if match and float(match[1]) > 0 else None


def _bytes(config: pytest.Config, name: str) -> int | None:
    text = _given(config, name)
    if not text:
        return None
    if not hasattr(resource, "prlimit"):
        raise pytest.UsageError(
            f"{_flag(name)}={text} needs Linux, where one process can limit another: leave it out"
        )
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmg]?)b?", text.lower())
    if match is None:
        raise pytest.UsageError(
            f"{_flag(name)}={text} is no size: give bytes, or a number with k, m or g, like 512m"
        )
    return int(float(match[1]) * 1024 ** "bkmg".index(match[2] or "b")) or None


def _choice(config: pytest.Config, name: str, known: tuple[str, ...], default: str) -> str:
    value = _given(config, name) or default
    if value not in known:
        raise pytest.UsageError(f"{_flag(name)}={value} is unknown: choose {_listed(known)}")
    return value


def choose(flag: str, name: str, known: list[str]) -> None:
    """``pytest.UsageError`` with the known names where this one is not among them."""
    if name not in known:
        raise pytest.UsageError(f"{flag}={name} is unknown: choose {_listed(tuple(sorted(known)))}")


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _start(config: pytest.Config) -> str:
    start = _choice(config, "shard_start", ("auto", "fork", "spawn"), "auto")
    if start == "fork" and sys.platform != "linux":
        raise pytest.UsageError(
            "--shard-start=fork works on Linux only: leave it out, or use --shard-start=spawn"
        )
    return start


def _isolate(config: pytest.Config) -> str:
    isolate = _choice(config, "shard_isolate", ("no", "module", "test"), "no")
    executor = _given(config, "shard_executor") or "subprocess"
    if isolate != "no" and executor != "subprocess":
        raise pytest.UsageError(
            f"--shard-isolate={isolate} forks processes on this machine, and "
            f"--shard-executor={executor} starts them elsewhere: leave out one of them"
        )
    if isolate == "test" and (_start(config) == "spawn" or sys.platform != "linux"):
        raise pytest.UsageError(
            "--shard-isolate=test needs forks: without them a fresh interpreter would collect all "
            "tests again for each of them; use --shard-start=auto on Linux, or "
            "--shard-isolate=module"
        )
    return isolate


def _refuse_what_needs_a_person(config: pytest.Config) -> None:
    for name, flag in (("usepdb", "--pdb"), ("trace", "--trace"), ("usepdb_cls", "--pdbcls")):
        if _option(config, name):
            raise pytest.UsageError(
                f"{flag} needs a terminal and --shards runs tests in processes without one: "
                f"leave out --shards (or add --shards=0), or leave out {flag}"
            )


def _refuse_xdist(config: pytest.Config) -> None:
    workers = _option(config, "numprocesses")
    if workers:
        raise pytest.UsageError(
            f"-n {workers} of pytest-xdist and --shards both split the tests: leave out one of "
            "them (-n 0 switches pytest-xdist off where it stands in addopts)"
        )
    for name, flag in (("tx", "--tx"), ("looponfail", "--looponfail")):
        if _option(config, name):
            raise pytest.UsageError(
                f"{flag} of pytest-xdist and --shards do not go together: leave out one of them"
            )
    mode = _option(config, "dist")
    if mode not in (None, "no"):
        raise pytest.UsageError(
            f"--dist={mode} of pytest-xdist and --shards do not go together: leave out --dist, "
            "and use --shard-scope to keep tests together"
        )
