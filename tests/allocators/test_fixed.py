import pytest

import ponder
from ponder.core.allocator import Standing
from ponder.core.registry import ALLOCATORS
from ponder.errors import SpecError


def test_every_problem_gets_the_same_strategy_and_limit_once():
    fixed = ALLOCATORS.build('fixed(strategy=best_of_n(n=4), budget="tokens=500")')
    fresh = [Standing(ponder.Problem(str(i), "q")) for i in range(3)]
    assert set(fixed.assign(fresh, 0)) == {ponder.Assignment(ponder.parse("best_of_n(n=4)"), ponder.Budget(tokens=500))}
    done = [Standing(s.problem, (ponder.parse("best_of_n(n=4)"),)) for s in fresh]
    assert set(fixed.assign(done, 0)) == {None}
    assert ALLOCATORS.build(str(fixed)) == fixed


def test_a_strategy_with_its_selectors_stands_in_quotes_and_comes_back():
    fixed = ALLOCATORS.build('fixed(strategy="repeated_sampling | majority", n=4)')
    assert str(fixed) == 'fixed(strategy="repeated_sampling | majority", n=4)' and ALLOCATORS.build(str(fixed)) == fixed


def test_a_malformed_limit_is_refused():
    with pytest.raises(SpecError):
        ALLOCATORS.build('fixed(strategy=single, budget="tokns=5")')
