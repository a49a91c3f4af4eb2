"""EvoSearch on exact Gaussian mixtures: schedule, mutation, inheritance of rewards; and search over paths."""

import numpy as np
import pytest

import ponder
from ponder.diffusion.gmm import INSTANCES
from ponder.errors import NotStochasticError, ParameterError
from ponder.strategies.evo_search import EvoSearch
from ponder.strategies.search_over_paths import SearchOverPaths


def solve(strategy, model="gmm:two_modes", process="denoising(steps=10)", **options):
    return ponder.solve("x", model=model, process=process, strategy=strategy, **options)


def cost(plan, steps):
    later = sum((k - plan.elites) * (steps - i) for k, i in zip(plan.population[1:], plan.schedule or (), strict=True))
    return plan.population[0] * steps + later


@pytest.mark.parametrize("n", [1, 3, 6, 8, 20, 57, 100])
def test_a_fitted_schedule_spends_what_it_is_given(n):
    plan = EvoSearch().fit_schedule(n * 20, 20)
    assert n * 20 - 20 < cost(plan, 20) <= n * 20
    if n >= 8:
        assert plan.schedule == (0, 8, 12, 16) and min(plan.population) > plan.elites
        result = solve(f"evo_search(n={n}, verifier=gmm_reward)", process="denoising(steps=20)")
        assert result.total.function_evaluations == result.total.transitions == cost(plan, 20)


def test_one_output_is_a_plain_draw():
    evolved, drawn = (solve(f"{s}(n=1, verifier=gmm_reward)") for s in ("evo_search", "best_of_n"))
    assert len(evolved.candidates) == len(drawn.candidates) == 1
    assert evolved.details["population"] == (1,)


def test_states_mutate_by_their_noise_level_and_keep_what_came_before():
    result = solve("evo_search(schedule=[0, 5], population=[6, 5, 5], elites=2, mutation=0.3, verifier=gmm_reward)")
    generation = result.tree.notes["generation"]
    first, second, third = ([c.state for c in result.candidates if generation[c.state] == g] for g in (1.0, 2.0, 3.0))
    assert (len(first), len(second), len(third)) == (6, 3, 3)

    def noise(leaf):
        return next(s.payload.noise for s in leaf.ancestry() if s.payload.index == 0)

    for leaf in second:  # a noise of the first generation, shrunk, with 0.3 of new noise
        rest = [(noise(leaf) - np.sqrt(1 - 0.09) * noise(parent)) / 0.3 for parent in first]
        assert min(np.linalg.norm(r) for r in rest) < np.sqrt(17) + 4
    placed = {
        next(s for s in leaf.ancestry() if s.payload.index == 5 and s.parent.payload.index == 5) for leaf in third
    }
    assert len(placed) == 3, "each is placed beside a state that was there"
    assert all(s.parent.depth and s.parent.payload.index == 5 for s in placed)


def test_everybody_whose_path_passed_may_be_a_parent_later():
    """With one elite of all and a whole-pool tournament the parent is the best state of both generations so far."""
    result = solve("evo_search(schedule=[0, 6], population=[8, 4, 3], elites=1, tournament=1.0, verifier=gmm_reward)")
    generation, score = result.tree.notes["generation"], result.tree.score
    before = [c.state for c in result.candidates if generation[c.state] < 3]
    best = max(before, key=score)
    for candidate in result.candidates:
        if generation[candidate.state] == 3:
            assert best in result.tree.nodes
            at_six = [s for s in candidate.state.ancestry() if s.payload and s.payload.index == 6]
            assert at_six[1] in list(best.ancestry())


def test_the_best_ever_seen_is_chosen():
    result = solve("evo_search(n=20, verifier=gmm_reward)")
    scores = [c.scores["gmm_reward"] for c in result.candidates]
    assert result.chosen == (int(np.argmax(scores)),) and result.details["diversity"] > 0


