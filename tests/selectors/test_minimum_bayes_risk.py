"""Utilities and expected utilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import CannedJudge, context_with

import ponder
from ponder.core.candidate import Candidate
from ponder.errors import CapabilityError, ParameterError
from ponder.selectors import _utilities as u
from ponder.selectors.minimum_bayes_risk import MinimumBayesRisk

TEXTS = ["the cat sat on the mat", "the cat sits on a mat", "a dog", "", "the the the", "the cat sat on the mat"]


def drawn(texts, **meta):
    return [Candidate(t, t, index=i, meta=meta) for i, t in enumerate(texts)]


@given(texts=st.lists(st.text("abc é", max_size=20), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_chrf_for_all_pairs_equals_sacrebleus_sentence_score(texts):
    assert u.chrf(texts) == pytest.approx(u.sacrebleu_chrf(texts), abs=1e-9)


def test_edit_similarity_equals_the_textbook_distance():
    def distance(a, b):
        table = np.zeros((len(a) + 1, len(b) + 1))
        table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
        for i, x in enumerate(a, 1):
            for j, y in enumerate(b, 1):
                table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y))
        return table[-1, -1]

    wanted = [[1 - distance(a, b) / max(len(a), len(b), 1) for b in TEXTS] for a in TEXTS]
    assert u.edit_similarity(TEXTS) == pytest.approx(np.asarray(wanted))


def test_token_f1_is_a_multiset_overlap():
    values = u.token_f1(TEXTS)
    assert values[0, 0] == 1.0 and values[0, 5] == 1.0 and values[0, 3] == 0.0
    assert values[4, 0] == pytest.approx(2 * 2 / (3 + 6))


def test_the_most_typical_output_wins_and_self_pairs_are_left_out():
    texts = ["alpha beta gamma", "alpha beta delta", "alpha beta", "omega"]
    chosen = ponder.selector("minimum_bayes_risk(utility=token_f1)").select(drawn(texts))
    assert chosen.answers == ["alpha beta"] and chosen.confidence is None
    f = u.token_f1(texts)
    assert chosen.table[0].weight == pytest.approx((f[2].sum() - 1) / 3)
    whole = ponder.selector("minimum_bayes_risk(utility=token_f1,include_self=true)").select(drawn(texts))
    assert whole.table[0].weight == pytest.approx(f[2].mean())


def test_your_own_utility_is_called_with_candidate_then_evidence():
    calls = []

    def utility(candidate, evidence):
        calls.append((candidate, evidence))
        return float(len(candidate) >= len(evidence))

    chosen = MinimumBayesRisk(function=utility).select(drawn(["a", "bbb", "cc"]))
    assert chosen.answers == ["bbb"] and ("a", "bbb") in calls
    vectors = {"x": [1, 0], "y": [1, 0.1], "z": [-1, 0]}
    chosen = MinimumBayesRisk(utility="embedding", embed=lambda ts: [vectors[t] for t in ts]).select(drawn("xyz"))
    assert chosen.answers == ["y"] or chosen.answers == ["x"]


def test_utilities_that_need_a_model_say_how_to_get_one():
    with pytest.raises(CapabilityError, match="asks a model, which select"):
        ponder.selector("minimum_bayes_risk(utility=judge)").select(drawn(["a", "b"]))
    with pytest.raises(CapabilityError, match="needs embeddings"):
        ponder.selector("minimum_bayes_risk(utility=embedding)").select(drawn(["a", "b"]))
    assert ponder.selector("minimum_bayes_risk(utility=judge)").select(drawn(["a"])).answers == ["a"]


async def test_a_judge_rates_every_ordered_pair_and_is_in_the_ledger():
    def reply(request):
        text = request.prompt[-1]["content"]
        return "Score: 9" if "yes" in text.split("Answer A:")[1].split("Answer B:")[0] else "Score: 1"

    judge = CannedJudge(reply)
    ctx = context_with(judge)
    chosen = await ponder.selector("minimum_bayes_risk(utility=judge)").choose(
        ctx.problem, drawn(["no", "yes", "x"]), ctx
    )
    assert chosen.answers == ["yes"] and len(judge.asked) == 6
    assert ctx.ledger.total.requests == 6 and ctx.ledger.total.generated_tokens == 18


async def test_ratings_that_cannot_be_read_are_said_and_word_overlap_decides_without_any():
    ctx = context_with(CannedJudge("hm"))
    chosen = await ponder.selector("mbr(utility=judge)").choose(ctx.problem, drawn(["a b", "a b c", "q"]), ctx)
    assert chosen.status == "ok" and "token_f1 decides" in chosen.fallback


async def test_a_model_that_embeds_is_used():
    judge = CannedJudge()

    async def embed(texts):
        return [[len(t), 1.0] for t in texts]

    judge.embed = embed
    ctx = context_with(judge)
    chosen = await ponder.selector("mbr(utility=embedding)").choose(ctx.problem, drawn(["a", "bb", "ccc"]), ctx)
    assert chosen.status == "ok" and not judge.asked
    with pytest.raises(CapabilityError, match="has none"):
        await ponder.selector("mbr(utility=embedding)").choose(
            ctx.problem, drawn(["a", "bb"]), context_with(CannedJudge())
        )


def test_lexical_utilities_are_refused_across_languages():
    with pytest.raises(ParameterError, match="judge, embedding or exact"):
        ponder.selector("cross_lingual_mbr(utility=chrf)")


def test_other_languages_are_evidence_but_not_choices():
    spoken = [("tre", "3", "it"), ("quattro", "4", "it"), ("four", "4", "en"), ("vier", "4", "de"), ("due", "2", "it")]
    pool = [Candidate(o, a, meta={"lang": lang}) for o, a, lang in spoken]
    chosen = ponder.selector("cross_lingual_mbr(utility=exact)").select(pool)
    assert chosen.answers == ["4"] and pool[chosen.indices[0]].output == "quattro" and chosen.fallback is None
    german = ponder.selector("cross_lingual_mbr(utility=exact,language=de)").select(pool)
    assert pool[german.indices[0]].output == "vier"
    plain = ponder.selector("cross_lingual_mbr(utility=exact)").select([Candidate("x", "3"), Candidate("y", "4")])
    assert plain.fallback.startswith("language_unknown")
    lost = ponder.selector("cross_lingual_mbr(utility=exact,language=fr)").select(pool)
    assert lost.status == "ok" and "language_missing" in lost.fallback


async def test_cross_lingual_mbr_asks_the_judge_about_foreign_evidence():
    judge = CannedJudge("Score: 5")
    ctx = context_with(judge)
    pool = [Candidate("uno", "uno", meta={"lang": "it"}), Candidate("one", "one", meta={"lang": "en"})]
    chosen = await ponder.selector("cross_lingual_mbr(language=it)").choose(ctx.problem, pool, ctx)
    assert chosen.answers == ["uno"] and len(judge.asked) == 2
