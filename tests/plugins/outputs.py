"""What plugins write, read so that two runs can be compared.

Taken out is only what no two runs of plain pytest share: times, identifiers made at random, places
of temporary files, and the order in which tests ended. Each reader says what that is.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias
from xml.etree import ElementTree

#: Named parts of what was written; each is compared by itself.
Parts: TypeAlias = Mapping[str, str]


class OutputError(Exception):
    """A file that a plugin should have written is not there, or is not what it should be."""


def read_output(
    kind: str, path: Path, without: Iterable[str], clean: Callable[[str], str], python: str
) -> Parts:
    """The parts of what a plugin wrote, cleaned of what differs from run to run."""
    if kind not in READERS:
        raise OutputError(f"unknown kind of output {kind}: choose {', '.join(READERS)}")
    if not path.exists():
        raise OutputError(f"{path.name} was not written")
    parts = READERS[kind](path, frozenset(without), python)
    return {name: clean(text) for name, text in parts.items()}


def read_text(path: Path, without: frozenset[str], python: str) -> Parts:
    """A file, line by line, in any order: tests end in another order in shards."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {"lines": "\n".join(sorted(lines))}


def read_tree(path: Path, without: frozenset[str], python: str) -> Parts:
    """The files below a directory."""
    return {
        str(file.relative_to(path)): file.read_bytes().decode("utf-8", "backslashreplace")
        for file in sorted(path.rglob("*"))
        if file.is_file() and not without & set(file.relative_to(path).parts)
    }


def read_json(path: Path, without: frozenset[str], python: str) -> Parts:
    """JSON, one part for each key at the top; lists of tests in the order of their node ids."""
    loaded = json.loads(path.read_text(encoding="utf-8"))
    value = _without(loaded, without)
    if not isinstance(value, dict):
        return {"value": _dump(value)}
    return {str(key): _dump(_sorted_tests(each)) for key, each in value.items()}


def read_json_lines(path: Path, without: frozenset[str], python: str) -> Parts:
    """A JSON value on each line, in any order, named by what they are about."""
    parts: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        value = _without(json.loads(line), without)
        about = [str(value.get(key)) for key in ("$report_type", "nodeid", "when") if key in value]
        parts.setdefault(" ".join(about), []).append(_dump(value))
    return {name: "\n".join(sorted(lines)) for name, lines in parts.items()}


def read_xml(path: Path, without: frozenset[str], python: str) -> Parts:
    """XML without the attributes that are named, one part for each class of a coverage report."""
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        for name in without & element.attrib.keys():
            del element.attrib[name]
    parts = {
        f"{element.get('filename')}": ElementTree.tostring(element, encoding="unicode")
        for element in root.iter("class")
    }
    parts["totals"] = json.dumps(root.attrib, sort_keys=True)
    return parts


def read_coverage(path: Path, without: frozenset[str], python: str) -> Parts:
    """A file of coverage data: lines, branches and contexts of each file."""
    target = path.with_name("coverage-read.json")
    command = [python, "-m", "coverage", "json", "-q", "--show-contexts", f"--data-file={path}"]
    done = subprocess.run(
        [*command, "-o", str(target)],
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OutputError(f"coverage cannot read {path.name}: {done.stdout}")
    loaded = json.loads(target.read_text(encoding="utf-8"))
    target.unlink()
    left_over = sorted(file.name for file in path.parent.glob(".coverage.*"))
    parts = {
        name: _dump(_without(_sorted_contexts(data), without))
        for name, data in loaded["files"].items()
    }
    return {**parts, "totals": _dump(loaded["totals"]), "files left over": str(left_over)}


def read_html(path: Path, without: frozenset[str], python: str) -> Parts:
    """A page of pytest-html: its table of tests and the numbers above it, without durations."""
    text = path.read_text(encoding="utf-8")
    blob = re.search(r'data-jsonblob="(.*?)"', text, re.DOTALL)
    if blob is None:
        raise OutputError(f"{path.name} has no data of pytest-html")
    data = json.loads(html.unescape(blob[1]))
    parts: dict[str, str] = {}
    for test, results in data["tests"].items():
        kept = [_without(result, without | {"duration"}) for result in results]
        for result in kept:
            result["resultsTableRow"] = [
                cell for cell in result["resultsTableRow"] if "col-duration" not in cell
            ]
        parts[test] = "\n".join(sorted(_dump(result) for result in kept))
    counts = re.findall(r'<span class="(\w+)">(\d+ [^<]*)</span>', text)
    counted = re.search(r"(\d+) tests? took", text)
    parts["counts"] = _dump([counts, counted[1] if counted else None])
    parts["environment"] = _dump(_without(data["environment"], without))
    return parts


def read_allure(path: Path, without: frozenset[str], python: str) -> Parts:
    """A directory of Allure results: tests by full name and parameters, containers by name.

    Taken out: times, the uuids made for each result, and the names of attached files, whose
    content is read instead. The labels thread and host say in which process a test ran.
    """
    parts: dict[str, list[str]] = {}
    volatile = without | {"uuid", "start", "stop", "children"}
    for file in sorted(path.glob("*-result.json")) + sorted(path.glob("*-container.json")):
        value = json.loads(file.read_text(encoding="utf-8"))
        _read_attachments(value, path)
        labels = value.get("labels", [])
        # They come from a set.
        value["labels"] = sorted(
            (each for each in labels if each["name"] not in ("thread", "host")), key=_dump
        )
        name = value.get("fullName") or "container of " + ",".join(
            each["name"] for key in ("befores", "afters") for each in value.get(key, ())
        )
        parts.setdefault(name, []).append(_dump(_without(value, volatile)))
    return {name: "\n".join(sorted(texts)) for name, texts in parts.items()}


def _read_attachments(value: Any, directory: Path) -> None:
    if isinstance(value, dict):
        if "source" in value:
            source = directory / value["source"]
            value["source"] = source.read_bytes().decode("utf-8", "backslashreplace")
        for each in value.values():
            _read_attachments(each, directory)
    elif isinstance(value, list):
        for each in value:
            _read_attachments(each, directory)


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(each, names) for key, each in value.items() if key not in names}
    if isinstance(value, list):
        return [_without(each, names) for each in value]
    return value


def _sorted_tests(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return sorted(value, key=_dump)
    return value


def _sorted_contexts(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: {line: sorted(names) for line, names in each.items()}
            if key == "contexts"
            else _sorted_contexts(each)
            for key, each in data.items()
        }
    return data


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


READERS: Final[Mapping[str, Callable[[Path, frozenset[str], str], Parts]]] = {
    "text": read_text,
    "tree": read_tree,
    "json": read_json,
    "jsonl": read_json_lines,
    "xml": read_xml,
    "coverage": read_coverage,
    "html": read_html,
    "allure": read_allure,
}
