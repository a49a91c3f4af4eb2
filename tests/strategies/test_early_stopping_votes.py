import asyncio
import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from ponder import parse
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.runtime import Runtime
from ponder.core.seeds import generator
from ponder.core.stopping import answer_counts, leader_doubt, leader_probability, normalised_entropy
from ponder.errors import ParameterError
from ponder.laws.early_stopping import WindowedStopping, adaptive_consistency
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.testing import Sums


@dataclass(frozen=True)
class Multinomial(Simulated):
    """Answers 0, 1, … with fixed probabilities; 0 is right. A share of the draws may have no answer."""

    probabilities: tuple[float, ...] = (0.7, 0.3)

    def _text(self, request, rng):
        draw = rng.random()
        which = int(np.searchsorted(np.cumsum(self.probabilities), draw))
        return (f"It is {which}." if which < len(self.probabilities) else "no idea"), which == 0


@dataclass(frozen=True)
class Scripted(Simulated):
    """Answers in the order of the script, over all calls."""

    script: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "_turn", itertools.count())

    def _text(self, request, rng):
        return f"It is {self.script[next(self._turn)]}", False


def solve(text, model, problem="p", **options):
    question = Problem(problem, "x", "0")
    ctx = Context(question, TextSteps(model), task=Sums(), runtime=Runtime(), **options)
    return asyncio.run(parse(text).run(question, ctx))


def many(text, model, problems):
    async def everything():
        out = []
        for i in range(problems):
            question = Problem(f"p{i}", "x", "0")
            ctx = Context(question, TextSteps(model), task=Sums(), runtime=Runtime())
            result = await parse(text).run(question, ctx)
            out.append((len(result.candidates), result.answer == "0", result.details["stopped"] is not None))
        return np.array(out)

    return asyncio.run(everything())


def test_adaptive_consistency_matches_the_exact_recursion_within_three_standard_errors():
    rows = many("adaptive_consistency(n=40)", Multinomial(), 120)
    law = adaptive_consistency(0.7, 40)
    assert abs(rows[:, 0].mean() - law.samples) < 3 * rows[:, 0].std() / np.sqrt(len(rows))
    assert abs(rows[:, 1].mean() - law.accuracy) < 3 * np.sqrt(law.accuracy * (1 - law.accuracy) / len(rows))


def test_windows_match_the_closed_form_within_three_standard_errors():
    rows = many("early_stopping_consistency(n=20, window=3)", Multinomial(probabilities=(0.6, 0.3, 0.1)), 150)
    law = WindowedStopping((0.6, 0.3, 0.1), 3, 20)
    assert abs(rows[:, 0].mean() - law.expected_samples()) < 3 * rows[:, 0].std() / np.sqrt(len(rows))
    wrong = ((rows[:, 1] == 0) & (rows[:, 2] == 1)).mean()
    assert abs(wrong - law.wrong_stop()) < 3 * np.sqrt(law.wrong_stop() / len(rows))


def test_four_equal_answers_stop_and_three_do_not():
    result = solve("adaptive_consistency(n=10)", Scripted(script=("1",) * 10))
    assert len(result.candidates) == 4 and result.answer == "1" and result.details["stopped"] == "beta"


def test_the_answer_is_the_majority_of_exactly_the_samples_drawn():
    result = solve("adaptive_consistency(n=5)", Scripted(script=("1", "2", "2", "1", "2")))
    assert len(result.candidates) == 5 and result.answer == "2" and result.details["stopped"] is None


@pytest.mark.parametrize("criterion", ["beta", "share", "dirichlet"])
def test_a_threshold_of_one_is_plain_majority_at_n(criterion):
    model = Multinomial(probabilities=(0.9, 0.05))
    adaptive = solve(f"adaptive_consistency(n=70, threshold=1, criterion={criterion})", model)
    vote = solve("repeated_sampling(n=70) | majority", model)
    assert len(adaptive.candidates) == 70 and adaptive.answer == vote.answer
    assert adaptive.selection.confidence == vote.selection.confidence


