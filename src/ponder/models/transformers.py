"""A Hugging Face causal language model in this process, on ponder's own engine: any decoder with a key-value cache.

`transformers:ORG/NAME` is read from the hub (or its local cache), `transformers:FOLDER` from a folder with
`config.json`, safetensors and tokenizer, `transformers:PATH.gguf` from a GGUF file, which is dequantised. Weights in
pickles are refused, and so is Python code that comes with a model unless `trust_remote_code` says otherwise.

All texts under way are one batch, every shared prefix is evaluated once, and a text that is stopped frees its place
within one step (see the guide's page on the engine). Each completion draws with its own seed and gives the same text
whatever else is decoded with it, up to the rounding of the products.

A mixture-of-experts model takes the number of experts for each token as a setting of a request, `Sampling.experts`:
texts with different numbers share a step, never a cache. The model weighs (and normalises) what the experts say as it
does with its own number.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from ponder.core.model import Capabilities
from ponder.core.registry import model
from ponder.costs.shape import ModelShape
from ponder.engine.decoder import Decoder
from ponder.engine.hf_engine import HfEngine, HfSettings, HfSource, Kind
from ponder.engine.hf_experts import experts_of
from ponder.engine.job import Job
from ponder.engine.running import running
from ponder.errors import ModelNotFoundError
from ponder.models import gguf
from ponder.models._engine_model import EngineModel
from ponder.models._local_model import LocalModel
from ponder.models.catalog import CATALOG, model_digest, model_file

_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@model("transformers", aliases=("hf",))
@dataclass(frozen=True)
class Transformers(EngineModel, LocalModel):
    """A Hugging Face causal language model on this machine.

    `Sampling.extra` may hold one of `json_schema`, `regex` or `grammar` (Lark): every text keeps to it.

    Args:
        source: `ORG/NAME` or `ORG/NAME@REVISION` on the hub, a folder, a `.gguf` file, or a name from `ponder models
            list`.
        context: tokens of key-value cache, shared by all texts under way and those kept for being continued.
        parallel: most texts decoded together.
        threads: processor threads; None takes all cores that this process may use.
        device: `auto` (CUDA if there is a device), `cpu`, `cuda:1`, …
        dtype: of the weights; `auto` is the files' on a CUDA device; on a processor bfloat16 where it is native.
        trust_remote_code: run Python files that come with the model.
    """

    source: str
    context: int = 32768
    parallel: int = 256
    threads: int | None = None
    device: str = "auto"
    dtype: Kind = "auto"
    trust_remote_code: bool = False
    max_concurrency: int = field(default=1024, init=False)

    name: ClassVar[str]
    example = "ORG/NAME, a folder, or a .gguf path"

    def __post_init__(self) -> None:
        self._check_settings()
        trained, experts = self._limits()
        can = Capabilities(
            max_n=1024,
            logprobs=True,
            max_top_logprobs=100,
            prefix=True,
            prompt_cache=True,
            context_tokens=min(self.context, trained) if trained else self.context,
            experts=experts,
        )
        object.__setattr__(self, "capabilities", can)

    def _limits(self) -> tuple[int | None, int]:
        """The context that the model was trained with, and the number of its experts."""
        if self._gguf is not None:
            facts, _, _ = gguf.read_header(self._gguf)
            family = facts.get("general.architecture", "")
            return facts.get(f"{family}.context_length"), int(facts.get(f"{family}.expert_count", 0))
        config = self._config.get_text_config()
        lengths = (getattr(config, name, None) for name in _LENGTHS)
        return next((n for n in lengths if isinstance(n, int) and n > 0), None), experts_of(config)

    @cached_property
    def _gguf(self) -> Path | None:
        return model_file(self.source, self.name) if self.source.endswith(".gguf") or self.source in CATALOG else None

    @cached_property
    def _files(self) -> HfSource:
        """What transformers is told; a name on the hub without its commit."""
        if self._gguf is not None:
            return HfSource(str(self._gguf.parent), None, self._gguf.name, self.trust_remote_code)
        folder = Path(self.source).expanduser()
        if folder.is_dir():
            for needed, what in (("config.json", "no config.json"), ("*.safetensors", "no .safetensors weights")):
                if not any(folder.glob(needed)):
                    raise ModelNotFoundError(f"{folder} has {what}; model.save_pretrained(…) writes what is needed")
            return HfSource(str(folder.resolve()), trust_remote_code=self.trust_remote_code)
        name = _HUB.fullmatch(self.source)
        if name is None or folder.exists():
            raise ModelNotFoundError(f"{self.source} is no folder, no .gguf file, and no ORG/NAME on the hub")
        return HfSource(name[1], name[2], trust_remote_code=self.trust_remote_code)

    @cached_property
    def _config(self) -> Any:
        return self._files.config()

    @cached_property
    def _pinned(self) -> HfSource:
        """What transformers is told, at the commit whose configuration was read."""
        files = self._files
        commit = getattr(self._config, "_commit_hash", None) if self._is_hub else None
        return HfSource(files.place, commit or files.revision, files.gguf_file, files.trust_remote_code)

    @property
    def _is_hub(self) -> bool:
        return self._gguf is None and not Path(self._files.place).is_dir()

    @property
    def identity(self) -> str:
        """The digest of the weights, or the commit on the hub: the same files in another place are the same model."""
        if self._gguf is not None:
            return f"gguf:{model_digest(self._gguf)[:24]}"
        if self._is_hub:
            return f"hf:{self._pinned.place}@{self._pinned.revision}"
        files = sorted(p for p in Path(self._files.place).iterdir() if p.suffix in (".safetensors", ".json", ".model"))
        whole = sha256("".join(f"{p.name}:{model_digest(p)}\n" for p in files).encode())
        return f"safetensors:{whole.hexdigest()[:24]}"

    @cached_property
    def shape(self) -> ModelShape | None:  # type: ignore[override]
        """The size: parameters that work on a token, as operations are counted with (seconds, the first time)."""
        if self._gguf is not None and not self.capabilities.experts:
            return gguf.shape(self._gguf)[0]
        return self._pinned.shape()

    def notes(self) -> list[str]:
        """What runs, and on what."""
        facts, engine = self.running().facts, self.running()
        lines = [f"{facts['class']} on {facts['device']}, {facts['dtype']}".replace("torch.", "")]
        if engine.routers is not None:
            lines.append(f"{engine.routers.default} of {self.capabilities.experts} experts a token; experts=k sets it")
        return lines

    def running(self) -> HfEngine:
        """The engine, loaded if need be and shared by all models of these settings."""
        return running(self._settings(), HfEngine)

    def _settings(self) -> HfSettings:
        return HfSettings(self._pinned, self.context, self.parallel, self.threads, self.device, self.dtype)

    async def _begin(self, *jobs: Job) -> Decoder:
        decoder = await asyncio.to_thread(self.running().decoder)
        decoder.submit(jobs)
        return decoder
