"""A GGUF file run in this process by llama.cpp, through the package `xllamacpp`.

The package's server runs in a thread of this process, with continuous batching and a prompt cache; it
is spoken to over the loopback interface, guarded by a key of its own. `n` completions of one prompt
share its evaluation.

Seeds: completion i of a call draws with (the call's first seed + i). The same call gives the same
texts as long as llama.cpp groups the arithmetic alike: a prompt that comes from the cache, or another
request in the same batch, can round differently in the last bit and so, rarely, pick another token.
`cache_prompt=false` with one request at a time repeats exactly. What a study has stored is never drawn
again, so its results do not change.

Log-probabilities are those of the untempered distribution, of all tokens but the one that ends the
text.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import orjson

from ponder.core.model import Capabilities, Chunk, Completion, Finish, Model, Request
from ponder.core.problem import Prompt
from ponder.core.registry import MODELS, arguments_for, canonical, model
from ponder.core.spec import Term
from ponder.errors import (
    ContextLengthError,
    EndpointError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    ParameterError,
    SpecError,
)
from ponder.models.catalog import CATALOG, cache_dir, file_digest
from ponder.models.gguf import shape

_FINISH: dict[str, Finish] = {"eos": "stop", "word": "stop", "limit": "length", "none": "stop"}
_LOADED_AT_MOST = 2


@model("llamacpp", aliases=("llama_cpp",))
@dataclass(frozen=True)
class LlamaCpp(Model):
    """A GGUF model in this process.

    Args:
        source: a name from `ponder models list`, or a path to a `.gguf` file.
        context: tokens of key-value cache, shared by all sequences under way.
        parallel: sequences decoded together.
        threads: processor threads; None takes all cores.
        cache_prompt: keep evaluated prompts for later requests.
    """

    source: str
    context: int = 16384
    parallel: int = 32
    threads: int | None = None
    cache_prompt: bool = True
    max_concurrency: int = field(default=16, init=False)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.context < 64 or self.parallel < 1 or (self.threads is not None and self.threads < 1):
            given = (self.context, self.parallel, self.threads)
            raise ParameterError(self, "context/parallel/threads", given, allowed="≥ 64, ≥ 1 and ≥ 1")
        found, trained = shape(self.path)
        limit = min(self.context, trained) if trained else self.context
        object.__setattr__(self, "shape", found)
        object.__setattr__(
            self,
            "capabilities",
            Capabilities(
                max_n=self.parallel,
                logprobs=True,
                max_top_logprobs=100,
                prefix=True,
                prompt_cache=self.cache_prompt,
                context_tokens=limit,
            ),
        )
        object.__setattr__(self, "_clients", {})

    @classmethod
    def from_term(cls, term: Term) -> LlamaCpp:
        """Read `llamacpp:NAME_OR_PATH(…)`."""
        if not term.locator:
            raise SpecError(term.source, term.position, "a model is expected: llamacpp:smollm2-135m or a .gguf path")
        options = Term(term.name, None, term.arguments, term.positional, term.position, term.source)
        return cls(term.locator, **arguments_for(MODELS.entry("llamacpp"), options, term.source))

    def __str__(self) -> str:
        rest = canonical(self).partition(", ")[2]
        return f"{Term('llamacpp', self.source)}({rest}" if rest else str(Term("llamacpp", self.source))

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            ModelNotFoundError: it is not there; says how to get it.
        """
        if self.source in CATALOG:
            path = CATALOG[self.source].path
            hint = f"fetch it with: ponder models pull {self.source}"
        else:
            path = Path(self.source).expanduser()
            hint = f"give a .gguf file, or one of: {', '.join(CATALOG)}"
        if not path.is_file():
            raise ModelNotFoundError(f"llamacpp: no model file at {path}; {hint}")
        return path

    @property
    def identity(self) -> str:
        """The digest of the weights: the same file under another name is the same model."""
        return f"gguf:{_digest(self.path)[:24]}"

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Completions of one call (all at once), or of parallel streams if they are watched or raced."""
        prompt = await self._prompt(request.prompt) + request.prefix
        body = self._body(request, prompt)
        if request.watch is not None or request.stream:
            for position in range(request.n):
                yield position, await self._stream(request, position, body)
            return
        started = time.monotonic()
        answer = await self._post("/completion", body)
        choices = answer if isinstance(answer, list) else [answer]
        seconds = (time.monotonic() - started) / max(len(choices), 1)
        for choice in choices:
            position = int(choice.get("index", 0))
            yield position, _completion(choice, request, seconds, first=position == 0)

    async def aclose(self) -> None:
        """Close connections; the loaded model stays for the next call of this process."""
        client = self._clients.pop(id(asyncio.get_running_loop()), None)  # type: ignore[attr-defined]
        if client is not None:
            await client.close()

    # ------------------------------------------------------------------ requests

    def _body(self, request: Request, prompt: str) -> dict[str, Any]:
        sampling = request.sampling
        return {
            "prompt": prompt,
            "n_cmpl": request.n,
            "n_predict": sampling.max_new_tokens,
            "seed": request.seeds[0],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or 0,
            "min_p": sampling.min_p or 0.0,
            "samplers": ["temperature", "top_k", "top_p", "min_p"],
            "repeat_penalty": 1.0,
            "stop": list(sampling.stop),
            "n_probs": 0 if sampling.logprobs is None else max(sampling.logprobs, 1),
            "post_sampling_probs": False,
            "cache_prompt": self.cache_prompt,
            "response_fields": None,
            **dict(sampling.extra),
        }

    async def _prompt(self, prompt: Prompt) -> str:
        """Text as it is; messages through the model's own chat template."""
        if isinstance(prompt, str):
            return prompt
        shown: str = (await self._post("/apply-template", {"messages": [dict(m) for m in prompt]}))["prompt"]
        return shown

    async def _stream(self, request: Request, position: int, body: Mapping[str, Any]) -> Completion:
        """One completion token by token, through the watcher; its slot is free once this ends."""
        index, started = request.offset + position, time.monotonic()
        seed = request.seeds[position]
        pieces: list[str] = []
        logprobs: list[float] = []
        tops: list[Mapping[str, float]] = []
        wanted = request.sampling.logprobs
        n_tokens, prompt_tokens, cached = 0, 0, 0

        def made(finish: Finish, reason: str | None = None) -> Completion:
            return Completion(
                "".join(pieces),
                n_tokens,
                finish,
                reason,
                logprob=math.fsum(logprobs) if wanted is not None else None,
                prompt_tokens=prompt_tokens,
                cached_tokens=cached,
                requests=1,
                seconds=time.monotonic() - started,
                token_logprobs=tuple(logprobs) if wanted is not None else None,
                top_logprobs=tuple(tops) if wanted else None,
            )

        try:
            client = await self._client()
            stream = {**body, "n_cmpl": 1, "seed": seed, "stream": True}
            async with client.post("/completion", data=orjson.dumps(stream)) as response:
                if response.status != 200:
                    raise _error(await response.read(), self, request)
                async for line in response.content:
                    if not line.startswith(b"data: "):
                        continue
                    event = orjson.loads(line[6:])
                    if "error" in event:
                        raise _error(line[6:], self, request)
                    pieces.append(event.get("content", ""))
                    new, top = _logprobs(event, wanted)
                    logprobs += new
                    tops += top
                    n_tokens = event.get("tokens_predicted", n_tokens)
                    prompt_tokens = event.get("tokens_evaluated", prompt_tokens)
                    cached = (event.get("timings") or {}).get("cache_n", cached)
                    if event.get("stop"):
                        kind = event.get("stop_type", "none")
                        return made(_FINISH.get(kind, "stop"), event.get("stopping_word", "") if kind == "word" else "")
                    chunk = Chunk(index, pieces[-1], 1, tuple(new) if new else None, tuple(top) if top else None)
                    if request.watch is not None and request.watch(chunk):
                        response.close()
                        return made("stopped_early")
        except asyncio.CancelledError:
            if request.lost is not None:
                request.lost(index, made("cancelled"))
            raise
        raise EndpointError(f"{self}: the stream ended before the completion did")

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        import aiohttp

        try:
            client = await self._client()
            async with client.post(path, data=orjson.dumps(body)) as response:
                raw = await response.read()
        except aiohttp.ClientError as error:
            raise EndpointError(f"{self}: the model's server does not answer: {error}") from error
        if response.status != 200:
            raise _error(raw, self, None)
        return orjson.loads(raw)

    async def _client(self) -> Any:
        """One HTTP session per event loop, to the one server of this file and these settings."""
        import aiohttp

        clients: dict[int, Any] = self._clients  # type: ignore[attr-defined]
        key = id(asyncio.get_running_loop())
        if key not in clients or clients[key].closed:
            address, secret = await asyncio.to_thread(_server, self)
            if key in clients and not clients[key].closed:
                return clients[key]
            clients[key] = aiohttp.ClientSession(
                address,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"},
            )
        return clients[key]


