"""Pairs for fine-tuning a prompt rewriter: what a user asked, and the prompt that search found to work better.

Source: Gao et al. 2025, "RAPO++", stage 3. The file is JSONL with `prompt`, `completion`, `gain`: the form that
supervised fine-tuning tools (TRL's SFTTrainer) read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from ponder.core.strategy import Result
from ponder.errors import ParameterError


def prompt_pairs(results: Iterable[Result], margin: float = 0.0) -> list[dict[str, Any]]:
    """One pair for each result of `prompt_refinement` whose best prompt gained more than `margin` over its first.

    Args:
        results: of any strategies; those that refined no prompt give nothing.
        margin: of the verifier's score, ≥ 0.
    """
    if not margin >= 0:
        raise ParameterError("prompt_pairs", "margin", margin, allowed="a number ≥ 0")
    found = []
    for result in results:
        gain = result.details.get("gain")
        if gain is None or not gain > margin or "best_prompt" not in result.details:
            continue
        asked, best = result.details["original_prompt"], result.details["best_prompt"]
        found.append({"id": result.problem.id, "prompt": asked, "completion": best, "gain": float(gain)})
    return found


def write_prompt_pairs(results: Iterable[Result], path: Path, margin: float = 0.0) -> int:
    """Write the pairs, whole or not at all; how many there were."""
    pairs = prompt_pairs(results, margin)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(b"".join(orjson.dumps(pair) + b"\n" for pair in pairs))
    scratch.replace(path)
    return len(pairs)
