"""The fit of all problems at once, against scipy's fit of one after the other."""

import math

import numpy as np
import pytest

from ponder.selectors import _weibull
from ponder.selectors._weibull import fit_weibull_mixtures
from ponder.selectors.rpc import prune

TINY = math.log(1e-300)


def values(rows, n, seed=0):
    """Path probabilities of several kinds, by name, each (rows, n)."""
    rng = np.random.default_rng(seed)
    right = rng.random((rows, n)) < rng.beta(2, 3, rows)[:, None]
    few = rng.beta(3, 2, (rows, max(n // 8, 3)))
    return {
        "informative": np.where(right, rng.beta(8, 3, (rows, n)), rng.beta(3, 8, (rows, n))),
        "uninformative": rng.beta(5, 5, (rows, n)),
        "half normal": np.exp(-np.abs(rng.normal(np.where(right, 0.3, 0.45), 0.15))),
        "confident": np.exp(-rng.gamma(2, 0.05, (rows, n))),
        "rounded": np.round(rng.beta(3, 2, (rows, n)) * 20).clip(1) / 20,
        "repeated texts": np.take_along_axis(few, rng.integers(0, few.shape[1], (rows, n)), axis=1),
        "improbable": np.exp(-rng.gamma(2, 3, (rows, n))),
    }


def log_densities(x, shape, scale):
    z = np.log(np.maximum(x, 1e-12)) - math.log(scale)
    power = np.exp(np.minimum(shape * z, 690.0))
    return math.log(shape) - math.log(scale) + (shape - 1.0) * z - power, z, power


def by_scipy(x):
    """(w, k1, l1, k2, l2) by L-BFGS-B from the released start within its bounds: what ponder did problem by problem."""
    optimize = pytest.importorskip("scipy.optimize")

    def loss(theta):
        w, k1, l1, k2, l2 = theta
        parts = []
        for k, scale in ((k1, l1), (k2, l2)):
            value, z, power = log_densities(x, k, scale)
            clipped = value <= TINY
            slopes = np.where(clipped, 0, 1 / k + z - power * z), np.where(clipped, 0, k / scale * (power - 1))
            parts.append((np.exp(np.maximum(value, TINY)), *slopes))
        (f1, a1, b1), (f2, a2, b2) = parts
        density = np.maximum(w * f1 + (1 - w) * f2, 1e-300)
        r1, r2 = w * f1 / density, (1 - w) * f2 / density
        slopes = [((f1 - f2) / density).sum(), (r1 * a1).sum(), (r1 * b1).sum(), (r2 * a2).sum(), (r2 * b2).sum()]
        return -np.log(density).mean(), -np.asarray(slopes) / len(x)

    bounds = ((0.2, 0.8), (0.01, 200), (0.01, None), (0.01, 200), (0.01, None))
    with np.errstate(all="ignore"):
        return optimize.minimize(loss, np.array([0.5, 1, 1, 1.5, 2]), jac=True, method="L-BFGS-B", bounds=bounds).x


def likelihood(x, theta):
    w, k1, l1, k2, l2 = theta
    first, second = log_densities(x, k1, l1)[0], log_densities(x, k2, l2)[0]
    return np.logaddexp(math.log(w) + first, math.log(1 - w) + second).mean()


def kept_by(x, theta):
    w, k1, l1, k2, l2 = theta
    if l1 * math.gamma(1 + 1 / k1) < l2 * math.gamma(1 + 1 / k2):
        w, k1, l1, k2, l2 = 1 - w, k2, l2, k1, l1
    high, low = math.log(w) + log_densities(x, k1, l1)[0], math.log(1 - w) + log_densities(x, k2, l2)[0]
    return (x >= x.mean() * (1 - 1e-9)) | (high >= low)


def compare(rows, n, seed):
    """Per kind of values: how much likelier each fit is than scipy's, and whether published prunes as scipy does."""
    for kind, table in values(rows, n, seed).items():
        theirs = [by_scipy(x) for x in table]
        wanted = np.array([likelihood(x, t) for x, t in zip(table, theirs, strict=True)])
        kept, notes = prune(table, np.ones(table.shape, bool))
        assert notes == [None] * rows, kind
        same = np.array([(a == kept_by(x, t)).all() for a, x, t in zip(kept, table, theirs, strict=True)])
        found = {name: fit_weibull_mixtures(table, starts=name) for name in ("published", "several")}
        assert all(f.fitted.all() for f in found.values()), kind
        yield kind, {name: f.log_likelihood - wanted for name, f in found.items()}, same


def check(rows, seeds, sizes):
    gains = {"published": [], "several": []}
    agreed = []
    for n in sizes:
        for seed in seeds:
            for kind, gain, same in compare(rows, n, seed):
                for name, g in gain.items():
                    gains[name].append(g)
                    assert np.median(g) > -1e-6, (n, kind, name)
                assert gain["several"].mean() > -1e-6, (n, kind)
                agreed.append(same[np.abs(gain["published"]) < 1e-6])
    published, several = (np.concatenate(g) for g in gains.values())
    assert (several > -1e-6).mean() >= 0.985
    assert (published > -1e-6).mean() >= 0.9
    assert published.mean() > 0.01 and several.mean() >= published.mean()
    alike = np.concatenate(agreed)
    assert alike.size > len(published) / 3
    assert alike.mean() >= 0.99 - 3 * math.sqrt(0.99 * 0.01 / alike.size)  # 99 % within three standard errors


def test_fits_are_at_least_as_likely_as_scipys_and_prune_alike_where_they_meet():
    check(rows=12, seeds=[1], sizes=[16, 200])


@pytest.mark.slow
def test_fits_of_many_more_problems_are_at_least_as_likely_as_scipys():
    check(rows=60, seeds=[2], sizes=[8, 16, 64, 256])


def test_the_derivatives_are_those_of_the_likelihood():
    rng = np.random.default_rng(0)
    y = np.log(rng.beta(3, 2, (6, 40)))
    weights = rng.dirichlet(np.ones(40), 6)
    theta = rng.normal(0, 0.5, (6, 5))

    def value(t):
        return _weibull._evaluate(y, weights, t).value

    gradient, matrix = _weibull._derivatives(weights, theta, _weibull._evaluate(y, weights, theta))
    for i in range(5):
        step = np.zeros(5)
        step[i] = 1e-5
        assert gradient[:, i] == pytest.approx((value(theta + step) - value(theta - step)) / 2e-5, rel=1e-6, abs=1e-8)
        ends = [
            _weibull._derivatives(weights, t, _weibull._evaluate(y, weights, t))[0]
            for t in (theta + step, theta - step)
        ]
        assert matrix[:, i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-7)


def test_at_the_top_no_parameter_can_be_bettered():
    table = values(20, 60)["informative"]
    found = fit_weibull_mixtures(table)
    top = np.stack([found.w, found.high_shape, found.high_scale, found.low_shape, found.low_scale], axis=1)
    best = np.array([likelihood(x, t) for x, t in zip(table, top, strict=True)])
    assert best == pytest.approx(found.log_likelihood, abs=1e-9)
    for i in range(5):
        for factor in (0.999, 1.001):
            moved = top.copy()
            moved[:, i] = (moved[:, i] * factor).clip(*((0.2, 0.8) if i == 0 else (0.01, 200)))
            assert all(likelihood(x, t) <= b + 1e-9 for x, t, b in zip(table, moved, best, strict=True))


def test_two_separate_weibull_distributions_are_found():
    rng = np.random.default_rng(3)
    high = rng.random((5, 4000)) < 0.6
    table = np.where(high, 0.8 * rng.weibull(12, high.shape), 0.3 * rng.weibull(4, high.shape)).clip(1e-6, 1)
    found = fit_weibull_mixtures(table)
    assert found.w == pytest.approx(np.full(5, 0.6), abs=0.03)
    assert found.high_shape == pytest.approx(np.full(5, 12), rel=0.1) and found.low_shape == pytest.approx(
        np.full(5, 4), rel=0.1
    )
    assert found.high_scale == pytest.approx(np.full(5, 0.8), rel=0.02) and found.low_scale == pytest.approx(
        np.full(5, 0.3), rel=0.05
    )
    assert found.means[0] == pytest.approx(np.full(5, 0.8 * math.gamma(1 + 1 / 12)), rel=0.02)
    assert (found.separation > 2).all()
    posterior = found.posterior_high(table)
    assert ((posterior >= 0.5) == high).mean() > 0.99


@pytest.mark.parametrize("n", [9, 130, 700])
def test_a_problem_is_fitted_the_same_alone_among_others_shuffled_and_padded(n):
    table = values(6, n)["half normal"]
    together = fit_weibull_mixtures(table)
    shuffled = np.random.default_rng(0).permuted(table, axis=1)
    wide = np.full((6, n + 300), np.nan)
    wide[:, 100 : 100 + n] = table
    for other in (
        fit_weibull_mixtures(shuffled),
        fit_weibull_mixtures(wide, ~np.isnan(wide)),
        *(fit_weibull_mixtures(np.concatenate([table[i : i + 1]] * 6)) for i in range(1)),
    ):
        rows = slice(0, 1) if np.ptp(other.w) == 0 else slice(None)
        for name in ("w", "high_shape", "high_scale", "low_shape", "low_scale", "log_likelihood"):
            assert getattr(other, name)[rows] == pytest.approx(getattr(together, name)[rows], rel=1e-6), name


def test_shapes_stay_finite_on_repeated_values():
    table = np.array([[0.5] * 12 + [0.7] * 12, [0.5] * 23 + [0.500001]])
    found = fit_weibull_mixtures(table, starts="several")
    assert found.fitted.all() and np.isfinite(found.log_likelihood).all()
    assert (found.high_shape <= 200.0001).all() and (found.low_shape <= 200.0001).all()
    assert prune(table, np.ones(table.shape, bool))[0][0].tolist() == [False] * 12 + [True] * 12


def test_values_that_underflow_in_both_components_go_to_the_nearer_mean():
    table = np.concatenate([np.full(20, 0.3), np.full(20, 0.9)])[None] + np.linspace(0, 1e-4, 40)
    found = fit_weibull_mixtures(table)
    assert found.posterior_high(np.array([[0.99999, 0.005]])).tolist() == [[1.0, 0.0]]


def test_the_notes_say_why_the_mixture_was_not_used():
    rows = [[0.5, 0.6], [0.4] * 9, [0.1, 0.2, 0.3, 0.9], list(np.linspace(0.1, 0.9, 12)), []]
    table = np.full((len(rows), 12), np.nan)
    for row, given in zip(table, rows, strict=True):
        row[: len(given)] = given
    kept, notes = prune(table, ~np.isnan(table))
    assert notes == [
        "no_pruning: fewer than 4 paths", "no_pruning: all paths are equally probable",
        "mean_rule: fewer than 8 paths", None, None,
    ]  # fmt: skip
    assert kept.sum(axis=1).tolist()[:3] == [2, 9, 1] and kept[3, -1] and not kept[4].any()
