"""Several studies of one task: model size against trials against length, from their stored samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ponder.api import run_sync
from ponder.core.candidate import Candidate
from ponder.core.registry import MODELS
from ponder.costs.exchange import RATIOS, Exchange, exchange_table
from ponder.costs.frontier import Frontier, GradedSamples, best_of_n_costs, cut, kinetics_frontier
from ponder.costs.profiles import hardware
from ponder.costs.shape import ModelShape
from ponder.errors import ParameterError, PonderError, StoreError, StudyError
from ponder.studies.offline import StoredStudy


@dataclass(frozen=True)
class Kinetics:
    """What several models reach for what cost on the problems that all of them have.

    Attributes:
        hardware: what costs were counted on.
        intensity: its FLOP per byte.
        models: names, in the order given.
        problems: how many are shared.
        frontier: over all models, trials and lengths.
        each: the same for each model alone.
        exchange: the smaller model's draws against one of the larger, at equal training and inference FLOPs; empty
            unless there are two models of different size.
        notes: what had to be approximated.
    """

    hardware: str
    intensity: float
    models: tuple[str, ...]
    problems: int
    frontier: Frontier
    each: dict[str, Frontier]
    exchange: tuple[Exchange, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def kinetics(
    folders: Sequence[Path | str],
    *,
    shapes: Sequence[str | ModelShape] = (),
    unit: str = "eflops",
    on: str = "b200",
    caps: Sequence[int] = (),
    prefill: bool = False,
    batch: float | None = None,
    seed: int = 0,
) -> Kinetics:
    """Compare models from studies of one task; coverage counts, which is what a verifier that is never wrong reaches.

    Args:
        folders: directories that `ponder bench` wrote, one a model.
        shapes: of the models, in the same order; empty takes what the models themselves tell.
        unit: what cost means: eflops, flops, seconds, dollars or bytes.
        on: the hardware; see `ponder.costs.hardware`.
        caps: lengths at which the samples are cut and graded again, besides as they are.
        prefill: count the prompts' own passes.
        batch: count reading the weights, each pass shared by so many problems.
        seed: of the bootstrap over problems.

    Raises:
        StudyError: no problem shared, or a model of unknown size.
        StoreError: no study there, or no stored samples.
        ParameterError: not one shape a directory, an unknown unit, a cap < 1.
    """
    if not folders or (shapes and len(shapes) != len(folders)):
        raise ParameterError(
            "kinetics", "shapes", len(shapes), allowed=f"none, or one for each of {len(folders)} studies"
        )
    for cap in caps:
        if cap < 1:
            raise ParameterError("kinetics", "caps", cap, allowed="integers ≥ 1")
    profile = hardware(on)
    sizes: list[ModelShape | None] = [ModelShape.read(s) if isinstance(s, str) else s for s in shapes]
    sizes = sizes or [None] * len(folders)
    read = [_Stored.of(Path(f), s, caps) for f, s in zip(folders, sizes, strict=True)]
    if len({r.task for r in read}) > 1:
        raise StudyError(f"the studies are of different tasks ({', '.join(sorted({r.task for r in read}))})")
    shared = [p for p in read[0].problems if all(p in r.problems for r in read)]
    if not shared:
        raise StudyError("the studies share no problem; run them with the same --seed and --limit")
    names = [r.model if [o.model for o in read].count(r.model) == 1 else str(r.folder) for r in read]
    pools = [r.pools(shared, name) for r, name in zip(read, names, strict=True)]
    measured = [
        [m for pool in some for m in best_of_n_costs(pool, unit=unit, on=profile, prefill=prefill, batch=batch)]
        for some in pools
    ]
    notes = [f"{n}: {note}" for r, n in zip(read, names, strict=True) for note in r.notes]
    return Kinetics(
        profile.name, profile.intensity, tuple(names), len(shared),
        kinetics_frontier([m for some in measured for m in some], unit=unit, seed=seed),
        {n: kinetics_frontier(some, unit=unit, seed=seed) for n, some in zip(names, measured, strict=True)},
        _exchanged([some[0] for some in pools], seed), tuple(notes),
    )  # fmt: skip


def _exchanged(pools: list[GradedSamples], seed: int) -> tuple[Exchange, ...]:
    small, *rest = sorted(pools, key=lambda p: p.shape.params_active)
    if len(rest) != 1 or rest[0].shape.params_active == small.shape.params_active:
        return ()
    return tuple(exchange_table(small, rest[0], RATIOS, seed=seed))


@dataclass(frozen=True)
class _Stored:
    """A study's stored samples, graded; per problem (prompt tokens, lengths, {cap: verdicts})."""

    folder: Path
    model: str
    task: str
    shape: ModelShape
    caps: tuple[int, ...]
    problems: dict[str, tuple[int, list[int], dict[int | None, list[bool]]]]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, shape: ModelShape | None, caps: Sequence[int]) -> _Stored:
        problems: dict[str, tuple[int, list[int], dict[int | None, list[bool]]]] = {}
        with StoredStudy.open(folder) as stored:
            size = shape or _shape(stored.study.model, folder)
            source = stored.source()

            async def look() -> None:
                for problem in stored.problems():
                    ctx, candidates = await stored.candidates(problem, source)
                    if not candidates:
                        continue
                    spent = ctx.ledger.total
                    right = {
                        cap: [bool(stored.right(problem, _cut(c, cap))) for c in candidates] for cap in (None, *caps)
                    }
                    prompt = round(spent.prompt_tokens / max(spent.requests, 1))
                    problems[problem.id] = prompt, [c.n_tokens or 0 for c in candidates], right

            run_sync(look)
            if not problems:
                raise StoreError(f"{folder} holds no stored samples of {source}")
            notes = list(size.notes)
            if caps:
                notes.append("samples were cut at the share of their text that the cap is of their tokens")
            return cls(folder, stored.study.model, stored.study.task, size, tuple(caps), problems, tuple(notes))

    def pools(self, problems: Sequence[str], name: str) -> list[GradedSamples]:
        """As drawn, then cut at each cap that cuts something."""
        found = [self.problems[p] for p in problems]
        whole = GradedSamples(
            name, self.shape, [f[0] for f in found], [f[1] for f in found], [f[2][None] for f in found]
        )  # fmt: skip
        longest = max(max(f[1]) for f in found)
        return [whole, *(cut(whole, cap, [f[2][cap] for f in found]) for cap in self.caps if cap < longest)]


def _cut(candidate: Candidate, cap: int | None) -> Any:
    """What the first `cap` tokens of an output are, as nearly as its characters tell."""
    n, text = candidate.n_tokens or 0, candidate.output
    if cap is None or n <= cap or not isinstance(text, str):
        return text
    return text[: len(text) * cap // n]


def _shape(model: str, folder: Path) -> ModelShape:
    """What the study's model says of its size, without running it."""
    try:
        found: ModelShape | None = MODELS.build(model).shape
    except PonderError as error:
        raise StudyError(f"{folder}: the size of {model} cannot be read ({error}); give it with --shape") from None
    if found is None:
        raise StudyError(f"{folder}: the size of {model} is unknown; give it with --shape, such as --shape qwen3-8b")
    return found
