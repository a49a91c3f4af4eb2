"""Tree of thoughts: its limits, its two searches, its two ways of generating, its model judges."""

import asyncio
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model
from ponder.core.registry import PROCESSES
from ponder.ledger.budget import Budget
from ponder.processes.text_steps import TextSteps
from ponder.testing import Sums

WORLD = "sim_tree(survival=[0.8], sharpness=[2], noise=[1], count=400)"
SCORE = "verifier=sim_tree_score"


def search(text, problem=0, world=WORLD, **options):
    task = ponder.task(world)
    wanted = task.problems(problem + 1)[problem]
    ctx = Context(wanted, PROCESSES.build("sim_tree"), task=task, **options)
    return asyncio.run(ponder.parse(text).run(wanted, ctx)), ctx


class Scripted(Model):
    """Answers by a function of the prompt's text, the prefix and the seed; remembers what it was asked."""

    name = "scripted"
    capabilities = Capabilities(prefix=True)

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def __str__(self):
        return "scripted"

    identity = "scripted"

    async def sample(self, request):
        text = str(request.prompt[-1]["content"])
        for position, seed in enumerate(request.seeds):
            self.asked.append(text)
            said = self.reply(text, request.prefix, seed)
            yield position, Completion(said, max(len(said.split()), 1), "stop", None, requests=1)


def on_text(text, reply, step="line", **options):
    model = Scripted(reply)
    problem = Sums().problems(3)[2]  # how much is 2 times ten?
    ctx = Context(problem, TextSteps(model, step=step, **options), task=Sums())
    return asyncio.run(ponder.parse(text).run(problem, ctx)), model


