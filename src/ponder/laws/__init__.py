"""Laws: quality against compute, estimated, fitted or in closed form."""

# Imported here and not lazily: `pass_at_k` names both a file and the function in it,
# and the function must win whichever of the two is touched first.
from ponder.laws.pass_at_k import coverage_curve, log_spaced_k, pass_at_k

__all__ = ["coverage_curve", "log_spaced_k", "pass_at_k"]
