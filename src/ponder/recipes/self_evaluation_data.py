"""Training data for mid-generation self-evaluation, from samples that are scored already.

Paper    Manvi et al. 2024, "Adaptive Inference-Time Compute: LLMs Can Predict if They Can Do Better, Even
         Mid-Generation", §3.2.
Equal    Pairs of responses to one prompt; the label of the first is "No" (it could not do better) if its reward is
         above the second's minus a margin, so that ties count as success. Half of the responses are cut at a
         random place, and keep the label of the whole.
Differs  The margin is 0.05 standard deviations of the rewards and the mixing weight 1:1 (the paper's values are
         known from memory only). Texts are cut at tokens where the draw recorded them, else at words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.problem import Problem
from ponder.core.registry import recipe
from ponder.core.seeds import generator
from ponder.errors import ParameterError, TaskError
from ponder.verifiers.self_evaluation import QUESTION


@dataclass(frozen=True, slots=True)
class SelfEvaluationExample:
    """One line of the data.

    Attributes:
        problem: the problem's id.
        prompt: what the model was asked: text, or chat messages.
        prefix: the (partial) response.
        question: the self-evaluation turn that follows it.
        label: `No` (it could not do better) or `Yes`.
        partial: whether the response was cut.
        weight: of the label's loss, against 1 for ordinary training on the model's own responses.
    """

    problem: str
    prompt: Any
    prefix: str
    question: str
    label: str
    partial: bool
    weight: float = 1.0


@recipe("self_evaluation_data", how="sft:preference_pairs, verification:process:self_evaluation")
def self_evaluation_examples(
    samples: Iterable[tuple[Problem, Sequence[Candidate], Sequence[float]]], *, margin: float = 0.05,
    partial: float = 0.5, seed: int = 0,
) -> Iterator[SelfEvaluationExample]:  # fmt: skip
    """Examples from scored samples: each response is compared with another one of its problem, drawn by lot.

    Args:
        samples: per problem its candidates and their rewards (larger is better; NaN leaves a candidate out).
            Problems with fewer than two scored candidates give nothing. The paper draws 16 per problem.
        margin: in standard deviations of all rewards, ≥ 0.
        partial: share of responses that are cut, in [0, 1].
        seed: fixes partners and cuts.

    Yields:
        One example per scored candidate.
    """
    if not margin >= 0:
        raise ParameterError("self_evaluation_examples", "margin", margin, allowed="a number ≥ 0")
    if not 0 <= partial <= 1:
        raise ParameterError("self_evaluation_examples", "partial", partial, allowed="in [0, 1]")
    rows = []
    for problem, candidates, rewards in samples:
        scored = [(c, float(r)) for c, r in zip(candidates, rewards, strict=True) if c.error is None and r == r]
        rows.append((problem, scored))
    known = [reward for _, scored in rows for _, reward in scored]
    slack = margin * float(np.std(known)) if known else 0.0
    for problem, scored in rows:
        rng = generator(seed, "self_evaluation_data", problem.id)
        for i, (candidate, reward) in enumerate(scored):
            if len(scored) < 2:
                break
            partner = int(rng.integers(len(scored) - 1))
            other = scored[partner + (partner >= i)][1]
            pieces = _pieces(candidate)
            cut = bool(rng.random() < partial) and len(pieces) > 1
            kept = pieces[: int(rng.integers(1, len(pieces)))] if cut else pieces
            label = "No" if reward > other - slack or reward == other else "Yes"
            yield SelfEvaluationExample(problem.id, problem.prompt, "".join(kept), QUESTION, label, cut)


def write_self_evaluation_data(path: str | Path, examples: Iterable[SelfEvaluationExample]) -> int:
    """Write examples as JSON lines; returns how many.

    Raises:
        TaskError: there are none (every problem needs two scored samples).
    """
    lines = [json.dumps(asdict(example), ensure_ascii=False, default=str) for example in examples]
    if not lines:
        raise TaskError("no examples: each problem needs at least two scored samples")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _pieces(candidate: Candidate) -> list[str]:
    """A response as tokens where the draws recorded them, else as words with the space before them."""
    text = str(candidate.output)
    nodes = list(candidate.state.ancestry())[::-1] if candidate.state is not None else []
    tokens = [t for node in nodes for t in getattr(node.payload, "tokens", None) or ()]
    return tokens if "".join(tokens) == text else re.findall(r"\s*\S+|\s+$", text)
