"""Stated 95 % intervals hold the truth in 93 to 97 % of simulated studies; the full table is in docs/laws/index.md."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from ponder.laws._bootstrap import bca, student_quantile

SPEC = importlib.util.spec_from_file_location(
    "law_intervals", Path(__file__).parents[2] / "benchmarks" / "law_intervals.py"
)
assert SPEC and SPEC.loader
law_intervals = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(law_intervals)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("law", [f.__name__ for f in law_intervals.LAWS])
def test_the_intervals_hold_as_often_as_they_say(law: str) -> None:
    studies = 1000
    got = law_intervals.measure(law, studies=studies, problems=40)
    assert got.pop("refused") == 0
    room = 2.5 * math.sqrt(0.95 * 0.05 / studies)  # several quantities are looked at
    for quantity, share in got.items():
        if "percentile" not in quantity:
            least = 0.90 if (law, quantity) == ("beta_binomial", "beta") else 0.93  # under-covers: see the page
            assert least - room / 2 <= share <= 0.97 + room / 2, (quantity, share)


def test_student_quantiles_are_those_of_the_tables() -> None:
    for freedom, value in ((1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (30, 2.042), (60, 2.000), (1e9, 1.960)):
        assert student_quantile(0.975, freedom) == pytest.approx(value, abs=6e-4)
        assert student_quantile(0.025, freedom) == pytest.approx(-value, abs=6e-4)


def test_a_symmetric_bootstrap_gets_the_expanded_percentile_interval() -> None:
    draws = np.linspace(-1, 1, 2001)
    low, high = bca(draws, 0.0, np.linspace(-1, 1, 10))
    share = 0.5 + (high / 2)
    reach = 2.262 * math.sqrt(10 / 9)
    assert low == pytest.approx(-high) and share == pytest.approx(0.5 * (1 + math.erf(reach / math.sqrt(2))), abs=1e-3)
    assert bca(np.full(5, 2.0), 2.0, np.full(5, 2.0)) == (2.0, 2.0)
