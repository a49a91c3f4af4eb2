"""Sequential revisions, self-refine, reflexion and iterative agent decoding: limits, reference values, bad input."""

import asyncio
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Capabilities
from ponder.core.problem import Problem
from ponder.core.refine import Attempt
from ponder.core.registry import PROCESSES
from ponder.core.verifier import Verifier
from ponder.errors import CapabilityError, ContextLengthError, ParameterError
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_revisions import Feedback, Shown, TextRevisions, shortened, with_feedback
from ponder.processes.text_steps import TextSteps
from ponder.strategies.iterative_agent_decoding import IterativeAgentDecoding, Standing
from ponder.strategies.sequential_revisions import nearest_length
from ponder.testing import Sums

EDITS = "sim_edits(count=5000)"


def run(text, problem=0, world=EDITS, **options):
    task = ponder.task(world)
    wanted = task.problems(problem + 1)[problem]
    ctx = Context(wanted, PROCESSES.build(world.partition("(")[0]), task=task, **options)
    strategy = ponder.parse(text) if isinstance(text, str) else text
    return asyncio.run(strategy.run(wanted, ctx))


def mean_grade(text, problems, world=EDITS):
    task, process, method = ponder.task(world), PROCESSES.build(world.partition("(")[0]), ponder.parse(text)

    async def go():
        return [
            task.grade(p, (await method.run(p, Context(p, process, task=task))).output).score
            for p in task.problems(problems)
        ]

    return float(np.mean(asyncio.run(go())))


def on_text(strategy, model=None, budget=None, problem=1, **options):
    task = Sums()
    asked = task.problems(problem + 1)[problem]
    process = TextSteps(model or Simulated(profile="strong"))
    sampling = replace(ponder.Sampling(temperature=0.8, logprobs=0), **options)
    ctx = Context(asked, process, task=task, sampling=sampling, budget=budget, seed=7)
    return asyncio.run((ponder.parse(strategy) if isinstance(strategy, str) else strategy).run(asked, ctx))


def essence(result):
    return [
        (c.index, c.output, c.answer, c.logprob, c.n_tokens, dict(c.scores)) for c in result.candidates
    ], result.chosen


# ---------------------------------------------------------------------------- limits


@pytest.mark.parametrize("verifier", ["log_probability", "imperfect_oracle(false_positive=0.4)", "llm_judge"])
@pytest.mark.parametrize("text", ["sequential_revisions(n=9, length=1, {})",
                                  "iterative_agent_decoding(n=9, feedback=none, {})"])  # fmt: skip
def test_chains_of_one_and_rounds_without_feedback_are_best_of_n_draw_by_draw(text, verifier):
    plain = on_text(f"best_of_n(n=9, verifier={verifier})")
    assert essence(on_text(text.format(f"verifier={verifier}"))) == essence(plain)


def test_the_same_holds_for_simulated_editing():
    plain = run("best_of_n(n=10, verifier=noisy_grade)")
    for text in ("sequential_revisions(n=10, length=1, verifier=noisy_grade)",
                 "iterative_agent_decoding(n=10, feedback=none, verifier=noisy_grade)"):  # fmt: skip
        result = run(text)
        assert [c.output for c in result.candidates] == [c.output for c in plain.candidates]
        assert result.chosen == plain.chosen


def test_the_ratio_of_length_to_width_goes_from_parallel_to_sequential():
    assert [nearest_length(64, 2.0**k) for k in (-6, -4, -2, 0, 2, 4, 6)] == [1, 2, 4, 8, 16, 32, 64]
    assert nearest_length(7, 1) == 1 and nearest_length(7, 2) == 7 and nearest_length(1, 5) == 1
    for n in (1, 6, 7, 16):
        result = run(f"sequential_revisions(n={n}, ratio=1, verifier=exact)")
        assert len(result.candidates) == n == result.total.function_evaluations


def test_a_length_that_does_not_divide_leaves_the_last_chain_short():
    result = run("sequential_revisions(n=10, length=4, verifier=exact)")
    assert result.details["chains"] == 3 and result.details["rounds"] == 4 and len(result.candidates) == 10
    depths = [c.state.depth for c in result.candidates]
    assert [depths.count(d) for d in (1, 3, 5, 7)] == [3, 3, 2, 2]


