"""A causal language model of transformers in memory: loaded, with its tokenizer, ready to decode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ponder.costs.shape import ModelShape
from ponder.engine.backend import Backend
from ponder.engine.decoder import Decoder
from ponder.engine.hf_backend import HfBackend
from ponder.engine.hf_experts import routers_of, shape_of
from ponder.engine.hf_vocabulary import HfVocabulary
from ponder.engine.running import Running
from ponder.engine.threads import available
from ponder.engine.weights import native_precision, need_torch
from ponder.errors import MissingExtraError, ModelError, ModelNotFoundError

Kind = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class HfSource:
    """Where a model's files are, as transformers is told.

    Args:
        place: a folder, or a name on the hub.
        revision: a commit on the hub.
        gguf_file: the weights' file in the folder, if it is one GGUF file.
        trust_remote_code: run Python files that come with the model.
    """

    place: str
    revision: str | None = None
    gguf_file: str | None = None
    trust_remote_code: bool = False

    def _arguments(self) -> dict[str, Any]:
        given = {"revision": self.revision, "gguf_file": self.gguf_file, "trust_remote_code": self.trust_remote_code}
        return {name: value for name, value in given.items() if value is not None}

    def config(self) -> Any:
        """The model's configuration; the weights are not read (of a GGUF file: seconds).

        Raises:
            ModelNotFoundError: nothing there that transformers knows.
        """
        with self._complaints():
            return _transformers().AutoConfig.from_pretrained(self.place, **self._arguments())

    def tokenizer(self) -> Any:
        """The tokenizer."""
        with self._complaints():
            return _transformers().AutoTokenizer.from_pretrained(self.place, **self._arguments())

    def model(self, dtype: Any) -> Any:
        """The model with its weights, from safetensors files or the GGUF file; pickles are not opened."""
        safe = {} if self.gguf_file is not None else {"use_safetensors": True}
        with self._complaints(), _no_bars():
            auto = _transformers().AutoModelForCausalLM
            return auto.from_pretrained(self.place, dtype=dtype, **safe, **self._arguments())

    def shape(self) -> ModelShape | None:
        """The size, counted on a model without memory."""
        torch, auto = need_torch(), _transformers().AutoModelForCausalLM
        with torch.device("meta"), self._complaints():
            return shape_of(auto.from_config(self.config(), trust_remote_code=self.trust_remote_code))

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"transformers cannot load {self.place}: {error}") from error


@dataclass(frozen=True)
class HfSettings:
    """What an engine is started with; equal settings share one.

    Args:
        source: the files.
        context: tokens of key-value cache.
        parallel: most texts decoded together.
        threads: processor threads; None takes all cores that this process may use.
        device: of torch; `auto` is the first CUDA device, else the processor.
        dtype: of the weights; `auto` is the files' on a CUDA device, and what the processor multiplies natively on it.
    """

    source: HfSource
    context: int
    parallel: int
    threads: int | None
    device: str
    dtype: Kind


class HfEngine(Running):
    """One model of transformers in memory.

    Args:
        settings: the files and how they are run.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ModelError: it cannot be loaded.
    """

    vocabulary: HfVocabulary

    def __init__(self, settings: HfSettings) -> None:
        torch = need_torch()
        cuda = settings.device == "auto" and torch.cuda.is_available()
        device = "cuda" if cuda else "cpu" if settings.device == "auto" else settings.device
        kind: Kind = native_precision() if settings.dtype == "auto" and device == "cpu" else settings.dtype
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": "auto"}
        if device == "cpu" and torch.get_num_threads() != (threads := settings.threads or available()):
            torch.set_num_threads(threads)
        model = settings.source.model(kinds[kind])
        if not getattr(model, "is_quantized", False):  # a quantised one is where its loader put it
            try:
                model = model.to(device)
            except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
                raise ModelError(f"{settings.source.place} cannot be put on {device}: {error}") from error
        self.model = model.eval().requires_grad_(False)
        self.settings = settings
        tokenizer = settings.source.tokenizer()
        said = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = [*(said if isinstance(said, list) else [said]), tokenizer.eos_token_id]
        width = model.get_output_embeddings().weight.shape[0]
        known = sorted({int(t) for t in ends if t is not None})
        super().__init__(HfVocabulary(tokenizer, width, known, settings.source.place))

    def decoder(self) -> Decoder:
        """The decoder, started if need be."""
        return self._started("transformers", self._backend)

    def _backend(self) -> Backend:
        return HfBackend(self.model, self.settings.context, self.settings.parallel, self.routers)

    @cached_property
    def routers(self) -> Any:
        """Where the number of experts is set; None for a dense model."""
        return routers_of(self.model)

    @property
    def facts(self) -> Mapping[str, object]:
        """What is running, for showing."""
        return {"class": type(self.model).__name__, "device": str(self.model.device), "dtype": str(self.model.dtype)}


def _transformers() -> Any:
    need_torch()
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers models", "transformers", "torch") from None
    return transformers


@contextmanager
def _no_bars() -> Iterator[None]:
    """Loading without progress bars in the middle of what ponder shows."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
