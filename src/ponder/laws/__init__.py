"""Laws: quality against compute, estimated, fitted or in closed form; and how far confidence can be trusted.

Everything public is here; but for six small files nothing is imported before it is used.

>>> from ponder import laws
>>> laws.pass_at_k(10, 3, 1)
0.3
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Imported here and not lazily: each of these names is both a file and the function in it, and the function must win
# whichever of the two is touched first.
from ponder.laws.arise import arise as arise
from ponder.laws.best_of_k import best_of_k as best_of_k
from ponder.laws.curve_shift import curve_shift as curve_shift
from ponder.laws.majority_limit import majority_limit as majority_limit
from ponder.laws.pass_at_k import pass_at_k as pass_at_k
from ponder.laws.step_law import step_law as step_law

_WHERE = {
    "AdaptiveOutcome": "early_stopping",
    "Arise": "arise",
    "BetaBinomialLaw": "beta_binomial",
    "BinaryOutcome": "self_evaluation",
    "BinnedCalibration": "calibration",
    "BrierScore": "calibration",
    "Calibration": "calibration",
    "Cell": "variance_guided",
    "Controllability": "scaling_metrics",
    "CostComparison": "model_costs",
    "CoverageLaw": "coverage_law",
    "Crossing": "solve_or_verify",
    "CurveShift": "curve_shift",
    "FirstFinishAdvice": "first_finish",
    "FirstFinishLaw": "first_finish",
    "GeometricMixture": "geometric_saturation",
    "GeometricSaturation": "geometric_saturation",
    "Interval": "intervals",
    "PairedDifference": "intervals",
    "PoolCurve": "imperfect_verifier",
    "PoolDiagnostics": "hedged_sampling",
    "PowerLaw": "power_law",
    "RagAllocation": "rag_allocation",
    "RagConfig": "rag_allocation",
    "RagTask": "rag_allocation",
    "ResamplingModel": "imperfect_verifier",
    "RethinkingChain": "rethinking_chain",
    "SampledModel": "model_costs",
    "SolverAndVerifier": "solve_or_verify",
    "SplitLaw": "solve_or_verify",
    "StepLaw": "step_law",
    "TemperatureCoverage": "multi_temperature",
    "TwoDifficulties": "imperfect_verifier",
    "Verdicts": "imperfect_verifier",
    "VerifierRates": "imperfect_verifier",
    "WindowedStopping": "early_stopping",
    "adaptive_consistency": "early_stopping",
    "advise_first_finish": "first_finish",
    "allocate": "solve_or_verify",
    "anytime_curve": "scaling_metrics",
    "anytime_quality": "scaling_metrics",
    "area_under_curve": "scaling_metrics",
    "auroc": "calibration",
    "auroc_within": "calibration",
    "best_of_n_quality": "self_evaluation",
    "bin_sums": "calibration",
    "binary_adaptive": "self_evaluation",
    "binned_calibration": "calibration",
    "bootstrap_interval": "intervals",
    "bootstrap_means": "intervals",
    "brier_score": "calibration",
    "calibrated_threshold": "self_evaluation",
    "choose_window": "early_stopping",
    "clustered_share": "intervals",
    "combined_variation": "variance_guided",
    "compare_at_equal_cost": "model_costs",
    "controllability": "scaling_metrics",
    "coverage_curve": "pass_at_k",
    "crossing": "solve_or_verify",
    "economic_epsilon": "geometric_saturation",
    "economic_saturation": "geometric_saturation",
    "end_slope": "scaling_metrics",
    "exact_split": "solve_or_verify",
    "expected_calibration_error": "calibration",
    "expected_coverage": "multi_temperature",
    "expected_quality": "self_evaluation",
    "expected_samples": "self_evaluation",
    "first_finish_accuracy": "first_finish",
    "first_finish_tokens": "first_finish",
    "fit_power_law": "power_law",
    "fit_saturation": "geometric_saturation",
    "fit_split": "solve_or_verify",
    "fit_two_difficulties": "imperfect_verifier",
    "gain_share": "self_evaluation",
    "log_loss": "calibration",
    "log_spaced_k": "pass_at_k",
    "majority_accuracy": "majority_limit",
    "majority_at_k": "best_of_k",
    "majority_limit_of_pool": "majority_limit",
    "mean_interval": "intervals",
    "mean_pairwise_slope": "scaling_metrics",
    "measure_calibration": "calibration",
    "metric_interval": "scaling_metrics",
    "next_sweep": "power_law",
    "non_embedding_parameters": "step_law",
    "ordered_pairs": "calibration",
    "paired_difference": "intervals",
    "pool_curve": "imperfect_verifier",
    "pool_diagnostics": "hedged_sampling",
    "pruning_tokens": "self_evaluation",
    "rank_weights": "best_of_k",
    "sample_until_steady": "variance_guided",
    "saturation_point": "geometric_saturation",
    "sensitivity": "imperfect_verifier",
    "shorter_is_right": "first_finish",
    "simulated_grid": "solve_or_verify",
    "slope_per_doubling": "scaling_metrics",
    "split_intervals": "solve_or_verify",
    "stored_grid": "solve_or_verify",
    "temperature_coverage": "multi_temperature",
    "threshold_for": "self_evaluation",
    "variance_guided_repeats": "variance_guided",
    "verifier_rates": "imperfect_verifier",
    "wilson_interval": "intervals",
}

__all__ = sorted([*_WHERE, "arise", "best_of_k", "curve_shift", "majority_limit", "pass_at_k", "step_law"])

if TYPE_CHECKING:
    from ponder.laws.arise import Arise as Arise
    from ponder.laws.best_of_k import majority_at_k as majority_at_k
    from ponder.laws.best_of_k import rank_weights as rank_weights
    from ponder.laws.beta_binomial import BetaBinomialLaw as BetaBinomialLaw
    from ponder.laws.calibration import BinnedCalibration as BinnedCalibration
    from ponder.laws.calibration import BrierScore as BrierScore
    from ponder.laws.calibration import Calibration as Calibration
    from ponder.laws.calibration import auroc as auroc
    from ponder.laws.calibration import auroc_within as auroc_within
    from ponder.laws.calibration import bin_sums as bin_sums
    from ponder.laws.calibration import binned_calibration as binned_calibration
    from ponder.laws.calibration import brier_score as brier_score
    from ponder.laws.calibration import expected_calibration_error as expected_calibration_error
    from ponder.laws.calibration import log_loss as log_loss
    from ponder.laws.calibration import measure_calibration as measure_calibration
    from ponder.laws.calibration import ordered_pairs as ordered_pairs
    from ponder.laws.coverage_law import CoverageLaw as CoverageLaw
    from ponder.laws.curve_shift import CurveShift as CurveShift
    from ponder.laws.early_stopping import AdaptiveOutcome as AdaptiveOutcome
    from ponder.laws.early_stopping import WindowedStopping as WindowedStopping
    from ponder.laws.early_stopping import adaptive_consistency as adaptive_consistency
    from ponder.laws.early_stopping import choose_window as choose_window
    from ponder.laws.first_finish import FirstFinishAdvice as FirstFinishAdvice
    from ponder.laws.first_finish import FirstFinishLaw as FirstFinishLaw
    from ponder.laws.first_finish import advise_first_finish as advise_first_finish
    from ponder.laws.first_finish import first_finish_accuracy as first_finish_accuracy
    from ponder.laws.first_finish import first_finish_tokens as first_finish_tokens
    from ponder.laws.first_finish import shorter_is_right as shorter_is_right
    from ponder.laws.geometric_saturation import GeometricMixture as GeometricMixture
    from ponder.laws.geometric_saturation import GeometricSaturation as GeometricSaturation
    from ponder.laws.geometric_saturation import economic_epsilon as economic_epsilon
    from ponder.laws.geometric_saturation import economic_saturation as economic_saturation
    from ponder.laws.geometric_saturation import fit_saturation as fit_saturation
    from ponder.laws.geometric_saturation import saturation_point as saturation_point
    from ponder.laws.hedged_sampling import PoolDiagnostics as PoolDiagnostics
    from ponder.laws.hedged_sampling import pool_diagnostics as pool_diagnostics
    from ponder.laws.imperfect_verifier import PoolCurve as PoolCurve
    from ponder.laws.imperfect_verifier import ResamplingModel as ResamplingModel
    from ponder.laws.imperfect_verifier import TwoDifficulties as TwoDifficulties
    from ponder.laws.imperfect_verifier import Verdicts as Verdicts
    from ponder.laws.imperfect_verifier import VerifierRates as VerifierRates
    from ponder.laws.imperfect_verifier import fit_two_difficulties as fit_two_difficulties
    from ponder.laws.imperfect_verifier import pool_curve as pool_curve
    from ponder.laws.imperfect_verifier import sensitivity as sensitivity
    from ponder.laws.imperfect_verifier import verifier_rates as verifier_rates
    from ponder.laws.intervals import Interval as Interval
    from ponder.laws.intervals import PairedDifference as PairedDifference
    from ponder.laws.intervals import bootstrap_interval as bootstrap_interval
    from ponder.laws.intervals import bootstrap_means as bootstrap_means
    from ponder.laws.intervals import clustered_share as clustered_share
    from ponder.laws.intervals import mean_interval as mean_interval
    from ponder.laws.intervals import paired_difference as paired_difference
    from ponder.laws.intervals import wilson_interval as wilson_interval
    from ponder.laws.majority_limit import majority_accuracy as majority_accuracy
    from ponder.laws.majority_limit import majority_limit_of_pool as majority_limit_of_pool
    from ponder.laws.model_costs import CostComparison as CostComparison
    from ponder.laws.model_costs import SampledModel as SampledModel
    from ponder.laws.model_costs import compare_at_equal_cost as compare_at_equal_cost
    from ponder.laws.multi_temperature import TemperatureCoverage as TemperatureCoverage
    from ponder.laws.multi_temperature import expected_coverage as expected_coverage
    from ponder.laws.multi_temperature import temperature_coverage as temperature_coverage
    from ponder.laws.pass_at_k import coverage_curve as coverage_curve
    from ponder.laws.pass_at_k import log_spaced_k as log_spaced_k
    from ponder.laws.power_law import PowerLaw as PowerLaw
    from ponder.laws.power_law import fit_power_law as fit_power_law
    from ponder.laws.power_law import next_sweep as next_sweep
    from ponder.laws.rag_allocation import RagAllocation as RagAllocation
    from ponder.laws.rag_allocation import RagConfig as RagConfig
    from ponder.laws.rag_allocation import RagTask as RagTask
    from ponder.laws.rethinking_chain import RethinkingChain as RethinkingChain
    from ponder.laws.scaling_metrics import Controllability as Controllability
    from ponder.laws.scaling_metrics import anytime_curve as anytime_curve
    from ponder.laws.scaling_metrics import anytime_quality as anytime_quality
    from ponder.laws.scaling_metrics import area_under_curve as area_under_curve
    from ponder.laws.scaling_metrics import controllability as controllability
    from ponder.laws.scaling_metrics import end_slope as end_slope
    from ponder.laws.scaling_metrics import mean_pairwise_slope as mean_pairwise_slope
    from ponder.laws.scaling_metrics import metric_interval as metric_interval
    from ponder.laws.scaling_metrics import slope_per_doubling as slope_per_doubling
    from ponder.laws.self_evaluation import BinaryOutcome as BinaryOutcome
    from ponder.laws.self_evaluation import best_of_n_quality as best_of_n_quality
    from ponder.laws.self_evaluation import binary_adaptive as binary_adaptive
    from ponder.laws.self_evaluation import calibrated_threshold as calibrated_threshold
    from ponder.laws.self_evaluation import expected_quality as expected_quality
    from ponder.laws.self_evaluation import expected_samples as expected_samples
    from ponder.laws.self_evaluation import gain_share as gain_share
    from ponder.laws.self_evaluation import pruning_tokens as pruning_tokens
    from ponder.laws.self_evaluation import threshold_for as threshold_for
    from ponder.laws.solve_or_verify import Crossing as Crossing
    from ponder.laws.solve_or_verify import SolverAndVerifier as SolverAndVerifier
    from ponder.laws.solve_or_verify import SplitLaw as SplitLaw
    from ponder.laws.solve_or_verify import allocate as allocate
    from ponder.laws.solve_or_verify import crossing as crossing
    from ponder.laws.solve_or_verify import exact_split as exact_split
    from ponder.laws.solve_or_verify import fit_split as fit_split
    from ponder.laws.solve_or_verify import simulated_grid as simulated_grid
    from ponder.laws.solve_or_verify import split_intervals as split_intervals
    from ponder.laws.solve_or_verify import stored_grid as stored_grid
    from ponder.laws.step_law import StepLaw as StepLaw
    from ponder.laws.step_law import non_embedding_parameters as non_embedding_parameters
    from ponder.laws.variance_guided import Cell as Cell
    from ponder.laws.variance_guided import combined_variation as combined_variation
    from ponder.laws.variance_guided import sample_until_steady as sample_until_steady
    from ponder.laws.variance_guided import variance_guided_repeats as variance_guided_repeats


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ponder.laws' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ponder.laws.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
