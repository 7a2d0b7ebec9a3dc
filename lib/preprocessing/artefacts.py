"""Find what lies over the skin: hair, and the glare of air bubbles and gel.

The loops are compiled and hold no interpreter lock, so that images go through on all cores side by
side. Everything is added up in whole numbers, or rounded far from the middle between two: of an
image of 256 pixels the same mask on every machine. In compiled code a plane, one number a pixel, is
*padded*: it has a margin on all sides, and seen as one row of numbers, the pixel below another is a
fixed distance away. No index is checked there, so what is looked at around a pixel must not be
wider than the margin.
"""

from functools import lru_cache

import cv2
import numpy as np

from lib.preprocessing.compiled import compiled

# The constants were set on synthetic images drawn with another seed than the demonstration's, and
# looked at on real ones (reports/studies/preprocessing). Lengths in pixels.

#: strands are looked for in a frame of this size, whatever the size of the image
STRAND_FRAME = 256
#: grey levels by which a strand stands out somewhere; half as many carry it on
STRAND_CONTRAST = 8
#: how many times the mean contrast of the surroundings is taken off, and the most that one pixel
#: counts there: a dense coat of hair must not hide itself
STRAND_TEXTURE, STRAND_TEXTURE_CAP = 1.8, 10
#: length of a strand, and the most it may cover of the square of that length
STRAND_LENGTH, STRAND_COVER = 24, 0.15
#: grey levels by which hair may be more colourful than what surrounds it
STRAND_COLOR = 1
#: a strand most of which lies this near to the frame is its dark rim, mirrored at the edge
FRAME_RIM = 2
#: how far the surroundings reach: of contrast, and of colour
TEXTURE_REACH, COLOR_REACH = 10, 7
#: Eight directions: shifts that, one after the other, double the samples along a line of about 16
#: pixels, and where the parallel line at one side lies, 3 pixels off.
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
#: half a line, and the way to its neighbour
MARGIN = 12
#: the least channel of glare is brighter than this somewhere, and stands out by more than this
GLARE_LEVEL, GLARE_CONTRAST = 190, 40
#: grey levels by which glare stands out as far as it is followed
GLARE_EDGE = 25


