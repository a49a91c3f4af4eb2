"""Selecting from 10,000 problems x 1,000 samples: every vectorised selector beside the same rule in plain Python.

    python benchmarks/selection.py [--problems 10000] [--samples 1000] [--plain 100]

Plain Python runs on the first `--plain` problems (on a tenth of them for `rpc`, whose fit takes long in it) and its
time is scaled up to all of them; on these problems both must choose the same answers. At the end the coverage law is
fitted to the same matrix.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections import Counter, defaultdict

import numpy as np

import ponder
from ponder.core.pool import Pool


def build(problems: int, samples: int, seed: int = 0) -> tuple[Pool, np.ndarray]:
    """Answers from a Zipf-like distribution per problem, scores and probabilities that know a little."""
    rng = np.random.default_rng(seed)
    right_rate = rng.beta(0.5, 1.5, (problems, 1)).astype(np.float32)
    value = np.where(
        rng.random((problems, samples), dtype=np.float32) < right_rate,
        0,
        1 + rng.geometric(0.25, (problems, samples)).clip(max=30),
    )
    right = value == 0
    # Group numbers by first appearance within the problem.
    first = np.full((problems, 32), samples)
    np.minimum.at(first, (np.arange(problems)[:, None], value), np.broadcast_to(np.arange(samples), value.shape))
    groups = np.take_along_axis(first.argsort(axis=1).argsort(axis=1), value, axis=1).astype(np.intp)
    groups[rng.random(groups.shape, dtype=np.float32) < 0.05] = -1
    relabelled = np.full((problems, 33), samples)
    np.minimum.at(relabelled, (np.arange(problems)[:, None], groups), np.broadcast_to(np.arange(samples), groups.shape))
    relabelled[:, -1] = samples
    order = relabelled[:, :-1].argsort(axis=1).argsort(axis=1)
    groups = np.where(groups < 0, -1, np.take_along_axis(order, np.maximum(groups, 0), axis=1))
    tokens = rng.integers(20, 400, groups.shape).astype(float)
    mean_logprob = -np.abs(rng.normal(np.where(right, 0.3, 0.45), 0.15))
    texts = rng.integers(0, samples, groups.shape)
    pool = Pool(
        groups=groups,
        present=np.ones(groups.shape, bool),
        logprob=mean_logprob * tokens,
        n_tokens=tokens,
        scores={"reward": rng.normal(right * 0.5, 1.0).clip(0)},
        texts=texts,
        temperature=rng.choice([0.4, 0.7, 1.0], groups.shape),
    )
    return pool, right & (groups >= 0)


def winner(weights: dict[int, float]) -> int:
    """The heaviest group; the first to appear among equals."""
    top = max(weights.values())
    return min(g for g, w in weights.items() if w >= top - 1e-12 * abs(top))


def plain_first(rows):
    for group, *_ in rows:
        if group >= 0:
            return group


def plain_majority(rows):
    return winner(Counter(group for group, *_ in rows if group >= 0))


def plain_best_score(rows):
    best = {}
    for group, score, *_ in rows:
        if group >= 0:
            best[group] = max(best.get(group, -math.inf), score)
    return winner(best)


def plain_weighted(rows):
    weights = defaultdict(float)
    for group, score, *_ in rows:
        if group >= 0:
            weights[group] += score
    return winner(weights)


def plain_probability(rows):
    weights = defaultdict(float)
    for group, _, logprob, tokens, *_ in rows:
        if group >= 0:
            weights[group] += math.exp(logprob / tokens)
    return winner(weights)


def plain_pc(rows):
    weights, seen = defaultdict(float), set()
    for group, _, logprob, tokens, text, _ in rows:
        if group >= 0 and text not in seen:
            seen.add(text)
            weights[group] += math.exp(logprob / tokens)
    return winner(weights)


def plain_bom(rows):
    scores = defaultdict(list)
    for group, score, *_ in rows:
        if group >= 0:
            scores[group].append(score)
    least = math.ceil(0.02 * len(rows) - 1e-9)
    kept = {g: s for g, s in scores.items() if len(s) >= least} or {winner({g: len(s) for g, s in scores.items()}): [0]}
    means = {g: math.fsum(s) / len(s) for g, s in kept.items()}
    top = max(means.values())
    return min((-len(kept[g]), g) for g, m in means.items() if m >= top - 1e-12 * abs(top))[1]


def plain_two_stage(rows):
    counts = Counter(group for group, *_ in rows if group >= 0)
    by_heat = defaultdict(Counter)
    for group, *_, heat in rows:
        if group >= 0:
            by_heat[heat][group] += 1
    votes = defaultdict(float)
    for inside in by_heat.values():
        best = max(inside, key=lambda g: (inside[g], counts[g], -g))
        votes[best] += inside[best] / sum(inside.values())
    top = max(votes.values())
    return min((-counts[g], g) for g, v in votes.items() if v >= top - 1e-12 * top)[1]


def plain_confidence(rows):
    known = sorted(score for group, score, *_ in rows if group >= 0)
    at = 0.9 * (len(known) - 1)
    low = int(at)
    bar = known[low] + (known[min(low + 1, len(known) - 1)] - known[low]) * (at - low)
    weights = defaultdict(float)
    for group, score, *_ in rows:
        if group >= 0 and score >= bar:
            weights[group] += score
    return winner(weights)


def plain_rpc(rows):
    p = [math.exp(logprob / tokens) for group, _, logprob, tokens, *_ in rows if group >= 0]
    high = plain_high_component(p)
    mean = math.fsum(p) / len(p)
    weights, seen = defaultdict(float), set()
    for group, _, logprob, tokens, text, _ in rows:
        value = math.exp(logprob / tokens)
        if group >= 0 and (value >= mean or high(value)) and text not in seen:
            seen.add(text)
            weights[group] += value
    return winner(weights)


def plain_high_component(p, rounds=150):
    """Two Weibull distributions by expectation-maximisation, and whether a value is likelier from the higher one."""
    y = [math.log(value) for value in p]
    w, (k1, a1), (k2, a2) = 0.5, (1.0, 0.0), (1.5, math.log(2.0))

    def log_odds(v):
        u1, u2 = k1 * (v - a1), k2 * (v - a2)
        first = math.log(w * k1) + u1 - math.exp(min(u1, 690))
        return first - (math.log((1 - w) * k2) + u2 - math.exp(min(u2, 690)))

    for _ in range(rounds):
        r = [1 / (1 + math.exp(-min(max(log_odds(v), -700), 700))) for v in y]
        w = min(max(math.fsum(r) / len(r), 0.2), 0.8)
        (k1, a1), (k2, a2) = plain_weibull(y, r, k1), plain_weibull(y, [1 - v for v in r], k2)
    swap = math.exp(a1) * math.gamma(1 + 1 / k1) < math.exp(a2) * math.gamma(1 + 1 / k2)
    return lambda value: (log_odds(math.log(value)) >= 0) != swap


def plain_weibull(y, r, k):
    """One Newton step for the shape of weighted logarithms, and the scale's logarithm."""
    power = [weight * math.exp(k * v) for weight, v in zip(r, y, strict=True)]
    total, mass = math.fsum(power), math.fsum(r)
    mean = math.fsum(t * v for t, v in zip(power, y, strict=True)) / total
    spread = math.fsum(t * (v - mean) ** 2 for t, v in zip(power, y, strict=True)) / total
    slope = mean - 1 / k - math.fsum(weight * v for weight, v in zip(r, y, strict=True)) / mass
    k = min(max(k * math.exp(-min(max(slope / (k * spread + 1 / k), -1), 1)), 0.01), 200)
    return k, math.log(math.fsum(weight * math.exp(k * v) for weight, v in zip(r, y, strict=True)) / mass) / k


