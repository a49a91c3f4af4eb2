"""Running a coroutine from plain code."""

import asyncio

from ponder.api import run_sync


class Outcome:
    written = 0

    def __repr__(self) -> str:
        Outcome.written += 1
        return "an outcome"


async def made() -> Outcome:
    return Outcome()


def test_a_result_is_not_written_out_as_text_on_its_way():
    """`asyncio.run` does so with a task's result in the main thread, which took longer than many a search."""
    assert isinstance(run_sync(made), Outcome)
    assert Outcome.written == 0


def test_it_works_inside_a_running_loop_too():
    async def outer() -> Outcome:
        return run_sync(made)

    assert isinstance(asyncio.run(outer()), Outcome)
