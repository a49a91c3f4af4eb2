"""Selectors that ask a model: reading replies, repairing them, order, overflow."""

import re

import pytest
from pools import CannedJudge, candidates, context_with

import ponder
from ponder.core.candidate import Candidate
from ponder.errors import CapabilityError, ContextLengthError
from ponder.ledger.budget import Budget
from ponder.selectors._judge import parse_best
from ponder.selectors.universal_self_consistency import parse_response

TEXTS = ["the answer is 41", "the answer is 42, surely", "the answer is 42", "it is 40"]


def drawn(texts=TEXTS):
    return [Candidate(t, re.findall(r"\d+", t)[0] if re.search(r"\d", t) else t, index=i) for i, t in enumerate(texts)]


def shown_number(request, text, label):
    """Under which number a prompt shows a text."""
    prompt = request.prompt[0]["content"]
    return re.search(rf"{label} (\d+):\n{re.escape(text)}(?:\n|$)", prompt).group(1)


@pytest.mark.parametrize(
    ("reply", "position"),
    [
        ("<best>2</best>", 1),
        ("1. clear 2. right\nCandidate 1 fails.\n<best>3</best>", 2),
        ("<best> Candidate 4 </best>", 3),
        ("<BEST>1</BEST> thank you", 0),
        ("<best>1</best> no wait, <best>2</best>", 1),
        ("< best >3< / best >", 2),
        ("<best>**2**</best>", 1),
        ("<best>\n4\n</best>", 3),
        ("<best>#2</best>", 1),
        ("<best>5</best>", None),
        ("<best>0</best>", None),
        ("<best>-1</best>", None),
        ("<best>2.5</best>", None),
        ("<best>1 or 2</best>", None),
        ("<best>N</best>", None),
        ("<best></best>", None),
        ("<best>2</best>\n<best>9</best>", None),
        ("<best>two</best>", None),
        ("Best: 3", 2),
        ("The best candidate is number 4.", 3),
        ("I would choose candidate 1", 0),
        ("Checklist: 1. short 2. true\nFinal answer: 2", 1),
        ("2", 1),
        ("Candidate 3.", 2),
        ("**3**", 2),
        ("The best ones are 2 and 3", None),
        ("Best: 17", None),
        ("I cannot help with that.", None),
        ("None of the 4 candidates is the best", None),
        ("Candidate 1 is good. Candidate 2 is good.", None),
        ("The answer has 42 in it", None),
        ("", None),
        ("   \n ", None),
        ("As an AI I do not choose between 2 candidates.", None),
    ],
)
def test_a_checklist_reply_is_read_only_if_it_names_one_candidate(reply, position):
    assert parse_best(reply, 4) == position


@pytest.mark.parametrize(
    ("reply", "position"),
    [
        ("Response 2", 1),
        ("Most responses say 42.\nResponse 3", 2),
        ("The most consistent response is Response 1, since 3 of 4 agree.", 0),
        ("Response 1 differs from the rest.\nResponse 4.", 3),
        ("**Response 2**", 1),
        ("response #3", 2),
        ("3", 2),
        ("Response 9, or rather response 2", 1),
        ("Response 7", None),
        ("none", None),
        ("", None),
        ("Response X", None),
    ],
)
def test_a_consistency_reply_is_read_by_its_response_number(reply, position):
    assert parse_response(reply, 4) == position


@pytest.mark.parametrize("text", ["checklist_one_pass", "universal_self_consistency", "generative_verification"])
def test_select_without_a_context_says_how_to_ask(text):
    with pytest.raises(CapabilityError, match=rf"{text} asks a model.*repeated_sampling\(n=8\) \| {text}.*choose"):
        ponder.selector(text).select(drawn())