@pytest.mark.parametrize("limit", [9, 10, 45, 130])
def test_a_budget_in_the_middle_still_answers(limit):
    result = solve("evo_search(n=30, verifier=gmm_reward)", budget=f"function_evaluations={limit}")
    assert result.total.function_evaluations <= limit
    assert (result.best is not None and result.best.finish == "stop") == (limit >= 10) and result.reason
    assert len(result.candidates) >= limit // 10


def test_evolution_finds_better_samples_than_as_many_draws():
    """At four budgets, 8 runs each: nowhere worse by more than two standard errors, and better on the whole."""
    gains = []
    for n in (10, 20, 40, 80):
        found: dict = {}
        for name in ("evo_search", "best_of_n"):
            runs = [solve(f"{name}(n={n}, verifier=gmm_reward)", seed=seed) for seed in range(8)]
            assert all(r.total.function_evaluations <= n * 10 for r in runs)
            found[name] = np.asarray([max(c.scores["gmm_reward"] for c in r.candidates) for r in runs])
        gain = found["evo_search"] - found["best_of_n"]
        assert gain.mean() > -2 * gain.std(ddof=1) / np.sqrt(8)
        gains.append(gain)
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / np.sqrt(np.size(gains))


def test_small_tournaments_keep_several_modes_alive():
    mixture, reward = INSTANCES["ring"]
    result = solve("evo_search(n=60, tournament=0.2, elites=3, verifier=gmm_reward)", model="gmm:ring")
    last = result.tree.notes["generation"]
    outputs = np.asarray([c.output for c in result.candidates if last[c.state] == max(last.values())])
    assert (mixture.masses(outputs) > 0).sum() >= 2
    assert reward(result.output) >= max(reward(outputs))


def test_settings_that_make_no_sense_are_refused():
    for settings, told in (
        ("schedule=[5, 5]", "rising"),
        ("schedule=[0, 5], population=[4, 4]", "3 numbers"),
        ("schedule=[0], population=[4, 3], elites=3", "> elites=3"),
        ("mutation=0.0", r"in \(0, 1\]"),
        ("tournament=1.5", r"in \(0, 1\]"),
        ("n=0", "≥ 1"),
    ):
        with pytest.raises(ParameterError, match=told):
            ponder.parse(f"evo_search({settings})")
    with pytest.raises(ParameterError, match="below the 10 timesteps"):
        solve("evo_search(schedule=[0, 10], verifier=gmm_reward)")
    with pytest.raises(ParameterError, match="multiples of macro=2"):
        solve("evo_search(schedule=[3], verifier=gmm_reward)", process="denoising(steps=10, macro=2)")
    with pytest.raises(NotStochasticError, match="deterministic"):
        solve("evo_search(verifier=gmm_reward)", process="denoising(steps=10, solver=euler)")


def test_paths_search_keeps_to_its_cost_and_returns_finished_outputs():
    for n in (8, 20):
        result = solve(f"search_over_paths(n={n}, verifier=gmm_reward)", process="denoising(steps=20, solver=euler)")
        assert result.total.function_evaluations <= max(n, 9) * 20
        assert all(c.finish == "stop" for c in result.candidates)
        assert result.details["rounds"] == len(SearchOverPaths().plan(20, 1)[0])


def test_paths_search_improves_on_its_first_paths_and_ends_within_a_budget():
    plain = solve("best_of_n(n=2, verifier=gmm_reward)")
    found = solve("search_over_paths(n=20, noises=8, verifier=gmm_reward)")
    assert found.best.scores["gmm_reward"] > max(c.scores["gmm_reward"] for c in plain.candidates)
    cut = solve("search_over_paths(n=40, verifier=gmm_reward)", budget="function_evaluations=60")
    assert cut.status == "ok" and cut.total.function_evaluations <= 60 and "rounds" in cut.reason
    with pytest.raises(ParameterError, match="does not advance"):
        ponder.parse("search_over_paths(forward=0.3, back=0.2)")
