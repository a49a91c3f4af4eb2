"""CHOPs: one judge call writes a checklist, checks every candidate against it, and names the best.

Paper    Khairi et al. 2025, "When Life Gives You Samples: The Benefits of Scaling up Inference Compute for
         Multilingual LLMs" (checklisted one-pass selection).
Equal    One call with all candidates; the judge writes its own criteria first, then chooses.
Differs  The prompt is ours. Candidates are shown in a seeded random order, identical ones once. A reply that names no
         candidate clearly gets one request to repair it; after that the most typical candidate (MBR with
         word F1) wins, and the selection says so.
Needs    A judge (the generator itself will do) with room for all candidates.    Cost: 1 call, at most 2 (4 with
         both_orders).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import selector
from ponder.errors import ContextLengthError
from ponder.selectors._judge import (
    JudgedSelector,
    Pick,
    ask,
    fits,
    most_typical,
    numbered,
    parse_best,
    shortened,
)
from ponder.selectors._mbr import distinct_items

_PROMPT = """You choose the best of several candidate answers to one task.

Task:
{task}

{candidates}

Work in three steps.
1. Write a short checklist of what a good answer to this very task must fulfil, in the language that the task asks for.
2. Go through the candidates one by one and check each point.
3. Name the candidate that fulfils the checklist best, and end with its number in this form:
<best>N</best>
where N is a number from 1 to {n}."""

_REPAIR = """I could not read your choice. Reply with nothing but the number of the best candidate, 1 to {n}, as in
<best>N</best>"""


@selector("checklist_one_pass", aliases=("chops",), how="verification:outcome:judge, aggregation:best_of_n")
@dataclass(frozen=True)
class ChecklistOnePass(JudgedSelector):
    """A judge's choice among all candidates in one call.

    Args:
        model: the judge; none asks the model that wrote the candidates.
        max_new_tokens: length limit of its reply.
        temperature: of the judge.
        both_orders: ask again with the order reversed; if the two choices differ, the better score decides
            (if the candidates carry exactly one), else the earlier draw.
        fallback: what decides without a readable choice: `mbr` (most typical text) or `first`.
        strict: refuse candidates that are too long for the judge's context instead of cutting their middles.
    """

    model: Model | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    both_orders: bool = False
    fallback: Literal["mbr", "first"] = "mbr"
    strict: bool = False

    async def pick(
        self, problem: Problem, candidates: Sequence[Candidate], judge: Model, ctx: Context, turn: int
    ) -> Pick:
        """The candidate that the judge names, in one order or in both."""
        item, items = distinct_items([str(c.output) for c in candidates])
        first = [int((item == number).argmax()) for number in range(len(items))]
        if len(items) == 1:
            return Pick(0)
        order = ctx.rng(self.name, "order", turn).permutation(len(items)).tolist()
        asked = [order, order[::-1]] if self.both_orders else [order]
        choices = [await self._ask(problem, items, o, judge, ctx, turn, i) for i, o in enumerate(asked)]
        named = [c for c, _ in choices if c is not None]
        if not named:
            reason = next(r for _, r in choices if r)
            best = most_typical(items) if self.fallback == "mbr" else 0
            return Pick(first[best], f"{reason}: {'minimum_bayes_risk' if self.fallback == 'mbr' else 'first'} decides")
        if len(set(named)) == 1:
            return Pick(first[named[0]], None if len(named) == len(asked) else "one of two replies was unreadable")
        scored = [(i, next(iter(candidates[first[i]].scores.values()), None)) for i in named]
        if all(len(candidates[first[i]].scores) == 1 for i, _ in scored):
            best = max(scored, key=lambda s: (float(s[1] or 0.0), -first[s[0]]))[0]
            return Pick(first[best], "orders_disagree: the score decides")
        return Pick(min(first[i] for i in named), "orders_disagree: the earlier draw wins")

    async def _ask(
        self, problem: Problem, items: Sequence[str], order: list[int], judge: Model, ctx: Context, *path: object
    ) -> tuple[int | None, str | None]:
        """The judge's choice as an index into `items`, or why there is none."""

        def prompt(texts: Sequence[str]) -> str:
            listing = numbered(texts, "Candidate")
            return _PROMPT.format(task=prompt_text(problem), candidates=listing, n=len(texts))

        shown = [items[i] for i in order]
        if self.strict and not fits(judge, prompt(shown), self.max_new_tokens):
            raise ContextLengthError(
                f"checklist_one_pass(strict=true): {len(shown)} candidates are longer than the judge's context of "
                f"{judge.capabilities.context_tokens} tokens. Use strict=false, fewer candidates or another judge."
            )
        shown = shortened(self, judge, shown, prompt, self.max_new_tokens)
        messages = [{"role": "user", "content": prompt(shown)}]
        reply = await ask(
            ctx, judge, messages, self.name, *path, max_new_tokens=self.max_new_tokens, temperature=self.temperature
        )
        if reply.text is None:
            return None, reply.problem
        choice = parse_best(reply.text, len(shown))
        if choice is None:
            repair = _REPAIR.format(n=len(shown))
            again = [*messages, {"role": "assistant", "content": reply.text}, {"role": "user", "content": repair}]
            reply = await ask(
                ctx, judge, again, self.name, "repair", *path, max_new_tokens=32, temperature=self.temperature
            )
            choice = None if reply.text is None else parse_best(reply.text, len(shown))
        return (None, reply.problem or "unreadable_reply") if choice is None else (order[choice], None)
