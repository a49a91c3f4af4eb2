"""Arrays as bytes: every bit comes back, in as few bytes as that allows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ponder.core.arrays import pack, pack_output, unpack, unpack_output


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.float16, np.uint8, np.int64]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_any_array_comes_back_bit_for_bit(array):
    back = unpack(pack({"a": array, "b": array}))
    for name in "ab":
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


def test_plain_values_come_back_beside_arrays():
    back = unpack(pack({"w": -float("inf"), "n": 3, "t": "ü", "none": None, "a": np.arange(2)}))
    assert (back["w"], back["n"], back["t"], back["none"]) == (-float("inf"), 3, "ü", None)


def test_pictures_of_bytes_take_at_most_a_byte_a_number_and_smooth_ones_less():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3)) / 255.0
    assert len(pack({"a": noise})) < noise.size + 200
    smooth = np.broadcast_to((np.arange(64) * 3)[None, :, None], (64, 64, 3)) / 255.0
    assert len(pack({"a": np.array(smooth)})) < noise.size / 20
    video = rng.integers(0, 256, (3, 16, 16, 3)) / 255.0
    np.testing.assert_array_equal(unpack(pack({"a": video}))["a"], video)


@pytest.mark.parametrize(("kind", "size"), [("f2", 2), ("f4", 4), ("f8", 8)])
def test_the_smallest_precision_that_loses_nothing_is_kept(kind, size):
    values = np.random.default_rng(0).standard_normal(4000).astype(kind).astype("f8")
    assert size * 3000 < len(pack({"a": values})) < size * 4000 + 200


def test_an_output_that_is_its_latents_is_kept_once_and_what_is_no_array_not_at_all():
    x = np.random.default_rng(0).standard_normal(1000)
    assert len(pack_output(x, x)) < len(pack_output(x, x.copy())) - 6000
    latents, output, weight = unpack_output(pack_output(x, x, -1.5))
    assert latents is output and weight == -1.5
    assert pack_output(x, "text") is None and pack_output(x, None) is None
