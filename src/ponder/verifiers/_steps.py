"""What verifiers of steps share: where the steps of a text are, and what their scores come to."""

from __future__ import annotations

from collections.abc import Sequence

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.search_tree import Aggregate, aggregate
from ponder.core.verifier import Scorable, output_of
from ponder.errors import VerifierError


def steps_of(item: Scorable, ctx: Context, delimiter: str) -> tuple[str, ...]:
    r"""The steps of a text: the process's own, each split where the delimiter stands; blank ones are none.

    An answer written in one piece is thus split by the delimiter alone, and so is what a search finished in one go.
    """
    state = item.state if isinstance(item, Candidate) else item
    built = state.steps() if state is not None else []
    texts = [str(output_of(item, ctx))]
    if built and all(isinstance(step, str) for step in built) and "".join(built) == texts[0]:
        texts = built
    pieces = [piece.strip() for text in texts for piece in (text.split(delimiter) if delimiter else [text])]
    return tuple(piece for piece in pieces if piece)


def together(owner: object, item: Scorable, steps: Sequence[str], scores: Sequence[float], how: Aggregate) -> float:
    """One score: of a state its last step's, of a finished candidate all steps' as `how` says.

    Searches ask about states and combine the scores of a path by a `how` of their own.

    Raises:
        VerifierError: there is no step, or not one score for each.
    """
    if not steps:
        raise VerifierError(f"{owner}: there is no step to score in {item_text(item)!r}")
    if len(scores) != len(steps):
        s = "" if len(scores) == 1 else "s"
        raise VerifierError(f"{owner}: the verifier returned {len(scores)} score{s} for {len(steps)} steps")
    return aggregate(scores, how) if isinstance(item, Candidate) else float(scores[-1])


def item_text(item: Scorable) -> str:
    """The beginning of an item's text, for messages."""
    return str(item.output if isinstance(item, Candidate) else item.step)[:60]
