from __future__ import annotations

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws import RagAllocation, RagConfig, RagTask

TRUTH = {"a_documents": 0.3, "a_demonstrations": 0.1, "a_iterations": 0.4, "b_documents": 0.8,
         "b_demonstrations": 0.5, "c": -0.5}  # fmt: skip
KNOWN = RagAllocation(TRUTH, "logit", "full", 1.0, 48, np.eye(6))
GRID = [RagConfig(k, m, n) for k in (0, 1, 5, 20) for m in (0, 1, 4) for n in (1, 3)]
TASKS = [RagTask(0.1, 0.05), RagTask(0.3, 0.2), RagTask(0.2, 0.3)]
CELLS, OF = [c for _ in TASKS for c in GRID], [t for t in TASKS for _ in GRID]


def noisy(seed: int) -> np.ndarray:
    p = np.array([KNOWN.predict(c, t) for c, t in zip(CELLS, OF, strict=True)])
    return 1 / (1 + np.exp(-(np.log(p / (1 - p)) + 0.1 * np.random.default_rng(seed).standard_normal(p.size))))


def test_planted_coefficients_are_recovered_within_three_standard_errors() -> None:
    law = RagAllocation.fit(CELLS, OF, noisy(0))
    errors = np.sqrt(np.diag(law.covariance))
    for (name, value), error in zip(law.coefficients.items(), errors, strict=True):
        assert abs(value - TRUTH[name]) < 3 * error
    assert law.r2 >= 0.9


def test_the_full_model_beats_its_ablations_on_an_unseen_task_and_chooses_within_three_percent() -> None:
    new = RagTask(0.25, 0.1)
    truth = np.array([KNOWN.predict(c, new) for c in GRID])

    def error(**form: str) -> float:
        law = RagAllocation.fit(CELLS, OF, noisy(1), **form)  # type: ignore[arg-type]
        return float(np.mean((np.array([law.predict(c, new) for c in GRID]) - truth) ** 2))

    full = error()
    assert full < error(form="no_task") and full < error(link="linear")
    law = RagAllocation.fit(CELLS, OF, noisy(1))
    best = law.best(GRID, lambda c: 100.0 * c.documents * c.iterations * (1 + c.demonstrations), 4000, new)
    fits = [c for c in GRID if 100 * c.documents * c.iterations * (1 + c.demonstrations) <= 4000]
    assert KNOWN.predict(best, new) >= 0.97 * max(KNOWN.predict(c, new) for c in fits)
    got = law.forecast(RagConfig(50, 8, 5), new)
    assert got.extrapolated and got.low < got.value < got.high


def test_a_design_that_does_not_tell_terms_apart_is_refused_by_name() -> None:
    one_k = [c._replace(documents=5) for c in CELLS]
    with pytest.raises(LawFitError, match=r"a_documents, .*c apart"):
        RagAllocation.fit(one_k, [TASKS[0]] * len(one_k), noisy(0))
    with pytest.raises(LawFitError, match="7 cells"):
        RagAllocation.fit(CELLS[:5], OF[:5], noisy(0)[:5])
    with pytest.raises(LawFitError, match="same in every cell"):
        RagAllocation.fit(CELLS, OF, np.full(len(CELLS), 0.5))
    with pytest.raises(ParameterError, match="shortest"):
        KNOWN.best(GRID, lambda c: 10.0, 5, TASKS[0])
    assert np.isfinite(RagAllocation.fit(CELLS, OF, (noisy(0) > 0.5).astype(float)).r2)  # 0 and 1 have a logit, too
