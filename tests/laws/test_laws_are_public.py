"""Every law is reached from `ponder.laws`, and loads only when it is."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from ponder import laws

FILES = [m.name for m in pkgutil.iter_modules(laws.__path__) if not m.name.startswith("_")]
INSIDE = {
    "calibration": {"Bin"},
    "arise": {"per_problem"},
    "intervals": {"percentiles", "pooled_share", "resampling_weights", "score_ends", "student_quantile"},
    "scaling_metrics": {"merged"},
    "solve_or_verify": {"Point", "cost"},
    "step_law": {"parse_amount"},
}
"""Names that mean something only beside the others of their file."""


@pytest.mark.parametrize("file", FILES)
def test_what_a_file_defines_is_public_in_the_package(file):
    module = importlib.import_module(f"ponder.laws.{file}")
    tree = ast.parse(Path(module.__file__).read_text())
    defined = {
        n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_")
    }
    assert defined - INSIDE.get(file, set()) <= set(laws.__all__)
    for name in defined & set(laws.__all__):
        assert getattr(laws, name) is getattr(module, name), "a function must win over the file of its name"


def test_all_is_sorted_and_complete():
    assert list(laws.__all__) == sorted(laws.__all__) == sorted(set(dir(laws)))
    assert all(callable(getattr(laws, name)) for name in laws.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pass_at_q'"):
        laws.pass_at_q  # noqa: B018


def test_a_law_is_loaded_when_it_is_asked_for():
    code = (
        "import sys, ponder.laws as laws; assert 'ponder.laws.solve_or_verify' not in sys.modules;"
        "laws.fit_split; assert 'ponder.laws.solve_or_verify' in sys.modules;"
        "import ponder.laws.pass_at_k, ponder.laws.majority_limit; assert callable(laws.pass_at_k)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
