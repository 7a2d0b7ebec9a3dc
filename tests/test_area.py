"""Area averages: the pixels of OpenCV's INTER_AREA, for any size, and any view of an image."""

import cv2
import numpy as np
import pytest

from lib.preprocessing.area_average import area_average

RANDOM = np.random.default_rng(0)


def noise(height, width):
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def opencv(image, size):
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("side", "size"),
    [(257, 256), (300, 256), (450, 256), (511, 256), (512, 256), (768, 256), (1023, 256)]
    + [(1800, 256), (450, 320), (1023, 512), (5, 4), (7, 2), (9, 1)],
)
def test_the_pixels_are_opencv_s(side, size):
    image = noise(side, side)
    np.testing.assert_array_equal(area_average(image, size), opencv(image, size))


def test_a_mean_worked_out_by_hand():
    """3 pixels to 2: the middle one counts half for each, so (10 + 40 / 2) / 1.5 = 20."""
    image = np.repeat(np.uint8([[10, 40, 100]] * 3)[..., None], 3, axis=2)
    np.testing.assert_array_equal(area_average(image, 2)[..., 0], [[20, 80]] * 2)


def test_means_in_the_middle_between_two_grey_levels_are_opencv_s():
    """Sums of halves and eighths, where the order in which single precision adds decides."""
    for side, size in ((384, 256), (320, 256), (448, 256)):
        levels = RANDOM.integers(0, 2, (side, side, 3), dtype=np.uint8) + np.uint8(127)
        np.testing.assert_array_equal(area_average(levels, size), opencv(levels, size))


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[:450, 75:525],  # what crop_square cuts out
        lambda image: image[:450, :450][::-1],
        lambda image: image[:450, 449::-1],
        lambda image: image[:450, :450].transpose(1, 0, 2),
        lambda image: image[:450, :450, ::-1],
    ],
    ids=["cropped", "upside down", "mirrored", "turned", "blue first"],
)
def test_a_view_of_an_image_is_an_image(view):
    image = view(noise(460, 600))
    np.testing.assert_array_equal(
        area_average(image, 256), opencv(np.ascontiguousarray(image), 256)
    )


@pytest.mark.parametrize(
    "image",
    [
        noise(300, 200),
        noise(300, 300)[..., :1],
        noise(300, 300).astype(np.float32) / 255,
        np.concatenate([noise(300, 300)] * 2, axis=2)[..., :4],
        noise(300, 300)[..., 0],
    ],
    ids=["no square", "grey", "float32", "RGBA", "no channels"],
)
def test_what_is_no_square_rgb_image_of_8_bits_is_opencv_s(image):
    """Compiled code checks no index: it would read what lies behind the image."""
    expected = opencv(np.ascontiguousarray(image), 128)
    np.testing.assert_array_equal(area_average(image, 128), expected)


def test_an_image_that_is_read_only_is_left_as_it_is():
    image = noise(300, 300)
    before = image.copy()
    image.flags.writeable = False
    area_average(image, 256)
    np.testing.assert_array_equal(image, before)
