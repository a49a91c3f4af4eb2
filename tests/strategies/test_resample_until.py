import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from ponder import parse
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.runtime import Runtime
from ponder.errors import ParameterError
from ponder.laws.imperfect_verifier import ResamplingModel
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.testing import Sums


@dataclass(frozen=True)
class TwoKinds(Simulated):
    """Even problems are easy (0.9), odd ones hard (0.05)."""

    def _text(self, request, rng):
        easy = int(request.problem.id[1:]) % 2 == 0
        right = bool(rng.random() < (0.9 if easy else 0.05))
        return f"It is {request.problem.reference if right else -1}", right


def run(text, number=0, **options):
    problem = Problem(f"p{number}", "x", "7")
    ctx = Context(problem, TextSteps(TwoKinds()), task=Sums(), runtime=Runtime(), **options)
    return asyncio.run(parse(text).run(problem, ctx))


VERIFIER = "verifier=imperfect_oracle(false_positive=0.2, false_negative=0.05)"


@pytest.mark.parametrize("k", [1, 5])
def test_utilities_match_the_exact_totals_within_three_standard_errors(k):
    answers = [run(f"resample_until(n={k}, {VERIFIER})", i).answer for i in range(240)]
    for false_positive in (0.0, -1.0, -4.0):
        values = np.array([0.0 if a is None else 1.0 if a == "7" else false_positive for a in answers])
        model = ResamplingModel((0.9, 0.05), (0.5, 0.5), 0.95, 0.8, false_positive=false_positive)
        assert abs(values.mean() - model.total(k)) < 3 * values.std() / np.sqrt(len(values))


def test_the_first_accepted_draw_is_returned_and_nothing_more_is_drawn():
    result = run("resample_until(n=10, verifier=exact)", 1)
    assert all(c.scores["exact"] == 0 for c in result.candidates[:-1])
    assert result.answer in ("7", None)
    assert result.chosen == ((len(result.candidates) - 1,) if result.answer else ())


def test_batches_change_the_cost_and_not_the_answer():
    for i in range(12):
        one, four = (run(f"resample_until(n=12, batch={b}, {VERIFIER})", i) for b in (1, 4))
        assert one.chosen == four.chosen and one.answer == four.answer
        assert len(one.candidates) <= len(four.candidates) <= len(one.candidates) + 3


def test_after_k_rejections_it_abstains():
    result = run("resample_until(n=3, verifier=imperfect_oracle(false_positive=0, false_negative=1))")
    assert result.status == "abstain" and result.answer is None and len(result.candidates) == 3
    assert "accepted none of 3" in result.reason


def test_zero_draws_abstain_at_once():
    result = run("resample_until(n=0, verifier=exact)")
    assert not result.candidates and not result.chosen and result.answer is None
    assert result.reason == "n=0 abstains" and result.total.calls == 0


def test_a_budget_is_kept_and_ends_in_abstaining():
    result = run(
        "resample_until(n=30, verifier=imperfect_oracle(false_positive=0, false_negative=1))", budget=Budget(calls=7)
    )
    assert result.total.calls <= 7 and result.status == "abstain"


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="n=-1"):
        parse("resample_until(n=-1)")
    with pytest.raises(ParameterError, match="batch=0"):
        parse("resample_until(batch=0)")