@pytest.mark.parametrize(("n", "branch"), [(25, 5), (8, 4), (6, 1), (1, 5)])
def test_greedy_breadth_first_with_a_verifier_is_a_beam(n, branch):
    tree, _ = search(f"tree_of_thoughts(n={n}, branch={branch}, {SCORE})")
    keep = max(1, n // branch)
    beam, _ = search(f"beam_search(n={n}, branch={branch}, keep={keep}, {SCORE}, finished=compete, choose=best_score)")
    assert [s.path for s in tree.tree.nodes] == [s.path for s in beam.tree.nodes]
    assert tree.best.state.path == beam.best.state.path
    best = sorted(beam.candidates, key=lambda c: -c.scores["sim_tree_score"])[:keep]
    assert {c.state.path for c in tree.candidates} == {c.state.path for c in best}


def test_a_sampled_level_follows_the_values(monkeypatch):
    method = ponder.parse(f"tot(n=8, branch=2, select=sample, {SCORE})")
    drawn = Counter()

    class Level:
        number, scores = 1, np.array([0.6, 0.0, 0.3, 0.1, np.nan])

    for seed in range(500):
        ctx = Context(ponder.task(WORLD).problems(1)[0], PROCESSES.build("sim_tree"), seed=seed)
        drawn.update(method._kept(Level, 4, ctx).tolist())
    shares = [drawn[i] / 2000 for i in range(5)]
    assert shares == pytest.approx([0.6, 0, 0.3, 0.1, 0], abs=4 * 0.011) and drawn[1] == drawn[4] == 0
    Level.scores = np.zeros(4)
    even = Counter()
    for seed in range(500):
        ctx = Context(ponder.task(WORLD).problems(1)[0], PROCESSES.build("sim_tree"), seed=seed)
        even.update(method._kept(Level, 4, ctx).tolist())
    assert [even[i] / 2000 for i in range(4)] == pytest.approx([0.25] * 4, abs=4 * 0.01)


def test_a_state_drawn_twice_gets_twice_the_thoughts_and_levels_stay_full():
    result, _ = search(f"tot(n=12, branch=3, select=sample, {SCORE})")
    assert [level["new"] for level in result.tree.levels] == [12] * 8
    children = Counter(s.parent for s in result.tree.nodes if s.depth > 1)
    assert all(count % 3 == 0 for count in children.values()) and max(children.values()) > 3
    assert len({c.state for c in result.candidates}) == len(result.candidates) <= 4


def test_depth_first_goes_down_the_best_child_and_turns_back_by_its_rules():
    result, _ = search(f"tot(n=16, branch=4, search=dfs, max_per_state=2, prune=none, {SCORE})")
    tree = result.tree
    groups = list(dict.fromkeys(s.parent for s in tree.nodes))
    assert len(groups) == 16 * 8 // 4
    for group, following in pairwise(groups[:8]):
        children = [s for s in tree.nodes if s.parent is group]
        assert following is max(children, key=tree.score)
    for group in groups:
        entered = [s for s in tree.nodes if s.parent is group and s in groups]
        ranked = sorted((s for s in tree.nodes if s.parent is group), key=tree.score, reverse=True)
        assert len(entered) <= 2 and set(entered) <= set(ranked[:2])
    assert result.details["backtracks"] > 0 and result.details["pruned"] == 0


def test_depth_first_enters_nothing_at_or_below_the_threshold_and_stops_at_an_accepted_output():
    pruned, _ = search(f"tot(n=16, branch=4, search=dfs, prune=0.5, {SCORE})")
    entered = {s.parent for s in pruned.tree.nodes if s.parent.parent is not None}
    assert all(pruned.tree.score(s) > 0.5 for s in entered) and pruned.details["pruned"] > 0
    short, ctx = search(f"tot(n=64, branch=4, search=dfs, accept=0.5, {SCORE})")
    assert short.best.scores["sim_tree_score"] >= 0.5
    assert ctx.ledger.total.function_evaluations < 64 * 8
    few, ctx = search(f"tot(n=64, branch=4, search=dfs, nodes=3, {SCORE})")
    assert few.details["expansions"] == 3


def test_first_is_the_first_output_that_depth_first_search_reached():
    result, _ = search(f"tot(n=16, branch=4, search=dfs, prune=none, choose=first, {SCORE})")
    assert result.chosen == (0,) and len(result.candidates) > 4


@pytest.mark.parametrize("kind", ["bfs", "dfs"])
@pytest.mark.parametrize("limit", [0, 5, 8, 21, 60])
def test_a_budget_is_kept_and_yields_the_best_so_far(kind, limit):
    result, ctx = search(f"tot(n=8, branch=4, search={kind}, {SCORE})", budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit
    assert (limit < 8) or result.candidates[0].finish == "stop"


def steps(text, prefix, seed):
    """A writer of two lines, and a judge that knows them: the first line says which answer comes."""
    if "Verdict: sure" in text:
        return "Verdict: impossible" if "bad" in text.split("so far:")[1] else "Verdict: sure"
    if "Vote: N" in text:
        parts = text.split("\nChoice ")[1:]
        return f"Vote: {next((i for i, part in enumerate(parts, 1) if 'good' in part), 1)}"
    if "different next steps" in text:
        return "1. good way\n2. bad way\n3. good way" if "(nothing yet)" in text else "- Answer: 20\n- Answer: 21"
    if prefix:
        return "The answer is 20." if "good" in prefix else "The answer is 99."
    return ("good way", "bad way")[seed % 2]


@pytest.mark.parametrize("judge", ["thought_value", "thought_vote", "thought_value(votes=1)"])
@pytest.mark.parametrize("kind", ["bfs", "dfs"])
def test_a_model_that_judges_leads_to_the_right_thought(judge, kind):
    result, _ = on_text(f"tot(n=6, branch=3, search={kind}, nodes=4, verifier={judge})", steps, max_steps=2)
    assert result.answer == "20" and result.status == "ok"


def test_a_copy_counts_nothing_is_not_asked_about_and_an_output_without_an_answer_neither():
    values = {}

    def reply(text, prefix, seed):
        return "Verdict: likely" if "Verdict: sure" in text else "no number here" if prefix else "same"

    result, model = on_text("tot(n=4, branch=2, verifier=thought_value(votes=2))", reply, max_steps=2)
    values = [result.tree.score(s) for s in result.tree.nodes]
    assert values[:4] == [0.05, 0, 0, 0] and values[4:] == [0.0] * 4
    assert sum("Verdict: sure" in text for text in model.asked) == 2


def test_votes_are_shares_of_the_ballots_and_unreadable_ones_are_told():
    result, _ = on_text("tot(n=2, branch=1, verifier=thought_vote)", steps, max_steps=2)
    assert sum(result.tree.score(s) for s in result.tree.nodes if s.depth == 1) == pytest.approx(1)

    def mute(text, prefix, seed):
        return "hm" if "Vote: N" in text else f"way {seed}"

    result, _ = on_text("tot(n=3, branch=1, verifier=thought_vote)", mute, max_steps=2)
    assert result.candidates and all(np.isnan(result.tree.score(s)) for s in result.tree.nodes if s.depth == 1)
    assert any("no vote in the judge's reply" in f.message for f in result.failures)


def test_proposed_thoughts_come_from_one_call_per_state():
    result, model = on_text("tot(n=3, branch=3, generate=propose)", steps)
    assert [str(s.step) for s in result.tree.nodes] == ["good way\n", "bad way\n", "Answer: 20\n", "Answer: 21\n"]
    assert sum("different next steps" in text for text in model.asked) == 2
    assert result.answer in ("20", "21") and all(c.finish == "stop" for c in result.candidates)


def test_the_last_step_is_written_not_proposed_and_an_empty_list_is_a_failure():
    result, _ = on_text("tot(n=3, branch=3, generate=propose)", steps, max_steps=2)
    assert result.answer == "20"
    silent, _ = on_text("tot(n=3, branch=3, generate=propose)", lambda *a: " ")
    assert silent.status == "failed" and "no step could be read" in silent.reason


def test_what_cannot_list_its_steps_is_told_so():
    with pytest.raises(ponder.errors.CapabilityError, match="use generate=sample"):
        search(f"tot(n=4, generate=propose, {SCORE})")
    with pytest.raises(ponder.errors.CapabilityError, match="lines or paragraphs"):
        on_text("tot(n=4, generate=propose)", steps, step="tokens")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("n=0", "n=0"), ("branch=0", "branch"), ("n=4, keep=5", "from 1 to n"), ("max_per_state=0", "max_per_state"),
        ("search=up", "bfs, dfs"), ("search=dfs, verifier=log_probability", "or none"),
        ("select=sample, verifier=log_probability", "greedy"), ("verifier=thought_value(votes=0)", "votes"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad, says):
    with pytest.raises(ponder.errors.ParameterError, match=says):
        ponder.parse(f"tot({bad})")
