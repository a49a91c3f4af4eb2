"""A result's pictures as files: one sheet of all candidates, and the chosen one in full."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponder.core.answers import fingerprint
from ponder.core.candidate import Candidate
from ponder.core.judging import prompt_text
from ponder.core.pictures import frames_of, image_of, is_picture, strip_of
from ponder.core.strategy import Result
from ponder.errors import StoreError
from ponder.reports.viewer import page
from ponder.studies.tree_record import tree_record

if TYPE_CHECKING:
    from PIL.Image import Image

    from ponder.core.process import Process

MOST_SHOWN = 256
"""Candidates on one sheet."""
_SMALL, _LARGE, _FRAMES = 96, 256, 6
_MARGIN, _CAPTION, _FRAME_MS = 10, 20, 125
_PAPER, _INK, _SOFT, _CHOSEN = "#ffffff", "#1b1f24", "#59636e", "#c4500a"


@dataclass(frozen=True)
class Written:
    """Files of a result.

    Attributes:
        search: the search tree as a page for a browser.
        sheet: all candidates that are pictures, the chosen ones first, then by score; None if there are none.
        chosen: the chosen picture as it is (`.png`), or the chosen video (`.gif`).
        left_out: candidates that are on no sheet because there are too many.
    """

    search: Path
    sheet: Path | None = None
    chosen: Path | None = None
    left_out: int = 0


def has_pictures(result: Result) -> bool:
    """Whether any candidate is a picture or a video."""
    return any(is_picture(c.output) for c in result.candidates)


def default_folder(result: Result) -> Path:
    """Where a result's files go if nobody says: named by the prompt and the pictures, so a repeated run is at home.

    >>> from ponder.core.problem import Problem
    >>> str(default_folder(Result(Problem("p", "a 赤い fox / 7!"), (), ())))
    'ponder-a-赤い-fox-7'
    """
    words = re.sub(r"\W+", "-", prompt_text(result.problem))[:40].strip("-_")
    outputs = [c.output for c in _ranked(result)]
    mark = fingerprint(outputs[0]).removeprefix("#") if outputs else ""
    return Path("-".join(part for part in ("ponder", words, mark) if part))


def write_result(result: Result, folder: Path, process: Process | None = None, strategy: str = "") -> Written:
    """Write a result's files; what is there under another result's name is kept, and the new file gets a number.

    Args:
        result: of any strategy.
        folder: where; made if it is missing.
        process: shows what unfinished states are expected to become; None leaves them without a picture.
        strategy: what it is called on the page.

    Raises:
        MissingExtraError: Pillow is not installed.
        StoreError: the folder cannot be written.
    """
    ranked = _ranked(result)
    record = tree_record(result, preview=None if process is None else process.output)
    run = {"strategy": strategy or "ponder solve", "budget": None, "problem": result.problem.id}
    index = {**run, **{k: record[k] for k in ("prompt", "status", "answer", "reference")}, "right": None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        search = _kept(folder / "search.html", page({"index": [index], "tree": record}).encode())
        if not ranked:
            return Written(search)
        shown = ranked[:MOST_SHOWN]
        sheet = _kept(folder / "pictures.png", _png(sheet_of(result, shown), prompt_text(result.problem)))
        best = next((c for c in ranked if _is_chosen(result, c)), None)
        frames = None if best is None else frames_of(best.output)
        chosen = None
        if frames:
            name, data = (
                ("chosen.gif", gif_of(frames)) if len(frames) > 1 else ("chosen.png", _png(image_of(frames[0])))
            )
            chosen = _kept(folder / name, data)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; give another directory with --out") from None
    return Written(search, sheet, chosen, len(ranked) - len(shown))


def sheet_of(result: Result, candidates: Sequence[Candidate]) -> Image:
    """Candidates side by side with their ranks by score, the chosen ones framed; of videos a strip of frames."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    tiles = [_tile(c) for c in candidates]
    wide, high = max(t.width for t in tiles), max(t.height for t in tiles)
    ranks = {c.index: i for i, c in enumerate(sorted(_ranked(result), key=_by_score), 1)}
    captions = [f"{ranks[c.index]}" + ("" if (s := _score(c)) is None else f"  {s:.4g}") for c in candidates]
    wide = max(wide, *(math.ceil(font.getlength(text)) for text in captions))
    across = min(len(tiles), max(1, round(math.sqrt(len(tiles) * (high + _CAPTION) / wide))))
    down = math.ceil(len(tiles) / across)
    step = (wide + 2 * _MARGIN, high + _CAPTION + 2 * _MARGIN)
    legend = _legend(result, candidates)
    width = max(across * step[0], math.ceil(font.getlength(legend)) + 2 * _MARGIN)
    sheet = Image.new("RGB", (width, down * step[1] + _CAPTION + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, down * step[1] + 4), legend, fill=_SOFT, font=font)
    for i, (candidate, tile, text) in enumerate(zip(candidates, tiles, captions, strict=True)):
        left, top = i % across * step[0] + _MARGIN, i // across * step[1] + _MARGIN
        colour = _CHOSEN if _is_chosen(result, candidate) else _INK
        if colour == _CHOSEN:
            pen.rectangle((left - 5, top - 5, left + tile.width + 4, top + tile.height + 4), outline=colour, width=4)
        sheet.paste(tile, (left, top))
        pen.text((left, top + tile.height + 5), text, fill=colour, font=font)
    return sheet


