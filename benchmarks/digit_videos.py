"""Tree of frames against linear search on videos of digits, at equal function evaluations, read by the held-out judge.

    python benchmarks/digit_videos.py [--videos 40]

Four frames; a further frame is the last one partly noised and denoised (`frames(motion=…)`), so that the smaller
`motion` is the longer an early fault stays; at 1 each frame forgets the last. The model is not told the digit. The
reward is the mean over frames of a weak classifier's log-probability, the judge's mean is shown.
"""

from __future__ import annotations

import argparse

import numpy as np

import ponder
from ponder.api import run_sync
from ponder.core.context import Context

REWARD = "per_frame(verifier=class_confidence(log=true, weak=true), how=mean)"
JUDGE = "per_frame(verifier=class_confidence(judge=true), how=mean)"
TREE = f"tree_of_frames(n=10, branch=[1, 2, 1], prune=[1, 2], verifier={REWARD})"
LINEAR = {0.3: 8, 0.5: 8, 1.0: 7}
"""Whole videos of about the evaluations that the tree takes, by motion; never fewer."""


def watched(motion: float, strategy: str, i: int) -> tuple[float, float]:
    """The judge's mean probability of the asked digit in the chosen video, and the evaluations spent."""
    text = f"frames(frames=4, steps=10, motion={motion})"
    model = ponder.model("diffusers:digits(guidance=0)")
    problem = ponder.Problem(f"video-{i}", str(i % 10))
    ctx = Context(problem, ponder.api.build_process(text, (), model), seed=0)
    result = run_sync(lambda: ponder.parse(strategy).run(problem, ctx))
    assert result.best is not None and result.best.state is not None
    judged = run_sync(lambda: ctx.score(problem, [result.best], ponder.verifier(JUDGE)))  # type: ignore[list-item]
    return float(judged[0]), ctx.ledger.total.function_evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=40)
    videos = parser.parse_args().videos
    print("| motion | tree of frames (evaluations) | linear search (evaluations) | gain |\n|---|---|---|---|")
    for motion, n in LINEAR.items():
        tree, plain = (
            np.asarray([watched(motion, strategy, i) for i in range(videos)])
            for strategy in (TREE, f"best_of_n(n={n}, verifier={REWARD})")
        )
        gain = tree[:, 0] - plain[:, 0]
        sure = 1.96 * gain.std(ddof=1) / videos**0.5
        cells = " | ".join(f"{found[:, 0].mean():.2f} ({found[:, 1].mean():.0f})" for found in (tree, plain))
        print(f"| {motion} | {cells} | {gain.mean():+.2f} ± {sure:.2f} |", flush=True)


if __name__ == "__main__":
    main()
