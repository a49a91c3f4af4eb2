"""The population loop with an archive of islands, on a process that is not about noise."""

from dataclasses import dataclass, field

import numpy as np

import ponder
from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.population import Proposal, population_loop
from ponder.core.search_tree import search_result
from ponder.core.strategy import Strategy


@dataclass
class Islands:
    """Two islands that never mix: the best state of each has two children."""

    root: object
    kept: list = field(default_factory=lambda: [[], []])
    seen: list = field(default_factory=list)

    def propose(self, rng):
        if not self.seen:
            return [Proposal(self.root)] * 4
        best = [max(island, key=lambda m: m[1])[0].parent for island in self.kept if island]
        return [Proposal(parent) for parent in best for _ in range(2)]

    def keep(self, members, scores):
        self.seen.append(len(members))
        for place, (state, score) in enumerate(zip(members, scores, strict=True)):
            self.kept[place % 2].append((state, float(np.nan_to_num(score, nan=-1.0))))


@dataclass(frozen=True)
class Evolving(Strategy):
    n: int | None = None
    seen: list = field(default_factory=list)
    name = "evolving"
    stepwise = True

    async def run(self, problem, ctx: Context):
        verifier = ponder.verifier("sim_tree_score")
        archive = Islands(ctx.root(), seen=self.seen)
        score = scorer(problem, ctx, verifier)
        search = await population_loop(problem, ctx, archive, score=score, generations=self.n)
        return await search_result(problem, ctx, search, verifier)


def solve(generations, budget=None):
    plan = Evolving(generations)
    result = ponder.solve(
        ponder.task("sim_tree(count=1)").problems()[0],
        model="sim:default",
        task="sim_tree(count=1)",
        process="sim_tree",
        strategy=plan,
        budget=budget,
    )
    return plan, result


def test_generations_are_finished_scored_and_kept():
    plan, result = solve(3)
    assert plan.seen == [4, 4, 4] and len(result.candidates) == 12
    assert result.details["generations"] == 3 and result.details["stopped"] == "generations"
    generation = result.tree.notes["generation"]
    assert sorted(generation[c.state] for c in result.candidates) == [1.0] * 4 + [2.0] * 4 + [3.0] * 4


def test_a_budget_in_the_middle_of_a_generation_keeps_what_is_finished():
    whole = solve(3)[1].total.function_evaluations
    for limit in (1, 8, whole // 2, whole - 1):
        plan, result = solve(3, f"function_evaluations={limit}")
        assert result.total.function_evaluations <= limit
        assert result.candidates and result.reason, "the best partial output, if nothing is finished"
        assert sum(plan.seen) == len([c for c in result.candidates if c.finish != "unfinished"])