@pytest.mark.parametrize(("text", "label"), [("checklist_one_pass", "Candidate"), ("usc", "Response")])
async def test_the_judges_number_is_mapped_back_from_the_shuffled_order(text, label):
    def reply(request):
        number = shown_number(request, TEXTS[3], label)
        return f"<best>{number}</best>" if label == "Candidate" else f"Response {number}"

    orders = set()
    for seed in range(6):
        judge = CannedJudge(reply)
        ctx = context_with(judge, seed)
        chosen = await ponder.selector(text).choose(ctx.problem, drawn(), ctx)
        assert chosen.answers == ["40"] and chosen.indices == [3] and chosen.fallback is None
        assert len(judge.asked) == 1 and ctx.ledger.total.requests == 1
        orders.add(judge.asked[0].prompt[0]["content"])
    assert len(orders) > 1


async def test_k_answers_are_asked_for_one_after_the_other():
    judge = CannedJudge("<best>1</best>")
    ctx = context_with(judge)
    chosen = await ponder.selector("checklist_one_pass").choose(ctx.problem, drawn(), ctx, k=3)
    assert sorted(chosen.answers) == ["40", "41", "42"] and len(set(chosen.indices)) == 3


async def test_an_unreadable_reply_gets_one_repair_then_the_typical_text_wins():
    judge = CannedJudge("I cannot say")
    ctx = context_with(judge)
    chosen = await ponder.selector("chops").choose(ctx.problem, drawn(), ctx)
    assert len(judge.asked) == 2 and len(judge.asked[1].prompt) == 3
    assert chosen.answers == ["42"] and chosen.fallback == "unreadable_reply: minimum_bayes_risk decides"
    first = await ponder.selector("chops(fallback=first)").choose(ctx.problem, drawn(), ctx)
    assert first.answers == ["41"] and first.fallback == "unreadable_reply: first decides"


async def test_a_repaired_reply_counts():
    judge = CannedJudge(
        lambda r: "hm" if len(r.prompt) == 1 else f"<best>{shown_number(r, TEXTS[0], 'Candidate')}</best>"
    )
    ctx = context_with(judge)
    chosen = await ponder.selector("chops").choose(ctx.problem, drawn(), ctx)
    assert chosen.answers == ["41"] and chosen.fallback is None


async def test_usc_asks_again_in_another_order_then_falls_back():
    judge = CannedJudge("no idea")
    ctx = context_with(judge)
    chosen = await ponder.selector("usc").choose(ctx.problem, drawn(), ctx)
    assert len(judge.asked) == 2 and chosen.answers == ["42"]
    assert chosen.fallback == "unreadable_reply: minimum_bayes_risk decides"


async def test_two_orders_that_disagree_are_settled_by_score_or_age():
    ctx = context_with(CannedJudge("<best>1</best>"))
    two = candidates(["1", "2"], scores=[0.1, 0.9])
    scored = await ponder.selector("chops(both_orders=true)").choose(ctx.problem, two, ctx)
    assert scored.answers == ["2"] and scored.fallback == "orders_disagree: the score decides"
    aged = await ponder.selector("chops(both_orders=true)").choose(ctx.problem, candidates(["1", "2"]), ctx)
    assert aged.answers == ["1"] and aged.fallback == "orders_disagree: the earlier draw wins"


async def test_one_or_identical_candidates_cost_no_call():
    judge = CannedJudge("x")
    ctx = context_with(judge)
    for text in ("chops", "usc", "generative_verification"):
        assert (await ponder.selector(text).choose(ctx.problem, drawn()[:1], ctx)).answers == ["41"]
    assert (await ponder.selector("chops").choose(ctx.problem, drawn([TEXTS[0]] * 3), ctx)).answers == ["41"]
    assert (await ponder.selector("usc").choose(ctx.problem, drawn()[:2], ctx)).answers == ["41"]
    assert not judge.asked


