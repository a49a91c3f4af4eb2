"""Verdicts: reading them, their probability, their mean."""

import math
from collections.abc import AsyncIterator
from typing import ClassVar

import numpy as np
import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model, Request
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS
from ponder.errors import CapabilityError, ParameterError
from ponder.processes.text_steps import TextSteps
from ponder.verifiers.generative_verification import parse_verdict, verdict_probability


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Step 1 holds.\nVerdict: Yes", 1.0),
        ("Verdict: No", 0.0),
        ("**Verdict:** *Yes*.", 1.0),
        ("Verdict: \\boxed{No}", 0.0),
        ("$\\text{Verdict: Yes}$", 1.0),
        ("VERDICT - no", 0.0),
        ("Verdict: Yes\nAfter another look.\nVerdict: No", 0.0),
        ("Verdict:\nYes", 1.0),
        ("Is the answer correct (Yes/No)? Yes", 1.0),
        ("Is the solution correct? No", 0.0),
        ("Verdict: incorrect", 0.0),
        ("Verdict: the answer is correct", 1.0),
        ("Verdict: not correct", 0.0),
        ("Verdict: Yes or No", None),
        ("yes", 1.0),
        ("So far so good.\nNo.", 0.0),
        ("Therefore the solution is incorrect.", 0.0),
        ("Therefore the solution is correct.", 1.0),
        ("This is not right.", 0.0),
        ("I know nothing about it.", None),
        ("Nobody knows", None),
        ("", None),
    ],
)
def test_the_last_clear_verdict_counts(reply, verdict):
    assert parse_verdict(reply) == verdict


def reply_of(tokens, logprobs):
    return Completion("".join(tokens), len(tokens), tokens=tuple(tokens), token_logprobs=tuple(logprobs))


def test_the_probability_is_that_of_yes_or_one_minus_that_of_no():
    assert verdict_probability(reply_of(["Verdict", ":", " Yes"], [0, 0, math.log(0.8)])) == pytest.approx(0.8)
    assert verdict_probability(reply_of([" No", " wait", " **No", "."], [0, 0, math.log(0.7), 0])) == pytest.approx(0.3)
    assert verdict_probability(reply_of(["know", " nothing"], [0, 0])) is None
    assert verdict_probability(Completion("Verdict: Yes", 3)) is None


class Says(Model):
    """Replies in turn, with or without tokens."""

    name: ClassVar[str] = "says"
    capabilities = Capabilities(logprobs=True)

    def __init__(self, *replies):
        self.replies, self.asked = replies, []

    def __str__(self):
        return "says"

    @property
    def identity(self):
        return "says"

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        for i, _ in enumerate(request.seeds):
            self.asked.append(request)
            reply = self.replies[(len(self.asked) - 1) % len(self.replies)]
            yield i, reply if isinstance(reply, Completion) else Completion(reply, 2)


async def scores(text, model, items):
    ctx = Context(Problem("p", "What is 6 times 7?"), TextSteps(model), seed=1)
    return await ctx.score(ctx.problem, items, VERIFIERS.build(text)), ctx


async def test_the_score_is_the_mean_of_the_verdicts_that_could_be_read():
    model = Says("Verdict: Yes", "Verdict: No", "hm", "Verdict: Yes")
    values, ctx = await scores("generative_verification(verdicts=4)", model, [Candidate("it is 42", "42")])
    assert values.tolist() == [pytest.approx(2 / 3)] and len(model.asked) == 4
    assert len(set(r.sampling.temperature for r in model.asked)) == 1 and model.asked[0].sampling.temperature == 0.7
    assert [f.kind for f in ctx.failures] == ["missing_verdict"] and "1 of 4 verdicts" in ctx.failures[0].message


async def test_without_any_readable_verdict_there_is_no_score_and_an_invalid_answer_scores_zero():
    values, ctx = await scores("genrm(verdicts=2)", Says("hm"), [Candidate("it is 42", "42"), Candidate("?", None)])
    assert np.isnan(values[0]) and values[1] == 0.0
    assert {"missing_verdict"} <= {f.kind for f in ctx.failures}


async def test_modes_read_tokens_or_text():
    sure = reply_of(["Verdict", ":", " Yes"], [0, 0, math.log(0.9)])
    item = [Candidate("it is 42", "42")]
    assert (await scores("genrm(verdicts=1,mode=logprob)", Says(sure), item))[0][0] == pytest.approx(0.9)
    assert (await scores("genrm(verdicts=1,mode=hybrid)", Says(sure), item))[0][0] == pytest.approx(0.9)
    assert (await scores("genrm(verdicts=1,mode=hybrid)", Says("Verdict: No"), item))[0][0] == 0.0
    assert (await scores("genrm(verdicts=1)", Says(sure), item))[0][0] == 1.0
    with pytest.raises(CapabilityError, match="needs the sampled tokens with their log-probabilities"):
        await scores("genrm(verdicts=1,mode=logprob)", Says("Verdict: No"), item)


def test_bad_settings_are_refused():
    with pytest.raises(ParameterError, match="verdicts=0"):
        ponder.verifier("generative_verification(verdicts=0)")
    with pytest.raises(ParameterError, match="a template with"):
        ponder.verifier("generative_verification(prompt='Is it right?')")


def test_best_of_s_with_v_verdicts_meets_its_exact_success_rate():
    """S solutions right with chance q, V verdicts accepting right ones with t and wrong ones with f."""
    q, t, f, s, v, trials = 0.2, 0.75, 0.35, 8, 4, 4000
    rng = np.random.default_rng(0)
    right = rng.random((trials, s)) < q
    accepted = rng.binomial(v, np.where(right, t, f))
    # Wrong answers are all different; right ones agree, but `best` looks at single solutions.
    groups = np.where(right, 0, 1 + np.arange(s))
    order = np.array(
        [
            np.argsort(np.argsort(np.unique(g, return_index=True)[1]))[np.unique(g, return_inverse=True)[1]]
            for g in groups
        ]
    )
    pool = ponder.Pool(
        order, np.ones_like(right), np.full(right.shape, np.nan), np.full(right.shape, np.nan),
        {"generative_verification": accepted / v},
    )  # fmt: skip
    chosen = ponder.selector("generative_verification").select_many(pool)[:, 0]
    # Verdict counts that tie over all solutions leave it to the majority; that is rare at S = 8.
    blind = (accepted == accepted[:, :1]).all(axis=1)
    measured = right[np.arange(trials), chosen][~blind].mean()
    binomial = lambda p: np.array([math.comb(v, i) * p**i * (1 - p) ** (v - i) for i in range(v + 1)])  # noqa: E731
    good, bad = q * binomial(t), (1 - q) * binomial(f)
    cdf = np.cumsum(good + bad)
    exact = ((cdf**s - np.concatenate([[0], cdf[:-1]]) ** s) * good / (good + bad)).sum()
    assert measured == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / trials) + blind.mean())
