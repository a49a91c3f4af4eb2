"""A reward model in this process: a decoder (or encoder) with a head that reads numbers off single tokens.

It is a `Model` whose completion is the list of its numbers and whose tokens are all prompt, so that what it costs is
counted, limited, priced and stored like any judge's. Texts asked about at the same time share forward passes. Only
safetensors are read, and no code of a checkpoint is run unless that is asked for.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast
from weakref import WeakKeyDictionary

from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model, Request, Sampling
from ponder.core.problem import Prompt
from ponder.engine.hf_experts import shape_of
from ponder.engine.threads import quiet_threads
from ponder.errors import (
    BudgetError,
    ContextLengthError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    VerifierError,
)

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Loaded = TypeVar("Loaded")
Values = list[list[float]]
"""For each place that is read, the numbers of the head."""

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_HEADS = ("score.", "v_head.", "value_head.", "classifier.")
_STILL = 3
"""Turns of the event loop in which nobody asked any more, after which those who did share a pass."""


@dataclass(frozen=True)
class Settings:
    """What is loaded, and how.

    Args:
        source: a directory, or a name on the model hub.
        precision: of the weights; `auto` is the checkpoint's own.
        device: `cpu`, `cuda`, …; None takes a GPU if there is one.
        trust_remote_code: run the checkpoint's own code.
        batch_tokens: most tokens of one forward pass, padding included.
    """

    source: str
    precision: Precision = "auto"
    device: str | None = None
    trust_remote_code: bool = False
    batch_tokens: int = 16384

    def folder(self) -> Path:
        """The directory with the files, fetched from the hub if there is no such directory.

        Raises:
            ModelNotFoundError: there is neither, or it holds no safetensors.
        """
        folder = Path(self.source).expanduser()
        if not folder.is_dir():
            folder = self._fetched()
        if not list(folder.glob("*.safetensors")):
            raise ModelNotFoundError(
                f"{folder} holds no .safetensors; pickled weights are not read, since loading them runs code. Convert "
                "the checkpoint (save_pretrained writes safetensors)."
            )
        return folder

    def _fetched(self) -> Path:
        if self.source.startswith((".", "/", "~")):
            raise ModelNotFoundError(f"there is no directory {self.source}")
        from huggingface_hub import snapshot_download

        wanted = [*_FILES, *(["*.py"] if self.trust_remote_code else [])]
        try:
            return Path(snapshot_download(self.source, allow_patterns=wanted))
        except Exception as error:
            raise ModelNotFoundError(
                f"{self.source} is no directory here and cannot be fetched from the model hub: {error}"
            ) from None


class Weights:
    """A loaded decoder, its tokenizer, and a head on its last states.

    Args:
        settings: what to load.
        kind: the transformers class that loads the decoder.
        head: gives `states [n, width] -> numbers [n, k]` once the decoder is there, or None: then the model itself is
            asked, which must return numbers for each token or for the whole text.
    """

    def __init__(self, settings: Settings, kind: str, head: Callable[[Weights], Callable[[Any], Any] | None]) -> None:
        torch, transformers = need_transformers()
        self.settings, self.torch = settings, torch
        self.folder = settings.folder()
        device = device_of(settings.device)
        loader = getattr(transformers, kind)
        trust = {"trust_remote_code": settings.trust_remote_code}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **trust)
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # heads that are read here are "unexpected" there
        try:
            with quiet_threads():
                self.model, report = loader.from_pretrained(
                    self.folder, dtype=settings.precision, use_safetensors=True, output_loading_info=True, **trust
                )
        finally:
            transformers.logging.set_verbosity(level)
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"{settings.source} lacks {len(missing)} tensors of a {type(self.model).__name__} ({missing[0]}, …); "
                "they would have been random numbers. Is it a reward model of this kind?"
            )
        self.model = self.model.to(device).eval()
        self.head = head(self)
        config = self.model.config.get_text_config()
        self.shape = shape_of(self.model)
        self.longest: int | None = getattr(config, "max_position_embeddings", None)
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Asked]] = WeakKeyDictionary()
        self._workers: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self.passes = 0

    def stored_head(self) -> Callable[[Any], Any]:
        """The head that the checkpoint holds beside the decoder: linear layers, with rectifiers in between.

        Raises:
            ModelError: there is none.
        """
        from safetensors import safe_open

        torch, found = self.torch, {}
        for path in sorted(self.folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                found.update({name: file.get_tensor(name) for name in file.keys() if name.startswith(_HEADS)})  # noqa: SIM118
        layers = sorted({name.rpartition(".")[0] for name in found})
        if not layers:
            raise ModelError(f"{self.settings.source} has no head ({', '.join(_HEADS)}…): it is no reward model")
        like = next(self.model.parameters())
        pairs = [
            tuple(None if t is None else t.to(like) for t in (found[f"{layer}.weight"], found.get(f"{layer}.bias")))
            for layer in layers
        ]

        def head(states: Any) -> Any:
            for i, (weight, bias) in enumerate(pairs):
                states = torch.nn.functional.linear(torch.relu(states) if i else states, weight, bias)
            return states

        return head

    async def read(self, ids: Sequence[int], positions: Sequence[int]) -> tuple[Values, float]:
        """The head's numbers at some tokens of a text, and this text's share of the seconds that the pass took.

        Raises:
            ContextLengthError: the text is too long.
        """
        if self.longest is not None and len(ids) > self.longest:
            raise ContextLengthError(
                f"{self.settings.source} reads at most {self.longest} tokens, the text to score has {len(ids)}"
            )
        loop = asyncio.get_running_loop()
        asked = _Asked(list(ids), list(positions), loop.create_future())
        self._waiting.setdefault(loop, []).append(asked)
        worker = self._workers.get(loop)
        if worker is None or worker.done():
            self._workers[loop] = loop.create_task(self._work(loop))
        return await asked.answer

    async def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forward passes over whatever waits, as much at once as fits, until nobody waits."""
        waiting = self._waiting[loop]
        while waiting:
            known, still = len(waiting), 0
            while still < _STILL:
                await asyncio.sleep(0)
                still, known = (still + 1, known) if len(waiting) == known else (0, len(waiting))
            waiting[:] = sorted((a for a in waiting if not a.answer.done()), key=lambda a: len(a.ids))
            while batch := self._batch(waiting):
                del waiting[: len(batch)]
                try:
                    answers = await asyncio.to_thread(self._pass, batch, loop.time)
                except Exception as error:
                    answers = [error] * len(batch)
                for asked, answer in zip(batch, answers, strict=True):
                    if asked.answer.done():
                        continue
                    if isinstance(answer, Exception):
                        asked.answer.set_exception(ModelError(f"{self.settings.source}: {answer}"))
                    else:
                        asked.answer.set_result(answer)

    def _batch(self, waiting: Sequence[_Asked]) -> list[_Asked]:
        """The first of the texts, by length, that fit into one pass; one always does."""
        n = sum((i + 1) * len(asked.ids) <= self.settings.batch_tokens for i, asked in enumerate(waiting))
        return list(waiting[: max(n, 1)])

    def _pass(self, batch: Sequence[_Asked], clock: Callable[[], float]) -> list[Any]:
        torch = self.torch
        longest = max(len(asked.ids) for asked in batch)
        # A causal model's padding on the right is never looked at; for an encoder the mask hides it.
        ids = torch.tensor([a.ids + [a.ids[-1]] * (longest - len(a.ids)) for a in batch])
        mask = torch.tensor([[1] * len(a.ids) + [0] * (longest - len(a.ids)) for a in batch])
        started = clock()
        with self._lock, torch.inference_mode():
            self.passes += 1
            given = {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}
            if self.head is None:
                out = self.model(**given)
                numbers = getattr(out, "logits", None)
                numbers = out[0] if numbers is None else numbers
                picked = [n if n.dim() == 1 else n[a.positions] for n, a in zip(numbers, batch, strict=True)]
                values = [v.float().reshape(-1, v.shape[-1]).tolist() for v in picked]
            else:
                states = self.model.base_model(**given, use_cache=False).last_hidden_state
                values = [self.head(s[a.positions]).float().tolist() for s, a in zip(states, batch, strict=True)]
        seconds = (clock() - started) / len(batch)
        return [(value, seconds) for value in values]


