"""Hair and glare: the compiled detectors mark what the same steps mark, one OpenCV call at a time.

Whether what they mark is hair is asked in test_preprocessing.py and test_restoration.py.
"""

import cv2
import numpy as np
import pytest

from lib.preprocessing import bubbles, decode, hair, pipeline
from lib.preprocessing.hair import (
    FRAME_RIM,
    LINES,
    MARGIN,
    STRAND_COLOR,
    STRAND_CONTRAST,
    STRAND_COVER,
    STRAND_LENGTH,
    STRAND_TEXTURE,
    STRAND_TEXTURE_CAP,
)
from lib.preprocessing.inpainting import REFERENCE_SIZE

# ---------------------------------------------------------------- the same, step by step in OpenCV


def square(side):
    return np.ones((side, side), np.uint8)


def line_sums(image, doublings):
    for dx, dy in doublings:
        height, width = image.shape
        image = cv2.add(
            image[max(-dy, 0) : height - max(dy, 0), : width - dx],
            image[max(dy, 0) : height - max(-dy, 0), dx:],
        )
    return image


def strand_contrast(channel):
    height, width = channel.shape
    padded = cv2.copyMakeBorder(channel, *[MARGIN] * 4, cv2.BORDER_REFLECT_101).astype(np.uint16)
    most = np.zeros((height, width), np.uint16)
    for doublings, (dx, dy) in LINES:
        sums = line_sums(padded, doublings)
        top, left = (sums.shape[0] - height) // 2, (sums.shape[1] - width) // 2
        line, one, other = (
            sums[top + y : top + y + height, left + x : left + x + width]
            for x, y in ((0, 0), (dx, dy), (-dx, -dy))
        )
        most = cv2.max(most, cv2.subtract(cv2.min(one, other), line))
    contrast = cv2.convertScaleAbs(most, alpha=1 / 16)
    texture = cv2.blur(cv2.min(contrast, STRAND_TEXTURE_CAP), (21, 21))
    return cv2.subtract(contrast, cv2.convertScaleAbs(texture, alpha=STRAND_TEXTURE))


