"""What can be set about each engine: knobs with their values, which of them go together, and how they are written.

A configuration holds only what differs from the engine's default; the empty one is the default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TypeAlias

from ponder.core.spec import Term, format_value, parse_term
from ponder.engine.threads import available
from ponder.errors import ParameterError, UnknownNameError

Value: TypeAlias = int | float | str | bool
Config: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True)
class Knob:
    """One setting.

    Args:
        name: as the model's text form, the environment or the server names it.
        default: what holds if nothing is said.
        values: those that are worth trying, the default among them.
        where: `model` (text form), `env` (of a fresh process) or `server` (argument of its command).
        lossy: values that may change what is written beyond rounding.
        flag: how a server's argument is written; `{}` is the value.
    """

    name: str
    default: Value
    values: tuple[Value, ...]
    where: str = "model"
    lossy: frozenset[Value] = frozenset()
    flag: str = ""

    def __post_init__(self) -> None:
        if self.default not in self.values:
            object.__setattr__(self, "values", (self.default, *self.values))


@dataclass(frozen=True)
class Space:
    """All configurations of one engine.

    Args:
        engine: its name.
        base: the model's text form, whose own settings stay unless a knob changes them.
        knobs: what is tried.
        fixed: settings that the base has already.
    """

    engine: str
    base: str
    knobs: tuple[Knob, ...]
    fixed: Config = field(default_factory=dict)

    def knob(self, name: str) -> Knob:
        """The knob of that name.

        Raises:
            UnknownNameError: this engine has none; the nearest are given.
        """
        for knob in self.knobs:
            if knob.name == name:
                return knob
        raise UnknownNameError(f"setting of {self.engine}", name, [k.name for k in self.knobs])

    def narrowed(self, wanted: Mapping[str, Sequence[Value]]) -> Space:
        """Only these knobs, with these values (and their defaults).

        Raises:
            UnknownNameError: no such knob.
        """
        return replace(self, knobs=tuple(replace(self.knob(n), values=tuple(v)) for n, v in wanted.items()))

    def lossless(self) -> Space:
        """Without the values that change what is written."""
        kept = (replace(k, values=tuple(v for v in k.values if v not in k.lossy)) for k in self.knobs)
        return replace(self, knobs=tuple(k for k in kept if len(k.values) > 1))

    def is_lossy(self, config: Config) -> bool:
        """Whether a configuration may change what is written beyond rounding."""
        return any(value in self.knob(name).lossy for name, value in config.items())

    def full(self, config: Config) -> dict[str, Value]:
        """Every knob's value."""
        return {k.name: config.get(k.name, k.default) for k in self.knobs}

    def sparse(self, values: Config) -> dict[str, Value]:
        """Only what differs from the default, in the order of the knobs."""
        return {k.name: values[k.name] for k in self.knobs if values.get(k.name, k.default) != k.default}

    def allowed(self, config: Config) -> bool:
        """Whether the values go together, and no two ways mean the same."""
        at = {**self.fixed, **self.full(config)}
        if int(at.get("ubatch", 1)) > int(at.get("batch", 1 << 30)):
            return False
        if at.get("flash") == "off" and str(at.get("kv", "")).startswith("q"):
            return False
        torch_only = at.get("engine") == "llamacpp" and at.get("precision", "auto") != "auto"
        return not torch_only and not ("batch_threads" in config and config["batch_threads"] == at.get("threads"))

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every allowed configuration, the default first."""
        ordered = [(k.default, *(v for v in k.values if v != k.default)) for k in self.knobs]
        for values in product(*ordered):
            config = self.sparse(dict(zip((k.name for k in self.knobs), values, strict=True)))
            if self.allowed(config):
                yield config

    # ------------------------------------------------------------------ how it is written

    def spec(self, config: Config) -> str:
        """The model's text form with these settings."""
        term = parse_term(self.base)
        changed = {n: v for n, v in config.items() if self.knob(n).where == "model"}
        arguments = {**{n: v for n, v in term.arguments.items() if n not in changed}, **changed}
        return str(Term(term.name, term.locator, arguments, term.positional))

    def environment(self, config: Config) -> dict[str, str]:
        """Environment variables of the process."""
        return {n: str(v) for n, v in config.items() if self.knob(n).where == "env"}

    def flags(self, config: Config) -> list[str]:
        """Arguments of the server's command."""
        given = ((self.knob(n), v) for n, v in config.items())
        return [word for knob, v in given if knob.where == "server" for word in _flag(knob, v)]


