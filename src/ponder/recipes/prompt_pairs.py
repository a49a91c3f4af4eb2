"""Pairs for fine-tuning a prompt rewriter: what a user asked, and the prompt that search found to work better.

Source: Gao et al. 2025, "RAPO++", stage 3. The file is JSONL of chats: the user's message is what `prompt_refinement`
asks its rewriter in the first round, the assistant's is the best prompt. Tools for supervised fine-tuning (TRL's
SFTTrainer among them) read `messages`; `prompt`, `completion` and `gain` say the same without the wording.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ponder.errors import ParameterError

if TYPE_CHECKING:
    from ponder.core.strategy import Result

Pair = dict[str, Any]


def refinement(details: Mapping[str, Any]) -> Pair | None:
    """What `prompt_refinement` found, by a result's details; None if no prompt was rewritten, or none had a score."""
    gain, best = details.get("gain"), details.get("best_prompt")
    if gain is None or best is None or "original_prompt" not in details:
        return None
    return {"prompt": details["original_prompt"], "completion": best, "gain": float(gain)}


def prompt_pairs(results: Iterable[Result], margin: float = 0.0) -> list[Pair]:
    """One pair for each prompt whose best version gained more than `margin` over its first.

    Args:
        results: of any strategies; those that refined no prompt give nothing.
        margin: of the verifier's score, ≥ 0.
    """
    found = ((r.problem.id, refinement(r.details)) for r in results)
    return chosen_pairs(({"id": name, **pair} for name, pair in found if pair), margin)


def stored_pairs(source: Path) -> Iterator[Pair]:
    """Every refinement in a study's directory, or in a file that `ponder solve --json` wrote.

    Raises:
        ParameterError: the file is none that it wrote.
        StoreError: the directory holds no study.
    """
    if source.is_dir():
        from ponder.studies.store import StoreReader

        store = StoreReader(source)
        try:
            for _, _, problem, outcome in store.outcomes():
                if outcome.get("refined"):
                    yield {"id": problem, **outcome["refined"]}
        finally:
            store.close()
        return
    try:
        pair = refinement(orjson.loads(source.read_bytes())["details"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        allowed = "a study's directory, or a file that ponder solve --json wrote"
        hint = f"{type(error).__name__}: {error}"
        raise ParameterError("export-pairs", "source", str(source), allowed=allowed, hint=hint) from error
    if pair:
        yield {"id": source.stem, **pair}


def chosen_pairs(pairs: Iterable[Pair], margin: float = 0.0) -> list[Pair]:
    """Of each prompt the pair that gained most (the first of equals), if that is more than `margin`.

    Raises:
        ParameterError: a negative margin.

    >>> rows = [{"id": "a", "prompt": "x", "completion": "y", "gain": g} for g in (0.1, 0.3)]
    >>> [pair["gain"] for pair in chosen_pairs(rows, 0.2)], chosen_pairs(rows, 0.3)
    ([0.3], [])
    """
    if not margin >= 0:
        raise ParameterError("prompt_pairs", "margin", margin, allowed="a number ≥ 0")
    best: dict[str, Pair] = {}
    for pair in pairs:
        if pair["gain"] > margin and pair["gain"] > best.get(pair["prompt"], {"gain": margin})["gain"]:
            best[pair["prompt"]] = pair
    return list(best.values())


def write_prompt_pairs(pairs: Iterable[Pair], path: Path) -> int:
    """Write pairs as chats, whole or not at all; how many there were."""
    from ponder.strategies.prompt_refinement import rewriting

    lines = []
    for pair in pairs:
        asked = {"role": "user", "content": rewriting(pair["prompt"], [], f"- {pair['prompt']}")}
        lines.append({"messages": [asked, {"role": "assistant", "content": pair["completion"]}], **pair})
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    scratch.replace(path)
    return len(lines)
