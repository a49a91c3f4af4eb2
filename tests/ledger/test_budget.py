import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.errors import ParameterError, SpecError
from ponder.ledger.budget import Allowance, Budget, Meter
from ponder.ledger.spend import Entry, Ledger, Spend


def test_text_form_round_trips_and_knows_short_names():
    budget = Budget.parse("tokens=2000, calls=8, seconds=30, usd=0.05")
    assert budget == Budget(tokens=2000, calls=8, seconds=30, cost_usd=0.05)
    assert Budget.parse(str(budget)) == budget
    assert Budget.parse("").unlimited


@pytest.mark.parametrize(("text", "at"), [("tokns=5", 0), ("tokens=5,calls", 9), ("tokens=many", 0)])
def test_a_malformed_budget_marks_the_position(text, at):
    with pytest.raises(SpecError) as caught:
        Budget.parse(text)
    assert caught.value.position == at


@pytest.mark.parametrize("bad", [-1, float("nan")])
def test_a_negative_or_nan_limit_is_refused(bad):
    with pytest.raises(ParameterError, match="≥ 0"):
        Budget(tokens=bad)


@given(
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.integers(1, 4)), max_size=12),
)
def test_whatever_is_granted_and_spent_the_limit_holds(limit, requests):
    meter, spent = Meter(Budget(generated_tokens=limit)), 0
    for worst, really, n in requests:
        unit = Spend(generated_tokens=worst)
        granted = int(min(n, meter.affordable(unit)))
        reserved = meter.reserve(unit.times(granted))
        used = min(really, worst) * granted
        meter.settle(reserved, Spend(generated_tokens=used))
        spent += used
    assert spent <= limit
    assert meter.left("generated_tokens") == limit - spent


def test_a_meter_under_another_is_bound_by_both():
    parent = Meter(Budget(calls=5))
    first, second = Meter(Budget(calls=3), parent), Meter(Budget(calls=4), parent)
    unit = Spend(model_calls=1)
    assert first.affordable(unit) == 3
    first.settle(first.reserve(unit.times(3)), unit.times(3))
    assert second.affordable(unit) == 2


def test_money_is_counted_to_the_cent_despite_rounding():
    meter = Meter(Budget(cost_usd=0.3))
    assert meter.affordable(Spend(cost_usd=0.1)) == 3


spends = st.builds(Spend, *[st.integers(0, 1000) for _ in range(10)], *[st.floats(0, 1e6) for _ in range(3)])


@given(st.lists(st.tuples(st.sampled_from(["draw", "verify", "select"]), spends), max_size=20))
def test_the_ledgers_totals_equal_the_sums_over_its_trace(charges):
    trace: list[Entry] = []
    ledger = Ledger(trace.append)
    for stage, spend in charges:
        ledger.charge(stage, spend)
    for stage, total in ledger.stages.items():
        expected = sum((e.spend for e in trace if e.stage == stage), Spend())
        assert total.values() == pytest.approx(expected.values())
    assert ledger.total.values() == pytest.approx(sum((e.spend for e in trace), Spend()).values())


@given(st.floats(1, 1e4), st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40), st.floats(0, 1)), max_size=30))
def test_an_allowance_holds_whatever_is_granted_and_spent(limit, requests):
    allowance = Allowance(limit, lambda s: 2.0 * s.generated_tokens + s.prompt_tokens)
    meter = Meter(Budget(), allowance)
    assert meter.limited
    for prompt, new, share in requests:
        unit, shared = Spend(generated_tokens=new), Spend(prompt_tokens=prompt)
        granted = int(min(3, meter.affordable(unit, shared)))
        if granted:
            held = meter.reserve(unit.times(granted) + shared)
            meter.settle(held, Spend(prompt_tokens=prompt, generated_tokens=int(share * new * granted)))
        assert allowance.spent <= limit * (1 + 1e-9)


def test_an_allowance_counts_what_an_earlier_run_has_left_once():
    allowance = Allowance(10, lambda s: s.model_calls)
    allowance.begin(Spend(model_calls=4))
    assert allowance.affordable(Spend(model_calls=1)) == 6
    allowance.settle(Spend(), Spend(model_calls=5))
    allowance.begin(Spend(model_calls=7))  # a second run under it finds on disk what it saw being spent
    assert allowance.affordable(Spend(model_calls=1)) == 1 and allowance.affordable(Spend(seconds=1)) == math.inf
    assert allowance.affordable(Spend(model_calls=2)) == 0


def test_the_sum_of_many_costs_is_what_adding_them_gives():
    costs = [Spend(function_evaluations=i, seconds=0.1 * i, transitions=2) for i in range(5)]
    assert Spend.total(costs) == sum(costs, Spend())
    assert Spend.total([]) == Spend()
