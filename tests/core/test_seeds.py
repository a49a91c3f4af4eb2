import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ponder.core.seeds import derive_seed, derive_seeds, generator


@given(st.lists(st.integers() | st.text(max_size=5), max_size=4))
def test_a_seed_depends_on_its_parts_alone_and_fits_31_bits(parts):
    assert derive_seed(*parts) == derive_seed(*parts)
    assert 0 <= derive_seed(*parts) < 2**31


def test_parts_are_told_apart():
    assert len({derive_seed("a", "bc"), derive_seed("ab", "c"), derive_seed("abc"), derive_seed("a", "b", "c")}) == 4


def test_seeds_of_neighbouring_draws_do_not_collide_more_than_chance():
    seeds = {derive_seed(0, f"p{i}", j) for i in range(100) for j in range(100)}
    assert len(seeds) >= 10_000 - 2  # expected collisions 10^8 / 2 / 2^31 = 0.02


def test_generators_of_neighbouring_places_are_uncorrelated():
    first = np.array([generator(0, i).standard_normal(2) for i in range(4000)])
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < 4 / np.sqrt(4000)


@given(st.lists(st.text() | st.integers(), max_size=4), st.lists(st.integers() | st.text(), max_size=5))
def test_seeds_derived_together_are_those_derived_alone(parts, last):
    assert derive_seeds(parts, last) == tuple(derive_seed(*parts, x) for x in last)