_SERVERS: OrderedDict[tuple[Any, ...], tuple[Any, str]] = OrderedDict()
"""Servers of this process with their keys, least recently used first."""


def _server(wanted: LlamaCpp) -> tuple[str, str]:
    """Address and key of the server for a model, started if it is not running."""
    key = (str(wanted.path), wanted.context, wanted.parallel, wanted.threads)
    if key not in _SERVERS:
        try:
            import xllamacpp
        except ImportError:
            raise MissingExtraError("llamacpp models", "xllamacpp", "llamacpp") from None
        while len(_SERVERS) >= _LOADED_AT_MOST:
            _SERVERS.popitem(last=False)
        secret = secrets.token_hex(16)
        settings = xllamacpp.CommonParams()
        settings.model.path = str(wanted.path)
        settings.n_ctx, settings.n_parallel, settings.kv_unified = wanted.context, wanted.parallel, True
        threads = wanted.threads or os.cpu_count() or 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.verbosity, settings.api_keys = -1, [secret]
        try:
            _SERVERS[key] = (xllamacpp.Server(settings), secret)
        except RuntimeError as error:
            raise ModelError(f"{wanted}: llama.cpp cannot load {wanted.path}: {error}") from error
    _SERVERS.move_to_end(key)
    server, secret = _SERVERS[key]
    return server.listening_address, secret


