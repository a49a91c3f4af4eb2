"""Laws: quality against compute, estimated, fitted or in closed form."""

# Imported here and not lazily: `pass_at_k` and `best_of_k` name both a file and the function in it,
# and the function must win whichever of the two is touched first.
from ponder.laws.best_of_k import best_of_k, majority_at_k, rank_weights
from ponder.laws.intervals import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    bootstrap_means,
    paired_difference,
    wilson_interval,
)
from ponder.laws.pass_at_k import coverage_curve, log_spaced_k, pass_at_k

__all__ = [
    "Interval",
    "PairedDifference",
    "best_of_k",
    "bootstrap_interval",
    "bootstrap_means",
    "coverage_curve",
    "log_spaced_k",
    "majority_at_k",
    "paired_difference",
    "pass_at_k",
    "rank_weights",
    "wilson_interval",
]
