"""Every registered strategy and selector, present and future, passes the shared suite."""

import pytest

from ponder import testing
from ponder.core.registry import SELECTORS, STRATEGIES

EXTRA_STRATEGIES = [
    "repeated_sampling | majority",
    "best_of_n(verifier=llm_judge)",
    "best_of_n(verifier=imperfect_oracle) | weighted_majority",
    "single(temperature=0)",
]


@pytest.mark.parametrize("check", testing.STRATEGY_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("text", [*STRATEGIES.names(), *EXTRA_STRATEGIES])
def test_strategy(text, check):
    testing.run(check, text)


@pytest.mark.parametrize("check", testing.SELECTOR_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("text", SELECTORS.names())
def test_selector(text, check):
    testing.run(check, text)