def hair_mask(image: np.ndarray, thick: bool = False) -> np.ndarray:
    """Find hair: long thin strands darker, or lighter, than what lies on both sides of them.

    Dark hair is looked for in red, where pigment absorbs least, light hair in green turned upside
    down. A black hat that passes over blobs and borders: in each of eight directions the mean
    along a short line is compared with the means along the parallel lines at either side, and the
    lesser difference counts. What the surroundings respond on average is taken off, which passes
    over a pigment network. Of the connected strands that are left, those that are short, compact,
    or more colourful than what surrounds them (vessels, pigment) are discarded; the rest is cut
    back to the pixels that differ.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    thick : bool
        Look at a second scale too, half as large: for strands twice as wide, which must be twice
        as long and stand out twice as much.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    image = _checked(image)
    mask = _hair_at(image, 1)
    return mask | _hair_at(image, 2) if thick else mask


def _hair_at(image: np.ndarray, times: int) -> np.ndarray:
    """Find hair that is so many times as wide as the hair that `STRAND_FRAME` is made for."""
    height, width = image.shape[:2]
    scale = scale_of(image) * times
    frame = round(width / scale), round(height / scale)
    if min(frame) <= MARGIN:  # no room for a strand
        return np.zeros((height, width), bool)
    places = _places(frame[0])
    if scale == 1:
        return _hair(image, *places)
    planes = _planes(image)
    small = _resized(planes, frame, cv2.INTER_AREA)
    strands = _strands(small, *places, STRAND_CONTRAST * times)
    strands = _resized(strands, (width, height), cv2.INTER_NEAREST)
    return _cut_back(planes, strands, round(4 * scale), round(scale), round(2 * scale))


def bubble_mask(image: np.ndarray) -> np.ndarray:
    """Find glare of air bubbles and gel: small spots near white, brighter than around them.

    A spot must be bright somewhere and is then followed as far as it stands out; a rim of one
    pixel (at 256) is marked too. The pale inside of a bubble is not: the skin shows through it.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    image = _checked(image)
    reach = (max(image.shape[:2]) // 17 | 1) // 2
    return _glare(image, reach, round(scale_of(image)))


def _checked(image: np.ndarray) -> np.ndarray:
    """Return an image as compiled code needs it."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{image.dtype} of shape {image.shape}; expected uint8 of shape (height, width, 3)"
        )
    return np.ascontiguousarray(image)


def scale_of(image: np.ndarray) -> float:
    """Return how many times larger than `STRAND_FRAME` an image is, at least 1."""
    return max(1, max(image.shape[:2]) / STRAND_FRAME)


def _resized(planes: np.ndarray, size: tuple[int, int], way: int) -> np.ndarray:
    return np.stack([cv2.resize(plane, size, interpolation=way) for plane in planes])


# ---------------------------------------------------------------------------------------- strands


@compiled
def _hair(image, steps, backs, sides):
    planes = _planes(image)
    strands = _strands(planes, steps, backs, sides, STRAND_CONTRAST)
    return _cut_back(planes, strands, 4, 1, 2)


@compiled
def _planes(image):
    """Split an image into red, green turned upside down, and the largest less the least channel."""
    height, width, _ = image.shape
    planes = np.empty((3, height, width), np.uint8)
    for y in range(height):
        line = image[y].reshape(-1)
        red, light, color = planes[0, y], planes[1, y], planes[2, y]
        for x in range(width):
            r, g, b = line[3 * x], line[3 * x + 1], line[3 * x + 2]
            red[x], light[x] = r, ~g
            color[x] = max(max(r, g), b) - min(min(r, g), b)
    return planes


@compiled
def _strands(planes, steps, backs, sides, least):
    """Find strands that stand out by more than the least; uint8, 0 and 1, (2, height, width)."""
    height, width = planes.shape[1:]
    strands = np.zeros((2, height, width), np.uint8)
    columns = _column_sums(_padded(planes[2], MARGIN, True), COLOR_REACH)
    for i in range(2):
        contrast = _line_contrast(_padded(planes[i], MARGIN, True), steps, backs, sides)
        _take_off_texture(contrast)
        _keep_strands(contrast, least, planes[2], columns, strands[i])
    return strands


@compiled
def _padded(plane, margin, mirrored):
    """Return a plane with a margin: what lies there mirrored at the outermost pixels, or zero."""
    height, width = plane.shape
    padded = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    for y in range(height):
        _copy(plane[y], padded[margin + y, margin:])
    if mirrored:
        _mirror(padded, margin)
    return padded


@compiled
def _mirror(padded, margin):
    top, left = margin, margin
    bottom, right = padded.shape[0] - 1 - margin, padded.shape[1] - 1 - margin
    for y in range(top, bottom + 1):
        row = padded[y]
        for i in range(1, margin + 1):
            row[left - i], row[right + i] = row[left + i], row[right - i]
    for i in range(1, margin + 1):
        _copy(padded[top + i], padded[top - i])
        _copy(padded[bottom - i], padded[bottom + i])


@compiled
def _copy(values, target):
    for i in range(values.size):
        target[i] = values[i]


@lru_cache(maxsize=16)
def _places(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn the shifts of `LINES` into distances in a padded plane.

    Returns
    -------
    tuple of ndarray of int64
        Of each direction: the distances to the four pixels that are added up, and to the four of
        these sums that make a line, shape (8, 2, 4); how far back from a pixel the sum of its line
        lies, shape (8,); and the distance to the line on one side, shape (8,).
    """
    wide = width + 2 * MARGIN
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
    """Say by how much the line through each pixel is darker than the lines on both its sides.

    The most of all directions, in grey levels, 0 where no line is darker; padded, with nonsense at
    the left and right of the rows, where lines run into the next one.
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
        _keep_most(lines[0, starts[0] :], sides[d], lines[1, starts[1] :], sides[d + 1], best)
    contrast = np.zeros_like(padded)
    out = contrast.reshape(-1)[first:end]
    for i in range(out.size):  # the mean of 16; the middle of two goes to the even one
        out[i] = (best[i] + np.uint16(7) + ((best[i] >> 4) & np.uint16(1))) >> 4
    return contrast


@compiled
def _add_fours(source, count, steps, target):
    """Add four numbers, of which `count` are there; return how many sums there are."""
    count -= max(max(steps[0], steps[1]), max(steps[2], steps[3]))
    a, b = source[steps[0] : steps[0] + count], source[steps[1] : steps[1] + count]
    c, d = source[steps[2] : steps[2] + count], source[steps[3] : steps[3] + count]
    for i in range(count):
        target[i] = np.uint16(a[i]) + np.uint16(b[i]) + np.uint16(c[i]) + np.uint16(d[i])
    return count


@compiled
def _keep_most(lines, side, others, other_side, best):
    """Compare lines of two directions with those beside them; two save time in memory."""
    a, line, b = lines, lines[side:], lines[2 * side :]
    c, other, d = others, others[other_side:], others[2 * other_side :]
    for i in range(best.size):
        one, two = min(a[i], b[i]), min(c[i], d[i])
        more = np.uint16(max(one, line[i]) - line[i])
        best[i] = max(best[i], max(more, np.uint16(max(two, other[i]) - other[i])))


@compiled
def _capped(contrast):
    """Return the contrast, no more than `STRAND_TEXTURE_CAP`, mirrored at the frame."""
    capped = np.empty_like(contrast)
    values, target = contrast.reshape(-1), capped.reshape(-1)
    for i in range(values.size):
        target[i] = min(values[i], np.uint8(STRAND_TEXTURE_CAP))
    _mirror(capped, MARGIN)
    return capped


@compiled
def _column_sums(padded, reach):
    """Add up each pixel and those above and below it, `reach` each; uint16, rows without margin."""
    columns = np.zeros((padded.shape[0] - 2 * MARGIN, padded.shape[1]), np.uint16)
    for y in range(MARGIN - reach, MARGIN + reach + 1):
        _add(columns[0], padded[y])
    low, high = padded[MARGIN - reach :], padded[MARGIN + reach :]
    for y in range(1, len(columns)):
        _slide(columns[y - 1], high[y], low[y - 1], columns[y])
    return columns


@compiled
def _row_sums(columns, reach):
    """Add up `2 * reach + 1` sums of columns, from each one on; uint16, of the same shape."""
    ones, side = columns.reshape(-1), 2 * reach + 1
    fours, sixteens, sums = np.empty_like(ones), np.empty_like(ones), np.zeros_like(ones)
    count = _add_fours(ones, ones.size, np.array([0, 1, 2, 3]), fours)
    _add_fours(fours, count, np.array([0, 4, 8, 12]), sixteens)
    have = 0
    for size, part in ((16, sixteens), (4, fours), (1, ones)):
        while side - have >= size:
            _add(sums[: sums.size - side], part[have:])
            have += size
    return sums.reshape(columns.shape)


@compiled
def _add(sums, values):
    for i in range(sums.size):
        sums[i] += values[i]


@compiled
def _slide(sums, new, old, target):
    for i in range(sums.size):
        target[i] = sums[i] + np.uint16(new[i]) - np.uint16(old[i])


@compiled
def _take_off_texture(contrast):
    """Take `STRAND_TEXTURE` times the mean of the surroundings off, and clear the margin."""
    sums = _row_sums(_column_sums(_capped(contrast), TEXTURE_REACH), TEXTURE_REACH)
    width = contrast.shape[1] - 2 * MARGIN
    scale, half = np.float32(1 / (2 * TEXTURE_REACH + 1) ** 2), np.float32(0.5)
    for y in range(len(sums)):
        row, total = contrast[MARGIN + y], sums[y, MARGIN - TEXTURE_REACH :]
        row[:MARGIN], row[MARGIN + width :] = 0, 0
        inside = row[MARGIN : MARGIN + width]
        for x in range(width):  # means are rounded, and never in the middle of two
            mean = np.floor(np.float32(total[x]) * scale + half)
            taken = np.uint8(mean * np.float32(STRAND_TEXTURE) + half)
            inside[x] = max(inside[x], taken) - taken


@compiled
def _keep_strands(contrast, least, color, columns, strands):
    """Mark connected strands that stand out, are long and thin, not colourful, not the rim.

    Parameters
    ----------
    contrast : ndarray of uint8, padded
        Zero in the margin; what has been looked at is cleared.
    least : int
        What a strand exceeds somewhere; half of it everywhere.
    color : ndarray of uint8, shape (height, width)
    columns : ndarray of uint16, shape (height, width + 2 * MARGIN)
        From `_column_sums`, of `color`.
    strands : ndarray of uint8, shape (height, width)
        Set to 1 on strands.
    """
    values, wide = contrast.reshape(-1), contrast.shape[1]
    pixels = np.empty(values.size, np.int32)
    for y in range(MARGIN, contrast.shape[0] - MARGIN):
        if _most_of(contrast[y]) <= least:
            continue
        for i in range(y * wide, (y + 1) * wide):
            if values[i] > least:
                count = _follow(values, wide, i, least // 2, pixels)
                if _is_strand(pixels[:count], wide, color, columns):
                    for j in pixels[:count]:
                        strands[j // wide - MARGIN, j % wide - MARGIN] = 1


@compiled
def _most_of(values):
    most = np.uint8(0)
    for i in range(values.size):
        most = max(most, values[i])
    return most


@compiled
def _follow(values, wide, start, limit, pixels):
    """Write where the pixels lie that are connected with one, clear them, and count them.

    Connected are those above the limit, each with all eight around it. `values` is a padded plane
    as one row of numbers, nothing in its margin being above the limit.
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
def _is_strand(pixels, wide, color, columns):
    """Say whether connected pixels are a strand; its length is the diagonal of its box."""
    height, width = color.shape
    top, bottom, left, right, inside = height, 0, width, 0, 0
    for i in pixels:
        y, x = i // wide - MARGIN, i % wide - MARGIN
        top, bottom, left, right = min(top, y), max(bottom, y), min(left, x), max(right, x)
        inside += FRAME_RIM <= y < height - FRAME_RIM and FRAME_RIM <= x < width - FRAME_RIM
    length = np.hypot(bottom - top + 1, right - left + 1)
    return (
        length >= STRAND_LENGTH
        and pixels.size < STRAND_COVER * length**2
        and 2 * inside > pixels.size
        and _more_color(pixels, wide, color, columns) < STRAND_COLOR * pixels.size
    )


@compiled
def _more_color(pixels, wide, color, columns):
    """Add up by how much the pixels are more colourful than the rounded mean around each."""
    area, more = (2 * COLOR_REACH + 1) ** 2, 0
    for i in pixels:
        y, x = i // wide - MARGIN, i % wide
        total = 0
        for each in columns[y, x - COLOR_REACH : x + COLOR_REACH + 1]:
            total += each
        more += color[y, x - MARGIN] - (2 * total + area) // (2 * area)
    return more


# --------------------------------------------------------------------------------------- cut back


@compiled
def _cut_back(planes, strands, reach, rim, near):
    """Cut strands, widened by a rim, back to what differs from around them.

    A pixel counts if it stands out by 10 grey levels and a quarter of its neighbours' most. What
    stands out is a black hat: how far the pixel is below the closing, a square of `reach` pixels
    to each side. Planes and strands, dark and light, are uint8, shape (2 or 3, height, width); the
    mask is bool, shape (height, width).
    """
    mask = np.zeros(planes.shape[1:], np.bool_)
    beyond = rim + 2 * reach + near  # what decides about a pixel
    for k in range(2):
        top, bottom = 0, len(mask)
        while top < bottom and _most_of(strands[k, top]) == 0:
            top += 1
        while top < bottom and _most_of(strands[k, bottom - 1]) == 0:
            bottom -= 1
        if top < bottom:
            rows = slice(max(top - beyond, 0), min(bottom + beyond, len(mask)))
            _cut_rows(planes[k, rows], strands[k, rows], reach, rim, near, mask[rows])
    return mask


@compiled
def _cut_rows(plane, strands, reach, rim, near, mask):
    height, width = plane.shape
    margin = max(reach, near)
    spare = np.empty((2, (height + 2 * margin) * (width + 2 * margin)), np.uint8)
    hat, wider = _black_hat(plane, reach, margin), _padded(strands, margin, False)
    _spread(wider, rim, spare)
    excess = np.zeros_like(hat)
    values, there, out = hat.reshape(-1), wider.reshape(-1), excess.reshape(-1)
    for i in range(out.size):
        out[i] = values[i] * np.uint8(there[i] > 0)
    peak = excess.copy()
    _spread(peak, near, spare)
    for y in range(height):
        row, here = mask[y], excess[margin + y, margin : margin + width]
        most = peak[margin + y, margin : margin + width]
        for x in range(width):  # the middle of two quarters goes to the even one
            quarter = (np.uint16(most[x]) + np.uint16(1) + np.uint16((most[x] >> 2) & 1)) >> 2
            row[x] |= here[x] > max(np.uint8(quarter), np.uint8(10))


# ------------------------------------------------------------------------------------------ glare


@compiled
def _glare(image, reach, rim):
    """Find glare by a white hat: how far the least channel is above its opening.

    The opening is by a square of `reach` pixels to each side.
    """
    height, width, _ = image.shape
    mask = np.zeros((height, width), np.bool_)
    pale = np.empty((height, width), np.uint8)  # the least channel
    most = np.uint8(0)
    for y in range(height):
        line, row = image[y].reshape(-1), pale[y]
        for x in range(width):
            row[x] = min(min(line[3 * x], line[3 * x + 1]), line[3 * x + 2])
        most = max(most, _most_of(row))
    if most <= GLARE_LEVEL:  # nothing is bright enough
        return mask
    margin = max(reach, rim)
    excess = _black_hat(~pale, reach, margin)  # upside down, a white hat is a black hat
    spots = _keep_spots(excess, pale, margin, 2 * (2 * reach + 1) ** 2)
    _spread(spots, rim, np.empty((2, spots.size), np.uint8))
    for y in range(height):
        row, spot = mask[y], spots[margin + y, margin:]
        for x in range(width):
            row[x] = spot[x] > 0
    return mask


@compiled
def _keep_spots(excess, pale, margin, most_pixels):
    """Mark connected pixels that stand out, one of them much and bright, if they are not many."""
    spots = np.zeros_like(excess)
    values, marked, wide = excess.reshape(-1), spots.reshape(-1), excess.shape[1]
    pixels = np.empty(values.size, np.int32)
    for y in range(len(pale)):
        if _most_of(excess[margin + y]) <= GLARE_CONTRAST:
            continue
        for x in range(pale.shape[1]):
            start = (margin + y) * wide + margin + x
            if values[start] > GLARE_CONTRAST and pale[y, x] > GLARE_LEVEL:
                count = _follow(values, wide, start, GLARE_EDGE, pixels)
                if count < most_pixels:
                    marked[pixels[:count]] = 1
    return spots


# -------------------------------------------------------------------------------------- black hat


@compiled
def _black_hat(plane, reach, margin):
    """Say how far each pixel is below the closing, a square of `reach` to each side; padded.

    What is beyond the frame counts neither as bright nor as dark.
    """
    padded = _padded(plane, margin, False)
    closed, spare = padded.copy(), np.empty((2, padded.size), np.uint8)
    for _ in range(2):  # spread what is bright, then what is dark
        _spread(closed, reach, spare)
        _invert(closed, margin)
    closed, values = closed.reshape(-1), padded.reshape(-1)
    for i in range(values.size):
        values[i] = closed[i] - values[i]
    return padded


@compiled
def _invert(padded, margin):
    """Turn what is inside the frame upside down, and clear the margin."""
    values = padded.reshape(-1)
    for i in range(values.size):
        values[i] = ~values[i]
    padded[:margin], padded[padded.shape[0] - margin :] = 0, 0
    for y in range(margin, padded.shape[0] - margin):
        padded[y, :margin], padded[y, padded.shape[1] - margin :] = 0, 0


@compiled
def _spread(padded, reach, spare):
    """Give each pixel the most of the square around it, `reach` to each side."""
    values = padded.reshape(-1)
    for step in (1, padded.shape[1]):
        now, other = spare[0], spare[1]
        _copy(values, now)
        count, have = values.size, 1
        while 2 * have <= 2 * reach + 1:
            count -= have * step
            _most_of_two(now[:count], now[have * step :], other)
            now, other, have = other, now, 2 * have
        left = (2 * reach + 1 - have) * step
        count -= left
        _most_of_two(now[:count], now[left:], values[reach * step :])


@compiled
def _most_of_two(one, other, target):
    for i in range(one.size):
        target[i] = max(one[i], other[i])
