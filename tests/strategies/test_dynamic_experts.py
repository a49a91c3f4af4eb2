"""Dynamic experts search: inheritance, the first level, the simulated world of variants, what is refused."""

import asyncio
from dataclasses import dataclass, replace

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.model import Capabilities
from ponder.core.registry import PROCESSES
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.testing import Sums

NAMES = "[a, b, c, d, e, f, g, h]"
WORLD = f"sim_tree(survival=[0.9], sharpness=[0.5], noise=[1.5], variants={NAMES}, count=2000)"
SCORE = "verifier=sim_tree_score"


def search(text, problem=0, world=WORLD, **options):
    task = ponder.task(world)
    wanted = task.problems(problem + 1)[problem]
    ctx = Context(wanted, PROCESSES.build("sim_tree"), task=task, **options)
    return asyncio.run(ponder.parse(text).run(wanted, ctx)), ctx


def variant(state):
    return state.parent.meta["variant"]


def test_one_variant_is_a_beam_whose_finished_outputs_compete():
    one, _ = search(f"des(n=12, variants=[plain], {SCORE})")
    beam, _ = search(f"beam_search(n=12, finished=compete, {SCORE})")
    assert [s.path for s in one.tree.nodes] == [s.path for s in beam.tree.nodes]
    assert [c.output for c in one.candidates] == [c.output for c in beam.candidates] and one.chosen == beam.chosen


def test_the_first_level_is_shared_out_and_every_prefix_keeps_its_setting():
    result, _ = search(f"des(n=11, variants={NAMES}, {SCORE})")
    first = [variant(s) for s in result.tree.nodes if s.depth == 1]
    assert first == list("aabbccdefgh")
    assert all(variant(s) == variant(s.parent) for s in result.tree.nodes if s.depth > 1)
    assert result.details["variants_by_level"][0] == 8
    assert sum(result.details["tokens_by_variant"].values()) == len(result.tree.nodes) == 88


def test_without_inheritance_settings_are_drawn_anew_and_the_tree_stays_whole():
    result, _ = search(f"des(n=16, variants={NAMES}, inherit=false, {SCORE})")
    nodes = set(result.tree.nodes)
    assert all(s.parent in nodes or s.parent.parent is None for s in nodes) and len(nodes) == 16 * 8
    assert any(variant(s) != variant(s.parent) for s in nodes if s.depth > 1)
    assert len({s.path for s in nodes}) == len(nodes)
    assert not any(np.isnan(result.tree.score(s)) for s in nodes)
    rows = result.tree.as_dict([c.state for c in result.candidates])["nodes"]
    assert len(rows) == 16 * 8 + 8  # and the roots


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"des(n=8, variants={NAMES}", 0.559), ("beam_search(n=8, finished=compete", 0.349),
        (f"des(n=8, inherit=false, variants={NAMES}", 0.324), (f"des(n=32, variants={NAMES}", 0.947),
    ],
)  # fmt: skip
def test_the_reference_accuracies_of_the_world_of_eight_variants(text, expected):
    problems = 80
    found = np.mean([search(f"{text}, {SCORE})", i)[0].output == "right" for i in range(problems)])
    assert found == pytest.approx(expected, abs=0.016 * 2 + 3 * np.sqrt(expected * (1 - expected) / problems))


def test_the_verifier_leaves_few_variants_alive():
    last = [search(f"des(n=8, variants={NAMES}, {SCORE})", i)[0].details["variants_by_level"][-1] for i in range(40)]
    assert 1.0 <= np.mean(last) < 1.2


def test_a_world_of_variants_suits_as_many_as_it_says_and_names_what_it_knows():
    worlds = [p.metadata["survival_of"] for p in ponder.task(WORLD).problems(400)]
    assert all(sorted(w.values()) == [0.5] * 5 + [0.9] * 3 for w in worlds)
    share = np.mean([w["c"] == 0.9 for w in worlds])
    assert share == pytest.approx(3 / 8, abs=4 * np.sqrt(3 / 8 * 5 / 8 / 400))
    with pytest.raises(ponder.errors.TaskError, match="knows no variant 'plain', only a, b"):
        search(f"des(n=8, variants=[a, plain], {SCORE})")
    with pytest.raises(ponder.errors.ParameterError, match="from 1 to 2"):
        ponder.task("sim_tree(variants=[a, b], suited=3)")


