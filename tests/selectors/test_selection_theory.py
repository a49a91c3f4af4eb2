"""Selectors against simulations whose truth is known."""

import itertools

import numpy as np
import pytest

import ponder
from ponder.core.pool import Pool


def pool_of(groups, *, logprob=None, rewards=None, texts=None):
    groups = np.asarray(groups, dtype=np.intp)
    nan = np.full(groups.shape, np.nan)
    return Pool(
        groups, np.ones(groups.shape, bool), nan if logprob is None else logprob, np.ones(groups.shape),
        {"reward": rewards} if rewards is not None else {}, texts,
    )  # fmt: skip


def numbered_by_appearance(values):
    """Group numbers by first appearance in each row, and the value of each sample."""
    out = np.empty(values.shape, dtype=np.intp)
    for row, line in enumerate(values):
        _, first, inverse = np.unique(line, return_index=True, return_inverse=True)
        out[row] = np.argsort(np.argsort(first))[inverse]
    return out


@pytest.mark.parametrize("n", [50, 150, 300])
def test_errors_of_sc_and_pc_follow_their_formulas_and_cross(n):
    rng = np.random.default_rng(n)
    paths, p_path, replications = 20, 0.02, 20_000
    p = paths * p_path
    drawn = rng.random((replications, n))
    path = np.where(drawn < p, (drawn / p_path).astype(np.intp), paths)
    # Wrong paths are all different; what counts is which right paths were seen.
    seen = np.zeros((replications, paths + 1), dtype=bool)
    seen[np.arange(replications)[:, None], path] = True
    sc = (((path < paths).mean(axis=1) - p) ** 2).mean()
    # PC's estimate is the sum of distinct right paths' probabilities, which the pool adds up.
    right = pool_of(np.where(path < paths, 0, -1), texts=path)
    estimate = right.group_sum(np.full(path.shape, p_path), where=right.distinct(right.valid))[:, 0]
    assert np.allclose(estimate, seen[:, :paths].sum(axis=1) * p_path)
    pc = ((estimate - p) ** 2).mean()
    same = paths * p_path**2 * (1 - p_path) ** n
    cross = paths * (paths - 1) * p_path**2 * (1 - 2 * p_path) ** n
    assert sc == pytest.approx(p * (1 - p) / n, rel=0.03)
    assert pc == pytest.approx(same + cross, rel=0.03)
    assert (pc > sc) == (n < 150)


def path_simulation(seed, n, right, wrong, problems=150):
    """Spec: per problem a chance q of a right path, wrong ones over five answers, path probabilities by kind."""
    rng = np.random.default_rng(seed)
    q = rng.beta(2, 3, problems)[:, None]
    is_right = rng.random((problems, n)) < q
    answer = np.where(is_right, 0, 1 + rng.choice(5, p=[0.5, 0.2, 0.1, 0.1, 0.1], size=(problems, n)))
    p = np.where(is_right, rng.beta(*right, (problems, n)), rng.beta(*wrong, (problems, n)))
    return pool_of(numbered_by_appearance(answer), logprob=np.log(p)), is_right


def accuracy(text, pool, is_right):
    chosen = ponder.selector(text).select_many(pool)[:, 0]
    return float(is_right[np.arange(len(chosen)), chosen].mean())


def test_rpc_with_16_informative_samples_beats_majority_with_32_by_15_points():
    pool, is_right = path_simulation(0, 32, (8, 3), (3, 8))
    half = Pool(pool.groups[:, :16], pool.present[:, :16], pool.logprob[:, :16], pool.n_tokens[:, :16])
    rpc, majority = accuracy("rpc", half, is_right[:, :16]), accuracy("majority", pool, is_right)
    assert rpc >= majority + 0.15, (rpc, majority)


