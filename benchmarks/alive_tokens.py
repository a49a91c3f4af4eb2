"""Tokens that a search keeps alive, and its accuracy, against REBASE on the simulated tree.

python benchmarks/alive_tokens.py --n 16 --problems 300
python benchmarks/alive_tokens.py --n 64 --problems 60 --options "coverage=0" "penalty=2, coverage=0"
"""

import argparse
import asyncio

import numpy as np

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES

OPTIONS = ["coverage=0", "penalty=1", "penalty=2", "penalty=4"]


def measure(strategy, world, problems):
    """Accuracy and mean tokens alive."""
    task, process, method = ponder.task(world), PROCESSES.build("sim_tree"), ponder.parse(strategy)

    async def run():
        return [await method.run(p, Context(p, process, task=task)) for p in task.problems(problems)]

    results = asyncio.run(run())
    right = [r.output == "right" for r in results]
    return np.mean(right), np.mean([r.details["mean_alive_tokens"] for r in results])


def main():
    """Print one line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--survival", type=float, default=0.8)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--options", nargs="+", default=OPTIONS)
    args = parser.parse_args()
    world = (
        f"sim_tree(survival=[{args.survival}], depth={args.depth}, sharpness=[0.5], noise=[1.5], step_tokens=30, "
        "paraphrases=3, count=10000)"
    )
    plain = f"rebase(n={args.n}, verifier=sim_tree_score)"
    base = None
    for text in [plain, *(f"ets(n={args.n}, {options}, verifier=sim_tree_score)" for options in args.options)]:
        accuracy, alive = measure(text, world, args.problems)
        base = base or alive
        print(f"{text:62s} accuracy {accuracy:.3f}   tokens alive {alive:7.0f}   smaller by {base / alive:.2f}")


if __name__ == "__main__":
    main()
