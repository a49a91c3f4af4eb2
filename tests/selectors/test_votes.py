"""Votes and best-of choices, worked by hand."""

import math

import numpy as np
import pytest
from pools import CannedJudge, candidates, context_with

import ponder
from ponder.core.candidate import Candidate
from ponder.core.model import Completion
from ponder.core.pool import Pool
from ponder.core.problem import Problem
from ponder.core.state import State, root
from ponder.errors import CandidateError, CapabilityError, ParameterError, VerifierError


def test_nearly_identical_wording_votes_by_answer_not_by_text():
    answers = ["41", "42", "42", "42", "41"]
    drawn = [Candidate(f"Adding both numbers, we find that the answer is {a}.", a) for a in answers]
    chosen = ponder.selector("majority").select(drawn)
    assert chosen.answers == ["42"] and chosen.confidence == 0.6
    assert [(g.answer, g.count, g.weight) for g in chosen.table] == [("42", 3, 3.0), ("41", 2, 2.0)]
    assert chosen.margin_p_value == pytest.approx(0.5)


def test_a_tie_goes_to_the_answer_that_appeared_first_and_is_said():
    chosen = ponder.selector("majority").select(candidates(["b", "a", "a", "b"]))
    assert chosen.answers == ["b"] and chosen.tie
    assert not ponder.selector("majority").select(candidates(["b", "a", "a", "b"]), k=2).tie


def test_first_passes_over_invalid_draws_and_lists_answers_in_order():
    chosen = ponder.selector("first").select(candidates([None, "2", "1", "2", "3"]), k=3)
    assert chosen.answers == ["2", "1", "3"] and chosen.indices == [1, 2, 4]


def test_best_score_leaves_out_nan_and_counts_it():
    nan, inf = float("nan"), float("inf")
    chosen = ponder.selector("best_score").select(candidates(["1", "2", "3"], scores=[nan, -inf, -1e300]))
    assert chosen.answers == ["3"] and chosen.excluded == 1
    assert ponder.selector("best_score").select(candidates(["1", "2"], scores=[nan, -inf])).answers == ["2"]
    assert ponder.selector("best_score").select(candidates(["1", "2"], scores=[0, inf])).answers == ["2"]
    with pytest.raises(VerifierError, match="no candidate has a score 'reward'"):
        ponder.selector("best_score").select(candidates(["1", "2"], scores=[nan, nan]))


def test_best_score_of_many_marks_a_problem_without_scores_and_raises_if_all_are():
    problems = [candidates(["1", "2"], scores=[math.nan] * 2), candidates(["1", "2"], scores=[0.1, 0.2])]
    assert ponder.selector("best_score").select_many(Pool.many(problems)).tolist() == [[-1], [1]]
    with pytest.raises(VerifierError, match="no candidate has a score"):
        ponder.selector("best_score").select_many(Pool.many(problems[:1]))


def test_best_score_wants_to_know_which_score():
    two = [Candidate("a", "1", scores={"x": 1.0, "y": 2.0})]
    with pytest.raises(ParameterError, match=r"one of the candidates' scores \(x, y\)"):
        ponder.selector("best_score").select(two)
    assert ponder.selector("best_score(score=y)").select(two).answers == ["1"]
    with pytest.raises(ParameterError, match="score candidates with a verifier first"):
        ponder.selector("best_score").select([Candidate("a", "1")])


def test_negative_weights_need_a_transform():
    drawn = candidates(["1", "2", "2"], scores=[2.0, -1.0, 0.5])
    with pytest.raises(ParameterError, match=r"goes down to -1.*sigmoid.*exp.*min_max"):
        ponder.selector("weighted_majority").select(drawn)
    weights = {
        name: {g.answer: g.weight for g in ponder.selector(f"weighted_majority(transform={name})").select(drawn).table}
        for name in ("exp", "sigmoid", "min_max", "softmax")
    }
    assert weights["exp"]["1"] == pytest.approx(math.exp(2))
    assert weights["sigmoid"]["2"] == pytest.approx(1 / (1 + math.e) + 1 / (1 + math.exp(-0.5)))
    assert weights["min_max"] == pytest.approx({"1": 1.0, "2": 0.5})
    assert sum(weights["softmax"].values()) == pytest.approx(1.0)


def test_log_probability_scores_are_exponentiated_by_themselves():
    drawn = [Candidate("a", "1", scores={"log_probability": -0.1}), Candidate("b", "2", scores={"log_probability": -3})]
    chosen = ponder.selector("weighted_majority").select(drawn)
    assert chosen.answers == ["1"] and chosen.table[0].weight == pytest.approx(math.exp(-0.1))


