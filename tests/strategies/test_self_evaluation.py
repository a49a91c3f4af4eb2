import asyncio
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest

from ponder import parse
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Sampling
from ponder.core.problem import Problem
from ponder.core.process import Process
from ponder.core.runtime import Runtime
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.laws import self_evaluation as law
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.strategies.self_evaluation import SelfEvaluation
from ponder.testing import Sums


class Normal(Process):
    """Outputs of quality Normal(0, 1), made in `steps` evaluations that show it from the first one on."""

    name = "normal"

    def __init__(self, steps=1):
        self.steps = steps

    async def extend(self, states, slots, ctx):
        for state, wanted in zip(states, slots, strict=True):
            for slot in wanted:
                m, _ = await ctx.evaluate(1, lambda m: None)
                if not m:
                    return
                quality = state.payload
                if quality is None:
                    quality = float(ctx.rng(*state.path, slot).normal())
                done = state.depth + 1 >= self.steps
                yield state.child(slot, "", payload=quality, n_tokens=1, finish="stop" if done else None)

    def output(self, state):
        return state.payload


@dataclass(frozen=True)
class Calibrated(Verifier):
    """The chance that a fresh draw is not better; with noise, of a blurred quality."""

    noise: float = 0.0

    name = "calibrated"

    async def score(self, problem, items, ctx):
        out = []
        for item in items:
            value = ctx.process.output(item) if not hasattr(item, "output") else item.output
            blurred = value + self.noise * float(ctx.rng("noise", value).normal())
            out.append(NormalDist().cdf(blurred / math.sqrt(1 + self.noise**2)))
        return out


@dataclass(frozen=True)
class Constant(Verifier):
    name = "constant"

    async def score(self, problem, items, ctx):
        return [0.5] * len(items)


def many(strategy, count, process=None):
    async def everything():
        out = []
        for i in range(count):
            problem = Problem(f"p{i}", "x")
            ctx = Context(problem, process or Normal(), runtime=Runtime())
            out.append((await strategy.run(problem, ctx), ctx))
        return out

    return asyncio.run(everything())


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_samples_and_quality_match_the_closed_forms_within_three_standard_errors(threshold):
    strategy = SelfEvaluation(n=200, threshold=threshold, batch=1, verifier=Calibrated())
    results = [r for r, _ in many(strategy, 400)]
    drawn = np.array([len(r.candidates) for r in results])
    quality = np.array([r.output for r in results])
    assert abs(drawn.mean() - law.expected_samples(threshold)) < 3 * drawn.std() / np.sqrt(len(drawn))
    assert abs(quality.mean() - law.expected_quality(threshold)) < 3 * quality.std() / np.sqrt(len(drawn))


class Rates(Process):
    """Right (1) with the problem's own rate, else wrong (0)."""

    name = "rates"

    async def extend(self, states, slots, ctx):
        for state, wanted in zip(states, slots, strict=True):
            for slot in wanted:
                await ctx.evaluate(1, lambda m: None)
                right = float(ctx.rng(*state.path, slot).random() < rate_of(state.problem))
                yield state.child(slot, "", payload=right, n_tokens=1, finish="stop")

    def output(self, state):
        return state.payload


@dataclass(frozen=True)
class Informed(Verifier):
    """1 for a right answer, 1 - p for a wrong one: the chance that a fresh draw is not better."""

    name = "informed"

    async def score(self, problem, items, ctx):
        return [1.0 if item.output else 1.0 - rate_of(problem) for item in items]


def rate_of(problem):
    return float(np.random.default_rng(int(problem.id[1:])).beta(0.18292, 0.034842))


def test_three_quarters_of_the_gain_at_one_point_two_samples_where_difficulties_differ():
    count = 500
    results = [r for r, _ in many(SelfEvaluation(16, 0.9, batch=1, verifier=Informed()), count, Rates())]
    theory = law.binary_adaptive([rate_of(Problem(f"p{i}", "x")) for i in range(count)], 0.9)
    drawn = np.array([len(r.candidates) for r in results])
    right = np.array([r.output for r in results])
    assert abs(drawn.mean() - theory.samples) < 3 * drawn.std() / np.sqrt(count)
    assert abs(right.mean() - theory.accuracy) < 3 * right.std() / np.sqrt(count)


def test_noise_in_the_score_costs_quality():
    qualities = [
        np.mean([r.output for r, _ in many(SelfEvaluation(16, 0.9, batch=1, verifier=Calibrated(s)), 150)])
        for s in (0.0, 1.0, 4.0)
    ]
    assert qualities[0] > qualities[1] > qualities[2]


def test_a_threshold_that_is_never_reached_is_best_of_n():
    strategy = SelfEvaluation(16, 2.0, verifier=Calibrated())
    for result, _ in many(strategy, 10):
        assert len(result.candidates) == 16
        assert result.output == max(c.output for c in result.candidates)