def _flag(knob: Knob, value: Value) -> list[str]:
    if isinstance(value, bool):
        return [knob.flag if value else knob.flag.replace("--", "--no-", 1)]
    return knob.flag.format(value).split()


def space_for(base: str, *, server: str | None = None) -> Space:
    """The space of a model's engine.

    Args:
        base: the model's text form; settings that it gives are the defaults.
        server: the name of a server that is started for it, such as `vllm`.

    Raises:
        ParameterError: an engine that has nothing to set.
    """
    term = parse_term(base)
    engine = {"llama_cpp": "llamacpp", "openai_compatible": "openai", "hf": "transformers"}.get(term.name, term.name)
    spaces = {"llamacpp": _llamacpp, "embedded": _embedded, "transformers": _transformers, "openai": _endpoint}
    if engine not in spaces:
        raise ParameterError("tune", "model", base, allowed=f"a model of {', '.join(spaces)}")
    knobs = spaces[engine]()
    if server is not None:
        from ponder.tuning.servers import SERVERS

        if server not in SERVERS:
            raise UnknownNameError("server", server, SERVERS)
        knobs = (*SERVERS[server].knobs, *knobs)
        engine = server
    given = {n: v for n, v in term.arguments.items() if isinstance(v, (int, float, str, bool))}
    given |= {n: str(v) for n, v in term.arguments.items() if isinstance(v, Term) and v.is_word}
    knobs = tuple(replace(k, default=given[k.name]) if k.name in given else k for k in knobs)
    return Space(engine, base, knobs, given)


def _threads() -> tuple[int, tuple[int, ...]]:
    cores = available()
    return cores, tuple(sorted({1, max(1, cores // 2), cores, 2 * cores}))


SPINS = Knob("GOMP_SPINCOUNT", 10000, (0, 1000, 10000, 1000000), "env")
"""Rounds that an idle OpenMP thread waits before it sleeps; the default is what ponder sets."""


def _llamacpp() -> tuple[Knob, ...]:
    cores, threads = _threads()
    return (
        Knob("threads", cores, threads),
        Knob("parallel", 32, (1, 2, 4, 8, 16, 32)),
        Knob("ubatch", 512, (64, 128, 256, 512)),
        Knob("unified", True, (True, False)),
        SPINS,
        Knob("flash", "auto", ("auto", "on", "off")),
        Knob("batch_threads", "same", ("same", *threads)),
        Knob("batch", 2048, (256, 512, 2048)),
        Knob("prompt_cache", True, (True, False)),
        Knob("kv", "f16", ("f16", "bf16", "q8_0", "q4_0"), lossy=frozenset({"bf16", "q8_0", "q4_0"})),
    )


def _embedded() -> tuple[Knob, ...]:
    cores, threads = _threads()
    return (
        Knob("engine", "auto", ("auto", "llamacpp", "torch")),
        Knob("threads", cores, threads),
        Knob("parallel", 256, (1, 4, 16, 64, 256)),
        SPINS,
        Knob("precision", "auto", ("auto", "fp32", "bf16"), lossy=frozenset({"bf16"})),
    )


def _transformers() -> tuple[Knob, ...]:
    cores, threads = _threads()
    return (
        Knob("threads", cores, threads),
        Knob("parallel", 64, (1, 4, 16, 64)),
        Knob("dtype", "auto", ("auto", "fp32", "bf16"), lossy=frozenset({"bf16"})),
        SPINS,
    )


def _endpoint() -> tuple[Knob, ...]:
    """What a client can set: completions asked for in one call, and calls under way at once."""
    return (Knob("max_n", 128, (1, 4, 16, 128)), Knob("max_concurrency", 64, (1, 2, 4, 8, 16, 64)))


def parse_knobs(texts: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """Read `threads=1,2` texts.

    >>> parse_knobs(["threads=1,2", "flash=on,off", "unified=true"])
    {'threads': (1, 2), 'flash': ('on', 'off'), 'unified': (True,)}
    """
    wanted: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        name, sign, rest = text.partition("=")
        if not sign or not rest:
            raise ParameterError("tune", "knob", text, allowed="NAME=VALUE,VALUE,…", hint="--knob threads=1,2")
        wanted[name.strip()] = tuple(_value(v.strip()) for v in rest.split(","))
    return wanted


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def told(config: Config) -> str:
    """A configuration in a line.

    >>> told({"threads": 2, "unified": False}), told({})
    ('threads=2, unified=false', 'default')
    """
    return ", ".join(f"{n}={format_value(v)}" for n, v in config.items()) or "default"
