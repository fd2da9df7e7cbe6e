"""The table in the manual, made of what was found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .cases import Case

MANUAL: Final = Path(__file__).parents[2] / "docs" / "plugins.md"

_BEGIN: Final = "<!-- made by: python -m tests.plugins --all --write -->"
_END: Final = "<!-- end of the table -->"
_HEAD: Final = (
    "| plugin | tried with | result | what was tried, and what differs |",
    "|---|---|---|---|",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A plugin's line."""

    name: str
    version: str
    result: str
    text: str

    def __str__(self) -> str:
        return f"| {self.name} | {self.version} | {self.result} | {self.text} |"


def make_row(case: Case, *, differs: bool, versions: Mapping[str, str]) -> Row:
    """The line for a case of which a difference was found or not."""
    tried = [requirement_name(each) for each in case.requirements]
    shown = ", ".join(versions.get(name, "?") for name in tried[:1]) or "–"
    text = f"{case.about}."
    if case.refused:
        return Row(case.name, shown, "refused", f"{text} “{case.refused}”")
    if not differs:
        return Row(case.name, shown, "same", text)
    reasons = "; ".join(dict.fromkeys(each.told for each in case.differs))
    return Row(
        case.name, shown, "differs", f"{text} **Differs:** {reasons}. **Do:** {case.advice}."
    )


def requirement_name(requirement: str) -> str:
    """The distribution that a requirement asks for, in PyPI's spelling."""
    name = re.split(r"[^\w.-]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def read_rows(text: str) -> list[Row]:
    """The lines of the table in a manual."""
    _, _, rest = text.partition(_BEGIN)
    table, _, _ = rest.partition(_END)
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [Row(*(cell.strip() for cell in line.strip("| ").split(" | "))) for line in lines]


def with_rows(text: str, rows: Sequence[Row]) -> str:
    """The manual with these lines for its table."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{MANUAL.name} has no place for the table: {_BEGIN} … {_END}")
    lines = "\n".join([*_HEAD, *(str(row) for row in rows)])
    return f"{before}{begin}\n\n{lines}\n\n{end}{after}"


def contradictions(manual: Iterable[Row], found: Iterable[Row]) -> list[str]:
    """Where the manual does not say what was found; versions may have moved on."""
    said = {row.name: row for row in manual}
    wrong = []
    for row in found:
        there = said.get(row.name)
        if there is None:
            wrong.append(f"{row.name} is not in {MANUAL.name}")
        elif (there.result, there.text) != (row.result, row.text):
            wrong.append(f"{MANUAL.name} says\n  {there}\nand found was\n  {row}")
    return wrong
