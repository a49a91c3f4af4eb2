"""A process reward model: the chance that each step of a solution is right, read off one forward pass.

Paper    Lightman et al. 2024, "Let's Verify Step by Step"; Wang et al. 2024, "Math-Shepherd"; Snell et al. 2024,
         "Scaling LLM Test-Time Compute Optimally …", §3 and appendix E (a solution is worth its last step's score).
Equal    Inputs, the places that are read and the meaning of the numbers are those of the published models (see
         `_prm_formats.py`).
Differs  The problem's question is shown without few-shot examples. Blank steps are not steps.
Needs    Text in steps; torch and transformers, or an endpoint with /pooling.
Cost     One pass over question and solution for each text that was not scored before in this run: its tokens are in
         `verifier_tokens`, its operations in `flops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem, Prompt
from ponder.core.registry import verifier
from ponder.core.search_tree import Aggregate
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import CapabilityError, ParameterError, VerifierError
from ponder.verifiers._prm_formats import (
    QWEN_STEP_END,
    SHEPHERD_STEP_END,
    FormatName,
    detect,
    encode,
    qwen_messages,
    shepherd_text,
    signs,
)
from ponder.verifiers._reward_endpoint import Access, RewardEndpoint, endpoint_of
from ponder.verifiers._reward_model import (
    LocalReward,
    Precision,
    Settings,
    Weights,
    ask,
    need_transformers,
    shared,
    tensor_names,
)
from ponder.verifiers._steps import steps_of, together


@verifier("process_reward", aliases=("prm",), how="verification:process:reward_model", where="math")
@dataclass(frozen=True)
class ProcessReward(Verifier):
    r"""Scores in [0, 1] by a trained process reward model.

    A state of a search scores as its last step; a finished candidate as all its steps together, by `how`.

    Args:
        model: a directory or hub name with safetensors, or `pooling:NAME@http://host:8000`.
        format: how the model is asked; `auto` reads it off its files. At an endpoint `auto` is `qwen`, and
            `math_shepherd` is the other one possible.
        how: how the scores of a candidate's steps become one number.
        delimiter: where a step that the process wrote is split further; empty never.
        precision: of the weights; `auto` is the checkpoint's own.
        device: `cpu`, `cuda`, …; none takes a GPU if there is one.
        batch_tokens: most tokens of one forward pass.
        trust_remote_code: run the checkpoint's own code; the formats here do not need it.
        key_env: environment variable that holds an endpoint's key.
        timeout_s: for one request to an endpoint.
        max_retries: further tries of a request whose failure may pass.
    """

    model: str
    format: Literal["auto", "qwen", "skywork", "rlhflow", "math_shepherd"] = "auto"
    how: Aggregate = "last"
    delimiter: str = "\n\n"
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
        endpoint = self._endpoint()
        if endpoint is not None and endpoint.route != "pooling":
            raise ParameterError(
                self, "model", self.model, allowed="pooling:NAME@URL", hint="Other routes give one score for a text"
            )
        if endpoint is not None and self.format in ("skywork", "rlhflow"):
            raise ParameterError(
                self, "format", self.format, allowed="qwen or math_shepherd at an endpoint",
                hint="The server cannot say where the other formats' steps end; load the model in this process",
            )  # fmt: skip

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One score per item, in [0, 1]; equal texts are read once."""
        scored = await self.step_scores(problem, items, ctx)
        given = {id(item): outcome for item, outcome in zip(items, scored, strict=True)}

        async def one(item: Scorable) -> float:
            outcome = given[id(item)]
            if isinstance(outcome, Exception):
                raise outcome
            return together(self, item, steps_of(item, ctx, self.delimiter), outcome, self.how)

        return await ctx.score_each(items, one)

    async def step_scores(
        self, problem: Problem, items: Sequence[Scorable], ctx: Context
    ) -> list[list[float] | Exception]:
        """The scores of each item's steps, or why it has none."""
        question = prompt_text(problem)
        steps = [steps_of(item, ctx, self.delimiter) for item in items]
        model = await self._model()

        async def read(text: tuple[str, ...]) -> list[float]:
            if not text:
                return []
            if not isinstance(model, RewardEndpoint):
                prompt: list[Mapping[str, str]] = [
                    {"role": "user", "content": question},
                    *({"role": "step", "content": s} for s in text),
                ]
            elif self.format == "math_shepherd":
                prompt = [{"role": "text", "content": shepherd_text(question, text)}]
            else:
                prompt = qwen_messages(question, text)
            good = 0 if self.format == "math_shepherd" else 1
            return [_probability(row, good) for row in await ask(model, prompt, ctx)]

        known = await ctx.once_each(self, steps, read)
        return [known[text] for text in steps]

    def _endpoint(self) -> RewardEndpoint | None:
        return endpoint_of(self, self.model, Access(self.key_env, self.timeout_s, self.max_retries))

    async def _model(self) -> Model:
        settings = Settings(self.model, self.precision, self.device, self.trust_remote_code, self.batch_tokens)
        key = (self.name, settings, self.format, self.key_env, self.timeout_s, self.max_retries)
        return await shared(key, lambda: self._endpoint() or load(settings, self.format))


