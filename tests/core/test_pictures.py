"""Which arrays are pictures, and their small copies."""

import base64
import io

import numpy as np
import pytest

from ponder.core.pictures import frames_of, is_picture, strip_of, thumbnail

Image = pytest.importorskip("PIL.Image")


def opened(url):
    head, _, body = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_numbers_become_bytes_and_what_is_out_of_range_or_missing_is_clipped():
    (frame,) = frames_of(np.array([[0.0, 1.0], [-3.0, np.nan]]))
    assert frame.tolist() == [[0, 255], [0, 0]]
    (same,) = frames_of(np.array([[7, 200]], dtype=np.uint8))
    assert same.tolist() == [[7, 200]]
    (grey,) = frames_of(np.ones((4, 5, 1)))
    assert grey.shape == (4, 5)
    assert [f.shape for f in frames_of(np.ones((6, 4, 5, 3)))] == [(4, 5, 3)] * 6


@pytest.mark.parametrize(
    "value", ["text", None, 3.0, np.ones(4), np.ones((0, 4)), np.ones((2, 2, 2, 2, 3)), np.array([["a"]]), [[1.0]]]
)
def test_anything_else_is_no_picture(value):
    assert not is_picture(value) and thumbnail(value) is None


def test_a_grey_small_picture_is_copied_exactly():
    array = np.random.default_rng(0).integers(0, 256, (8, 8)) / 255.0
    image = opened(thumbnail(array))
    assert image.size == (8, 8)
    np.testing.assert_array_equal(np.asarray(image) / 255.0, array)


def test_large_pictures_get_smaller_and_videos_a_strip():
    image = opened(thumbnail(np.random.default_rng(0).random((300, 600, 3))))
    assert image.size == (192, 96)
    assert len(thumbnail(np.random.default_rng(0).random((512, 512, 3)))) < 16_000
    frames = frames_of(np.random.default_rng(0).random((9, 16, 16)))
    strip = strip_of(frames, 4)
    assert strip.shape == (16, 4 * 16 + 3)
    np.testing.assert_array_equal(strip[:, :16], frames[0])
    np.testing.assert_array_equal(strip[:, -16:], frames[-1])
    assert strip_of(frames[:1]).shape == (16, 16)
