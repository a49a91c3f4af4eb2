"""What tree searches on the node loop share: nodes with their counts, and progressive widening."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from ponder.core.state import State


class TreeNode:
    """What a search knows of one state; techniques add their own numbers.

    Attributes:
        state: the state.
        parent: None for the root.
        children: in the order they were drawn.
        visits: evaluations that have passed through here.
        asked: children that were asked for, whatever came of them.
    """

    __slots__ = ("asked", "children", "parent", "state", "visits")

    def __init__(self, state: State, parent: Self | None) -> None:
        self.state, self.parent = state, parent
        self.children: list[Self] = []
        self.visits = self.asked = 0

    def path(self) -> Iterator[Self]:
        """This node and its ancestors."""
        node: Self | None = self
        while node is not None:
            yield node
            node = node.parent

    def has_room(self, factor: float, exponent: float) -> bool:
        """Progressive widening: whether fewer than max(1, factor · visits ** exponent) children were asked for.

        Source: Coulom 2007, "Computing Elo Ratings of Move Patterns in the Game of Go"; Couëtoux et al. 2011,
        "Continuous Upper Confidence Trees".
        """
        most: float = factor * self.visits**exponent
        return self.asked < max(1.0, most)