def gif_of(frames: Sequence[Any]) -> bytes:
    """Frames as an animation that repeats."""
    import io

    first, *others = [_resized(image_of(frame)).convert("RGB") for frame in frames]
    held = io.BytesIO()
    first.save(held, "GIF", save_all=True, append_images=others, duration=_FRAME_MS, loop=0)
    return held.getvalue()


def _ranked(result: Result) -> list[Candidate]:
    """The candidates that are pictures: the chosen ones, then by score, then as they were drawn."""
    found = [c for c in result.candidates if is_picture(c.output)]
    return sorted(found, key=lambda c: (not _is_chosen(result, c), *_by_score(c)))


def _is_chosen(result: Result, candidate: Candidate) -> bool:
    return any(result.candidates[i] is candidate for i in result.chosen)


def _legend(result: Result, candidates: Sequence[Candidate]) -> str:
    """What the frame and the numbers mean."""
    scores = dict.fromkeys(next(iter(c.scores)) for c in candidates if c.scores)
    parts = ["framed: chosen"] if result.chosen else []
    return " · ".join([*parts, "rank" + "".join(f", {name}" for name in scores)])


def _score(candidate: Candidate) -> float | None:
    return next(iter(candidate.scores.values()), None)


def _by_score(candidate: Candidate) -> tuple[float, int]:
    """Best first, those without a score last, then as they were drawn."""
    score = _score(candidate)
    return math.inf if score is None or math.isnan(score) else -score, candidate.index


def _tile(candidate: Candidate) -> Image:
    frames = frames_of(candidate.output)
    assert frames is not None
    return _resized(image_of(strip_of(frames, _FRAMES)))


def _resized(image: Image) -> Image:
    """Small pictures by a whole factor, so that their pixels stay square; large ones smaller."""
    if image.height < _SMALL:
        factor = -(-_SMALL // image.height)
        return image.resize((image.width * factor, image.height * factor), resample=0)
    if image.height > _LARGE:
        return image.resize((max(round(image.width * _LARGE / image.height), 1), _LARGE))
    return image


def _png(image: Image, description: str = "") -> bytes:
    import io

    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    if description:
        told.add_itxt("Description", description)
    held = io.BytesIO()
    image.save(held, "PNG", pnginfo=told)
    return held.getvalue()


def _kept(path: Path, data: bytes) -> Path:
    """Write a file under this name, or under the next free numbered one if another file has it."""
    number, free = 1, path
    while free.exists() and free.read_bytes() != data:
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    if not free.exists():
        scratch = free.with_name(f".{free.name}.part")
        scratch.write_bytes(data)
        scratch.replace(free)
    return free
