"""Laws: quality against compute, estimated, fitted or in closed form."""

# Imported here and not lazily: `pass_at_k` and `best_of_k` name both a file and the function in it,
# and the function must win whichever of the two is touched first.
from ponder.laws.best_of_k import best_of_k, majority_at_k, rank_weights
from ponder.laws.beta_binomial import BetaBinomialLaw
from ponder.laws.coverage_law import CoverageLaw
from ponder.laws.curve_shift import CurveShift, curve_shift
from ponder.laws.intervals import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    bootstrap_means,
    paired_difference,
    wilson_interval,
)
from ponder.laws.model_costs import CostComparison, SampledModel, compare_at_equal_cost
from ponder.laws.pass_at_k import coverage_curve, log_spaced_k, pass_at_k

__all__ = [
    "BetaBinomialLaw",
    "CostComparison",
    "CoverageLaw",
    "CurveShift",
    "Interval",
    "PairedDifference",
    "SampledModel",
    "best_of_k",
    "bootstrap_interval",
    "bootstrap_means",
    "compare_at_equal_cost",
    "coverage_curve",
    "curve_shift",
    "log_spaced_k",
    "majority_at_k",
    "paired_difference",
    "pass_at_k",
    "rank_weights",
    "wilson_interval",
]
