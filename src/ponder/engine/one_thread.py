"""All arithmetic of all engines on one thread.

OpenMP keeps a team of workers for every thread that calls it. Two decoders on threads of their own have twice as many
workers as cores, and OpenMP then puts waiting ones to sleep at once, which halves the speed even when only one of
the two is at work. They would only take the cores from each other anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from ponder.engine.backend import Backend, Logits, Row

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _calls() -> SimpleQueue[tuple[Future[Any], Callable[[], Any]]]:
    """What is to be called; a pool of concurrent.futures would refuse to close backends when the program ends."""
    queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def work() -> None:
        while True:
            future, call = queue.get()
            try:
                future.set_result(call())
            except BaseException as error:  # belongs to the caller
                future.set_exception(error)

    Thread(target=work, name="ponder-arithmetic", daemon=True).start()
    return queue


def there(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What the function returns on the arithmetic's thread; not to be called from that thread."""
    future: Future[R] = Future()
    _calls().put((future, lambda: function(*args, **kwargs)))
    return future.result()


class OneThread:
    """A backend whose every call happens on the arithmetic's thread.

    Args:
        make: makes the backend, there too.
    """

    def __init__(self, make: Callable[[], Backend]) -> None:
        self._inner = there(make)
        self.sequences, self.cells, self.batch = self._inner.sequences, self._inner.cells, self._inner.batch

    def evaluate(self, rows: Sequence[Row]) -> Logits:
        """See `Backend`."""
        return there(self._inner.evaluate, rows)

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`."""
        there(self._inner.fork, source, target, length)

    def truncate(self, sequence: int, length: int) -> None:
        """See `Backend`."""
        there(self._inner.truncate, sequence, length)

    def rest(self, sequence: int) -> None:
        """See `Backend`."""
        there(self._inner.rest, sequence)

    def free(self, sequence: int) -> None:
        """See `Backend`."""
        there(self._inner.free, sequence)

    def close(self) -> None:
        """See `Backend`."""
        there(self._inner.close)
