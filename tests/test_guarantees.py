"""Every promise of docs/guarantees.md names tests, and these exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

DOCS: Final = Path(__file__).parents[1] / "docs"
TEXT: Final = (DOCS / "guarantees.md").read_text(encoding="utf-8")
#: A paragraph that begins with a sentence in bold.
PROMISES: Final = re.findall(r"^\*\*.*?(?=\n\n|\Z)", TEXT, re.MULTILINE | re.DOTALL)
LINKS: Final = sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT)))


def defined_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.partition("**")[2][:40])
def test_every_promise_names_its_tests(promise: str) -> None:
    assert "](../tests/" in promise


@pytest.mark.parametrize("link", LINKS)
def test_what_a_promise_names_exists(link: str) -> None:
    path, _, name = link.partition("#")
    target = DOCS / path

    assert target.exists()
    assert not name or name in defined_in(target)
