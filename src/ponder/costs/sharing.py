"""What a run's tree really reads: each shared token once a step, whatever number of branches attends to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ponder.core.state import State
from ponder.costs.decoding import Cost, shared_prompt_reads
from ponder.costs.shape import ModelShape, capped_sum
from ponder.errors import ParameterError


@dataclass(frozen=True, slots=True)
class TreeCounts:
    """Tokens of a tree whose branches grow side by side, one token a step.

    Attributes:
        generated: tokens, each branch's own and each shared one once.
        steps: tokens on the longest path: forward passes one after the other.
        path_tokens: tokens if every leaf had been generated on its own.
        attended: tokens that the generated ones attend to, themselves included, over all layers: what is computed.
        read: distinct cached tokens that each step reads, over all layers.
        unshared_read: the same if every leaf had its own cache, the prompt's too.
    """

    generated: int
    steps: int
    path_tokens: int
    attended: float
    read: float
    unshared_read: float

    def cost(self, shape: ModelShape) -> Cost:
        """Of generating the tree, with everything shared that can be."""
        flops = 2.0 * shape.params_active * self.generated + shape.attention_flops(self.attended)
        return Cost(flops, shape.kv_bytes(self.read))


def tree_counts(states: Iterable[State], prompt_tokens: int, shape: ModelShape) -> TreeCounts:
    """Count a tree from its parent links.

    All branches are taken to grow in step, as one batch does: the token at place t of every branch is generated in
    step t, and what several branches have in common is read once. A token at place p whose deepest descendant lies at
    place H is therefore read in the H − p + 1 steps p … H; in a layer with a window of w, in the first w of them.

    Args:
        states: leaves, or any nodes; their ancestors are found.
        prompt_tokens: of the one prompt that all roots share.
        shape: the model's, for windows and the number of layers.

    Raises:
        ParameterError: fewer than 0 prompt tokens.
    """
    if prompt_tokens < 0:
        raise ParameterError("tree_counts", "prompt_tokens", prompt_tokens, allowed="an integer ≥ 0")
    ends: dict[State, int] = {}
    for state in states:
        _place(state, ends)
    parents = {s.parent for s in ends}
    deepest = dict(ends)
    for state in sorted(ends, key=lambda s: -s.depth):
        if state.parent is not None:
            deepest[state.parent] = max(deepest[state.parent], deepest[state])
    leaves = [ends[s] for s in ends if s not in parents]
    steps = max(leaves, default=0)
    attended = read = 0.0
    for state, end in ends.items():
        n, below = state.n_tokens, deepest[state] - end
        attended += shape.attended(prompt_tokens + end - n, n)
        read += shape.over_layers(
            capped_sum(below + n, None) - capped_sum(below, None),
            capped_sum(below + n, shape.window) - capped_sum(below, shape.window),
        )
    return TreeCounts(
        sum(s.n_tokens for s in ends), steps, sum(leaves), attended,
        read + shared_prompt_reads(shape, prompt_tokens, steps),
        sum(shape.attended(prompt_tokens, n) for n in leaves),
    )  # fmt: skip


def _place(state: State, ends: dict[State, int]) -> None:
    """Note where a node's tokens end, and its ancestors'."""
    line: list[State] = []
    node: State | None = state
    while node is not None and node not in ends:
        line.append(node)
        node = node.parent
    at = 0 if node is None else ends[node]
    for node in reversed(line):
        at += node.n_tokens
        ends[node] = at
