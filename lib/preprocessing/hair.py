"""Find and remove hair: long thin strands, darker or lighter than the skin on both sides of them.

The line contrast is compiled by Numba; everything else is OpenCV and NumPy. All sums are whole
numbers, so masks are the same on every machine.
"""

from functools import lru_cache

import cv2
import numpy as np

from lib.preprocessing import decode
from lib.preprocessing.compiled import compiled
from lib.preprocessing.inpainting import fill_with_rim, scale_of

# The constants were set on synthetic images of another seed than the demonstration's, and checked
# on real ones (reports/studies/preprocessing). Lengths in pixels of an image of 256 x 256.

#: grey levels by which a strand stands out somewhere; half of that along its whole length
STRAND_CONTRAST = 8
#: Texture, such as a pigment network, is the mean contrast within a square of this side. A pixel
#: counts at most `STRAND_TEXTURE_CAP` grey levels, so that dense hair does not hide itself, and
#: `STRAND_TEXTURE` times the texture is subtracted.
TEXTURE_SIDE, STRAND_TEXTURE, STRAND_TEXTURE_CAP = 21, 1.8, 10
#: shortest strand, and the largest part of the square of its length that it may cover
STRAND_LENGTH, STRAND_COVER = 24, 0.15
#: grey levels by which hair may be more colourful than the square of this side around it
STRAND_COLOR, COLOR_SIDE = 1, 15
#: a strand that lies mostly this near to the border is the image's dark rim
FRAME_RIM = 2
#: Eight directions. The first shifts, one after the other, double the samples along a line of
#: about 16 pixels; the last shift leads to the parallel line on one side, 3 pixels away.
LINES = (
    (((1, 0), (2, 0), (4, 0), (8, 0)), (0, 3)),
    (((1, 0), (2, 1), (4, 2), (8, 4)), (-1, 3)),
    (((1, 1), (2, 2), (4, 4), (4, 4)), (-2, 2)),
    (((0, 1), (1, 2), (2, 4), (4, 8)), (-3, 1)),
    (((0, 1), (0, 2), (0, 4), (0, 8)), (3, 0)),
    (((0, 1), (1, -2), (2, -4), (4, -8)), (3, 1)),
    (((1, -1), (2, -2), (4, -4), (4, -4)), (2, 2)),
    (((1, 0), (2, -1), (4, -2), (8, -4)), (1, 3)),
)
MARGIN = 12  # half a line and the distance to its neighbour


def hair_mask(image: np.ndarray, thick: bool = False) -> np.ndarray:
    """Find hair.

    Dark hair is searched for in red, where pigment absorbs least; light hair in inverted green.
    In each of eight directions the mean along a short line is compared with the means along the
    parallel lines on both sides, and the smaller difference counts: unlike a black hat, this
    ignores blobs and borders. The mean response of the surroundings is subtracted, which
    suppresses a pigment network. Connected strands that are short, compact, or more colourful than
    their surroundings (vessels, pigment) are discarded. The rest is narrowed to the pixels that
    stand out.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    thick : bool
        Search at a second scale, too, for strands twice as wide, twice as long and with twice the
        contrast.

    Returns
    -------
    ndarray of bool, shape (height, width)

    Raises
    ------
    ValueError
        Not an 8-bit RGB image.
    """
    decode.check_rgb(image)
    mask = _hair_at_scale(image, 1)
    return mask | _hair_at_scale(image, 2) if thick else mask


def remove_hair(image: np.ndarray, thick: bool = False) -> np.ndarray:
    """Fill in what `hair_mask` finds and a rim of one pixel (at 256), for hair casts a shadow."""
    return fill_with_rim(image, hair_mask(image, thick))