def test_hierarchical_and_joint_choice_agree_on_the_highest_score_and_differ_in_a_vote():
    highest = run("sequential_revisions(n=12, length=4, verifier=exact)")
    for how in ("hierarchical", "all"):
        voted = run(f"sequential_revisions(n=12, length=4, verifier=exact, choose=best_score, how={how})")
        assert voted.answer == highest.answer
    chosen = [run(f"sequential_revisions(n=12, length=4, verifier=exact, choose=majority, how={how})", problem).chosen
              for problem in range(6) for how in ("hierarchical", "all")]  # fmt: skip
    assert chosen[::2] != chosen[1::2] and all(len(c) == 1 for c in chosen)


def test_the_result_is_the_best_attempt_and_not_the_last():
    for problem in range(10):
        result = run("sequential_revisions(n=8, length=8, verifier=exact)", problem, "sim_edits(away=[0.6])")
        scores = [c.scores["exact"] for c in result.candidates]
        assert result.chosen == (int(np.argmax(scores)),)


# ---------------------------------------------------------------------------- iterative agent decoding


@pytest.mark.slow
def test_reference_scores_of_simulated_editing():
    gaps = []
    for noise, iad, shuffled, bon in ((0, 0.952, 0.574, 0.754), (0.1, 0.806, 0.601, 0.698), (0.3, 0.666, 0.583, 0.602)):
        v = f"verifier=noisy_grade(noise={noise})"
        refined, best = (mean_grade(t, 500) for t in (f"iad(n=32, patience=0, {v})", f"best_of_n(n=32, {v})"))
        assert refined == pytest.approx(iad, abs=0.025) and best == pytest.approx(bon, abs=0.025)
        assert mean_grade(f"iad(n=32, patience=0, control=shuffled, {v})", 500) == pytest.approx(shuffled, abs=0.03)
        gaps.append(refined - best)
    assert gaps[0] > gaps[1] > gaps[2] > 0


def test_feedback_beats_best_of_n_at_every_noise_most_without_any_and_shuffled_scores_fall_below():
    gaps = []
    for noise in (0, 0.1, 0.3):
        v = f"verifier=noisy_grade(noise={noise})"
        iad, bon, shuffled = (mean_grade(text, 100) for text in (
            f"iterative_agent_decoding(n=32, {v})", f"best_of_n(n=32, {v})",
            f"iterative_agent_decoding(n=32, control=shuffled, {v})"))  # fmt: skip
        assert shuffled < bon + 0.01 < iad
        gaps.append(iad - bon)
    assert gaps[0] > max(gaps[1:])


@pytest.mark.parametrize("feedback", ["best_worst", "scalar"])
def test_the_best_score_never_falls_from_round_to_round(feedback):
    for problem in range(10):
        result = run(f"iterative_agent_decoding(n=30, verifier=exact, feedback={feedback})", problem)
        best = result.details["best_by_round"]
        assert list(best) == sorted(best) and len(best) == 8
        assert best[-1] == max(c.scores["exact"] for c in result.candidates) == result.best.scores["exact"]


def attempt(score, index=0):
    return Attempt(Candidate("x", index=index), score)


def test_best_gives_way_only_to_a_better_one_worst_to_a_lower_one_and_patience_brings_an_escape():
    standing = Standing(patience=2)
    first = attempt(0.5)
    standing.take_up([first])
    assert standing.best is first and standing.worst is first and not standing.escape()
    standing.take_up([attempt(0.5, 1)])
    assert standing.best is first and standing.worst is first and not standing.escape()
    standing.take_up([attempt(0.2, 2), attempt(0.4, 3)])
    assert standing.worst.score == 0.2 and standing.escape() and not standing.escape()
    standing.take_up([attempt(-math.inf, 4)])
    assert standing.worst.score == -math.inf and standing.best is first


def test_a_good_enough_score_ends_it_and_the_last_round_takes_what_is_left():
    result = run("iterative_agent_decoding(n=400, threshold=0.8, verifier=exact)")
    assert result.details["stopped"] == "threshold" and result.best.scores["exact"] >= 0.8
    assert len(result.candidates) < 400
    assert len(run("iterative_agent_decoding(n=6, per_round=4, verifier=exact)").candidates) == 6


@dataclass(frozen=True)
class Picky(Verifier):
    """Raises on the outputs of odd index; the others score their index."""

    name = "picky"

    async def score(self, problem, items, ctx):
        if any(item.index % 2 for item in items):
            raise ValueError("no such column: prize")
        return [float(item.index) for item in items]


