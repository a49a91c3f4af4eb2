"""Whether a verifier is better than chance on known cases, before anything is spent on it."""

import asyncio
from dataclasses import dataclass

import pytest

import ponder
from ponder import testing
from ponder.core.verifier import Verifier
from ponder.studies.preflight import auroc, preflight


@dataclass(frozen=True)
class Length(Verifier):
    """Scores by nothing but the length of the text."""

    name = "length_of_text"

    async def score(self, problem, items, ctx):
        return [float(len(item.output)) for item in items]


@dataclass(frozen=True)
class Same(Verifier):
    """Knows nothing."""

    name = "same_for_all"

    async def score(self, problem, items, ctx):
        return [0.5] * len(items)


def tried(verifier, tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    found = asyncio.run(preflight(ponder.model("sim:strong"), task=testing.Sums(), verifier=verifier))
    return next(f for f in found.findings if f.name == "verifier"), found.warnings()


def test_a_perfect_verifier_passes(tmp_path, monkeypatch):
    finding, warnings = tried(ponder.verifier("exact"), tmp_path, monkeypatch)
    assert finding.verdict == "yes" and "100% of 16 known pairs, AUROC 1.00" in finding.detail
    assert not [line for line in warnings if line.startswith("verifier")]


@pytest.mark.parametrize("verifier", [Same(), Length()])
def test_one_that_knows_nothing_is_warned_of(verifier, tmp_path, monkeypatch):
    finding, warnings = tried(verifier, tmp_path, monkeypatch)
    assert finding.verdict == "no" and "50%" in finding.detail and "AUROC 0.50" in finding.detail
    assert [line for line in warnings if line.startswith("verifier")]


def test_verifiers_of_steps_and_judges_are_tried_too(tmp_path, monkeypatch):
    for text in ("step_judge(model=sim:strong, votes=5)", "rollout_value"):
        assert tried(ponder.verifier(text), tmp_path, monkeypatch)[0].verdict == "yes"


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert auroc([3, 2], [1, 0]) == 1 and auroc([0], [1]) == 0
    assert auroc([1, 3], [2, 2]) == 0.5