def test_zero_and_unknown_weights_fall_back_to_the_plain_majority():
    chosen = ponder.selector("weighted_majority").select(candidates(["1", "2", "2"], scores=[0, 0, 0]))
    assert chosen.answers == ["2"] and chosen.fallback == "zero_weights"
    chosen = ponder.selector("weighted_majority").select(candidates(["1", "2", "2"], scores=[math.nan] * 3))
    assert chosen.answers == ["2"] and chosen.fallback == "zero_weights" and chosen.excluded == 3
    bare = [Candidate("x", a) for a in ("1", "2", "2")]
    assert ponder.selector("weighted_majority").select(bare).fallback == "no_weights"


def test_mean_and_max_aggregate_what_a_group_has():
    drawn = candidates(["1", "2", "2", "2"], scores=[0.7, 0.5, 0.5, 0.9])
    assert ponder.selector("weighted_majority").select(drawn).answers == ["2"]
    assert ponder.selector("weighted_majority(aggregate=mean)").select(drawn).answers == ["1"]
    assert ponder.selector("weighted_majority(aggregate=max)").select(drawn).answers == ["2"]


def test_probability_weights_are_per_token_or_per_sequence():
    drawn = [Candidate("long", "1", logprob=-2.0, n_tokens=20), Candidate("short", "2", logprob=-1.0, n_tokens=2)]
    assert ponder.selector("weighted_majority(weight=probability)").select(drawn).answers == ["1"]
    assert ponder.selector("weighted_majority(weight=sequence_probability)").select(drawn).answers == ["2"]
    tiny = [Candidate("a", "1", logprob=-5000.0, n_tokens=9), Candidate("b", "2", logprob=-5001.0, n_tokens=9)]
    table = ponder.selector("weighted_majority(weight=sequence_probability)").select(tiny).table
    assert [g.weight for g in table] == pytest.approx([1.0, math.exp(-1)])


def test_perplexity_consistency_counts_identical_texts_once():
    drawn = candidates(["1", "1", "1", "2"], p=[0.5, 0.5, 0.5, 0.6], texts=["same", "same", "same", "other"])
    assert ponder.selector("perplexity_consistency").select(drawn).answers == ["2"]
    assert ponder.selector("majority").select(drawn).answers == ["1"]


@pytest.mark.parametrize("text", ["rpc", "perplexity_consistency", "rpc(variant=ppl)"])
def test_path_selectors_name_what_is_wrong_with_probabilities(text):
    selector = ponder.selector(text)
    with pytest.raises(CapabilityError, match="needs token log-probabilities; the backend returned none"):
        selector.select([Candidate("a", "1"), Candidate("b", "2")])
    with pytest.raises(CandidateError, match=r"candidate 1 has logprob=0\.5, a probability above 1"):
        selector.select([Candidate("a", "1", -1.0, 2), Candidate("b", "2", 0.5, 2)])
    with pytest.raises(CandidateError, match="candidate 1 has logprob=nan"):
        selector.select([Candidate("a", "1", -1.0, 2), Candidate("b", "2", math.nan, 2)])
    assert selector.select([Candidate("a", "1", -math.inf, 2), Candidate("b", "2", -1.0, 2)]).answers == ["2"]