def test_fewer_prefixes_than_variants_reach_only_some_and_say_so():
    result, _ = search(f"des(n=3, variants={NAMES}, {SCORE})")
    assert {variant(s) for s in result.tree.nodes} <= set("abc") and "3 of 8 settings" in result.reason


@pytest.mark.parametrize("options", ["", ", inherit=false"])
@pytest.mark.parametrize("limit", [0, 5, 8, 21, 60])
def test_a_budget_is_kept_and_yields_the_best_so_far(options, limit):
    budget = Budget(function_evaluations=limit)
    result, ctx = search(f"des(n=8, variants={NAMES}{options}, {SCORE})", budget=budget)
    assert ctx.ledger.total.function_evaluations <= limit
    assert (limit < 8) or result.candidates[0].finish == "stop"


def test_variants_of_a_text_model_set_its_temperature_and_its_instruction():
    text = 'des(n=4, variants=[hot(temperature=1.5), careful(instruction="Check it.")])'
    assert str(ponder.parse(str(ponder.parse(text)))) == str(ponder.parse(text))
    result = ponder.solve("What is 17+25?", model="sim:strong", strategy=text)
    settings = {tuple(sorted(c.meta.items())) for c in result.candidates}
    assert settings <= {
        (("temperature", 1.5), ("variant", "hot")), (("instruction", "Check it."), ("variant", "careful")),
    }  # fmt: skip


@dataclass(frozen=True)
class Routed(Capabilities):
    """What a mixture-of-experts backend offers."""

    experts: int = 16


def on_experts(text, capabilities):
    model = Simulated(profile="strong")
    object.__setattr__(model, "capabilities", capabilities)
    problem = Sums().problems(1)[0]
    ctx = Context(problem, TextSteps(model, step="paragraph"), task=Sums())
    ctx.sampling = replace(ctx.sampling, logprobs=0)
    return asyncio.run(ponder.parse(text).run(problem, ctx))


def routed():
    plain = Simulated.capabilities
    return Routed(**{name: getattr(plain, name) for name in Capabilities.__slots__ if name != "experts"})


def test_a_model_with_a_router_is_given_the_numbers_of_experts_and_the_mean_is_told():
    result = on_experts("des(n=8, experts=[4, 8])", routed())
    assert {c.meta["experts"] for c in result.candidates} <= {4, 8}
    tokens = result.details["tokens_by_variant"]
    expected = (4 * tokens.get(4, 0) + 8 * tokens.get(8, 0)) / sum(tokens.values())
    assert result.details["mean_experts"] == pytest.approx(expected) and 4 <= expected <= 8


def test_with_few_prefixes_the_numbers_nearest_the_middle_are_used():
    result = on_experts("des(n=2, experts=[4, 7, 8, 15])", routed())
    assert set(result.details["tokens_by_variant"]) <= {7, 8} and "2 of 4 settings" in result.reason


def test_a_model_without_a_router_and_a_number_out_of_range_are_refused():
    with pytest.raises(ponder.errors.CapabilityError, match=r"no router .* use variants= instead"):
        on_experts("des(n=8, experts=[4, 8])", Simulated.capabilities)
    with pytest.raises(ponder.errors.CapabilityError, match="use variants="):
        search(f"des(n=8, experts=[4, 8], {SCORE})")
    with pytest.raises(ponder.errors.ParameterError, match="from 1 to 16"):
        on_experts("des(n=8, experts=[4, 17])", routed())


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("experts=[0, 4]", "distinct integers ≥ 1"), ("experts=[4, 4]", "distinct"),
        ("variants=[a, a]", "distinct names"), ("variants=[]", "distinct names"),
        ("experts=[4], variants=[a]", "left out if experts"), ("n=0", "n=0"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad, says):
    with pytest.raises(ponder.errors.ParameterError, match=says):
        ponder.parse(f"dynamic_experts({bad})")
