"""Serving a page to this machine, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ponder.errors import StudyError

if TYPE_CHECKING:
    from aiohttp import web

_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@asynccontextmanager
async def local_server(routes: Sequence[web.RouteDef], port: int = 0, *, secret: str = "") -> AsyncIterator[str]:
    """Serve routes on the loopback interface while the context is open; gives the address.

    Args:
        routes: handlers by path.
        port: 0 takes a free one.
        secret: the first part of every path; without it a request is answered with 404.

    Raises:
        StudyError: the port is taken.
    """
    from aiohttp import web

    @web.middleware
    async def guarded(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.host.rsplit(":", 1)[0] not in _LOCAL:
            raise web.HTTPForbidden(text="only for this machine")
        response: web.StreamResponse = await handler(request)
        response.headers.update(
            {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        )
        return response

    app = web.Application(middlewares=[guarded])
    prefix = f"/{secret}" if secret else ""
    app.add_routes([web.route(r.method, prefix + r.path, r.handler) for r in routes])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        try:
            await site.start()
        except OSError as error:
            raise StudyError(f"port {port} cannot be used ({error.strerror}); give another --port") from None
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}/"
    finally:
        await runner.cleanup()