def test_batches_double():
    result, _ = many(SelfEvaluation(16, 2.0, verifier=Calibrated()), 1)[0]
    assert result.details["rounds"] == 5 and result.details["stopped"] is None


def test_the_price_rule_stops_when_a_draw_costs_more_than_it_can_bring():
    for result, _ in many(SelfEvaluation(50, 2.0, price=0.2, batch=1, verifier=Calibrated()), 20):
        best = max(c.scores["calibrated"] for c in result.candidates)
        assert (1 - best < 0.2) == (result.details["stopped"] == "price")
        assert all(1 - c.scores["calibrated"] >= 0.2 for c in result.candidates[:-1])


@pytest.mark.parametrize(("keep", "kept"), [(0.5, 8), (0.25, 4), (0.01, 1)])
def test_pruning_costs_what_the_formula_says_and_keeps_the_best(keep, kept):
    for result, ctx in many(SelfEvaluation(16, keep=keep, prune_steps=2, verifier=Calibrated()), 5, Normal(steps=8)):
        assert ctx.ledger.total.function_evaluations == law.pruning_tokens(16, 8, 2, keep)
        assert ctx.ledger.total.verifier_calls == 16 + kept
        finished = [c for c in result.candidates if c.finish == "stop"]
        assert len(finished) == kept and result.details["pruned"] == 16 - kept
        assert result.output == max(c.output for c in finished)
        assert result.output == max(c.state.payload for c in result.candidates)


def test_outputs_that_are_complete_after_one_step_are_not_pruned():
    result, ctx = many(SelfEvaluation(4, keep=0.5, verifier=Calibrated()), 1)[0]
    assert result.details["pruned"] == 0 and ctx.ledger.total.verifier_calls == 4


def test_annealing_begins_greedily_and_warms_up():
    problem = Sums().problems(1)[0]
    ctx = Context(problem, TextSteps(Simulated()), task=Sums(), runtime=Runtime())
    result = asyncio.run(parse("self_evaluation(n=4, threshold=2, anneal=true)").run(problem, ctx))
    assert [c.meta["temperature"] for c in result.candidates] == [0.0, 0.5, 0.75, 0.875]
    ctx = Context(problem, TextSteps(Simulated()), task=Sums(), runtime=Runtime())
    one = asyncio.run(parse("self_evaluation(n=1, anneal=true)").run(problem, ctx))
    assert one.candidates[0].meta["temperature"] == 0.0 and one.total.verifier_calls == 0


def test_scores_that_tell_nothing_choose_the_first_draw_and_are_reported():
    result, _ = many(SelfEvaluation(4, 0.9, verifier=Constant()), 1)[0]
    assert result.chosen == (0,) and result.details["degenerate_scores"]


def test_the_simulated_model_judges_itself():
    problem = Sums().problems(1)[0]
    ctx = Context(problem, TextSteps(Simulated(judge_true_positive=1.0, judge_false_positive=0.0, alpha=3.0)),
                  task=Sums(), runtime=Runtime())  # fmt: skip
    result = asyncio.run(parse("self_evaluation(n=16)").run(problem, ctx))
    assert result.answer == problem.reference and result.details["stopped"] == "threshold"
    assert "started over" not in str([c.output for c in result.candidates])


@dataclass(frozen=True)
class Labels(Simulated):
    """Gives the alternatives No 0.6 and Yes 0.2 to the self-evaluation."""

    capabilities = Capabilities(logprobs=True, max_top_logprobs=20)

    def _complete(self, request, seed, prompt_tokens):
        top = ({" No": math.log(0.6), "Yes": math.log(0.2), "yes.": math.log(0.1)},)
        asked = isinstance(request.prompt, str) and "started over" in request.prompt
        assert request.sampling.logprobs == 20 or not asked
        return Completion("No", 1, "stop", "", -0.5, prompt_tokens, requests=1, top_logprobs=top if asked else None)


def test_the_score_is_the_share_of_no_among_the_two_labels():
    problem = Problem("p", "A question", "7")
    ctx = Context(problem, TextSteps(Labels()), task=Sums(), sampling=Sampling(), runtime=Runtime())
    result = asyncio.run(parse("best_of_n(n=1, verifier=self_evaluation)").run(problem, ctx))
    assert result.best.scores["self_evaluation"] == pytest.approx(0.6 / 0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("self_evaluation(n=0)", "n=0"),
        ("self_evaluation(keep=0)", "keep=0"),
        ("self_evaluation(price=-1)", "price=-1"),
        ("self_evaluation(prune_steps=0)", "prune_steps=0"),
    ],
)
def test_impossible_parameters_are_named(text, message):
    with pytest.raises(ParameterError, match=message):
        parse(text)