async def test_candidates_longer_than_the_context_are_cut_in_the_middle_or_refused():
    texts = [f"start{i} " + "x" * 2000 + f" the answer is {i}" for i in range(4)]
    judge = CannedJudge("<best>1</best>", context=3000)
    ctx = context_with(judge)
    await ponder.selector("chops(max_new_tokens=100)").choose(ctx.problem, drawn(texts), ctx)
    prompt = judge.asked[0].prompt
    assert judge.count_tokens(prompt) + 100 <= 3000 and prompt[0]["content"].count(" […] ") == 4
    assert all(f"start{i}" in prompt[0]["content"] and f"answer is {i}" in prompt[0]["content"] for i in range(4))
    with pytest.raises(ContextLengthError, match="strict=true"):
        await ponder.selector("chops(strict=true)").choose(ctx.problem, drawn(texts), ctx)
    with pytest.raises(ContextLengthError, match="do not fit the judge's context of 300 tokens even when cut"):
        await ponder.selector("chops").choose(ctx.problem, drawn(texts), context_with(CannedJudge(context=300)))


async def test_usc_holds_a_tournament_when_all_do_not_fit():
    texts = [f"number {i} " + "y" * 200 for i in range(12)]
    judge = CannedJudge(
        lambda r: f"Response {shown_number(r, max(t for t in texts if t in r.prompt[0]['content']), 'Response')}",
        context=2200,
    )
    ctx = context_with(judge)
    pool = [Candidate(t, t, index=i) for i, t in enumerate(texts)]
    chosen = await ponder.selector("usc(max_new_tokens=50)").choose(ctx.problem, pool, ctx)
    assert chosen.status == "ok" and len(judge.asked) == 3
    assert all(judge.count_tokens(r.prompt) + 50 <= 2200 for r in judge.asked)


async def test_a_judge_that_the_budget_does_not_allow_falls_back():
    judge = CannedJudge("<best>1</best>")
    ctx = context_with(judge)
    ctx.meter = type(ctx.meter)(Budget(tokens=3), None)
    chosen = await ponder.selector("chops").choose(ctx.problem, drawn(), ctx)
    assert not judge.asked and chosen.status == "ok" and "the budget did not allow" in chosen.fallback


def verdicts(request):
    return "Verdict: Yes" if "42" in request.prompt[0]["content"].split("Proposed solution:")[1] else "Verdict: No"


async def test_generative_verification_takes_the_solution_with_the_best_verdicts():
    judge = CannedJudge(verdicts)
    ctx = context_with(judge)
    pool = candidates(["41", "41", "42", None])
    chosen = await ponder.selector("generative_verification(verdicts=3)").choose(ctx.problem, pool, ctx)
    assert chosen.answers == ["42"] and len(judge.asked) == 9 and ctx.ledger.total.verifier_calls == 3
    weighted = await ponder.selector("genrm(rule=weighted)").choose(ctx.problem, pool, ctx)
    assert weighted.answers == ["42"] and weighted.confidence == 1.0


async def test_a_verifier_that_says_yes_to_everything_leaves_it_to_the_majority():
    for reply in ("Verdict: Yes", "who knows"):
        ctx = context_with(CannedJudge(reply))
        chosen = await ponder.selector("genrm").choose(ctx.problem, candidates(["41", "42", "42"]), ctx)
        assert chosen.answers == ["42"] and chosen.fallback == "verdicts_all_equal: majority decides"


def test_stored_verdicts_are_selected_again_without_a_model():
    pool = [
        Candidate("a", "1", scores={"generative_verification": 0.25}),
        Candidate("b", "2", scores={"generative_verification": 0.5}),
    ]
    assert ponder.selector("genrm").select(pool).answers == ["2"]


@pytest.mark.parametrize("text", ["chops", "usc", "generative_verification(verdicts=2)", "mbr(utility=judge)"])
def test_judges_run_inside_a_strategy_on_the_simulated_model(text):
    result = ponder.solve("What is 17+25?", model="sim:strong", strategy=f"repeated_sampling(n=5) | {text}")
    assert result.status == "ok"