def prompts_of(strategy, problem=1):
    """The result, and what the model was asked: answers and critiques alike."""
    model = Recording()
    return on_text(strategy, model, problem=problem), model.prompts


class Recording(Simulated):
    """Keeps the text of each prompt."""

    @cached_property
    def prompts(self):
        return []

    async def sample(self, request):
        self.prompts.append(request.prompt[-1]["content"])
        async for item in super().sample(request):
            yield item


def test_a_verifier_that_raises_scores_minus_infinity_and_its_error_is_the_feedback():
    result, prompts = prompts_of(IterativeAgentDecoding(n=6, per_round=2, verifier=Picky()))
    assert [c.scores.get("picky") for c in result.candidates] == [0.0, None, 2.0, None, 4.0, None]
    assert result.chosen == (4,) and sum(f.kind == "ValueError" for f in result.failures) == 3
    assert "no such column: prize" in prompts[1] and "(score 0)" in prompts[1]


def test_while_all_scores_are_equal_only_the_latest_attempt_is_shown():
    _, prompts = prompts_of("iterative_agent_decoding(n=4, per_round=2, verifier=banned_words(words=[zebra]))")
    assert prompts[1].count("Attempt") == 1 and "(score 1)" in prompts[1]


def test_the_feedback_modes_show_what_they_say():
    v = "n=4, per_round=2, verifier=random_score"
    shown = {mode: prompts_of(f"iterative_agent_decoding(feedback={mode}, {v})")[1]
             for mode in ("best_worst", "scalar", "critique", "both", "none")}  # fmt: skip
    counts = {
        mode: (p[-1].count("Attempt "), p[-1].count("(score"), p[-1].count("Comment on it"))
        for mode, p in shown.items()
    }
    assert counts == {"best_worst": (2, 2, 0), "scalar": (1, 1, 0), "critique": (1, 0, 1), "both": (2, 2, 1),
                      "none": (0, 0, 0)}  # fmt: skip
    constant = prompts_of(f"iterative_agent_decoding(control=constant, {v})")[1][-1]
    assert constant.count("Attempt ") == 1 and "score" not in constant


def test_a_judges_reply_is_the_critique_where_the_verifier_is_a_judge():
    result, prompts = prompts_of(
        "iterative_agent_decoding(n=24, per_round=2, feedback=critique, verifier=llm_judge)", 0
    )
    assert "critique" not in result.spend and result.total.verifier_calls == 24
    assert any("Comment on it: Score: " in p for p in prompts)


# ---------------------------------------------------------------------------- self-refine and reflexion


def test_self_refine_stops_when_the_critic_accepts_and_gives_that_answer():
    eager = on_text("self_refine(n=6)", Simulated(profile="strong", judge_true_positive=1.0, judge_false_positive=1.0))
    assert len(eager.candidates) == 1 and eager.details["stopped"] == "accepted" and eager.chosen == (0,)
    never = on_text("self_refine(n=5)", Simulated(profile="strong", judge_true_positive=0.0, judge_false_positive=0.0))
    assert len(never.candidates) == 5 and never.chosen == (4,)
    assert never.spend["critique"].model_calls == 4
    right = [on_text("self_refine(n=12)", Simulated(alpha=1, beta=2, judge_true_positive=1.0, judge_false_positive=0.0),
                     problem=p) for p in range(8)]  # fmt: skip
    assert all(r.answer == r.problem.reference for r in right if r.details["stopped"] == "accepted")


def test_self_refine_with_a_verifier_gives_the_best_scored_answer():
    result = on_text(
        "self_refine(n=6, verifier=random_score)", Simulated(judge_true_positive=0, judge_false_positive=0)
    )
    scores = [c.scores["random_score"] for c in result.candidates]
    assert len(scores) == 6 and result.chosen == (int(np.argmax(scores)),)


def test_reflexion_stops_at_the_threshold_and_remembers_only_so_much():
    result, prompts = prompts_of("reflexion(n=6, verifier=random_score, threshold=2, memory=2)")
    assert len(result.candidates) == 6 and len(result.details["reflections"]) == 5
    assert max(p.count("\n- ") for p in prompts) == 2
    solved = on_text("reflexion(n=40, verifier=exact)")
    assert solved.details["stopped"] == "threshold" and solved.answer == "10"
    assert [c.scores["exact"] for c in solved.candidates].count(1.0) == 1