def test_rpc_loses_a_little_where_probabilities_say_nothing():
    rpc, guarded, majority = [], [], []
    for seed in range(1):
        pool, is_right = path_simulation(seed, 16, (5, 5), (5, 5))
        rpc.append(accuracy("rpc", pool, is_right))
        guarded.append(accuracy("rpc(separation_guard=true)", pool, is_right))
        majority.append(accuracy("majority", pool, is_right))
    assert np.mean(majority) - 0.12 < np.mean(rpc) < np.mean(majority) + 0.03
    assert np.mean(guarded) >= np.mean(rpc) - 0.03


def reward_hacking_pool(seed, n, trials):
    """Spec: y* at 0.05, three wrong answers at 0.2, 3500 one-off wrong ones of which 2% are scored 1."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((trials, n))
    answer = np.select(
        [drawn < 0.05, drawn < 0.25, drawn < 0.45, drawn < 0.65], [0, 1, 2, 3], 4 + rng.integers(0, 3500, (trials, n))
    )
    hacked = rng.random((trials, 3504)) < 0.02
    reward = np.where(np.take_along_axis(hacked, answer, axis=1), 1.0, 0.2)
    reward = np.where(answer == 0, 0.8, np.where(answer < 4, 0.3, reward))
    return pool_of(numbered_by_appearance(answer), rewards=reward), answer == 0


def submitted_right(text, pool, is_right, k=3):
    chosen = ponder.selector(text).select_many(pool, k)
    hit = np.take_along_axis(is_right, np.maximum(chosen, 0), axis=1) & (chosen >= 0)
    return float(hit.any(axis=1).mean())


def check_best_of_majority(sizes, trials):
    rates = {}
    for n in sizes:
        pool, is_right = reward_hacking_pool(n, n, trials)
        rates[n] = [
            submitted_right(t, pool, is_right) for t in ("majority", "best_score", "best_of_majority(alpha=0.02)")
        ]
        if n >= 1000:
            assert rates[n][2] >= 0.99, rates
    noise = 3 * np.sqrt(0.25 / trials)
    ordered = [rates[n] for n in sizes]
    assert all(later[2] >= earlier[2] - noise for earlier, later in itertools.pairwise(ordered)), rates
    assert ordered[-1][0] <= 0.02 and ordered[-1][1] <= 0.05 < ordered[0][1], rates
    return rates


def test_best_of_majority_does_not_degrade_where_majority_and_best_of_n_do():
    check_best_of_majority([50, 200, 1000], 60)


@pytest.mark.slow
def test_best_of_majority_does_not_degrade_up_to_ten_thousand_samples():
    check_best_of_majority([50, 200, 1000, 5000, 10_000], 500)


def test_two_stage_vote_agrees_with_a_plain_loop():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 5, (200, 30))
    heat = rng.choice([0.0, 0.4, 0.8], size=values.shape)
    groups = numbered_by_appearance(values)
    base = pool_of(groups)
    pool = Pool(base.groups, base.present, base.logprob, base.n_tokens, temperature=heat)
    chosen = ponder.selector("two_stage_vote").select_many(pool)[:, 0]
    for p in range(200):
        counts = np.bincount(groups[p], minlength=5)
        votes = np.zeros(5)
        for t in np.unique(heat[p]):
            inside = np.bincount(groups[p][heat[p] == t], minlength=5)
            best = max(range(5), key=lambda g: (inside[g], counts[g], -g))
            votes[best] += inside[best] / inside.sum()
        winner = max(range(5), key=lambda g: (round(votes[g], 9), counts[g], -g))
        assert groups[p, chosen[p]] == winner


@pytest.mark.parametrize("spread", [1, 1000])
def test_distinct_marks_the_first_of_equal_texts_however_they_are_numbered(spread):
    rng = np.random.default_rng(1)
    texts = rng.integers(0, 6, (50, 12)) * spread
    where = rng.random(texts.shape) < 0.7
    pool = pool_of(np.zeros_like(texts), texts=texts)
    for p in range(50):
        seen, wanted = set(), []
        for t, w in zip(texts[p], where[p], strict=True):
            wanted.append(bool(w and t not in seen))
            seen |= {t} if w else set()
        assert pool.distinct(where)[p].tolist() == wanted