def test_a_window_as_long_as_n_is_plain_majority():
    model = Multinomial()
    for problem in "abcdef":
        window = solve("early_stopping_consistency(n=6, window=6)", model, problem)
        assert window.answer == solve("repeated_sampling(n=6) | majority", model, problem).answer
        assert len(window.candidates) == 6


def test_the_last_window_decides_not_the_majority():
    script = ("1", "1", "2", "1", "1", "2", "2", "2", "2")
    result = solve("early_stopping_consistency(n=9, window=3)", Scripted(script=script))
    assert result.answer == "2" and result.details == {"windows": 3, "stopped": "unanimous window"}


def test_windows_without_answers_do_not_stop():
    result = solve("early_stopping_consistency(n=6, window=2)", Scripted(script=("?",) * 6))
    assert len(result.candidates) == 6 and result.status == "abstain"
    result = solve("adaptive_consistency(n=6)", Scripted(script=("?",) * 6))
    assert len(result.candidates) == 6 and result.status == "abstain" and result.answer is None


def test_what_does_not_fill_a_window_is_drawn_only_on_request():
    model = Scripted(script=tuple("1213456"))
    assert len(solve("early_stopping_consistency(n=7, window=3)", model).candidates) == 6
    model = Scripted(script=tuple("1213456"))
    whole = solve("early_stopping_consistency(n=7, window=3, partial_window=true)", model)
    assert len(whole.candidates) == 7


def test_batches_overshoot_by_less_than_a_batch():
    assert len(solve("adaptive_consistency(n=12, batch=3)", Scripted(script=("1",) * 12)).candidates) == 6


def test_one_sample_is_enough_for_n_equal_one():
    for text in ("adaptive_consistency(n=1)", "early_stopping_consistency(n=1, window=1)"):
        assert len(solve(text, Multinomial()).candidates) == 1


def test_a_budget_ends_the_drawing_and_the_vote_is_still_held():
    result = solve("adaptive_consistency(n=40)", Scripted(script=tuple("12" * 20)), budget=Budget(calls=5))
    assert len(result.candidates) == 5 and result.answer == "1" and "budget" in result.reason


def test_the_binomial_tail_is_the_beta_tail():
    draws = generator("beta").beta(8 + 1, 3 + 1, size=200_000)
    assert abs((draws <= 0.5).mean() - leader_doubt(8, 3)) < 4 * np.sqrt(leader_doubt(8, 3) / 200_000)
    assert leader_doubt(5, 5) == 0.5


def test_the_other_criteria_follow_their_definitions():
    assert normalised_entropy([2, 2]) == 1.0 and normalised_entropy([4]) == pytest.approx(0.7219, abs=1e-4)
    assert leader_probability([3, 1]) == 1 - leader_doubt(3, 1)
    assert leader_probability([4, 4, 4]) == pytest.approx(1 / 3, abs=0.02)
    assert len(solve("adaptive_consistency(n=9, criterion=share)", Scripted(script=("1",) * 9)).candidates) == 2
    assert len(solve("adaptive_consistency(n=9, criterion=entropy)", Scripted(script=("1",) * 9)).candidates) == 4
    assert len(solve("adaptive_consistency(n=9, criterion=dirichlet)", Scripted(script=("1",) * 9)).candidates) == 4
    assert answer_counts([Candidate("", "1", error="lost"), Candidate("", "2")]) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adaptive_consistency(n=0)", "n=0"),
        ("adaptive_consistency(threshold=2)", "threshold=2"),
        ("adaptive_consistency(criterion=luck)", "one of beta, share"),
        ("adaptive_consistency(batch=0)", "batch=0"),
        ("early_stopping_consistency(n=4)", "window must be from 1 to 4"),
        ("early_stopping_consistency(window=0)", "window=0"),
    ],
)
def test_impossible_parameters_are_named(text, message):
    with pytest.raises(ParameterError, match=message):
        parse(text)


def test_the_sample_axis_cuts_a_window_that_is_too_long():
    assert str(parse("early_stopping_consistency").with_samples(3)) == "early_stopping_consistency(n=3, window=3)"
