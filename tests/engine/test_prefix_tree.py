"""The bookkeeping of what the cache holds."""

from hypothesis import given
from hypothesis import strategies as st

from ponder.engine.prefix_tree import PrefixTree, shared

token = st.integers(0, 2)


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@given(st.lists(token, max_size=12), st.lists(token, max_size=12), st.integers(0, 3))
def test_the_common_beginning_is_what_comparing_token_by_token_gives(a, b, at):
    assert shared(a, b, at) == common(a, b[at:])


@given(st.lists(st.tuples(st.lists(token, min_size=1, max_size=8), st.booleans()), max_size=25))
def test_after_any_adding_and_removing_matches_and_cells_are_those_of_the_paths_alive(steps):
    tree, alive = PrefixTree(), {}
    for path, (tokens, drop) in enumerate(steps):
        run, used, length = tree.match(tokens)
        assert length == max((common(tokens, other) for other in alive.values()), default=0)
        source = tree.add(path, run, used)
        if length:
            assert source in alive and alive[source][:length] == tokens[:length]
        if tokens[length:]:
            tree.grow(path, tokens[length:])
        alive[path] = tokens
        distinct = {tuple(t[: i + 1]) for t in alive.values() for i in range(len(t))}
        assert tree.cells == len(distinct)
        if drop:
            gone = next(iter(alive))
            before = tree.cells
            del alive[gone]
            freed = tree.remove(gone)
            distinct = {tuple(t[: i + 1]) for t in alive.values() for i in range(len(t))}
            assert tree.cells == before - freed == len(distinct)
    for path in list(alive):
        tree.remove(path)
    assert tree.cells == 0 and not tree.root.children


def test_a_path_that_was_forked_at_its_end_grows_beside_its_continuation():
    tree = PrefixTree()
    tree.add(0, tree.root, 0)
    tree.grow(0, [1, 2])
    run, used, length = tree.match([1, 2, 3])
    assert (length, tree.add(1, run, used)) == (2, 0)
    tree.grow(1, [3])
    tree.grow(0, [4])
    assert tree.cells == 4
    assert [tree.match([1, 2, t])[2] for t in (3, 4, 5)] == [3, 3, 2]
    assert tree.remove(0) == 1 and tree.match([1, 2, 4])[2] == 2
