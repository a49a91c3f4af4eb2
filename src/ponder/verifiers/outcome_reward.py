"""An outcome reward model: one number for a whole answer, from a trained classifier.

Paper    Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems" (verifiers); Ouyang et al. 2022,
         "Training language models to follow instructions with human feedback" (reward models).
Equal    The chat is put through the model's own template and read at the last token, as transformers'
         `…ForSequenceClassification` does; models without a template read question and answer as a pair.
Differs  The problem's question is shown without few-shot examples and system messages.
Needs    Text; torch and transformers, or an endpoint with /score, /pooling or /classify.
Cost     One pass over question and answer for each text that was not scored before in this run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem, Prompt
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import ModelError, ParameterError, VerifierError
from ponder.verifiers._reward_endpoint import Access, RewardEndpoint, endpoint_of
from ponder.verifiers._reward_model import LocalReward, Precision, Settings, Weights, ask, shared


@verifier("outcome_reward", aliases=("orm",), how="verification:outcome:reward_model")
@dataclass(frozen=True)
class OutcomeReward(Verifier):
    """Scores by a trained reward model: its logit, or the probability of the better of two classes.

    Args:
        model: a directory or hub name with safetensors, or `score:NAME@http://host:8000`, `pooling:…`, `classify:…`.
        transform: `none` leaves a single logit as it is (differences are what it was trained for); `sigmoid` brings it
            into (0, 1), as weights of a vote or a particle filter need it.
        precision: of the weights; `auto` is the checkpoint's own.
        device: `cpu`, `cuda`, …; none takes a GPU if there is one.
        batch_tokens: most tokens of one forward pass.
        trust_remote_code: run the checkpoint's own code.
        key_env: environment variable that holds an endpoint's key.
        timeout_s: for one request to an endpoint.
        max_retries: further tries of a request whose failure may pass.
    """

    model: str
    transform: Literal["none", "sigmoid"] = "none"
    precision: Precision = "auto"
    device: str | None = None
    batch_tokens: int = 16384
    trust_remote_code: bool = False
    key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 600.0
    max_retries: int = 5

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ParameterError(self, "batch_tokens", self.batch_tokens, allowed="an integer ≥ 1")
        self._endpoint()
        if self.transform == "none":
            object.__setattr__(self, "range", (-math.inf, math.inf))

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One score per item; equal texts are read once."""
        question, model = prompt_text(problem), await self._model()

        async def read(text: str) -> float:
            said = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
            return self._meaning((await ask(model, said, ctx))[-1])

        known = await ctx.once_each(self, [str(output_of(item, ctx)) for item in items], read)

        async def one(item: Scorable) -> float:
            outcome = known[str(output_of(item, ctx))]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return await ctx.score_each(items, one)

    def _meaning(self, row: Sequence[float]) -> float:
        if len(row) == 1:
            value = float(row[0])
            return 0.5 * (1.0 + math.tanh(0.5 * value)) if self.transform == "sigmoid" else value
        if len(row) == 2:
            chances = min(row) >= 0 and abs(sum(row) - 1) < 1e-3
            return float(row[1]) if chances else 0.5 * (1.0 + math.tanh(0.5 * (row[1] - row[0])))
        raise VerifierError(
            f"outcome_reward: {self.model} gave {len(row)} numbers for an answer; one, or two classes, are a reward"
        )

    def _endpoint(self) -> RewardEndpoint | None:
        return endpoint_of(self, self.model, Access(self.key_env, self.timeout_s, self.max_retries))

    async def _model(self) -> Model:
        settings = Settings(self.model, self.precision, self.device, self.trust_remote_code, self.batch_tokens)
        key = (self.name, settings, self.key_env, self.timeout_s, self.max_retries)
        return await shared(key, lambda: self._endpoint() or load(settings))


def load(settings: Settings) -> LocalReward:
    """An outcome reward model in this process.

    Raises:
        ModelNotFoundError: there are no such files.
        ModelError: they are no classifier with a trained head.
        MissingExtraError: torch or transformers is not installed.
    """
    weights = Weights(settings, "AutoModelForSequenceClassification", _head)
    tokenizer = weights.tokenizer
    labels = int(weights.model.config.num_labels)
    if labels > 2:
        raise ModelError(f"{settings.source} has {labels} classes; a reward model has one number, or two classes")
    pad = weights.model.config.get_text_config().pad_token_id

    def encoded(prompt: Prompt) -> tuple[Sequence[int], Sequence[int]]:
        assert not isinstance(prompt, str)
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template([dict(message) for message in prompt], tokenize=False)
            ids = list(tokenizer.encode(text, add_special_tokens=False))
        else:
            ids = list(tokenizer(*(str(message["content"]) for message in prompt))["input_ids"])
        # Where transformers reads: the last token that is not padding, even if an answer ends with the padding token.
        return ids, [max((i for i, token in enumerate(ids) if token != pad), default=len(ids) - 1)]

    return LocalReward(weights, encoded, lambda rows: rows, "outcome")


def _head(weights: Weights) -> Callable[[Any], Any] | None:
    """The linear head of decoders; None for encoders, which pool in their own ways."""
    from transformers.modeling_layers import GenericForSequenceClassification

    model = weights.model
    return model.score if isinstance(model, GenericForSequenceClassification) else None