RULES = {
    "first": plain_first,
    "majority": plain_majority,
    "best_score": plain_best_score,
    "weighted_majority(weight=score)": plain_weighted,
    "weighted_majority(weight=probability)": plain_probability,
    "perplexity_consistency": plain_pc,
    "rpc": plain_rpc,
    "rpc(variant=ppl)": None,
    "best_of_majority(alpha=0.02)": plain_bom,
    "minimum_bayes_risk(utility=exact)": plain_majority,
    "two_stage_vote": plain_two_stage,
    "confidence_vote(score=reward,keep=0.1)": plain_confidence,
    "soft_best_of_n": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=100, help="problems that plain Python runs on")
    options = parser.parse_args()
    pool, right = build(options.problems, options.samples)
    few = min(options.plain, options.problems)
    columns = (pool.groups, pool.scores["reward"], pool.logprob, pool.n_tokens, pool.texts, pool.temperature)
    tables = [list(zip(*(c[p].tolist() for c in columns), strict=True)) for p in range(few)]
    scale = options.problems / few
    print(
        f"{options.problems} problems x {options.samples} samples; plain Python on {few} problems, scaled by {scale:g}"
    )
    print(f"{'selector':42} {'seconds':>8} {'plain':>9} {'ratio':>7}  same choices  accuracy")
    for text, plain in RULES.items():
        selector = ponder.selector(text)
        started = time.perf_counter()
        chosen = selector.select_many(pool)[:, 0]
        seconds = time.perf_counter() - started
        rows = np.arange(len(chosen))
        accuracy = right[rows, np.maximum(chosen, 0)][chosen >= 0].sum() / len(chosen)
        if plain is None:
            print(f"{text:42} {seconds:8.2f} {'':>9} {'':>7}  {'':>12}  {accuracy:.3f}")
            continue
        part = max(1, few // 10) if text == "rpc" else few
        started = time.perf_counter()
        wanted = [plain(table) for table in tables[:part]]
        slow = (time.perf_counter() - started) * options.problems / part
        got = pool.groups[rows[:part], chosen[:part]].tolist()
        equal = sum(a == b for a, b in zip(got, wanted, strict=True))
        print(f"{text:42} {seconds:8.2f} {slow:9.1f} {slow / seconds:6.1f}x  {equal:>5} of {part:<4}  {accuracy:.3f}")
        assert equal == part, f"{text}: {part - equal} choices differ from plain Python"
    fit_law(right)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def fit_law(right: np.ndarray) -> None:
    """Unbiased coverage at 40 sample numbers, and the exponentiated power law through it."""
    from ponder import laws

    if not hasattr(laws, "CoverageLaw"):
        print("ponder.laws.CoverageLaw is not there; the law was not fitted")
        return
    started = time.perf_counter()
    n, c = right.shape[1], right.sum(axis=1)
    ks = np.unique(np.round(np.geomspace(1, n, 40)).astype(int))
    coverage = np.asarray([np.mean(laws.pass_at_k(np.full(len(c), n), c, int(k))) for k in ks])
    law = laws.CoverageLaw.fit(ks, coverage)
    print(
        f"coverage law from the {right.shape[0]} x {n} matrix: {time.perf_counter() - started:.2f} s, {law.parameters}"
    )


if __name__ == "__main__":
    main()
