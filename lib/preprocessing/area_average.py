"""Shrink images by area averages: OpenCV's INTER_AREA, pixel for pixel, in less than half the time.

The loops are compiled by Numba and run without the interpreter lock.
"""

from functools import lru_cache

import cv2
import numpy as np

from lib.preprocessing.compiled import compiled

#: A mean closer than this to the middle between two grey levels is computed again in OpenCV's own
#: order of addition; the two orders were observed to differ by at most half as much, grey levels.
NEAR_TIE = np.float32(3e-4)


def area_average(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink a square image, each pixel the mean of the area it covers.

    Weights and pixels are those of OpenCV's INTER_AREA (a test compares them). Rows are added
    first, which suits vector instructions, then columns; OpenCV begins with the columns.

    Parameters
    ----------
    image : ndarray of uint8, shape (n, n, 3)
        Other arrays, such as masks, are left to OpenCV.
    size : int
        Below n.

    Returns
    -------
    ndarray, shape (size, size, 3), of the same type

    Examples
    --------
    >>> row = np.array([[10] * 3, [40] * 3, [100] * 3], np.uint8)
    >>> area_average(np.stack([row] * 3), 2)[0, :, 0].tolist()  # (10 + 40 / 2) / 1.5 = 20
    [20, 80]
    """
    side = image.shape[0]
    is_square_rgb = image.dtype == np.uint8 and image.shape == (side, side, 3)
    if not is_square_rgb or side % size == 0:  # OpenCV is fast for whole factors
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return _area_average(np.ascontiguousarray(image).reshape(-1), side, *_weights(side, size))


@lru_cache(maxsize=16)
def _weights(side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first old pixel of each new one, and the weights from there on.

    As in OpenCV, overlaps of less than a thousandth of a pixel do not count.

    Returns
    -------
    tuple of ndarray
        int64, shape (size,); and float32, shape (size, taps): a multiple of three, zero at the end.
    """
    scale = side / size
    low = np.arange(size) * scale
    high, cell = low + scale, np.minimum(scale, side - low)
    last = np.minimum(np.floor(high), side - 1).astype(int)
    first = np.minimum(np.ceil(low), last).astype(int)
    begun = first - low > 1e-3
    start = first - begun
    taps = -(-int((last + 1 - start).max()) // 3) * 3
    weights = np.zeros((size, taps), np.float32)
    for i in range(size):
        whole = slice(int(begun[i]), last[i] - start[i])
        weights[i, whole] = 1 / cell[i]
        if begun[i]:
            weights[i, 0] = (first[i] - low[i]) / cell[i]
        if high[i] - last[i] > 1e-3:
            weights[i, last[i] - start[i]] = min(high[i] - last[i], 1, cell[i]) / cell[i]
    return start, weights


@compiled
def _area_average(pixels, side, start, weights):
    """Average an image given as one row of numbers; `start` and `weights` are from `_weights`."""
    size, taps = weights.shape
    rows = np.zeros(3 * (side + taps), np.float32)  # pixels beyond the image have no weight
    means = np.empty(3 * size, np.float32)
    out = np.empty((size, size, 3), np.uint8)
    for i in range(size):
        for tap in range(0, taps, 3):
            _add_rows(rows[: 3 * side], pixels, start[i] + tap, weights[i, tap:], tap > 0)
        for tap in range(0, taps, 3):
            _add_columns(means, rows[3 * tap :], start, weights[:, tap:], tap > 0)
        line = out[i].reshape(-1)
        for part in range(0, 3 * size, size):
            if _round(means[part : part + size], line[part : part + size]) > 0:
                for j in range(part, part + size):
                    if _is_near_tie(means[j]):
                        line[j] = _exact_mean(pixels, side, start, weights, i, j)
    return out


@compiled
def _add_rows(rows, pixels, at, weights, to_previous):
    """Set `rows` to the weighted sum of three image rows, or add it to the previous sum."""
    width, last = rows.size, pixels.size - rows.size
    # rows beyond the image have no weight, so the last row may take their place
    a, b, c = min(at * width, last), min((at + 1) * width, last), min((at + 2) * width, last)
    one, two, three = pixels[a : a + width], pixels[b : b + width], pixels[c : c + width]
    u, v, w = weights[0], weights[1], weights[2]
    if to_previous:
        for x in range(rows.size):
            rows[x] += u * np.float32(one[x]) + v * np.float32(two[x]) + w * np.float32(three[x])
    else:
        for x in range(rows.size):
            rows[x] = u * np.float32(one[x]) + v * np.float32(two[x]) + w * np.float32(three[x])


@compiled
def _add_columns(means, rows, start, weights, to_previous):
    """Set `means` to the weighted sum of three pixels, or add it to the previous sum.

    Indices are unsigned, which saves the check for negative ones.
    """
    one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)
    for j in range(np.uintp(start.size)):
        u, v, w = weights[j, 0], weights[j, 1], weights[j, 2]
        new, old = three * j, three * np.uintp(start[j])
        next_, after = old + three, old + three + three
        red = u * rows[old] + v * rows[next_] + w * rows[after]
        green = u * rows[old + one] + v * rows[next_ + one] + w * rows[after + one]
        blue = u * rows[old + two] + v * rows[next_ + two] + w * rows[after + two]
        if to_previous:
            red, green, blue = red + means[new], green + means[new + one], blue + means[new + two]
        means[new], means[new + one], means[new + two] = red, green, blue


@compiled
def _round(means, line):
    """Round to whole grey levels; return how many means were too close to a tie."""
    near = np.int32(0)
    for j in range(means.size):
        line[j] = np.uint8(means[j] + np.float32(0.5))
        near += np.int32(_is_near_tie(means[j]))
    return near


@compiled
def _is_near_tie(mean):
    return abs(mean - np.float32(np.uint8(mean)) - np.float32(0.5)) < NEAR_TIE


@compiled
def _exact_mean(pixels, side, start, weights, i, j):
    """Return one mean, added up in OpenCV's order: along each row, then the rows."""
    total = np.float32(0)
    for down in range(weights.shape[1]):
        along = np.float32(0)
        for tap in range(weights.shape[1]):
            row, column = min(start[i] + down, side - 1), min(start[j // 3] + tap, side - 1)
            pixel = np.float32(pixels[3 * (row * side + column) + j % 3])
            along += weights[j // 3, tap] * pixel
        total += weights[i, down] * along
    return np.uint8(np.rint(total))
