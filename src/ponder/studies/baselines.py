"""What a search has to beat, measured beside it: best-of-N by the same verifier, and a vote that needs none."""

from __future__ import annotations

from dataclasses import replace

from ponder.core.process import Process
from ponder.core.registry import STRATEGIES
from ponder.core.strategy import Pipeline, Strategy, parse_strategy
from ponder.core.verifier import NextStepVerifier, Verifier
from ponder.studies.plan import Study

VOTE = "repeated_sampling | majority"


def unwrapped(strategy: Strategy) -> Strategy:
    """The strategy that draws, without its selectors."""
    return strategy.strategy if isinstance(strategy, Pipeline) else strategy


def with_baselines(study: Study, process: Process) -> Study:
    """The study with `best_of_n` by each step-wise search's verifier, and a majority vote, where they are missing.

    Nothing is added if `study.baselines` is false or nothing searches step by step. Outputs that a process builds
    whole in a plain draw (images) are not voted on.
    """
    given = study.parsed
    searches = [unwrapped(s) for s in given if s.stepwise]
    if not study.baselines or not searches:
        return study
    wanted = [] if process.draws_whole else [parse_strategy(VOTE)]
    for search in searches:
        verifier = getattr(search, "verifier", None)
        if isinstance(verifier, Verifier) and not isinstance(verifier, NextStepVerifier):
            wanted.append(STRATEGIES.build("best_of_n", verifier=verifier))
    missing = [str(s) for s in dict.fromkeys(wanted) if s not in given]
    return replace(study, strategies=(*study.strategies, *missing))
