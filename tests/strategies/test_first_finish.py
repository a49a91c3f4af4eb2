import asyncio
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest

from ponder import parse, testing
from ponder.core.cache import MemoryCache
from ponder.core.context import Context
from ponder.core.model import Completion
from ponder.core.problem import Problem
from ponder.core.runtime import Runtime
from ponder.core.seeds import generator
from ponder.errors import ParameterError
from ponder.laws.first_finish import FirstFinishLaw
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.testing import Sums


@dataclass(frozen=True)
class Runners(Simulated):
    """Right answers are Normal(80, 15) tokens long, wrong ones Normal(110, wrong_sd)."""

    wrong_sd: float = 15.0

    def _complete(self, request, seed, prompt_tokens):
        rng = generator("runners", seed)
        right = rng.random() < 0.5
        n = max(1, round(rng.normal(80, 15) if right else rng.normal(110, self.wrong_sd)))
        text = f"It is {request.problem.reference if right else '-1'}."
        finish = "stop"
        if n > request.sampling.max_new_tokens:
            n, finish = request.sampling.max_new_tokens, "length"
        return Completion(text, n, finish, "", None, prompt_tokens, requests=1)


@dataclass(frozen=True)
class Scripted(Simulated):
    """Draw i is script[i]: (answer, tokens, finish)."""

    script: tuple[tuple[str, int, str], ...] = ()

    def _complete(self, request, seed, prompt_tokens):
        answer, n, finish = self.script[list(request.seeds).index(seed) + request.offset]
        return Completion(answer, n, finish, "", -0.1 * n, prompt_tokens, requests=1)


def run(text, model, problem=None, **options):
    problem = problem or Sums().problems(1)[0]
    ctx = Context(problem, TextSteps(model), task=Sums(), runtime=Runtime(), **options)
    result = asyncio.run(parse(text).run(problem, ctx))
    return result, ctx


def race(text, problems, model):
    """Solve many problems; (right, tokens of the winner, generated tokens) of each."""

    async def one(i):
        problem = Problem(f"p{i}", "x", str(i))
        ctx = Context(problem, TextSteps(model), task=Sums(), runtime=Runtime())
        result = await parse(text).run(problem, ctx)
        return result.answer == str(i), result.best.n_tokens, result.total.generated_tokens

    async def everything():
        return [await one(i) for i in range(problems)]

    return np.array(asyncio.run(everything()))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_accuracy_and_length_match_the_integral_within_three_standard_errors(n):
    law = FirstFinishLaw(0.5, NormalDist(80, 15), NormalDist(110, 15))
    rows = race(f"first_finish(n={n})", 150, Runners())
    right, length, spent = rows.T
    assert abs(right.mean() - law.predict(n)) < 3 * math.sqrt(law.predict(n) * (1 - law.predict(n)) / len(rows))
    assert abs(length.mean() - law.sequential_tokens(n)) < 3 * length.std() / math.sqrt(len(rows)) + 0.5
    # In lock step n times the winner's length, and a few tokens until the news of the finish has spread.
    assert (spent >= n * length).all() and (spent - n * length <= 16 * n).all()


def test_the_shortest_draw_wins_whatever_the_others_say():
    result, _ = run("first_finish(n=3)", Scripted(script=(("9", 30, "stop"), ("10", 12, "stop"), ("9", 25, "stop"))))
    assert result.answer == "10" and result.details["finishers"] == [1]


def test_cancelled_draws_are_charged_apart_and_what_was_saved_is_said():
    script = (("1", 10, "stop"), ("2", 200, "stop"), ("3", 200, "stop"))
    result, ctx = run("first_finish(n=3)", Scripted(script=script))
    lost = ctx.ledger.stages["cancelled"].generated_tokens
    assert 20 <= lost <= 20 + 2 * 16
    assert result.details["cancelled"] == 2
    assert result.details["saved_tokens_at_most"] >= 2 * 256 - lost - 2
    assert result.details["lockstep_tokens"] == 30
    assert result.total.generated_tokens == 10 + lost


def test_draws_that_finish_together_are_told_apart_by_probability_then_index():
    @dataclass(frozen=True)
    class Together(Scripted):
        def _complete(self, request, seed, prompt_tokens):
            done = super()._complete(request, seed, prompt_tokens)
            return Completion(done.text, done.n_tokens, "stop", "", -int(done.text), prompt_tokens, requests=1)

    same = tuple((answer, 10, "stop") for answer in ("3", "1", "2"))
    assert run("first_finish(n=3)", Together(script=same))[0].answer == "1"
    assert run("first_finish(n=3)", Scripted(script=same))[0].answer == "3"


def test_cut_and_unparsed_draws_do_not_finish():
    script = (("no idea", 3, "stop"), ("7", 5, "length"), ("8", 40, "stop"), ("9", 60, "stop"))
    result, _ = run("first_finish(n=4)", Scripted(script=script))
    assert result.answer == "8"
    result, _ = run("first_finish(n=4, accept_unparsed=true)", Scripted(script=script))
    assert result.output == "no idea"
    result, _ = run("first_finish(n=4, min_tokens=50)", Scripted(script=script))
    assert result.answer == "9"