@dataclass(eq=False)
class _Asked:
    ids: list[int]
    positions: list[int]
    answer: asyncio.Future[tuple[Values, float]]


class LocalReward(Model):
    """Loaded weights as something that `Context.generate` can ask.

    Args:
        weights: what reads.
        encode: a prompt's tokens, and where numbers are read.
        meaning: what the numbers are made into: the rows that are the completion.
        label: what was chosen beside the weights, for names and stored answers.
    """

    name: ClassVar[str] = "reward_model"
    max_concurrency = 1 << 16

    def __init__(
        self,
        weights: Weights,
        encode: Callable[[Prompt], tuple[Sequence[int], Sequence[int]]],
        meaning: Callable[[Values], Values],
        label: str,
    ) -> None:
        self.weights, self._encode, self._meaning, self._label = weights, encode, meaning, label
        self.capabilities = Capabilities(
            n=False, logprobs=False, streaming=False, context_tokens=weights.longest, seeds=True
        )
        self.shape = weights.shape
        digest = blake2b(digest_size=12)
        for path in sorted([*weights.folder.glob("*.json"), *weights.folder.glob("*.safetensors")]):
            found = path.stat()
            digest.update(f"{path.name}\x1f{found.st_size}\x1f{found.st_mtime_ns}\x1e".encode())
        self._identity = f"reward:{digest.hexdigest()}/{label}/{weights.settings.precision}"

    def __str__(self) -> str:
        return f"{self.weights.settings.source} ({self._label})"

    @property
    def identity(self) -> str:
        """Names, sizes and times of the files, and what is read off them."""
        return self._identity

    def count_tokens(self, prompt: Prompt) -> int:
        """The exact number."""
        return len(self._encode(prompt)[0])

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """One completion: rows of numbers as JSON; all of its tokens are the prompt's."""
        ids, positions = self._encode(request.prompt)
        values, seconds = await self.weights.read(ids, positions) if positions else ([], 0.0)
        text = json.dumps(self._meaning(values))
        yield 0, Completion(text, 0, prompt_tokens=len(ids) if positions else 0, requests=1, seconds=seconds)


