"""Prompt refinement: enrich the prompt from a corpus, then generate, measure and rewrite it, round by round.

Paper    Gao et al. 2025, "RAPO++: Cross-Stage Prompt Optimization for Text-to-Video Generation via Data Alignment and
         Test-Time Scaling", stages 1 and 2.
Equal    Modifiers of the nearest captions are put into the prompt; then each round generates with a fixed seed, scores
         the output against the original prompt, and rewrites from the original prompt and what was amiss.
Differs  Nearness is TF-IDF over words, not an embedding, and captions are not a graph. The best round is the result
         (released: the last), rewriting goes on from the best prompt so far, and `patience` rounds without gain end it.
         Without a rewriting model a rule tries the retrieved modifiers one by one and keeps those that help.
Needs    Any generator and a verifier; a rewriting model or a corpus, else there is nothing to rewrite.
Cost     n · draws outputs and scores, and n - 1 rewrites by a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import prompt_text, reworded
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend
from ponder.strategies._critique import ask
from ponder.strategies._prompt_corpus import merged, read_corpus

PROMPT = """Here is a prompt for a generator, and what came of earlier versions of it.

Original prompt:
{prompt}

Earlier versions:
{tried}

{ideas}Write a better prompt: it asks for what the original prompt asks for, repairs what was amiss, and describes \
only content, in at most 120 words. Answer with the prompt alone."""


@strategy(
    "prompt_refinement", aliases=("rapo",), what="sequential", how="stimulation:prompt, verification:outcome",
    where="any",
)  # fmt: skip
@dataclass(frozen=True)
class PromptRefinement(Strategy):
    """Rewrite the prompt until its output is good.

    Args:
        n: rounds at most; None takes the number from the study's sample axis. The paper: 5.
        draws: outputs of each round.
        corpus: JSONL file of prompts whose modifiers enrich this one; none retrieves nothing.
        captions: nearest prompts that are looked at (the paper: 3).
        modifiers: most phrases that are taken from them (the paper: 5).
        enrich: how many of them the first prompt holds already (stage 1); 0 starts from the prompt as it is.
        rewriter: language model that rewrites; none tries the other modifiers one by one.
        target: a score at which it is done; none goes on.
        patience: rounds without gain that end it; 0 never does.
        fixed_seed: every round draws from the same randomness, so that only the prompt differs.
        verifier: scores outputs against the original prompt; what it remarks is told to the rewriter.
        max_new_tokens: length limit of a rewritten prompt.
    """

    n: int | None = None
    draws: int = 1
    corpus: str | None = None
    captions: int = 3
    modifiers: int = 5
    enrich: int = 0
    rewriter: Model | None = None
    target: float | None = None
    patience: int = 2
    fixed_seed: bool = True
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    max_new_tokens: int = 160

    def __post_init__(self) -> None:
        for name in ("n", "draws", "captions", "modifiers", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        for name in ("enrich", "patience"):
            if getattr(self, name) < 0:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 0")
        if self.enrich and self.corpus is None:
            raise ParameterError(self, "enrich", self.enrich, allowed="0 without a corpus", hint="give corpus=FILE")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Generate, measure, rewrite; the best output of all rounds is the answer."""
        original = prompt_text(problem)
        ideas = read_corpus(self.corpus).suited(original, self.captions, self.modifiers) if self.corpus else []
        rounds: list[_Round] = []
        candidates: list[Candidate] = []
        scores: list[float] = []
        prompt: str | None = merged(original, ideas[: self.enrich])
        untried, stopped = ideas[self.enrich :], None
        while prompt is not None and len(rounds) < (self.n or 1):
            before = len(ctx.shortfalls)
            drawn, values = await self._draw(problem, ctx, prompt, len(rounds), len(candidates))
            candidates += drawn
            scores += values.tolist()
            best = -math.inf if np.isnan(values).all() else float(np.nanmax(values))
            remark = ctx.remark_on(drawn[int(np.nanargmax(values))]) if best > -math.inf else ""
            rounds.append(_Round(prompt, best, remark))
            stopped = self._stop(rounds) or ("budget" if len(ctx.shortfalls) > before else None)
            if stopped is not None or len(rounds) >= (self.n or 1):
                break
            prompt = await self._rewritten(ctx, original, rounds, untried)
        best_index = None if not scores or np.isnan(scores).all() else int(np.nanargmax(scores))
        top = max(rounds, key=lambda r: r.score, default=None)
        return ctx.result(
            candidates, best_index, scores=scores, verifier=self.verifier,
            rounds=len(rounds), stopped=stopped, prompts=[r.prompt for r in rounds],
            round_scores=[r.score for r in rounds],
            original_prompt=original, best_prompt=top.prompt if top else None,
            gain=top.score - rounds[0].score if top and rounds[0].score > -math.inf else None,
        )  # fmt: skip

    async def _draw(
        self, problem: Problem, ctx: Context, prompt: str, number: int, first: int
    ) -> tuple[list[Candidate], np.ndarray[tuple[int], np.dtype[np.float64]]]:
        part = problem.id if self.fixed_seed else f"{problem.id}/prompt{number}"
        asked = problem if prompt == prompt_text(problem) else replace(problem, prompt=reworded(problem.prompt, prompt))
        scope = ctx.child(replace(asked, id=part))
        drawn = await scope.draw(scope.problem, self.draws, hold=Spend(verifier_calls=1))
        drawn = [replace(c, index=first + i) for i, c in enumerate(drawn)]
        values = await ctx.score(problem, drawn, self.verifier)
        ctx.release_holds()
        return drawn, np.where(np.isfinite(values), values, np.nan)

    def _stop(self, rounds: Sequence[_Round]) -> str | None:
        if self.target is not None and rounds[-1].score >= self.target:
            return "target"
        best = max(range(len(rounds)), key=lambda i: rounds[i].score)
        return "no gain" if self.patience and len(rounds) - 1 - best >= self.patience else None

    async def _rewritten(self, ctx: Context, original: str, rounds: Sequence[_Round], untried: list[str]) -> str | None:
        """The next prompt; None if there is nothing more to try."""
        best = max(rounds, key=lambda r: r.score)
        if self.rewriter is None:
            return merged(best.prompt, [untried.pop(0)]) if untried else None
        message = rewriting(original, [r.told() for r in rounds[-4:] if r is not best], best.told(), untried)
        reply = await ask(
            ctx, self.rewriter, message, "prompt_refinement", len(rounds), max_new_tokens=self.max_new_tokens
        )
        text = "" if reply is None else reply.text.strip().strip('"')
        known = {r.prompt for r in rounds}
        if text and text not in known:
            return text
        return merged(best.prompt, [untried.pop(0)]) if untried else None


def rewriting(original: str, tried: Sequence[str], best: str, ideas: Sequence[str] = ()) -> str:
    """What a rewriter is asked: earlier versions with the best one last, and phrases that suit.

    >>> rewriting("a seven", [], "- a seven", ["bright", "large"]).splitlines()[6:9]
    ['- a seven (the best so far)', '', 'Phrases that suit such prompts: bright; large']
    """
    phrases = f"Phrases that suit such prompts: {'; '.join(ideas)}\n\n" if ideas else ""
    versions = "\n".join([*tried, f"{best} (the best so far)"])
    return PROMPT.replace("{prompt}", original).replace("{tried}", versions.strip()).replace("{ideas}", phrases)


@dataclass(frozen=True)
class _Round:
    """One version of the prompt and what came of it; the score is -inf where there is none."""

    prompt: str
    score: float
    remark: str = ""

    def told(self) -> str:
        score = f" (score {self.score:.3g})" if math.isfinite(self.score) else ""
        remark = f"\n  Remark: {' '.join(self.remark.split())}" if self.remark else ""
        return f"- {self.prompt}{score}{remark}"