def test_an_empty_output_never_wins():
    script = (("", 1, "stop"), ("8", 40, "stop"))
    assert run("first_finish(n=2, accept_unparsed=true)", Scripted(script=script))[0].answer == "8"


def test_if_nothing_finishes_what_has_an_answer_votes():
    script = (("7", 5, "length"), ("8", 5, "length"), ("8", 5, "length"))
    result, _ = run("first_finish(n=3)", Scripted(script=script))
    assert result.answer == "8" and result.details["fallback"] == "nothing finished"
    result, _ = run("first_finish(n=2)", Scripted(script=(("?", 5, "stop"), ("", 5, "stop"))))
    assert result.status == "abstain" and result.answer is None


def test_the_first_k_vote_and_k_equal_n_is_self_consistency():
    script = (("1", 10, "stop"), ("2", 20, "stop"), ("2", 30, "stop"), ("1", 90, "stop"), ("1", 95, "stop"))
    result, ctx = run("first_finish(n=5, k=3)", Scripted(script=script))
    assert result.answer == "2" and result.details["finishers"] == [0, 1, 2]
    assert ctx.ledger.stages["cancelled"].generated_tokens < 2 * 60
    everything, ctx = run("first_finish(n=5, k=5)", Scripted(script=script))
    vote, _ = run("repeated_sampling(n=5) | majority", Scripted(script=script))
    assert everything.answer == vote.answer == "1" and "cancelled" not in ctx.ledger.stages


def test_last_finish_takes_the_longest():
    script = (("1", 10, "stop"), ("2", 50, "stop"), ("3", 30, "stop"))
    assert run("first_finish(n=3, order=last)", Scripted(script=script))[0].answer == "2"


def test_one_draw_is_a_plain_draw():
    model = Simulated()
    assert run("first_finish(n=1)", model)[0].output == run("single", model)[0].output


@pytest.mark.parametrize("concurrency", [1, 2, 64])
def test_the_winner_does_not_depend_on_how_many_draws_run_at_once(concurrency):
    class Narrow(Runners):
        max_concurrency = concurrency

    results = [run("first_finish(n=6)", Narrow(), Problem(f"p{i}", "x", "5"))[0] for i in range(6)]
    wide = [run("first_finish(n=6)", Runners(), Problem(f"p{i}", "x", "5"))[0] for i in range(6)]
    assert [r.output for r in results] == [r.output for r in wide]
    assert [r.best.n_tokens for r in results] == [r.best.n_tokens for r in wide]


@pytest.mark.parametrize("text", ["first_finish(n=16, k=5)", "first_finish(n=16, k=2)"])
def test_draws_that_arrive_while_the_race_is_called_off_are_booked_exactly(text):
    model = testing.Counted()
    results = asyncio.run(testing.solve_all(parse(text), model))
    assert sum(r.total.generated_tokens for r in results) == model.generated_tokens


def test_a_race_is_not_run_on_stored_whole_draws():
    problem, runtime = Sums().problems(1)[0], Runtime(cache=MemoryCache())

    def solve(text):
        ctx = Context(problem, TextSteps(Runners()), task=Sums(), runtime=runtime)
        return asyncio.run(parse(text).run(problem, ctx))

    vote = solve("repeated_sampling(n=6) | majority")
    race = solve("first_finish(n=6)")
    assert race.total.generated_tokens < vote.total.generated_tokens
    assert race.best.n_tokens == min(c.n_tokens for c in vote.candidates)


def test_arrival_takes_what_comes_first():
    script = (("1", 30, "stop"), ("2", 10, "stop"))
    assert run("first_finish(n=2, clock=arrival)", Scripted(script=script))[0].answer == "2"


def test_a_budget_is_kept():
    result, _ = run("first_finish(n=8)", Runners(), budget=Budget(generated_tokens=300))
    assert result.total.generated_tokens <= 300


def test_a_backend_that_does_not_stream_is_warned_about():
    from dataclasses import replace

    model = Scripted(script=(("1", 30, "stop"), ("2", 10, "stop")))
    object.__setattr__(model, "capabilities", replace(model.capabilities, streaming=False))
    with pytest.warns(UserWarning, match="does not stream"):
        assert run("first_finish(n=2)", model)[0].answer == "2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first_finish(n=0)", "n=0 is not allowed"),
        ("first_finish(n=2, k=3)", "k must be from 1 to 2"),
        ("first_finish(order=middle)", "one of first, last"),
        ("first_finish(min_tokens=-1)", "min_tokens=-1"),
    ],
)
def test_impossible_parameters_are_named(text, message):
    with pytest.raises(ParameterError, match=message):
        parse(text)
