"""The search trees of a study as a local web page.

The page is one file without any outside reference. It is served on the loopback interface only, and only to
requests that name it so; it reads the store and writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from ponder.errors import StudyError
from ponder.reports._local_server import local_server
from ponder.studies.store import StoreReader


def page(data: dict[str, Any] | None = None) -> str:
    """The viewer as HTML; with `data` it shows one search and needs no server."""
    from importlib.resources import files

    text = files("ponder.reports").joinpath("templates/viewer.html").read_text(encoding="utf-8")
    embedded = "null" if data is None else orjson.dumps(data).decode().replace("<", "\\u003c")
    return text.replace("/*DATA*/null", embedded)


def searches(store: StoreReader) -> list[dict[str, Any]]:
    """What there is to see.

    Raises:
        StudyError: the study has no searches.
    """
    found = store.trees()
    if not found:
        raise StudyError(
            f"{store.path.parent} holds no search trees: none of its strategies searches (such as beam_search, mcts "
            "or particle_filter), its outputs are no pictures, or an earlier version of ponder made it"
        )
    return found


def export(folder: Path, out: Path, *, strategy: str | None = None, problem: str | None = None) -> dict[str, Any]:
    """Write one search as a page of its own; the first one that fits.

    Raises:
        StudyError: no search fits.
    """
    with contextlib.closing(StoreReader(folder)) as store:
        listed = searches(store)
        fits = [s for s in listed if strategy in (None, s["strategy"]) and (problem is None or problem in s["problem"])]
        if not fits:
            known = ", ".join(sorted({s["strategy"] for s in listed}))
            raise StudyError(f"no search of problem {problem!r} by {strategy!r}; strategies with trees: {known}")
        one = fits[0]
        tree = store.tree(one["strategy"], one["budget"], one["problem"])
        out.write_text(page({"index": [one], "tree": tree}), encoding="utf-8")
        return one


async def serve(folder: Path, port: int = 0, started: Callable[[str], None] = lambda url: None) -> None:
    """Serve the viewer until cancelled; `started` is told the address."""
    from aiohttp import web

    store = StoreReader(folder)
    try:
        index = searches(store)

        async def home(_: web.Request) -> web.Response:
            return web.Response(text=page(), content_type="text/html")

        async def listing(_: web.Request) -> web.Response:
            return web.Response(body=orjson.dumps(index), content_type="application/json")

        async def one(request: web.Request) -> web.Response:
            try:
                known = index[int(request.match_info["number"])]
            except (ValueError, IndexError):
                raise web.HTTPNotFound(text="no such search") from None
            tree = await asyncio.to_thread(store.tree, known["strategy"], known["budget"], known["problem"])
            return web.Response(body=orjson.dumps(tree), content_type="application/json")

        routes = [web.get("/", home), web.get("/api/searches", listing), web.get("/api/searches/{number}", one)]
        async with local_server(routes, port) as url:
            started(url)
            await asyncio.Event().wait()
    finally:
        store.close()