def _completion(choice: Mapping[str, Any], request: Request, seconds: float, *, first: bool) -> Completion:
    wanted = request.sampling.logprobs
    logprobs, tops = _logprobs(choice, wanted)
    kind = choice.get("stop_type", "none")
    cached = (choice.get("timings") or {}).get("cache_n", 0)
    return Completion(
        choice["content"],
        int(choice.get("tokens_predicted", 0)),
        _FINISH.get(kind, "stop"),
        choice.get("stopping_word", "") if kind == "word" else "",
        logprob=math.fsum(logprobs) if wanted is not None else None,
        prompt_tokens=int(choice.get("tokens_evaluated", 0)) if first else 0,
        cached_tokens=int(cached) if first else 0,
        requests=1 if first else 0,
        seconds=seconds,
        token_logprobs=tuple(logprobs) if wanted is not None else None,
        top_logprobs=tuple(tops) if wanted else None,
    )


def _logprobs(event: Mapping[str, Any], wanted: int | None) -> tuple[list[float], list[Mapping[str, float]]]:
    """Log-probabilities of the tokens in an answer or a piece of one, and of the most likely alternatives."""
    if wanted is None:
        return [], []
    tokens = event.get("completion_probabilities") or []
    chosen = [math.nan if t.get("logprob") is None else float(t["logprob"]) for t in tokens]
    tops: list[Mapping[str, float]] = []
    if wanted:
        tops = [{a["token"]: float(a["logprob"]) for a in t.get("top_logprobs", [])} for t in tokens]
    return chosen, tops


def _error(raw: bytes, wanted: LlamaCpp, request: Request | None) -> ModelError:
    try:
        said = orjson.loads(raw).get("error", {})
    except (orjson.JSONDecodeError, AttributeError):
        return EndpointError(f"{wanted}: unexpected answer {raw[:200]!r}")
    if said.get("type") == "exceed_context_size_error":
        return ContextLengthError(
            f"{wanted}: the prompt has {said.get('n_prompt_tokens')} tokens, the context {said.get('n_ctx')}; "
            "shorten it, or use a model (or context=…) that holds it"
        )
    return EndpointError(f"{wanted}: {said.get('message', raw[:200])}", status=said.get("code"))


def _digest(path: Path) -> str:
    """The file's SHA-256, remembered by path, size and time of change."""
    facts = path.stat()
    place = cache_dir() / "digests.json"
    key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
    try:
        known = orjson.loads(place.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        known = {}
    if key not in known:
        known[key] = file_digest(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = place.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(orjson.dumps(known))
            scratch.replace(place)
        except OSError:
            return str(known[key])  # only costs hashing again next time
    return str(known[key])
