import asyncio
import math

import pytest

import ponder
from ponder import testing
from ponder.errors import ParameterError


def verdicts(text, problems=150):
    model = testing.Counted(inner=ponder.model("sim:default"))
    results = asyncio.run(testing.solve_all(ponder.parse(f"best_of_n(n=4, verifier={text})"), model, problems=problems))
    task = testing.Sums()
    return [
        (task.grade(r.problem, c.output).correct, c.scores["imperfect_oracle"]) for r in results for c in r.candidates
    ]


def test_the_error_rates_are_those_asked_for():
    seen = verdicts("imperfect_oracle(false_positive=0.3, false_negative=0.15)")
    for correct, rate in ((False, 0.3), (True, 0.15)):
        wrong = [score != correct for truth, score in seen if truth is correct]
        standard_error = math.sqrt(rate * (1 - rate) / len(wrong))
        assert abs(sum(wrong) / len(wrong) - rate) < 4 * standard_error


def test_without_errors_it_is_the_exact_grader():
    assert all(score == correct for correct, score in verdicts("imperfect(false_positive=0, false_negative=0)", 10))


def test_the_same_sample_gets_the_same_verdict_at_any_n():
    async def scores(n):
        strategy = ponder.parse(f"best_of_n(n={n}, verifier=imperfect_oracle(false_positive=0.5, false_negative=0.5))")
        return [
            [c.scores["imperfect_oracle"] for c in r.candidates[:3]]
            for r in await testing.solve_all(strategy, testing.Counted())
        ]

    assert asyncio.run(scores(3)) == asyncio.run(scores(9))


def test_rates_outside_0_to_1_are_refused():
    with pytest.raises(ParameterError, match=r"false_positive=1\.5"):
        ponder.verifier("imperfect_oracle(false_positive=1.5)")
