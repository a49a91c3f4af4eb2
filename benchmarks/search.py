"""What searches cost beside the steps and scores they ask for, on the simulated tree, and what a prefix cache saves.

    python benchmarks/search.py                     # microseconds per node by search and width, beside the bare process
    python benchmarks/search.py --only mcts,a_star  # some of them
    python benchmarks/search.py --treequest PYTHON  # MCTS beside treequest's, by the Python of an environment with it
    python benchmarks/search.py --reuse             # prompt tokens that SmolLM2 took from its cache, beside the tree's

A node is one step with its score. The bare process draws and scores as many, level by level, without context, tree or
choice of nodes. What a search does at its end (the vote, the summary of its tree) is in its figure.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import ponder
from ponder.core.context import Context
from ponder.core.problem import merged_sampling
from ponder.core.process import Process
from ponder.core.registry import PROCESSES, VERIFIERS, verifier
from ponder.core.verifier import NextStepVerifier
from ponder.processes.text_steps import TextSteps

WIDTHS = (4, 16, 64, 256, 1024, 4096)
DEPTH = 8
WORLD = f"sim_tree(survival=[0.8], sharpness=[0.5], noise=[1.5], depth={DEPTH})"
EDITS = "sim_scores(root_mean=0.4, root_sd=0.15)"
ENOUGH_S = 0.2
"""A measurement is repeated until it took so long."""

SEARCHES = {
    "best_of_n": "best_of_n(n={n}, verifier=sim_tree_score)",
    "beam_search": "beam_search(n={n}, verifier=sim_tree_score)",
    "lookahead_search": "lookahead_search(n={n}, verifier=sim_tree_score)",
    "dvts": "dvts(n={n}, verifier=sim_tree_score)",
    "rebase": "rebase(n={n}, verifier=sim_tree_score)",
    "ets": "ets(n={n}, coverage=0, verifier=sim_tree_score)",
    "dynamic_experts": "dynamic_experts(n={n}, verifier=sim_tree_score)",
    "des_redrawn": "dynamic_experts(n={n}, inherit=false, verifier=sim_tree_score)",
    "tree_of_thoughts": "tree_of_thoughts(n={n}, verifier=sim_tree_score)",
    "particle_filter": "particle_filter(n={n}, verifier=sim_tree_score)",
    "entropic_pf": "entropic_particle_filter(n={n}, verifier=sim_tree_score)",
    "particle_gibbs": "particle_gibbs(n={n}, verifier=sim_tree_score)",
    "parallel_tempering": "parallel_tempering(n={n}, verifier=sim_tree_score)",
    "best_first": "best_first(n={n}, first=false, verifier=sim_tree_score)",
    "a_star": "a_star(n={n}, verifier=sim_tree_score)",
    "mcts": "mcts(n={n}, verifier=sim_tree_score)",
    "mcts_leaf": "mcts(n={n}, until=leaf, verifier=sim_tree_score)",
    "mcts_widening": "mcts(n={n}, widening=0.5, verifier=sim_tree_score)",
    "mcts_puct": "mcts(n={n}, rule=puct, verifier=sim_tree_score)",
    "saffron": "saffron(n={n}, verifier=letter_reward)",
    "ab_mcts": "ab_mcts(n={n}, verifier=exact)",
    "ab_mcts_m": "ab_mcts(n={n}, variant=m, verifier=exact)",
}
AT_LEAST = {"parallel_tempering": 16, "particle_gibbs": 16}
AT_MOST = {"ets": 64, "ab_mcts_m": 256}
"""Widths that a search can have, and beyond which one search takes longer than this benchmark should."""


@dataclass(frozen=True)
class Letters(Process):
    """Lists eight next letters in one call, `DEPTH` times: what a search over tokens needs."""

    name = "letters"

    async def branch(self, states, ctx, *, most):
        """All letters after each state, equally likely."""
        m, _ = await ctx.evaluate(len(states), lambda m: None)
        for state in states[:m]:
            finish = "stop" if state.depth + 1 == DEPTH else None
            yield state, [state.child(i, i, logprob=-math.log(8), n_tokens=1, finish=finish) for i in range(8)]

    def extend(self, states, slots, ctx):
        """Not asked for."""
        raise NotImplementedError

    def output(self, state):
        """The letters."""
        return tuple(state.steps())


@verifier("letter_reward", kind="process")
@dataclass(frozen=True)
class LetterReward(NextStepVerifier):
    """Some letters are better after some depths."""

    async def score_next(self, problem, states, steps, ctx):
        """One score per next letter."""
        return [[math.sin(3.0 * letter + s.depth) for letter in own] for s, own in zip(states, steps, strict=True)]


async def searched(name: str, width: int, seed: int) -> int:
    """Run one search; returns how many nodes it has built."""
    strategy = ponder.parse(SEARCHES[name].format(n=width))
    if name == "saffron":
        problem, task, process = ponder.Problem(f"p{seed}", ""), None, Letters()
    else:
        task = ponder.task(EDITS if name.startswith("ab_mcts") else WORLD)
        problem, process = task.problems(1, seed=seed)[0], PROCESSES.build(task.name)
    result = await strategy.run(problem, Context(problem, process, task=task, seed=seed))
    return DEPTH * len(result.candidates) if result.tree is None else len(result.tree)


async def bare(width: int, seed: int) -> int:
    """Draw and score `width` outputs step by step, and nothing else."""
    task = ponder.task(WORLD)
    problem = task.problems(1, seed=seed)[0]
    process, verifier = PROCESSES.build("sim_tree"), VERIFIERS.build("sim_tree_score")
    ctx = Context(problem, process, task=task, seed=seed)
    states, slots = [ctx.root()], [range(width)]
    for _ in range(DEPTH):
        states = [child async for child in process.extend(states, slots, ctx)]
        slots = [range(1)] * len(states)
        await verifier.score(problem, states, ctx)
    return width * DEPTH


def per_node_us(run) -> tuple[float, int]:
    """CPU microseconds per node, the best of several repetitions, and the nodes of one."""
    took, nodes, best, seed = 0.0, 0, math.inf, 0
    while took < ENOUGH_S or seed < 2:  # the first one may import what the search needs
        gc.collect()
        before = time.process_time()
        nodes = asyncio.run(run(seed))
        spent = time.process_time() - before
        took, best, seed = took + spent, min(best, spent / max(nodes, 1)), seed + 1
    return best * 1e6, nodes


def orchestration(names: list[str], widths: list[int]) -> None:
    """Print microseconds per node by search and width, their ratio to the bare process, and how the cost grows."""
    base = {w: per_node_us(lambda seed, w=w: bare(w, seed))[0] for w in widths}
    print(
        f"CPU microseconds per node, depth {DEPTH}; growth: exponent of cost in nodes over the upper half, 1 is linear"
    )
    print(f"{'width':20}" + "".join(f"{w:>9}" for w in widths) + f"{'/ bare':>9}{'growth':>9}")
    print(f"{'bare process':20}" + "".join(f"{base[w]:9.1f}" for w in widths))
    for name in names:
        cost, nodes = {}, {}
        for w in (w for w in widths if AT_LEAST.get(name, w) <= w <= AT_MOST.get(name, w)):
            cost[w], nodes[w] = per_node_us(lambda seed, name=name, w=w: searched(name, w, seed))
        low, high = list(cost)[len(cost) // 2 - 1], max(cost)
        more = math.log(nodes[high] / nodes[low])
        growth = 1 + math.log(cost[high] / cost[low]) / more if more else math.nan
        line = "".join(f"{cost[w]:9.1f}" if w in cost else f"{'':9}" for w in widths)
        print(f"{name:20}{line}{cost[high] / base[high]:8.1f}x{growth:9.2f}", flush=True)


REUSING = (
    "repeated_sampling(n=16)", "beam_search(n=16)", "rebase(n=16)", "mcts(n=16, steps=6)", "best_first(n=16, steps=6)",
)  # fmt: skip


async def reuse() -> None:
    """Print the share of prompt tokens that the embedded model took from its cache, and what the tree lets it share.

    A request sends the prompt and everything written so far. The tree's share is counted from the states: of all that
    was sent, what lies on the path of an earlier request.
    """
    model = ponder.model("embedded:smollm2-135m")
    task = ponder.task("reasoning_gym:chain_sum(min_terms=2, max_terms=3, shots=8, max_new_tokens=8)")
    process = TextSteps(model, step="tokens", step_tokens=1)
    print(f"{'':28}{'sent':>8}{'counted':>9}{'evaluated':>11}{'re-used':>9}{'by the tree':>13}")
    for i, text in enumerate(REUSING):
        problem = task.problems(len(REUSING))[i]
        ctx = Context(problem, process, task=task, sampling=merged_sampling(ponder.Sampling(), task.sampling))
        result = await ponder.parse(text).run(problem, ctx)
        states = [c.state for c in result.candidates] if result.tree is None else result.tree.nodes
        asked = {node for state in states for node in state.ancestry() if node is not state}
        prompt = model.count_tokens(problem.prompt)
        sent = sum(prompt + node.total_tokens() for node in asked)
        once = prompt + sum(node.n_tokens for node in asked)
        spent = ctx.ledger.total
        print(
            f"{text:28}{spent.prompt_tokens:8}{sent:9}{spent.prompt_tokens - spent.cached_tokens:11}"
            f"{spent.cached_tokens / spent.prompt_tokens:9.4f}{1 - once / sent:13.4f}",
            flush=True,
        )
    await model.aclose()


TREEQUEST = """
import random, sys, time
import treequest
for nodes in map(int, sys.argv[1:]):
    random.seed(0)
    algorithm = treequest.StandardMCTS()
    tree, before = algorithm.init_tree(), time.process_time()
    made = 0
    while made < nodes:
        tree = algorithm.step(tree, {"a": lambda state: (0 if state is None else state + 1, random.random())})
        made += 1
    print(nodes, (time.process_time() - before) * 1e6 / nodes, flush=True)
"""


def beside_treequest(python: Path) -> None:
    """Print microseconds per node of both; treequest's steps cost nothing here, ours are the simulated tree's."""
    widths = (6, 12, 25, 50, 100)
    sizes = [str(DEPTH * w) for w in widths]
    told = subprocess.run([python, "-c", TREEQUEST, *sizes], capture_output=True, text=True, check=True).stdout
    theirs = [float(line.split()[1]) for line in told.splitlines()]
    print(f"{'nodes':>8}{'treequest':>12}{'ponder':>10}{'ratio':>9}   (CPU microseconds per node, MCTS)")
    for width, other in zip(widths, theirs, strict=True):
        ours, nodes = per_node_us(lambda seed, w=width: searched("mcts", w, seed))
        print(f"{nodes:8}{other:12.1f}{ours:10.1f}{other / ours:8.1f}x", flush=True)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SEARCHES))
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--treequest", type=Path)
    options = parser.parse_args()
    if options.reuse:
        asyncio.run(reuse())
    elif options.treequest is not None:
        beside_treequest(options.treequest)
    else:
        orchestration(options.only.split(","), [int(w) for w in options.widths.split(",")])


if __name__ == "__main__":
    main()