def _hair_at_scale(image: np.ndarray, times: int) -> np.ndarray:
    """Find hair that is `times` as wide as what the constants describe."""
    height, width = image.shape[:2]
    scale = scale_of(image) * times
    frame = round(width / scale), round(height / scale)
    mask = np.zeros((height, width), bool)
    if min(frame) <= MARGIN:  # no room for a strand
        return mask
    red, green, blue = cv2.split(image)
    lowest, highest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    color = _shrink(cv2.subtract(highest, lowest), frame)
    excess_color = cv2.subtract(color, cv2.blur(color, (COLOR_SIDE, COLOR_SIDE)), dtype=cv2.CV_16S)
    for plane in (red, cv2.bitwise_not(green)):
        contrast = _strand_contrast(_shrink(plane, frame))
        strands = _select_strands(contrast, STRAND_CONTRAST * times, excess_color)
        strands = cv2.resize(strands, (width, height), interpolation=cv2.INTER_NEAREST)
        _narrow(plane, strands, scale, mask)
    return mask


def _shrink(plane: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    return cv2.resize(plane, frame, interpolation=cv2.INTER_AREA)


def _strand_contrast(plane: np.ndarray) -> np.ndarray:
    """Return the line contrast of each pixel minus texture."""
    padded = cv2.copyMakeBorder(plane, *[MARGIN] * 4, cv2.BORDER_REFLECT_101)
    contrast = _line_contrast(padded, *_line_offsets(padded.shape[1]))
    contrast = contrast[MARGIN:-MARGIN, MARGIN:-MARGIN]
    texture = cv2.blur(cv2.min(contrast, STRAND_TEXTURE_CAP), (TEXTURE_SIDE, TEXTURE_SIDE))
    return cv2.subtract(contrast, cv2.convertScaleAbs(texture, alpha=STRAND_TEXTURE))


def _select_strands(contrast: np.ndarray, least: int, excess_color: np.ndarray) -> np.ndarray:
    """Mark connected pixels that are long, thin, not colourful, and not the image's rim.

    Parameters
    ----------
    contrast : ndarray of uint8, shape (height, width)
    least : int
        A strand exceeds it somewhere, and half of it everywhere.
    excess_color : ndarray of int16, shape (height, width)
        How much more colourful each pixel is than its surroundings.

    Returns
    -------
    ndarray of uint8, 0 and 1, shape (height, width)
    """
    connected = cv2.threshold(contrast, least // 2, 1, cv2.THRESH_BINARY)[1]
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(connected, ltype=cv2.CV_16U)
    width, height, pixels = boxes[:, cv2.CC_STAT_WIDTH : cv2.CC_STAT_AREA + 1].T
    length = np.hypot(width, height)
    strand = np.zeros(count, np.uint8)
    strand[labels[contrast > least]] = 1
    strand &= (length >= STRAND_LENGTH) & (pixels < STRAND_COVER * length**2)
    if strand.any():
        inner = labels[FRAME_RIM:-FRAME_RIM, FRAME_RIM:-FRAME_RIM]
        excess = np.bincount(labels.ravel(), excess_color.ravel(), count)
        strand &= 2 * np.bincount(inner.ravel(), minlength=count) > pixels
        strand &= excess < STRAND_COLOR * pixels
    return strand[labels]


def _narrow(plane: np.ndarray, strands: np.ndarray, scale: float, mask: np.ndarray) -> None:
    """Add to the mask the pixels on strands, or on a rim around them, that stand out.

    A pixel stands out if its black hat exceeds 10 grey levels and a quarter of the highest one
    nearby.
    """
    left, top, width, height = cv2.boundingRect(strands)
    if not width:
        return
    reach, rim, near = round(4 * scale), round(scale), round(2 * scale)
    beyond = rim + 2 * reach + near  # all that decides about a pixel
    rows = slice(max(top - beyond, 0), top + height + beyond)
    columns = slice(max(left - beyond, 0), left + width + beyond)
    hat = cv2.morphologyEx(plane[rows, columns], cv2.MORPH_BLACKHAT, _square(reach))
    hat *= cv2.dilate(strands[rows, columns], _square(rim))
    highest = cv2.dilate(hat, _square(near))
    mask[rows, columns] |= hat > cv2.max(cv2.convertScaleAbs(highest, alpha=1 / 4), 10)


def _square(reach: int) -> np.ndarray:
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


# ---------------------------------------------------------------------------------- compiled loops
# Compiled code checks no index: lines must not reach beyond the margin. The padded plane is seen as
# one row of numbers, in which the pixel below another is a fixed distance away. Numba does not
# notice when a compiled function of another module changes, so these call only each other.


@lru_cache(maxsize=16)
def _line_offsets(wide: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert `LINES` to distances in a padded plane `wide` pixels wide.

    Returns
    -------
    tuple of ndarray of int64
        For each direction: the distances to the four pixels that are added, and to the four of
        these sums that make a line, shape (8, 2, 4); how far before its pixel the sum of a line
        is stored, shape (8,); and the distance to the line on one side, shape (8,).
    """
    steps, backs, sides = [], [], []
    for doublings, (x, y) in LINES:
        pairs = [(max(-dy, 0) * wide, max(dy, 0) * wide + dx) for dx, dy in doublings]
        steps.append([[i + j for i in pairs[k] for j in pairs[k + 1]] for k in (0, 2)])
        long, high = np.abs(doublings).sum(axis=0)
        backs.append((high + 1) // 2 * wide + (long + 1) // 2)
        sides.append(abs(y * wide + x))
    return np.array(steps), np.array(backs), np.array(sides)


@compiled
def _line_contrast(padded, steps, backs, sides):
    """Return by how much the line through a pixel is darker than the lines on both its sides.

    The maximum over all directions, in grey levels; 0 where no line is darker. The margin holds
    no meaningful values, because lines there run into the next row.
    """
    pixels, wide = padded.reshape(-1), padded.shape[1]
    first, end = MARGIN * wide, pixels.size - MARGIN * wide
    fours, lines = np.empty(pixels.size, np.uint16), np.empty((2, pixels.size), np.uint16)
    best = np.zeros(end - first, np.uint16)
    for d in range(0, backs.size, 2):
        for k in range(2):
            count = _add_fours(pixels, pixels.size, steps[d + k, 0], fours)
            _add_fours(fours, count, steps[d + k, 1], lines[k])
        starts = first - backs[d : d + 2] - sides[d : d + 2]
        _raise_to(best, lines[0, starts[0] :], sides[d], lines[1, starts[1] :], sides[d + 1])
    contrast = np.zeros_like(padded)
    out = contrast.reshape(-1)[first:end]
    for i in range(out.size):  # the mean of 16, rounded half to even
        out[i] = (best[i] + np.uint16(7) + ((best[i] >> 4) & np.uint16(1))) >> 4
    return contrast


@compiled
def _add_fours(source, count, steps, target):
    """Add the four numbers at `steps` from each of the first `count`; return how many sums fit."""
    count -= max(max(steps[0], steps[1]), max(steps[2], steps[3]))
    a, b = source[steps[0] : steps[0] + count], source[steps[1] : steps[1] + count]
    c, d = source[steps[2] : steps[2] + count], source[steps[3] : steps[3] + count]
    for i in range(count):
        target[i] = np.uint16(a[i]) + np.uint16(b[i]) + np.uint16(c[i]) + np.uint16(d[i])
    return count


@compiled
def _raise_to(best, lines, side, others, other_side):
    """Raise `best` to the contrast of lines in two directions; two at once save memory traffic."""
    a, line, b = lines, lines[side:], lines[2 * side :]
    c, other, d = others, others[other_side:], others[2 * other_side :]
    for i in range(best.size):
        one, two = min(a[i], b[i]), min(c[i], d[i])
        more = np.uint16(max(one, line[i]) - line[i])
        best[i] = max(best[i], max(more, np.uint16(max(two, other[i]) - other[i])))
