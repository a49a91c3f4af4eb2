"""A page that shows a study while it runs: served to this machine only, under an address that cannot be guessed."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from ponder.reports._local_server import local_server
from ponder.reports.html import redact
from ponder.studies.live import Follower, LiveState, LiveStopError
from ponder.studies.results import StudyResults
from ponder.studies.runner import Progress, abench

_GRACE_S = 3.0
"""How long an open page is given to fetch the last state."""


class Shared:
    """Tells several watchers how a study goes on."""

    def __init__(self, state: LiveState, *others: Progress) -> None:
        self.everybody: tuple[Progress, ...] = (state, *others)
        self.watch = state.watch

    def begin(self, rows: int, problems: int, most: Any) -> None:
        """It starts."""
        for one in self.everybody:
            one.begin(rows, problems, most)

    def finished(self, series: Any, outcome: Any, replayed: bool) -> None:
        """One problem of one row is done."""
        for one in self.everybody:
            one.finished(series, outcome, replayed)


class LivePage:
    """What the page fetches.

    Args:
        state: what it shows.
        stop: called when its reader wants the study to stop; None hides the button.
    """

    def __init__(self, state: LiveState, stop: Callable[[], object] | None = None) -> None:
        self.state, self.stop = state, stop
        self._visits = 0
        self._told = asyncio.Event()

    @asynccontextmanager
    async def served(self, port: int = 0) -> AsyncIterator[str]:
        """Serve it while the context is open; gives the address with its secret."""
        from aiohttp import web

        async def home(_: web.Request) -> web.Response:
            return web.Response(text=live_html(), content_type="text/html")

        async def state(_: web.Request) -> web.Response:
            self._visits += 1
            if self.state.status not in ("starting", "running"):
                self._told.set()
            return web.Response(body=orjson.dumps(self.plain()), content_type="application/json")

        async def stop(_: web.Request) -> web.Response:
            if self.stop is None:
                raise web.HTTPNotFound(text="this page cannot stop the study")
            self.stop()
            return web.Response(text="stopping")

        routes = [web.get("/", home), web.get("/state", state), web.post("/stop", stop)]
        async with local_server(routes, port, secret=secrets.token_urlsafe(18)) as url:
            yield url

    def plain(self) -> dict[str, Any]:
        """The state as the page gets it, without keys and passwords."""
        shown = self.state.snapshot()
        for row in shown["rows"]:
            row["strategy"] = redact(row["strategy"])
        shown["title"], shown["message"] = redact(shown["title"]), redact(shown["message"])
        return shown | {"can_stop": self.stop is not None}

    async def last_look(self) -> None:
        """Let an open page fetch how it ended."""
        if self._visits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), _GRACE_S)


def live_html() -> str:
    """The page; it holds no data and no outside reference."""
    from importlib.resources import files

    return files("ponder.reports").joinpath("templates/live.html").read_text(encoding="utf-8")


async def bench_live(
    study: Any = None,
    out: str | Path | None = None,
    *,
    started: Callable[[str], None],
    port: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> StudyResults:
    """`abench` with a page to watch it on.

    Args:
        study: as for `abench`.
        out: as for `abench`.
        started: told the page's address.
        port: of the page; 0 takes a free one.
        progress: told how it goes on, too.
        options: as for `abench`.

    Raises:
        LiveStopError: it was stopped from the page; what is finished is in the store.
        PonderError: as from `abench`.
    """
    state = LiveState(title=" · ".join(str(options[k]) for k in ("model", "task") if options.get(k)) or str(study))
    watchers = Shared(state, *([progress] if progress is not None else []))
    running = asyncio.create_task(abench(study, out, progress=watchers, **options))
    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True
        running.cancel()

    page = LivePage(state, stop)
    try:
        async with page.served(port) as url:
            started(url)
            try:
                results = await running
            except asyncio.CancelledError:
                state.end("stopped", "stopped; what is finished is kept: run the same command again to go on")
                if not asked:
                    raise
                raise LiveStopError(state.message) from None
            except Exception as error:
                state.end("failed", f"{type(error).__name__}: {error}")
                raise
            else:
                state.end("finished", "" if results.complete else "stopped by its budget")
                return results
            finally:
                await page.last_look()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def follow(
    folder: Path, port: int = 0, started: Callable[[str], None] = lambda url: None, *, every_s: float = 1.0
) -> None:
    """Serve a page about a study that another process runs, until cancelled; it only reads.

    Raises:
        StoreError: there is no study in the folder.
    """
    follower = await asyncio.to_thread(Follower, folder)
    try:
        async with LivePage(follower.state).served(port) as url:
            started(url)
            while True:
                await asyncio.sleep(every_s)
                await asyncio.to_thread(follower.look)
    finally:
        follower.close()
