"""The pictures that a report shows: the chosen ones of each strategy first, candidates as far as there is room."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

from ponder.errors import StoreError
from ponder.studies.measured import Measured
from ponder.studies.store import StoreReader

MOST_PROBLEMS, MOST_CANDIDATES, MOST_BYTES = 6, 24, 1_000_000


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        source: a `data:` URL.
        score: the verifier's; None if it has none.
        right: how the task graded it; None if it did not.
    """

    source: str
    score: float | None
    right: bool | None

    @property
    def shown_score(self) -> str:
        """Its score in a few characters; nothing if it has none."""
        return "" if self.score is None else f"{self.score:.3g}"

    @property
    def caption(self) -> str:
        """Grade and score in words."""
        grade = {True: "right", False: "wrong", None: ""}[self.right]
        return ", ".join(part for part in (grade, self.shown_score and f"score {self.shown_score}") if part)


@dataclass
class Shots:
    """What one strategy made of one problem.

    Attributes:
        strategy: canonical text.
        budget: samples.
        chosen: its answer, or answers.
        others: further candidates, best first.
        left_out: candidates that are not shown.
    """

    strategy: str
    budget: int
    chosen: list[Shot] = field(default_factory=list)
    others: list[Shot] = field(default_factory=list)
    left_out: int = 0


@dataclass
class Gallery:
    """The pictures of a report.

    Attributes:
        problems: prompt of each problem, with what the strategies made of it.
        of: problems that the study has pictures of.
        left_out: candidates of these problems that are not shown.
    """

    problems: list[tuple[str, list[Shots]]]
    of: int
    left_out: int


def gallery(data: Measured, most_bytes: int = MOST_BYTES) -> Gallery | None:
    """Pictures of the first problems by every strategy at its largest budget; None if the study has none.

    Args:
        data: the study.
        most_bytes: of all pictures together; what does not fit is counted.
    """
    largest = {s: max(p.budget for p in data.points if p.strategy == s) for s in data.strategies}
    try:
        with contextlib.closing(StoreReader(data.folder)) as store:
            listed = [t for t in store.trees() if t.get("pictures") and largest.get(t["strategy"]) == t["budget"]]
            known = {t["problem"] for t in listed}
            order = [p for p in data.problem_ids if p in known]
            if not order:
                return None
            pages: list[tuple[str, list[Shots]]] = []
            for problem in order[:MOST_PROBLEMS]:
                mine = {t["strategy"]: t for t in listed if t["problem"] == problem}
                records = [(s, store.tree(s, largest[s], problem)) for s in data.strategies if s in mine]
                rows = [_shots(s, largest[s], record) for s, record in records if record is not None]
                pages.append((next(iter(mine.values()))["prompt"], rows))
    except StoreError:  # rows without their store, or from elsewhere
        return None
    rows = [row for _, found in pages for row in found]
    _cut_to(rows, most_bytes)
    return Gallery(pages, len(order), sum(row.left_out for row in rows))


def _shots(strategy: str, budget: int, record: dict[str, object]) -> Shots:
    """All of a search's finished pictures, best first; those without a small copy are left out."""
    nodes, leaves = record["nodes"], record["leaves"]
    assert isinstance(nodes, list) and isinstance(leaves, list)
    row = Shots(strategy, budget)
    others: list[Shot] = []
    for leaf in leaves:
        source = nodes[leaf["node"]].get("picture")
        if source is None:
            row.left_out += 1
            continue
        shot = Shot(source, next(iter(leaf["scores"].values()), None), leaf["right"])
        (row.chosen if leaf["chosen"] else others).append(shot)
    row.others = sorted(others, key=lambda s: math.inf if s.score is None else -s.score)
    return row


def _cut_to(rows: list[Shots], most_bytes: int) -> None:
    """Keep what fits: chosen pictures first, then of every row its best, its second best, …."""
    left = most_bytes
    offered = {id(row): row.others[:MOST_CANDIDATES] for row in rows}
    for row in rows:
        kept: list[Shot] = []
        for shot in row.chosen:
            if len(shot.source) <= left:
                left -= len(shot.source)
                kept.append(shot)
        row.left_out += len(row.chosen) - len(kept) + len(row.others)
        row.chosen, row.others = kept, []
    for rank in range(MOST_CANDIDATES):
        for row in rows:
            shots = offered[id(row)]
            if rank < len(shots) and len(shots[rank].source) <= left:
                left -= len(shots[rank].source)
                row.others.append(shots[rank])
                row.left_out -= 1
