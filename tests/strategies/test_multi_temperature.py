import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from ponder import parse
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS
from ponder.core.runtime import Runtime
from ponder.core.two_stage import two_stage_vote
from ponder.errors import BudgetError, ParameterError
from ponder.laws.multi_temperature import expected_coverage
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.strategies.multi_temperature import GRID, split_evenly, thinned
from ponder.testing import Sums


@dataclass(frozen=True)
class Solver(Simulated):
    """Right with a chance that depends on problem and temperature; wrong answers are all different."""

    def _text(self, request, rng):
        rates = dict(request.problem.metadata["rates"])
        right = bool(rng.random() < rates.get(request.sampling.temperature, 0.0))
        return f"It is {request.problem.reference if right else -int(rng.integers(1, 10**6))}", right


def rate(preferred, temperature):
    gap = abs(temperature - preferred) / 0.15
    return 0.3 * float(np.exp(-(gap**2))) if gap <= 3 else 0.0


def problems(count, depends=True):
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        preferred, hopeless = rng.choice(GRID), rng.random() < 0.2
        rates = [(t, 0.0 if hopeless else rate(preferred, t) if depends else 0.02) for t in GRID]
        out.append(Problem(f"p{i}", "x", "7", {"rates": rates}))
    return out


def run(text, problem, model=None, **options):
    ctx = Context(problem, TextSteps(model or Solver()), task=Sums(), runtime=Runtime(), **options)
    return asyncio.run(parse(text).run(problem, ctx))


@pytest.mark.parametrize("depends", [True, False])
def test_the_unions_coverage_is_the_closed_form(depends):
    chosen = problems(70, depends)
    n, split = 130, split_evenly(130, GRID)
    rates = np.array([[r for _, r in p.metadata["rates"]] for p in chosen])
    solved = []
    for p in chosen:
        result = run(f"multi_temperature(n={n}, verifier=exact, early_exit=false)", p)
        assert len(result.candidates) == n
        solved.append(result.answer == "7")
    theory = expected_coverage(rates, [split[t] for t in GRID])
    per_problem = 1 - np.prod((1 - rates) ** np.array([split[t] for t in GRID]), axis=1)
    error = np.sqrt((per_problem * (1 - per_problem)).sum()) / len(chosen)
    assert abs(np.mean(solved) - theory) < 3 * error + 1e-9
    single = [expected_coverage(rates[:, [i]], [n]) for i in range(len(GRID))]
    four_times = [expected_coverage(rates[:, [i]], [4 * n]) for i in range(len(GRID))]
    if depends:
        assert theory > max(four_times) > max(single)
    else:
        # All temperatures alike: a grid neither helps nor harms.
        assert theory == pytest.approx(max(single), abs=1e-12)


def test_the_spec_problem_set_has_the_published_coverage():
    rng = np.random.default_rng(3)
    preferred, hopeless = rng.choice(GRID, 4000), rng.random(4000) < 0.2
    rates = np.array([[0 if h else rate(p, t) for t in GRID] for p, h in zip(preferred, hopeless, strict=True)])
    union = expected_coverage(rates, [10] * 13)
    best = max(expected_coverage(rates[:, [i]], [130]) for i in range(13))
    best_of_four_times = max(expected_coverage(rates[:, [i]], [520]) for i in range(13))
    assert union > 0.75 and 0.3 < best < 0.5 and best < best_of_four_times < union


def test_agreeing_temperatures_leave_early():
    easy = Problem("easy", "x", "7", {"rates": [(t, 1.0) for t in GRID]})
    result = run("multi_temperature(n=130)", easy)
    assert result.answer == "7" and result.details["difficulty"] == "easy"
    assert result.details["rounds"] == 2 and len(result.candidates) == 1 + 12 * 8
    patient = run("multi_temperature(n=130, early_exit=false)", easy)
    assert len(patient.candidates) == 130 and patient.answer == "7"


def test_early_exit_saves_what_a_replay_of_all_samples_says():
    chosen = [Problem(f"q{i}", "x", "7", {"rates": [(t, 0.97) for t in (0.2, 0.6, 1.0)]}) for i in range(30)]
    text = "multi_temperature(n=36, temperatures=[0.2, 0.6, 1.0], early_exit={})"
    for p in chosen:
        early, full = run(text.format("true"), p), run(text.format("false"), p)
        rounds = 3
        for r in (2, 3):
            seen = [c for c in full.candidates if c.state.slot < 4 * r]
            vote = two_stage_vote(
                [0 if c.answer == "7" else 1 + i for i, c in enumerate(seen)], [c.meta["temperature"] for c in seen]
            )
            if parse(text.format("true")).agreed(vote):
                rounds = r
                break
        assert len(early.candidates) == 12 * rounds
        assert early.answer == full.answer == "7"


