"""Find and remove hair: long thin strands, darker or lighter than the skin on both sides of them.

The two slow loops, line contrast and the selection of strands, are compiled by Numba; everything
else is OpenCV. All sums are whole numbers, so masks are the same on every machine.
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
    """Return the line contrast of each pixel minus texture, with a border of one zero pixel."""
    padded = cv2.copyMakeBorder(plane, *[MARGIN] * 4, cv2.BORDER_REFLECT_101)
    contrast = _line_contrast(padded, *_line_offsets(padded.shape[1]))
    contrast = contrast[MARGIN:-MARGIN, MARGIN:-MARGIN]
    texture = cv2.blur(cv2.min(contrast, STRAND_TEXTURE_CAP), (TEXTURE_SIDE, TEXTURE_SIDE))
    texture = cv2.convertScaleAbs(texture, alpha=STRAND_TEXTURE)
    return cv2.copyMakeBorder(cv2.subtract(contrast, texture), *[1] * 4, cv2.BORDER_CONSTANT)


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


@compiled
def _select_strands(contrast, least, excess_color):
    """Mark connected pixels that are long, thin, not colourful, and not the image's rim.

    Parameters
    ----------
    contrast : ndarray of uint8, shape (height + 2, width + 2)
        Zero in the border. Pixels that were looked at are cleared.
    least : int
        A strand exceeds it somewhere, and half of it everywhere.
    excess_color : ndarray of int16, shape (height, width)
        How much more colourful each pixel is than its surroundings.

    Returns
    -------
    ndarray of uint8, 0 and 1, shape (height, width)
    """
    strands = np.zeros(excess_color.shape, np.uint8)
    values, wide = contrast.reshape(-1), contrast.shape[1]
    pixels = np.empty(values.size, np.int32)
    for y in range(1, len(contrast) - 1):
        if contrast[y].max() <= least:  # true of most rows, and quickly known
            continue
        for start in range(y * wide, (y + 1) * wide):
            if values[start] > least:
                count = _collect_connected(values, wide, start, least // 2, pixels)
                if _is_strand(pixels[:count], wide, excess_color):
                    for i in pixels[:count]:
                        strands[i // wide - 1, i % wide - 1] = 1
    return strands


@compiled
def _collect_connected(values, wide, start, limit, pixels):
    """List the pixels above the limit that are connected with one; clear and count them.

    Each pixel is connected with the eight around it.
    """
    pixels[0], values[start] = start, 0
    count, done = 1, 0
    while done < count:
        above = pixels[done] - wide
        done += 1
        for _ in range(3):
            for i in range(above - 1, above + 2):
                if values[i] > limit:
                    pixels[count], values[i] = i, 0
                    count += 1
            above += wide
    return count


@compiled
def _is_strand(pixels, wide, excess_color):
    """Decide whether connected pixels are a strand; its length is the diagonal of its box."""
    height, width = excess_color.shape
    top, bottom, left, right, inside, excess = height, 0, width, 0, 0, 0
    for i in pixels:
        y, x = i // wide - 1, i % wide - 1
        top, bottom, left, right = min(top, y), max(bottom, y), min(left, x), max(right, x)
        inside += FRAME_RIM <= y < height - FRAME_RIM and FRAME_RIM <= x < width - FRAME_RIM
        excess += excess_color[y, x]
    length = np.hypot(bottom - top + 1, right - left + 1)
    return (
        length >= STRAND_LENGTH
        and pixels.size < STRAND_COVER * length**2
        and 2 * inside > pixels.size
        and excess < STRAND_COLOR * pixels.size
    )