def test_two_stage_vote_lets_temperatures_vote():
    heat = [0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    answers = ["a", "a", "a", "b", "b", "b", "b", "b", "c"]
    drawn = [Candidate("x", a, meta={"temperature": t}) for a, t in zip(answers, heat, strict=True)]
    chosen = ponder.selector("two_stage_vote").select(drawn)
    assert chosen.answers == ["a"] and chosen.table[0].weight == 2.0
    assert chosen.table[1].weight == pytest.approx(5 / 6)
    assert ponder.selector("two_stage_vote(pooled=true)").select(drawn).answers == ["b"]


def test_best_of_majority_gate_fill_and_fallbacks():
    answers = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["odd"]
    drawn = candidates(answers, scores=[0.1] * 4 + [0.5] * 3 + [0.7] * 2 + [1.0])
    assert ponder.selector("best_of_majority(alpha=0.3)").select(drawn, k=3).answers == ["b", "a"]
    assert ponder.selector("best_of_majority(alpha=0.3,fill=frequency)").select(drawn, k=4).answers == [
        "b", "a", "c", "odd",
    ]  # fmt: skip
    assert ponder.selector("best_of_majority(alpha=0)").select(drawn).answers == ["odd"]
    assert ponder.selector("best_of_majority").select(drawn).answers == ["c"]
    fallen = ponder.selector("best_of_majority(alpha=0.9)").select(drawn)
    assert fallen.answers == ["a"] and fallen.fallback == "no_frequent_answer"
    with pytest.warns(UserWarning, match="all answers are distinct"):
        chosen = ponder.selector("best_of_majority(alpha=0.5)").select(candidates(["1", "2", "3"], scores=[1, 3, 2]))
    assert chosen.answers == ["2"] and chosen.fallback == "all_answers_distinct"
    with pytest.raises(ParameterError, match=r"alpha=1.5.*in \[0, 1\]"):
        ponder.selector("best_of_majority(alpha=1.5)")
    with pytest.raises(VerifierError, match="answer group 1"):
        ponder.selector("best_of_majority(alpha=0)").select(candidates(["1", "2"], scores=[1, math.nan]))


def test_best_of_majority_compares_counts_without_float_edges():
    # 0.07 * 100 is 7.000000000000001 in floating point; seven samples must pass.
    answers = ["a"] * 7 + [f"w{i}" for i in range(93)]
    drawn = candidates(answers, scores=[0.5] * 7 + [0.9] * 93)
    assert ponder.selector("best_of_majority(alpha=0.07)").select(drawn).answers == ["a"]


async def test_best_of_majority_scores_only_what_passes_the_gate():
    ctx = context_with(CannedJudge("Score: 5"))
    drawn = candidates(["a", "a", "b", "b", "odd"])
    chosen = await ponder.selector("best_of_majority(alpha=0.4,verifier=llm_judge,reward=earliest)").choose(
        ctx.problem, drawn, ctx
    )
    assert chosen.answers == ["a"] and ctx.ledger.total.verifier_calls == 2


def test_soft_best_of_n_draws_in_proportion():
    drawn = candidates(["1", "2"], scores=[0.0, math.log(3.0)])
    picks = [ponder.selector(f"soft_best_of_n(seed={s})").select(drawn).answers[0] for s in range(800)]
    assert picks.count("2") / 800 == pytest.approx(0.75, abs=3 * math.sqrt(0.75 * 0.25 / 800))
    pool = Pool(
        np.tile([0, 1], (20_000, 1)), np.ones((20_000, 2), bool), np.full((20_000, 2), np.nan),
        np.full((20_000, 2), np.nan), {"r": np.tile([0.0, math.log(3.0)], (20_000, 1))},
    )  # fmt: skip
    share = (ponder.selector("soft_best_of_n").select_many(pool) == 1).mean()
    assert share == pytest.approx(0.75, abs=3 * math.sqrt(0.75 * 0.25 / 20_000))


def trace(answer, confidences):
    """A drawn candidate whose tokens had two alternatives with the given mean confidence."""
    top = tuple({"a": -c, "b": -c} for c in confidences)
    payload = Completion("text", len(top), logprob=-1.0, top_logprobs=top)
    start = root(Problem("p", "?"))
    leaf = State(start.problem, start, 0, "text", payload=payload, finish="stop")
    return Candidate(f"text {answer}", answer, -1.0, len(top), state=leaf)


def test_confidence_vote_reads_token_confidences_from_the_draws():
    steady, shaky = trace("1", [3.0] * 40), trace("2", [9.0] * 20 + [0.5] * 20)
    drawn = [steady, shaky]
    assert ponder.selector("confidence_vote(confidence=mean)").select(drawn).answers == ["2"]
    assert ponder.selector("confidence_vote(confidence=lowest)").select(drawn).answers == ["1"]
    assert ponder.selector("confidence_vote(confidence=tail,window=10)").select(drawn).table[1].weight == 0.5
    assert ponder.selector("confidence_vote(confidence=bottom,window=10)").select(drawn).answers == ["1"]


def test_confidence_vote_keeps_the_top_share_and_says_when_it_has_no_alternatives():
    drawn = candidates(["1", "1", "1", "2"], scores=[1.0, 1.0, 1.0, 2.0])
    assert ponder.selector("confidence_vote(score=reward)").select(drawn).answers == ["1"]
    assert ponder.selector("confidence_vote(score=reward,keep=0.1)").select(drawn).answers == ["2"]
    assert ponder.selector("confidence_vote").select(drawn).fallback == "mean_logprob_as_confidence"
    with pytest.raises(ParameterError, match="keep=0"):
        ponder.selector("confidence_vote(keep=0)")


def test_confidence_percentile_is_the_linear_one():
    from ponder.selectors.confidence_vote import percentile

    rng = np.random.default_rng(0)
    values, known = rng.normal(size=(50, 11)), rng.random((50, 11)) < 0.7
    known[:, 0] = True
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        wanted = [np.percentile(v[k], 100 * q) for v, k in zip(values, known, strict=True)]
        assert percentile(values, known, q)[:, 0] == pytest.approx(wanted)


def test_k_answers_come_in_order_of_weight():
    chosen = ponder.selector("majority").select(candidates(list("abbcccd")), k=3)
    assert chosen.answers == ["c", "b", "a"] and chosen.indices == [3, 1, 0] and chosen.tie


def test_rpc_prunes_without_scipy(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    drawn = candidates(["1", "2"] * 5, p=np.linspace(0.1, 0.9, 10))
    chosen = ponder.selector("rpc").select(drawn)
    assert chosen.answers == ["2"] and chosen.fallback is None
