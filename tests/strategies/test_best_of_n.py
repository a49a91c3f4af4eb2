import asyncio
from dataclasses import dataclass

import pytest

import ponder
from ponder import testing
from ponder.core.registry import VERIFIERS, verifier
from ponder.core.verifier import Verifier


@pytest.fixture(autouse=True)
def scripted():
    """A verifier whose scores a test lists, and which raises where the list says so."""

    @verifier("scripted")
    @dataclass(frozen=True)
    class Scripted(Verifier):
        """Scores by draw order."""

        scores: tuple[float, ...] = ()
        raises: tuple[int, ...] = ()

        async def score(self, problem, items, ctx):
            if any(item.index in self.raises for item in items):
                raise ZeroDivisionError("the verifier broke")
            return [self.scores[item.index % len(self.scores)] for item in items]

    yield
    VERIFIERS._entries.pop("scripted")


def solve(strategy, **options):
    results = asyncio.run(testing.solve_all(ponder.parse(strategy), testing.Counted(), problems=1, **options))
    return results[0]


def test_the_highest_score_wins():
    assert solve("best_of_n(n=4, verifier=scripted(scores=[0.1, 0.9, 0.3, 0.2]))").chosen == (1,)


def test_a_tie_goes_to_the_earliest_draw():
    assert solve("best_of_n(n=4, verifier=scripted(scores=[0.1, 0.5, 0.5, 0.5]))").chosen == (1,)


def test_minus_infinity_is_a_score_and_loses_to_any_other():
    assert solve("best_of_n(n=3, verifier=scripted(scores=[-inf, -5.0, -inf]))").chosen == (1,)
    assert solve("best_of_n(n=2, verifier=scripted(scores=[-inf, -inf]))").chosen == (0,)


def test_a_verifier_that_raises_on_one_sample_costs_only_that_one_its_score():
    result = solve("best_of_n(n=4, verifier=scripted(scores=[0.1, 0.9, 0.3, 0.2], raises=[1]))")
    assert result.chosen == (2,)
    assert [(f.stage, f.index, f.kind) for f in result.failures] == [("verify", 1, "ZeroDivisionError")]


def test_a_verifier_that_always_raises_leaves_nothing_chosen_and_says_so():
    result = solve("best_of_n(n=2, verifier=scripted(scores=[1.0], raises=[0, 1]))")
    assert (result.status, result.chosen) == ("abstain", ())
    assert "could be scored" in result.reason
    assert len(result.failures) == 2


def test_nan_scores_are_left_out_and_recorded(monkeypatch):
    async def score(self, problem, items, ctx):
        return [float("nan") if item.index == 0 else 0.2 for item in items]

    monkeypatch.setattr(VERIFIERS.entry("scripted").cls, "score", score)
    result = solve("best_of_n(n=2, verifier=scripted)")
    assert result.chosen == (1,)
    assert [f.index for f in result.failures] == [0]


def test_one_draw_is_returned_whatever_its_score():
    assert solve("best_of_n(n=1, verifier=scripted(scores=[-3.0]))").chosen == (0,)


def test_a_judge_at_n_4_shows_eight_calls():
    total = solve("best_of_n(n=4, verifier=llm_judge)").total
    assert (total.model_calls, total.verifier_calls, total.calls) == (4, 4, 8)
    assert total.verifier_tokens > 0


def test_with_the_exact_grader_accuracy_is_coverage():
    strategy = ponder.parse("best_of_n(n=5, verifier=exact)")
    weak = testing.Counted(inner=ponder.model("sim:weak"))
    for result in asyncio.run(testing.solve_all(strategy, weak, problems=40)):
        task = testing.Sums()
        right = [task.grade(result.problem, c.output).correct for c in result.candidates]
        assert task.grade(result.problem, result.output).correct == any(right)


def test_a_bare_prompt_has_no_exact_grader():
    with pytest.raises(ponder.errors.PonderError):
        ponder.solve("What is 2+2?", model="sim:default", strategy="best_of_n(n=2, verifier=exact)")


def test_the_budget_leaves_room_for_the_scores():
    result = solve("best_of_n(n=8, verifier=scripted(scores=[0.1, 0.9]))", budget=ponder.Budget(calls=6))
    assert result.total.calls <= 6
    assert result.status == "ok"
    assert all(c.scores for c in result.candidates[:3])
