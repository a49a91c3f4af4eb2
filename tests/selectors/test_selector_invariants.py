"""What every pure selector keeps to, on random sample tables."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pools import candidates

import ponder
from ponder.core.candidate import Candidate
from ponder.core.pool import Pool
from ponder.errors import EmptyPoolError, ParameterError

PURE = [
    "first",
    "majority",
    "best_score",
    "weighted_majority",
    "weighted_majority(weight=probability)",
    "weighted_majority(weight=sequence_probability,aggregate=mean)",
    "weighted_majority(transform=softmax,aggregate=max)",
    "weighted_majority(transform=min_max)",
    "perplexity_consistency",
    "perplexity_consistency(probability=sequence)",
    "rpc",
    "rpc(variant=ppl)",
    "best_of_majority",
    "best_of_majority(alpha=0.2,fill=frequency,reward=max)",
    "two_stage_vote",
    "confidence_vote(score=reward)",
    "confidence_vote(score=reward,keep=0.5)",
    "minimum_bayes_risk(utility=exact)",
    "minimum_bayes_risk(utility=token_f1)",
    "minimum_bayes_risk(utility=edit,weights=probability)",
    "minimum_bayes_risk",
    "cross_lingual_mbr(utility=exact)",
]
GATED = ("best_of_majority", "confidence_vote(score=reward,keep=0.5)")
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
pytestmark = pytest.mark.filterwarnings("ignore:best_of_majority")


@st.composite
def tables(draw, least=1, most=14, invalid=True):
    n = draw(st.integers(least, most))
    options = ["7", "8", "9", "ten", None] if invalid else ["7", "8", "9", "ten"]
    answers = [draw(st.sampled_from(options)) for _ in range(n)]
    # Texts decide answer and probability, as they do for a real model; scores are dyadic, so sums are exact.
    variants = [draw(st.integers(0, 2)) for _ in range(n)]
    texts = [f"way {v}: so it is {a}" for v, a in zip(variants, answers, strict=True)]
    p = [0.1 + 0.8 * (hash_of(t) % 97) / 97 for t in texts]
    scores = [draw(st.integers(0, 64)) / 64 for _ in range(n)]
    heat = [draw(st.sampled_from([0.0, 0.5, 1.0])) for _ in range(n)]
    built = candidates(answers, p=p, scores=scores, texts=texts)
    return [
        Candidate(c.output, c.answer, c.logprob, 1, c.scores, i, meta={"temperature": h, "lang": "en"})
        for i, (c, h) in enumerate(zip(built, heat, strict=True))
    ]


def hash_of(text):
    return sum(ord(c) * (i + 1) for i, c in enumerate(text))


def group_key(answer):
    return None if answer is None else str(answer)


@pytest.mark.parametrize("text", PURE[1:])
@given(table=tables(least=2), seed=st.integers(0, 10_000))
@QUICK
def test_order_does_not_change_the_choice_unless_there_is_a_tie(text, table, seed):
    chosen = ponder.selector(text).select(table)
    shuffled = [table[i] for i in np.random.default_rng(seed).permutation(len(table))]
    other = ponder.selector(text).select(shuffled)
    assert chosen.status == other.status
    if not chosen.tie and not other.tie:
        assert chosen.answers == other.answers


@pytest.mark.parametrize("text", [*PURE, "soft_best_of_n", "generative_verification", "checklist_one_pass"])
def test_one_sample_is_returned_as_it_is(text):
    chosen = ponder.selector(text).select(candidates(["5"], scores=[0.3]))
    assert chosen.answers == ["5"] and chosen.indices == [0] and chosen.status == "ok" and not chosen.tie


@pytest.mark.parametrize("text", [t for t in PURE if not t.startswith(GATED)])
@given(table=tables(), at=st.integers(0, 14), score=st.floats(0, 1))
@QUICK
def test_an_invalid_candidate_never_changes_the_choice(text, table, at, score):
    without = ponder.selector(text).select(table)
    extra = Candidate("no idea", None, -0.001, 1, {"reward": score})
    position = min(at, len(table))
    chosen = ponder.selector(text).select([*table[:position], extra, *table[position:]])
    assert chosen.answers == without.answers


@pytest.mark.parametrize("text", [*PURE, "soft_best_of_n", "universal_self_consistency", "cross_lingual_mbr"])
def test_all_invalid_abstains_and_none_at_all_is_an_error(text):
    chosen = ponder.selector(text).select(candidates([None, "", None], scores=[1, 2, 3]))
    assert chosen.answers == [] and chosen.indices == [] and chosen.status == "abstain"
    with pytest.raises(EmptyPoolError, match="no candidates"):
        ponder.selector(text).select([])
    with pytest.raises(ParameterError, match="k=0"):
        ponder.selector(text).select(candidates(["1"], scores=[1]), k=0)


@pytest.mark.parametrize("text", [t for t in PURE if "cross_lingual" not in t])
@given(problems=st.lists(tables(), min_size=1, max_size=6), k=st.integers(1, 3))
@QUICK
def test_many_problems_at_once_choose_as_one_by_one(text, problems, k):
    selector = ponder.selector(text)
    together = selector.select_many(Pool.many(problems), k)
    for row, table in zip(together, problems, strict=True):
        assert [i for i in row.tolist() if i >= 0] == selector.select(table, k).indices


@given(table=tables(), weight=st.floats(0.01, 10))
@QUICK
def test_equal_weights_are_the_majority(table, weight):
    equal = [Candidate(c.output, c.answer, c.logprob, 1, {"reward": weight}) for c in table]
    majority = ponder.selector("majority").select(equal)
    assert ponder.selector("weighted_majority").select(equal).answers == majority.answers


@given(table=tables())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_exact_match_mbr_is_the_majority_ties_included(table):
    majority = ponder.selector("majority").select(table, k=2)
    risk = ponder.selector("minimum_bayes_risk(utility=exact)").select(table, k=2)
    assert (risk.answers, risk.indices, risk.tie) == (majority.answers, majority.indices, majority.tie)
    whole = ponder.selector("minimum_bayes_risk(utility=exact,include_self=true)").select(table, k=2)
    assert whole.answers == majority.answers


@given(table=tables())
@QUICK
def test_best_of_majority_without_a_gate_is_best_of_n_by_answer(table):
    gateless = ponder.selector("best_of_majority(alpha=0,reward=max)").select(table)
    best = ponder.selector("best_score").select(table)
    top = [g for g in best.table if g.weight == best.table[0].weight] if best.table else []
    assert gateless.answers == best.answers or (len(top) > 1 and gateless.answers[0] in [g.answer for g in top])


@given(table=tables(), alpha=st.sampled_from([0.0, 0.1, 0.3]))
@QUICK
def test_best_of_majority_with_constant_rewards_is_the_majority(table, alpha):
    constant = [Candidate(c.output, c.answer, c.logprob, 1, {"reward": 0.3}) for c in table]
    chosen = ponder.selector(f"best_of_majority(alpha={alpha})").select(constant)
    assert chosen.answers == ponder.selector("majority").select(constant).answers


@given(table=tables())
@QUICK
def test_rpc_with_equal_probabilities_is_the_majority_over_distinct_texts(table):
    level = [Candidate(c.output, c.answer, math.log(0.25), 1) for c in table]
    distinct = list({c.output: c for c in level}.values())
    wanted = ponder.selector("majority").select(distinct).answers
    assert ponder.selector("rpc").select(level).answers == wanted
    assert ponder.selector("perplexity_consistency").select(level).answers == wanted
    assert ponder.selector("rpc(variant=sc)").select(level).answers == ponder.selector("majority").select(level).answers


@given(table=tables(least=2))
@QUICK
def test_soft_best_of_n_at_infinite_beta_is_best_of_n(table):
    assert (
        ponder.selector("soft_best_of_n(beta=inf)").select(table).answers
        == ponder.selector("best_score").select(table).answers
    )


@pytest.mark.slow
def test_exact_match_mbr_is_the_majority_on_a_thousand_random_tables():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        table = candidates([["1", "2", "3", None][i] for i in rng.integers(0, 4, rng.integers(1, 40))])
        majority = ponder.selector("majority").select(table, k=3)
        risk = ponder.selector("minimum_bayes_risk(utility=exact)").select(table, k=3)
        assert (risk.answers, risk.indices, risk.tie) == (majority.answers, majority.indices, majority.tie)
