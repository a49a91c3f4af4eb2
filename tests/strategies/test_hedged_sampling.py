import asyncio

import pytest

from ponder import parse
from ponder.core.context import Context
from ponder.core.runtime import Runtime
from ponder.errors import ParameterError
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.testing import Sums


def run(text):
    problem = Sums().problems(1)[0]
    ctx = Context(problem, TextSteps(Simulated()), task=Sums(), runtime=Runtime())
    return asyncio.run(parse(text).run(problem, ctx))


def test_the_pool_is_one_greedy_draw_and_the_rest_at_the_temperature():
    result = run("hedged_sampling(n=5)")
    assert [c.meta["temperature"] for c in result.candidates] == [0.0, 0.7, 0.7, 0.7, 0.7]
    assert [c.index for c in result.candidates] == list(range(5))
    assert result.best is result.candidates[0]


def test_the_greedy_draw_is_the_greedy_baselines():
    assert run("hedged_sampling(n=5)").candidates[0].answer == run("single(temperature=0)").answer
    assert len(run("hedged_sampling(n=1)").candidates) == 1


def test_copies_of_the_greedy_output_are_kept():
    result = run("hedged_sampling(n=40) | majority")
    assert len(result.candidates) == 40
    assert sum(group.count for group in result.selection.table) == 40


def test_schedules_are_walked_through_in_turn():
    strategy = parse("hedged_sampling(n=6, temperature=[0.7, 0.9], min_p=[0.05, 0.1], top_p=0.95)")
    assert strategy.parts(6) == [
        ({"temperature": 0.0}, 1),
        ({"temperature": 0.7, "top_p": 0.95, "min_p": 0.05}, 3),
        ({"temperature": 0.9, "top_p": 0.95, "min_p": 0.1}, 2),
    ]
    assert parse("hedged_sampling(greedy=false)").parts(2) == [({"temperature": 0.7}, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hedged_sampling(n=0)", "n=0"),
        ("hedged_sampling(temperature=0)", "numbers > 0"),
        ("hedged_sampling(temperature=[])", "numbers > 0"),
        ("hedged_sampling(top_p=[0.5, 2])", r"in \(0, 1\]"),
        ("hedged_sampling(min_p=-1)", r"in \[0, 1\]"),
    ],
)
def test_impossible_parameters_are_named(text, message):
    with pytest.raises(ParameterError, match=message):
        parse(text)