# ---------------------------------------------------------------------------- budgets and bad input


@pytest.mark.parametrize("text", ["sequential_revisions(n=9, verifier=exact)", "ab_mcts(n=9, verifier=exact)",
                                  "iterative_agent_decoding(n=9, verifier=exact)"])  # fmt: skip
def test_a_budget_that_ends_it_in_the_middle_still_gives_the_best_so_far(text):
    for calls in range(1, 18):
        result = run(text, budget=Budget(calls=calls))
        assert result.total.calls <= calls
        scored = [c.scores["exact"] for c in result.candidates if c.scores]
        assert not scored or result.best.scores["exact"] == max(scored)
        assert len(result.candidates) >= min(1, calls // 2) and (calls < 2 or result.chosen)


def test_a_process_that_cannot_revise_and_values_that_make_no_sense_are_refused():
    with pytest.raises(CapabilityError, match="sim_tree cannot revise whole outputs"):
        run("iterative_agent_decoding(n=2, verifier=exact)", world="sim_tree")
    with pytest.raises(ParameterError, match="no language model to ask"):
        run("self_refine(n=2)")
    for text, message in [("sequential_revisions(length=0)", "integer ≥ 1"), ("sequential_revisions(ratio=0)", "> 0"),
                          ("iterative_agent_decoding(patience=-1)", "≥ 0"), ("self_refine(show=0)", "integer ≥ 1"),
                          ("reflexion(memory=0)", "integer ≥ 1"), ('self_refine(prompt="x")', "solution")]:  # fmt: skip
        with pytest.raises(ParameterError, match=message):
            ponder.parse(text)


def test_an_answer_counts_for_itself_and_not_for_those_it_was_made_from():
    result = on_text("sequential_revisions(n=4, length=4)")
    assert [c.n_tokens for c in result.candidates] == [c.state.n_tokens for c in result.candidates]
    assert sum(c.n_tokens for c in result.candidates) == result.total.generated_tokens
    assert all(c.scores["log_probability"] == pytest.approx(c.logprob / c.n_tokens) for c in result.candidates)


def test_at_most_four_earlier_attempts_are_shown():
    _, prompts = prompts_of("sequential_revisions(n=7, length=7)")
    assert [p.count("Attempt ") for p in prompts] == [0, 1, 2, 3, 4, 4, 4]


def test_what_does_not_fit_loses_the_worst_attempt_then_its_comments_and_then_says_so():
    worst, best = Shown("w" * 50, 0.1, "c" * 50), Shown("b" * 50, 0.9, "d" * 400)
    feedback = Feedback((worst, best), "n" * 100)

    def fitting(limit):
        return shortened(
            feedback, lambda f: len(f.note) + sum(len(s.output) + len(s.comment) for s in f.shown) <= limit
        )

    assert fitting(10_000) == feedback
    assert fitting(600).shown == (best,)
    cut = fitting(200)
    assert cut.shown[0].output == best.output and 0 < len(cut.shown[0].comment) <= 100
    assert fitting(50) == Feedback((replace(best, comment=""),))
    with pytest.raises(ContextLengthError, match="does not fit the model's context"):
        fitting(10)


def test_a_context_that_is_too_short_costs_the_sample_and_not_the_run():
    class Short(Simulated):
        capabilities = Capabilities(max_n=64, logprobs=True, context_tokens=30)

    result = on_text("sequential_revisions(n=3, length=3)", Short(profile="strong"), max_new_tokens=12)
    assert len(result.candidates) == 1 and result.chosen == (0,)
    assert any("ContextLengthError" in f.message for f in result.failures)


def test_a_plain_prompt_goes_on_with_the_answer_its_score_and_the_wish_for_a_better_one():
    shown = (Shown(" 4", 0.0, "Count\nagain. ✓"), Shown("5", 1.0))
    told = with_feedback("Q: 2+3?\nA:", Feedback(shown))
    assert told == "Q: 2+3?\nA: 4\nScore: 0\nComment: Count again. ✓\nA: 5\nScore: 1\nBetter answer:"
    assert with_feedback("Q: 2+3?\nA:", Feedback()) == "Q: 2+3?\nA:"
    assert with_feedback("A:", Feedback(note="Lessons")) == "Lessons\n\nA:"
    assert TextRevisions(Simulated()).output(Context(Problem("p", "x"), TextRevisions(Simulated())).root()) == ""