def kept_strands(contrast, color, least):
    weak = (contrast > least // 2).astype(np.uint8)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(weak, connectivity=8)
    more_color = color.astype(int) - cv2.blur(color, (15, 15))
    strands = np.zeros_like(contrast)
    for label in range(1, count):
        here, area = labels == label, boxes[label, cv2.CC_STAT_AREA]
        length = np.hypot(boxes[label, cv2.CC_STAT_WIDTH], boxes[label, cv2.CC_STAT_HEIGHT])
        strands[here] = (
            contrast[here].max() > least
            and length >= STRAND_LENGTH
            and area < STRAND_COVER * length**2
            and more_color[here].sum() < STRAND_COLOR * area
            and 2 * here[FRAME_RIM:-FRAME_RIM, FRAME_RIM:-FRAME_RIM].sum() > area
        )
    return strands


def cut_back(channel, strands, scale):
    hat = cv2.morphologyEx(channel, cv2.MORPH_BLACKHAT, square(2 * round(4 * scale) + 1))
    excess = hat * cv2.dilate(strands, square(2 * round(scale) + 1))
    peak = cv2.dilate(excess, square(2 * round(2 * scale) + 1))
    return excess > cv2.max(cv2.convertScaleAbs(peak, alpha=1 / 4), 10)


def hair_step_by_step(image, times=1):
    height, width = image.shape[:2]
    scale = times * max(1, max(height, width) / REFERENCE_SIZE)
    frame = round(width / scale), round(height / scale)
    red, green, _ = cv2.split(image)
    color, *channels = (
        each if each.shape == frame[::-1] else cv2.resize(each, frame, interpolation=cv2.INTER_AREA)
        for each in (np.ptp(image, axis=2), red, cv2.bitwise_not(green))
    )
    found = np.zeros((height, width), bool)
    for small, channel in zip(channels, (red, cv2.bitwise_not(green)), strict=True):
        strands = kept_strands(strand_contrast(small), color, STRAND_CONTRAST * times)
        strands = cv2.resize(strands, (width, height), interpolation=cv2.INTER_NEAREST)
        found |= cut_back(channel, strands, scale)
    return found


def glare_step_by_step(image):
    least, side = image.min(axis=2), max(image.shape[:2]) // 17 | 1
    excess = cv2.morphologyEx(least, cv2.MORPH_TOPHAT, square(side))
    count, labels, spots, _ = cv2.connectedComponentsWithStats((excess > 25).astype(np.uint8))
    touched = np.bincount(labels[(excess > 40) & (least > 190)], minlength=count) > 0
    keep = touched & (spots[:, cv2.CC_STAT_AREA] < 2 * side**2)
    keep[0] = False
    rim = 2 * round(max(1, max(image.shape[:2]) / REFERENCE_SIZE)) + 1
    return cv2.dilate(keep[labels].astype(np.uint8), square(rim)) > 0


# ---------------------------------------------------------------------------------------- pictures


def scribbles(height, width, seed):
    """Noisy skin, a lesion, lines of all widths, specks near white, dark corners."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), (215, 160, 150), np.float32)
    y, x = np.mgrid[:height, :width]
    image[np.hypot(y - height / 2, x - width / 2) < min(height, width) / 4] = (140, 90, 70)
    image += random.normal(0, 3, image.shape)
    for _ in range(12):
        ends = random.integers(0, (width, height), (2, 2))
        color = random.choice([(60, 45, 40), (235, 225, 215), (170, 60, 60)])
        thickness = int(random.integers(1, 8))
        cv2.line(image, *ends.tolist(), color.tolist(), thickness, cv2.LINE_AA)
    for _ in range(15):
        center = random.integers(0, (width, height)).tolist()
        cv2.circle(image, center, int(random.integers(1, 9)), (250, 250, 250), -1, cv2.LINE_AA)
    image[np.hypot(y - height / 2, x - width / 2) > 0.62 * max(height, width)] = 5
    return np.clip(image, 0, 255).astype(np.uint8)


SHAPES = [(256, 256), (256, 180), (40, 250), (320, 320), (450, 600), (1024, 1024), (64, 64)]


@pytest.fixture(scope="module")
def pictures(data_folder):
    files = sorted((data_folder / "images").glob("*.jpg"))
    synthetic = [pipeline.crop_and_resize(decode.read_image(each), 256) for each in files]
    drawn = [scribbles(*shape, seed) for seed, shape in enumerate(SHAPES * 3)]
    noise = np.random.default_rng(1).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    return [*synthetic, *drawn, *noise]


# ------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("times", [1, 2])
def test_the_compiled_code_marks_the_hair_that_opencv_s_steps_mark(pictures, times):
    hairy = 0
    for i, image in enumerate(pictures):
        found, expected = hair._hair_at_scale(image, times), hair_step_by_step(image, times)
        np.testing.assert_array_equal(found, expected, err_msg=f"picture {i}, {image.shape}")
        hairy += expected.any()
    assert hairy > 10


def test_the_compiled_code_marks_the_glare_that_opencv_s_steps_mark(pictures):
    shiny = 0
    for i, image in enumerate(pictures):
        found, expected = bubbles.bubble_mask(image), glare_step_by_step(image)
        np.testing.assert_array_equal(found, expected, err_msg=f"picture {i}, {image.shape}")
        shiny += expected.any()
    assert shiny > 10


def test_two_scales_find_what_one_finds_and_thicker_hair():
    image = np.full((256, 256, 3), (220, 160, 150), np.uint8)
    cv2.line(image, (10, 40), (240, 60), (60, 45, 40), 2, cv2.LINE_AA)
    cv2.line(image, (10, 150), (240, 190), (60, 45, 40), 9, cv2.LINE_AA)
    one, two = hair.hair_mask(image), hair.hair_mask(image, thick=True)
    assert (two >= one).all()
    thick = cv2.line(np.zeros((256, 256), np.uint8), (10, 150), (240, 190), 1, 5) > 0
    assert one[thick].mean() < 0.1 < 0.9 < two[thick].mean()


@pytest.mark.parametrize("mask", [hair.hair_mask, bubbles.bubble_mask])
@pytest.mark.parametrize(
    "view",
    [lambda image: image[:, ::-1], lambda image: image.transpose(1, 0, 2), lambda i: i[3:-5, 7:]],
    ids=["mirrored", "turned", "cut out"],
)
def test_a_view_of_an_image_is_an_image(mask, view):
    image = view(scribbles(256, 256, 0))
    np.testing.assert_array_equal(mask(image), mask(image.copy()))


@pytest.mark.parametrize("mask", [hair.hair_mask, bubbles.bubble_mask])
def test_an_image_is_left_as_it_is_even_where_it_may_be_written(mask):
    image = scribbles(256, 256, 1)
    before = image.copy()
    found = mask(image)
    np.testing.assert_array_equal(image, before)
    image.flags.writeable = False
    np.testing.assert_array_equal(mask(image), found)


@pytest.mark.parametrize("shape", [(1, 1), (12, 300), (3, 256), (12, 12), (1024, 45)])
def test_an_image_with_no_room_for_hair_has_none(shape):
    """A line must fit in between the mirrored margins: 12 pixels, in a frame of 256."""
    image = scribbles(*shape, 2)
    for thick in (False, True):
        found = hair.hair_mask(image, thick)
        assert found.shape == shape and not found.any()
    assert bubbles.bubble_mask(image).shape == shape


def test_an_image_just_wide_enough_for_hair_has_some():
    image = np.full((256, 13, 3), (220, 160, 150), np.uint8)
    image[:, 6:8] = (60, 45, 40)
    assert hair.hair_mask(image)[20:-20, 6:8].all()
    assert not hair.hair_mask(image[:, 1:]).any()


@pytest.mark.parametrize("mask", [hair.hair_mask, bubbles.bubble_mask])
@pytest.mark.parametrize(
    "image",
    [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64, 4), np.uint8)]
    + [np.zeros((64, 64, 3), kind) for kind in (np.float32, np.int64, bool)],
    ids=["no channels", "grey", "RGBA", "float32", "int64", "bool"],
)
def test_what_is_no_rgb_image_of_8_bits_is_refused(mask, image):
    """Compiled code checks no index: it would read what lies behind the image."""
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(height, width, 3\)"):
        mask(image)
