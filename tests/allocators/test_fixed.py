import pytest

import ponder
from ponder.core.registry import ALLOCATORS
from ponder.errors import SpecError


def test_every_problem_gets_the_same_strategy_and_limit():
    fixed = ALLOCATORS.build('fixed(strategy=best_of_n(n=4), budget="tokens=500")')
    given = {fixed.assign(ponder.Problem(str(i), "q"), ()) for i in range(3)}
    assert given == {ponder.Assignment(ponder.parse("best_of_n(n=4)"), ponder.Budget(tokens=500))}
    assert ALLOCATORS.build(str(fixed)) == fixed


def test_a_malformed_limit_is_refused():
    with pytest.raises(SpecError):
        ALLOCATORS.build('fixed(strategy=single, budget="tokns=5")')