async def ask(model: Model, prompt: Sequence[Mapping[str, Any]], ctx: Context) -> Values:
    """What a reward model (here or at an endpoint) reads: a row of numbers for each place.

    Raises:
        VerifierError: the call failed, or what came are not all numbers.
        BudgetError: it is not affordable.
    """
    landing = ctx.generate(model, tuple(prompt), seeds=(0,), sampling=Sampling(temperature=0.0, max_new_tokens=1))
    for answer in [completion async for _, completion in landing]:
        if answer.error is not None:
            raise VerifierError(f"the reward model {model} failed: {answer.error}")
        rows: Values = json.loads(answer.text)
        if not all(math.isfinite(value) for row in rows for value in row):
            raise VerifierError(f"the reward model {model} gave {rows}, which are not all numbers")
        return rows
    raise BudgetError("the budget did not allow the reward model's call")


def tensor_names(folder: Path) -> list[str]:
    """Names of the tensors in a directory's safetensors files."""
    from safetensors import safe_open

    names: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names += file.keys()
    return names


def need_transformers() -> tuple[Any, Any]:
    """The packages torch and transformers.

    Raises:
        MissingExtraError: one is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("a reward model in this process", error.name or "transformers", "torch") from None
    return torch, transformers


def device_of(asked: str | None) -> Any:
    """The device that was asked for; None takes a GPU if there is one."""
    torch, _ = need_transformers()
    return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))


_LOADED: dict[tuple[object, ...], Any] = {}
_LOADING = threading.Lock()


def loaded(key: tuple[object, ...], build: Callable[[], Loaded]) -> Loaded:
    """The one model of a key in this process, built when it is first asked for."""
    with _LOADING:
        if key not in _LOADED:
            _LOADED[key] = build()
        return cast(Loaded, _LOADED[key])


async def shared(key: tuple[object, ...], build: Callable[[], Loaded]) -> Loaded:
    """The same, built in a thread."""
    if (found := _LOADED.get(key)) is not None:
        return cast(Loaded, found)
    return await asyncio.to_thread(loaded, key, build)
