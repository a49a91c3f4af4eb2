"""Step Law: the learning rate and the batch that pre-train a language model of a size on a number of tokens best.

Paper    "Predictable Scale: Part I, Step Law: Optimal Hyperparameter Scaling Law in LLM Pretraining", 2025.
Equal    η = 1.79 · N^-0.713 · D^0.307 and B = 0.58 · D^0.571 tokens; N without embeddings.
Differs  The published standard deviations of single coefficients say nothing about a prediction, whose errors cancel:
         instead of an interval the plateau is given, a factor 1.4 to either side, in which the loss hardly changes.
Needs    Nothing: a calculator.    Cost: none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ponder.errors import ParameterError
from ponder.laws.power_law import PowerLaw

LEARNING_RATE = PowerLaw(
    math.log(1.79), {"params": -0.713, "tokens": 0.307}, {"params": 6e7, "tokens": 2e9}, {"params": 1e9, "tokens": 1e11}
)
BATCH = PowerLaw(math.log(0.58), {"tokens": 0.571}, {"tokens": 2e9}, {"tokens": 1e11})
PLATEAU = 1.4
"""Within this factor of the best learning rate or batch the loss is nearly the same."""


@dataclass(frozen=True)
class StepLaw:
    """What the law advises.

    Attributes:
        learning_rate: peak, for AdamW with a final rate of 1e-5.
        batch_tokens: tokens a step.
        steps: steps to see all tokens.
        batch_sequences: sequences a step.
        notes: where the advice is outside what was measured.
    """

    learning_rate: float
    batch_tokens: float
    steps: int
    batch_sequences: float
    notes: tuple[str, ...] = ()


def step_law(params: float, tokens: float, *, seq_len: int = 2048, fine_tuning: bool = False) -> StepLaw:
    """Evaluate the law.

    Args:
        params: N, parameters without embeddings: see `non_embedding_parameters`.
        tokens: D, training tokens.
        seq_len: tokens of a sequence.
        fine_tuning: whether a trained model is trained further, for which the law was not fitted.

    >>> law = step_law(1e9, 1e11)
    >>> f"{law.learning_rate:.4e} {law.batch_tokens:.4e} {law.batch_sequences:.1f}"
    '1.6325e-03 1.1077e+06 540.9'
    """
    if seq_len < 1:
        raise ParameterError("step_law", "seq_len", seq_len, allowed="a whole number ≥ 1")
    rate, batch = LEARNING_RATE.forecast(params=params, tokens=tokens), BATCH.predict(tokens=tokens)
    notes = []
    if rate.extrapolated:
        notes.append("outside 0.06-1 B parameters and 2-100 B tokens, where it was measured: a first guess only")
    if tokens < 100 * batch:
        notes.append(f"only {tokens / batch:.0f} steps: with fewer than 100 the batch is too large to learn anything")
    if fine_tuning:
        notes.append("the law is of pre-training from scratch; it was not fitted for fine-tuning or LoRA")
    return StepLaw(rate.value, batch, max(1, round(tokens / batch)), batch / seq_len, tuple(notes))


def non_embedding_parameters(total: float, vocabulary: int, hidden: int, *, tied: bool = True) -> float:
    """N as the law counts it: all parameters less the token embeddings (and the output matrix if it is not tied).

    >>> non_embedding_parameters(134_515_008, 49_152, 576)
    106203456
    """
    left = total - vocabulary * hidden * (1 if tied else 2)
    if left <= 0:
        raise ParameterError(
            "non_embedding_parameters", "total", total, allowed=f"above the embeddings, {vocabulary} x {hidden}"
        )
    return left


def parse_amount(text: str) -> float:
    """Read a number with K, M, B or T behind it.

    >>> parse_amount("135M"), parse_amount("2e9"), parse_amount("1.5B")
    (135000000.0, 2000000000.0, 1500000000.0)
    """
    scale = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}.get(text.strip()[-1:].lower(), 1.0)
    try:
        value = float(text.strip()[:-1] if scale > 1 else text) * scale
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ParameterError("amount", "text", text, allowed="a number above 0, such as 135M, 2B or 1e9")
    return value