def test_a_temperature_without_any_answer_is_not_confident():
    @dataclass(frozen=True)
    class Mute(Simulated):
        def _text(self, request, rng):
            return ("It is 7" if request.sampling.temperature < 1 else "no idea"), True

    result = run("multi_temperature(n=24, temperatures=[0.5, 1.0])", Problem("m", "x", "7"), Mute())
    assert len(result.candidates) == 24 and result.details["stopped"] is None and result.answer == "7"
    assert result.details["temperatures"][1.0]["valid"] == 0


def test_difficulty_is_told_by_the_temperatures_that_solve_it():
    grid = "temperatures=[0.2, 0.6], early_exit=false, verifier=exact"

    def label(rates):
        return run(f"multi_temperature(n=40, {grid})", Problem("d", "x", "7", {"rates": rates})).details["difficulty"]

    assert label([(0.2, 0.5), (0.6, 0.5)]) == "medium"
    assert label([(0.2, 0.5)]) == "hard"
    assert label([]) == "unsolved"
    assert run("multi_temperature(n=13)", problems(1)[0]).details["difficulty"] is None


def test_draws_know_their_temperature_and_keep_their_order():
    result = run("multi_temperature(n=20, temperatures=[0.0, 0.6, 1.0])", problems(1)[0])
    heat = [c.meta["temperature"] for c in result.candidates]
    assert heat.count(0.0) == 1 and heat.count(0.6) + heat.count(1.0) == 19
    assert [c.index for c in result.candidates] == list(range(20))
    assert len({c.output for c in result.candidates}) > 10


def test_the_greedy_temperature_is_drawn_once_and_the_middle_gets_the_rest():
    assert split_evenly(20, (0.0, 0.6, 1.0)) == {0.0: 1, 0.6: 10, 1.0: 9}
    assert sum(split_evenly(130, GRID).values()) == 130 and split_evenly(130, GRID)[0.0] == 1
    assert split_evenly(5, (0.0,)) == {0.0: 5}
    assert thinned(GRID, 13) == GRID and thinned(GRID, 1) == (0.6,)


def test_the_strategys_vote_is_the_selectors():
    grid = [(0.2, 0.4), (0.6, 0.3), (1.0, 0.2)]
    for i in range(12):
        problem = Problem(f"v{i}", "x", "7", {"rates": grid})
        for vote, selector in (("two_stage", "two_stage_vote"), ("pooled", "majority")):
            text = f"multi_temperature(n=15, temperatures=[0.2, 0.6, 1.0], vote={vote}, early_exit=false)"
            result = run(text, problem)
            assert result.answer == SELECTORS.build(selector).select(result.candidates).answers[0]


def test_the_pure_vote_agrees_with_the_selector_on_random_tables():
    from ponder.core.candidate import Candidate

    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(1, 12))
        answers, heat = rng.integers(0, 3, n), rng.integers(0, 3, n)
        order = {a: i for i, a in enumerate(dict.fromkeys(answers.tolist()))}
        vote = two_stage_vote([order[a] for a in answers.tolist()], heat.tolist())
        drawn = [
            Candidate(str(a), str(a), index=i, meta={"temperature": float(t)})
            for i, (a, t) in enumerate(zip(answers, heat, strict=True))
        ]
        picked = SELECTORS.build("two_stage_vote").select(drawn).answers[0]
        assert order[int(picked)] == vote.ranking[0]


def test_a_budget_ends_the_rounds():
    result = run("multi_temperature(n=26)", problems(1)[0], budget=Budget(calls=15))
    assert len(result.candidates) == 15 and "budget" in result.reason


def test_parallel_temperatures_are_one_pass_of_the_critical_path():
    result = run("multi_temperature(n=12, temperatures=[0.2, 0.6, 1.0])", problems(1)[0])
    assert result.total.sequential_tokens == max(c.n_tokens for c in result.candidates)


def test_a_grid_that_is_too_large_is_refused_and_the_sample_axis_thins_it():
    with pytest.raises(BudgetError, match="13 temperatures"):
        parse("multi_temperature(n=4)")
    assert parse("multi_temperature").with_samples(4).temperatures == (0.0, 0.4, 0.8, 1.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("multi_temperature(temperatures=[])", "distinct numbers"),
        ("multi_temperature(temperatures=[0.5, -1])", "distinct numbers"),
        ("multi_temperature(tau_intra=0)", "tau_intra=0"),
        ("multi_temperature(per_round=0)", "per_round=0"),
    ],
)
def test_impossible_parameters_are_named(text, message):
    with pytest.raises(ParameterError, match=message):
        parse(text)
