"""How far a study's confidences and scores can be trusted, from what is kept of every problem."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ponder.core.candidate import Candidate
from ponder.laws.calibration import auroc_within, bin_sums, binned_calibration, measure_calibration, ordered_pairs

Measures = Mapping[str, Mapping[str, Any]]
"""By measure: `ordered` and `pairs`, and where it may be a probability `bins` as [bin, sums…]; data for the store."""

SHORTER = "shorter"
PROBABILITY = "probability"
_FEWEST = 2
_RESAMPLES = 300
_BINS = 10


def measures(candidates: Sequence[Candidate], right: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """How well each measure tells this problem's right draws from its wrong ones.

    Measures are every verifier's score, `shorter` (fewer tokens; among outputs that ended by themselves, as
    first-finish search counts them) and `probability` (per token). Pairs are of a right and a wrong draw; where all
    scores lie in [0, 1], sums over bins say how calibrated they are. A measure without either is left out.

    Args:
        candidates: of one problem.
        right: whether each is.
    """
    alive = [(c, r) for c, r in zip(candidates, right, strict=True) if c.error is None]
    verdicts = np.array([r for _, r in alive], dtype=bool)
    values = {
        SHORTER: [-float(c.n_tokens) if c.n_tokens and c.finish == "stop" else math.nan for c, _ in alive],
        PROBABILITY: [math.nan if c.mean_logprob is None else c.mean_logprob for c, _ in alive],
    }
    scores = {
        name: [float(c.scores.get(name, math.nan)) for c, _ in alive]
        for name in sorted({name for c, _ in alive for name in c.scores})
    }
    found: dict[str, dict[str, Any]] = {}
    for name, numbers in (values | scores).items():
        ordered, pairs = ordered_pairs(numbers, verdicts)
        known = np.array(numbers)[~np.isnan(numbers)]
        sums: list[list[float]] | None = None
        if name in scores and known.size and ((known >= 0) & (known <= 1)).all():
            table = bin_sums(known, verdicts[~np.isnan(numbers)], bins=_BINS)
            sums = [[at, *table[at].round(9).tolist()] for at in np.flatnonzero(table[:, 0]).tolist()]
        if pairs or sums:
            found[name] = {"ordered": ordered, "pairs": pairs, "bins": sums}
    return found


def confidence_table(confidence: Iterable[float | None], right: Iterable[bool]) -> dict[str, Any] | None:
    """How a selector's confidences compare with what was right, as in `results.json`.

    Args:
        confidence: per problem, in [0, 1]; None where there is none (an abstention, a rule without votes).
        right: per problem, whether the chosen answer is.

    Returns:
        `ponder.laws.Calibration` as plain data without its bins; None with fewer than two confidences.
    """
    known = [(min(max(c, 0.0), 1.0), r) for c, r in zip(confidence, right, strict=True) if c is not None]
    if len(known) < _FEWEST:
        return None
    found = measure_calibration(*zip(*known, strict=True), resamples=_RESAMPLES).as_dict()
    return {name: value for name, value in found.items() if name != "bins"}


def measure_table(problems: Sequence[Measures]) -> dict[str, dict[str, Any]]:
    """Per measure, the chance that it puts a right draw above a wrong one of the same problem, and its calibration.

    Args:
        problems: `measures` of each problem.

    Returns:
        By measure: `auroc` with `low` and `high` (bootstrap over problems; None without a pair), `pairs`, the
        `problems` they are from, and `calibration` if it may be a probability: `n`, `confidence`, `accuracy`, and
        `ece` and `brier` as [estimate, low, high].
    """
    out: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for found in problems for name in found):
        counted = [found[name] for found in problems if name in found]
        pairs = [m["pairs"] for m in counted]
        area = auroc_within([m["ordered"] for m in counted], pairs, resamples=_RESAMPLES)
        estimate, low, high = (None, None, None) if area is None else (round(x, 6) for x in area)
        out[name] = {
            "auroc": estimate, "low": low, "high": high, "pairs": sum(pairs), "problems": sum(p > 0 for p in pairs),
            "calibration": _calibrated([m["bins"] for m in counted]),
        }  # fmt: skip
    return out


def _calibrated(binned: Sequence[Sequence[Sequence[float]] | None]) -> dict[str, Any] | None:
    """None unless every problem's scores lie in [0, 1]."""
    if any(rows is None for rows in binned):
        return None
    sums = np.zeros((len(binned), _BINS, 4))
    for table, rows in zip(sums, binned, strict=True):
        for at, *values in rows or ():
            table[int(at)] = values
    found = binned_calibration(sums, resamples=_RESAMPLES)
    return {
        "n": found.n, "confidence": round(found.confidence, 6), "accuracy": round(found.accuracy, 6),
        "ece": [round(x, 6) for x in found.ece], "brier": [round(x, 6) for x in found.brier],
    }  # fmt: skip
