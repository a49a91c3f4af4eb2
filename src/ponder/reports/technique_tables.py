"""The tables of techniques in README.md and docs/techniques.md, written from the registry.

`make tables` (or `python -m ponder.reports.technique_tables ROOT`) rewrites what lies between the markers; a test fails
while they are stale. A name is linked to its own page, else to its kind's index page.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path

from ponder.core.registry import REGISTRIES, Entry
from ponder.core.taxonomy import DEFAULTS, DIMENSIONS, HOW, WHAT, WHERE_GROUPS
from ponder.errors import StudyError

_BEGIN, _END = "<!-- techniques: written by make tables -->", "<!-- /techniques -->"

PLURAL = {kind: registry.package.rpartition(".")[2] for kind, registry in REGISTRIES.items()}

_GROUPS = {
    "parallel": "Parallel: draw many outputs, then choose or stop",
    "sequential": "Sequential: one attempt builds on another",
    "hybrid": "Hybrid: search, where both happen",
    "internal": "Internal: the model itself was trained to think longer",
    "": "Without tags",
}
_MEANING = {
    "what": "how outputs depend on each other",
    "how": "what turns compute into quality; details after the colon",
    "where": "the tasks it is made for; `any` makes no assumption",
    "how_well": "what a study of it measures",
}


def stale(root: Path) -> list[Path]:
    """The files whose tables are not what the registry says."""
    return [path for path, text in pages(root).items() if path.read_text(encoding="utf-8") != text]


def pages(root: Path) -> dict[Path, str]:
    """Both files as they should be.

    Raises:
        StudyError: a file has no markers.
    """
    made = {root / "README.md": _readme(root), root / "docs" / "techniques.md": _techniques(root)}
    return {path: _between(path, text) for path, text in made.items()}


def shipped(kind: str) -> list[Entry]:
    """The entries of a kind that this package brings, without those that were registered from elsewhere."""
    return [e for e in REGISTRIES[kind].entries() if e.cls.__module__.startswith("ponder.")]


def paper(entry: Entry) -> str:
    """What its file names as its paper or source; empty if nothing.

    >>> from ponder.core.registry import STRATEGIES
    >>> paper(STRATEGIES.entry("best_of_n"))
    'Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", §4.'
    """
    head = inspect.getdoc(inspect.getmodule(entry.cls)) or ""
    found = re.search(r"^(?:Paper|Source)\s+(.*?)(?=^\S|\Z)", head, re.MULTILINE | re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def page_of(entry: Entry, root: Path) -> Path:
    """Its page, its kind's index, or the page of all techniques."""
    folder = root / "docs" / PLURAL[entry.kind]
    options = [folder / f"{name}.md" for name in (entry.name, *entry.aliases, "index")]
    return next((page for page in options if page.exists()), root / "docs" / "techniques.md")


def _readme(root: Path) -> str:
    """Strategies grouped by what they scale, selectors, verifiers: folded, one line each."""
    parts = []
    for what in (*WHAT, ""):
        mine = [e for e in shipped("strategy") if (*e.tags.get("what", ()), "")[0] == what]
        parts += _folded(f"{_GROUPS[what]} ({len(mine)} strategies)", "strategy", mine, root) if mine else []
    for kind, told in (("selector", "Selectors choose"), ("verifier", "Verifiers score")):
        mine = shipped(kind)
        parts += _folded(f"{told} ({len(mine)})", kind, mine, root)
    parts.append("Tags, papers, allocators and recipes: [all techniques](docs/techniques.md).")
    return "\n".join(parts)


def _folded(title: str, kind: str, entries: Sequence[Entry], root: Path) -> list[str]:
    rows = [f"| {_link(e, root, root)} | {_cell(e.summary)} | {_needs(e)} |" for e in entries]
    table = [f"| {kind} | what it does | needs |", "|---|---|---|", *rows]
    return ["<details>", f"<summary>{title}</summary>", "", *table, "", "</details>", ""]


def _techniques(root: Path) -> str:
    """Every tagged technique with its tags and its paper, then the vocabulary."""
    parts = []
    for kind in DEFAULTS:
        parts += [
            f"## {PLURAL[kind].capitalize()}",
            "",
            f"| {kind} | what it does | what | how | where | needs | paper |",
        ]
        parts += ["|---|---|---|---|---|---|---|"]
        for entry in shipped(kind):
            tags = [_cell(_tags(entry, dimension)) for dimension in ("what", "how", "where")]
            parts.append(
                f"| {_link(entry, root, root / 'docs')} | {_cell(entry.summary)} | {' | '.join(tags)} "
                f"| {_needs(entry)} | {_cell(paper(entry)) or '–'} |"
            )
        parts.append("")
    used = {d: {t for k in DEFAULTS for e in shipped(k) for t in e.tags.get(d, ())} for d in DIMENSIONS}
    parts += ["## The vocabulary", "", "| dimension | values | not used yet |", "|---|---|---|"]
    for dimension, values in DIMENSIONS.items():
        heads = {tag.split(":")[0] for tag in used[dimension]}
        details = [f"{v} ({', '.join(HOW[v] or ['any word'])})" for v in values] if dimension == "how" else values
        unused = ", ".join(v for v in values if v not in heads) or "–"
        parts.append(f"| `{dimension}`: {_MEANING[dimension]} | {', '.join(details)} | {unused} |")
    return "\n".join(parts)


def _tags(entry: Entry, dimension: str) -> str:
    tags = list(entry.tags.get(dimension, ()))
    for group, values in WHERE_GROUPS.items():
        if dimension == "where" and set(values) <= set(tags):
            tags = [group, *(t for t in tags if t not in values)]
    return ", ".join(tags) or "–"


def _link(entry: Entry, root: Path, origin: Path) -> str:
    return f"[`{entry.name}`]({Path(relpath(page_of(entry, root), origin)).as_posix()})"


def _needs(entry: Entry) -> str:
    return ", ".join(entry.needs) or "text"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").rstrip(".")


def _between(path: Path, table: str) -> str:
    text = path.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1:
        raise StudyError(f"{path} needs one line {_BEGIN} and one line {_END}; the tables go between them")
    head, _, rest = text.partition(_BEGIN)
    return f"{head}{_BEGIN}\n{table}\n{_END}{rest.partition(_END)[2]}"


def main(arguments: Sequence[str]) -> None:
    """Rewrite the tables of the checkout whose root is given, or is the working directory."""
    root = Path(arguments[0]) if arguments else Path.cwd()
    made = pages(root)
    for path in stale(root):
        path.write_text(made[path], encoding="utf-8")
        print(f"written: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
