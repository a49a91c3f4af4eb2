import asyncio
from dataclasses import dataclass, replace

import pytest

from ponder import parse
from ponder.core.context import Context
from ponder.core.model import Chunk, Completion, Sampling
from ponder.core.problem import Problem
from ponder.core.runtime import Runtime
from ponder.errors import CapabilityError, ParameterError
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.strategies.deep_conf import _Watch
from ponder.testing import Sums


@dataclass(frozen=True)
class Confident(Simulated):
    """Right traces are sure of their tokens, wrong ones lose confidence half way."""

    share: float = 0.4
    logprobs: bool = True

    def _complete(self, request, seed, prompt_tokens):
        right = (seed % 1000) / 1000 < self.share
        values = [-0.1] * 60 if right else [-0.1] * 30 + [-3.0] * 30
        text = f"It is {request.problem.reference if right else -1}."
        return Completion(
            text, 60, "stop", "", sum(values), prompt_tokens, requests=1,
            token_logprobs=tuple(values) if self.logprobs else None,
        )  # fmt: skip


@dataclass(frozen=True)
class WithAlternatives(Confident):
    """The same, told by the alternatives to each token, which are not streamed."""

    def _complete(self, request, seed, prompt_tokens):
        done = super()._complete(request, seed, prompt_tokens)
        top = tuple({"a": v, "b": -9.0 if v > -1 else -2.0} for v in done.token_logprobs)
        return replace(done, top_logprobs=top, token_logprobs=None)


def run(text, model=None, problem="p", **options):
    question = Problem(problem, "x", "7")
    ctx = Context(
        question, TextSteps(model or Confident()), task=Sums(), sampling=Sampling(logprobs=0), runtime=Runtime(),
        **options,
    )  # fmt: skip
    return asyncio.run(parse(text).run(question, ctx))


def test_traces_that_lose_confidence_are_ended_early_and_do_not_vote():
    result = run("deep_conf(n=60, warmup=20, keep=0.1)")
    assert result.answer == "7"
    ended = [c for c in result.candidates if c.finish == "stopped_early"]
    assert ended and all(c.answer is None and c.n_tokens < 60 and c.index >= 20 for c in ended)
    assert result.details["ended_early"] == len(ended)
    assert result.details["ended_early_tokens"] == sum(c.n_tokens for c in ended)
    assert result.total.generated_tokens == sum(c.n_tokens for c in result.candidates)
    assert all("deep_conf" not in c.scores for c in ended)


def test_it_spends_less_than_a_vote_and_is_right_where_the_vote_is_not():
    filtered, vote = run("deep_conf(n=60, warmup=20, keep=0.1)"), run("repeated_sampling(n=60) | majority")
    assert filtered.answer == "7" and vote.answer == "-1"
    assert filtered.total.generated_tokens < vote.total.generated_tokens


def test_warm_up_traces_below_the_threshold_do_not_vote():
    result = run("deep_conf(n=12, warmup=12, keep=0.25)")
    assert result.details["voters"] < 12 and all(c.n_tokens == 60 for c in result.candidates)


def test_a_threshold_that_keeps_all_is_a_weighted_vote_of_all():
    result = run("deep_conf(n=8, warmup=8, keep=1)")
    assert result.details["voters"] == 8 and result.details["ended_early"] == 0


def test_alternatives_measure_confidence_where_there_are_any():
    result = run("deep_conf(n=60, warmup=20, keep=0.1)", WithAlternatives())
    assert result.answer == "7" and result.details["confidence"] == "alternatives"
    # Not streamed, so nothing was saved; the rule is applied all the same.
    ended = [c for c in result.candidates if c.finish == "stopped_early"]
    assert ended and all(c.n_tokens == 60 and c.answer is None for c in ended)


def test_a_watch_ends_a_trace_when_a_full_window_falls_below_the_threshold():
    watch = _Watch(window=3, threshold=1.0)
    tops = [{"a": -v, "b": -v} for v in (2.0, 2.0, 0.5, 0.1)]
    assert [watch(Chunk(0, "", 1, None, (top,))) for top in tops] == [False, False, False, True]
    low = {"a": -0.1, "b": -0.1}
    assert not watch(Chunk(1, "", 1, None, (low,)))
    assert not _Watch(3, 1.0)(Chunk(0, "x", 1))


def test_a_consensus_ends_the_drawing():
    sure = run("deep_conf(n=40, warmup=8, keep=0.5, consensus=0.95, batch=4)", Confident(share=1.0))
    assert len(sure.candidates) == 8 and sure.details["stopped"] == "consensus"


def test_a_model_without_log_probabilities_is_refused_with_what_to_do():
    with pytest.raises(CapabilityError, match="adaptive_consistency"):
        run("deep_conf(n=4)", Confident(logprobs=False))


def test_one_trace_is_returned_as_it_is():
    result = run("deep_conf(n=1)", Confident(share=1.0))
    assert result.answer == "7" and len(result.candidates) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deep_conf(n=0)", "n=0"),
        ("deep_conf(keep=0)", "keep=0"),
        ("deep_conf(warmup=0)", "warmup=0"),
        ("deep_conf(consensus=0.5)", "consensus=0"),
    ],
)
def test_impossible_parameters_are_named(text, message):
    with pytest.raises(ParameterError, match=message):
        parse(text)