def load(settings: Settings, format: str = "auto") -> LocalReward:
    """A process reward model in this process.

    Raises:
        ModelNotFoundError: there are no such files.
        CapabilityError: the format cannot be told from them, or the tokenizer lacks what the format needs.
        MissingExtraError: torch or transformers is not installed.
    """
    _, transformers = need_transformers()
    folder = settings.folder()
    if format == "auto":
        trust = {"trust_remote_code": settings.trust_remote_code}
        config = transformers.AutoConfig.from_pretrained(folder, **trust)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trust)
        chosen = detect(settings.source, config, tokenizer, tensor_names(folder))
    else:
        chosen = format  # type: ignore[assignment]
    by_signs = chosen in ("rlhflow", "math_shepherd")

    def head(weights: Weights) -> Callable[[Any], Any] | None:
        _check(chosen, settings.source, weights.tokenizer)
        if not by_signs:
            return None if settings.trust_remote_code else weights.stored_head()
        pair = signs(chosen, weights.tokenizer)
        output = weights.model.get_output_embeddings()
        rows = output.weight[pair]
        bias = None if getattr(output, "bias", None) is None else output.bias[pair]
        return lambda states: weights.torch.nn.functional.linear(states, rows, bias)

    weights = Weights(settings, "AutoModelForCausalLM" if by_signs else "AutoModel", head)

    def encoded(prompt: Prompt) -> tuple[Sequence[int], Sequence[int]]:
        assert not isinstance(prompt, str)
        question, *steps = [str(message["content"]) for message in prompt]
        return encode(chosen, weights.tokenizer, question, steps)

    return LocalReward(weights, encoded, lambda rows: [[_MEANING[chosen](row)] for row in rows], chosen)


def _check(format: FormatName, source: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot write what a format needs."""
    lacks = None
    if format == "qwen" and len(tokenizer.encode(QWEN_STEP_END, add_special_tokens=False)) != 1:
        lacks = f"the token {QWEN_STEP_END}"
    if format in ("qwen", "rlhflow") and not tokenizer.chat_template:
        lacks = "a chat template"
    if format == "math_shepherd" and tokenizer.unk_token_id in tokenizer.encode(
        SHEPHERD_STEP_END, add_special_tokens=False
    ):
        lacks = f"the step tag {SHEPHERD_STEP_END}"
    if lacks:
        raise CapabilityError(f"process_reward: the tokenizer of {source} lacks {lacks}, which format={format} needs")


def _softmax(row: Sequence[float], good: int) -> float:
    if len(row) != 2:
        raise VerifierError(f"process_reward: {len(row)} numbers for a step; two classes are expected")
    return _sigmoid(row[good] - row[1 - good])


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


_MEANING: dict[FormatName, Callable[[Sequence[float]], float]] = {
    "qwen": lambda row: _softmax(row, 1),
    "skywork": lambda row: _sigmoid(row[0]),
    "rlhflow": lambda row: _softmax(row, 0),
    "math_shepherd": lambda row: _softmax(row, 0),
}


def _probability(row: Sequence[float], good: int) -> float:
    """The chance that a step is good: as given, or of two classes' probabilities or logits (as endpoints give them)."""
    if len(row) == 1 and 0 <= row[0] <= 1:
        return float(row[0])
    if len(row) == 2:
        chances = min(row) >= 0 and abs(sum(row) - 1) < 1e-3
        return float(row[good]) if chances else _softmax(row, good)
    raise VerifierError(f"process_reward: {list(row)[:4]} came for a step; it must be a probability or two classes")
