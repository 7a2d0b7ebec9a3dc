"""Preprocessing of dermoscopic images: small pure steps.

Every image is cropped to a square and resized; each further step is switched in the configuration.
Arrays are RGB, uint8, shape (height, width, 3).
"""

import cv2
import numpy as np

from lib.config import Preprocessing

# The constants of hair and glare were set on synthetic images drawn with another seed than the
# demonstration's, and looked at on real ones (reports/preprocessing/README.md). Lengths in pixels.

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
SAMPLES = 16
#: half a line, and the way to its neighbour
MARGIN = 12

# -------------------------------------------------------------------------------------- steps


def crop_square(image: np.ndarray) -> np.ndarray:
    """Cut the central square out of an image of any shape; masks may be cut too."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a square image to `size` x `size` pixels: by area when shrinking, else bilinearly."""
    way = cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=way)


def crop_and_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bring an image to `size` x `size` pixels: what every run begins with."""
    return resize(crop_square(image), size)


def hair_mask(image: np.ndarray) -> np.ndarray:
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

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    height, width = image.shape[:2]
    found, scale = np.zeros((height, width), np.uint8), _scale(image)
    frame = round(width / scale), round(height / scale)
    if min(frame) <= MARGIN:  # no room for a strand
        return found.astype(bool)
    red, green, _ = cv2.split(image)
    channels = red, cv2.bitwise_not(green)
    contrasts = _strand_contrasts([_shrunk(each, frame) for each in channels])
    colorfulness = _shrunk(cv2.subtract(*_extremes(image)), frame)
    for channel, contrast in zip(channels, contrasts, strict=True):
        strands = _keep_strands(contrast, colorfulness)
        if strands is not None:
            strands = cv2.resize(strands, (width, height), interpolation=cv2.INTER_NEAREST)
            found |= _cut_back(channel, strands, scale)
    return found.astype(bool)


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
    _, darkest = _extremes(image)
    side = max(image.shape[:2]) // 17 | 1
    excess = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8))
    bright = (excess > 40) & (darkest > 190)
    if not bright.any():
        return bright
    labels, spots = _components((excess > 25).astype(np.uint8))
    keep = _touched(labels, bright, len(spots)) & (spots[:, cv2.CC_STAT_AREA] < 2 * side**2)
    return cv2.dilate(np.take(keep.astype(np.uint8), labels), _square(_scale(image))).astype(bool)


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace the masked pixels by inpainting from around them.

    By fluid dynamics (Bertalmio, Bertozzi and Sapiro, CVPR 2001), on thin strands faster than
    Telea's method and nearer to the truth. Pixels outside the mask are not touched.
    """
    if not mask.any():
        return image
    return cv2.inpaint(image, mask.astype(np.uint8), 1, cv2.INPAINT_NS)


def remove_hair(image: np.ndarray) -> np.ndarray:
    """Fill what `hair_mask` finds, and a rim of one pixel (at 256): hair throws a shadow."""
    return fill(image, _with_rim(hair_mask(image), _scale(image)))


def remove_bubbles(image: np.ndarray) -> np.ndarray:
    """Fill what `bubble_mask` finds, and a rim of one pixel (at 256) more: glare is blurred."""
    return fill(image, _with_rim(bubble_mask(image), _scale(image)))


def estimate_illuminant(image: np.ndarray, norm: int = 6) -> np.ndarray:
    """Estimate the colour of the light: the Minkowski mean of each channel, shape (3,).

    Finlayson and Trezzi, Shades of gray and colour constancy, CIC 12:37 (2004).

    Parameters
    ----------
    norm : int
        Exponent of the mean: with 1 the grey-world assumption, the larger the nearer to taking
        the brightest spot for white.
    """
    counts = np.array([np.bincount(c.ravel(), minlength=256) for c in cv2.split(image)])
    return (counts @ np.arange(256.0) ** norm / counts[0].sum()) ** (1 / norm)


def shades_of_gray(image: np.ndarray, norm: int = 6) -> np.ndarray:
    """Take a colour cast off: the estimated illuminant is made grey, brightness is kept."""
    illuminant = estimate_illuminant(image, norm)
    gains = illuminant.mean() / np.maximum(illuminant, 1)
    table = np.clip(np.rint(np.arange(256)[:, None] * gains), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])


def equalize_contrast(image: np.ndarray, clip_limit: float = 2.0) -> np.ndarray:
    """Equalise lightness locally (CLAHE on L of CIELAB, 8 x 8 tiles); hue is kept."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip_limit, (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def steps(settings: Preprocessing) -> dict:
    """Return the steps that are switched on, in order: name to function of an image."""
    size, median, mean = settings.image_size, settings.median_kernel, settings.mean_kernel
    every = {
        "crop and resize": (True, lambda image: crop_and_resize(image, size)),
        "hair removal": (settings.remove_hair, remove_hair),
        "bubble removal": (settings.remove_bubbles, remove_bubbles),
        "median filter": (median > 0, lambda image: cv2.medianBlur(image, median)),
        "mean filter": (mean > 0, lambda image: cv2.blur(image, (mean, mean))),
        "colour constancy": (settings.color_constancy, shades_of_gray),
        "contrast": (settings.equalize_contrast, equalize_contrast),
    }
    return {name: function for name, (on, function) in every.items() if on}


def preprocess_image(image: np.ndarray, settings: Preprocessing) -> np.ndarray:
    """Apply every step that is switched on; the one way for training, evaluation and prediction.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB

    Returns
    -------
    ndarray of uint8, shape (image_size, image_size, 3), RGB
    """
    for function in steps(settings).values():
        image = function(image)
    return image


def preprocess_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Crop and resize a lesion mask as its image was; ndarray of bool, shape (size, size)."""
    return resize(crop_square(mask).astype(np.uint8) * 255, size) > 127


# ------------------------------------------------------------------------------------ strands


def _strand_contrasts(channels: list[np.ndarray]) -> list[np.ndarray]:
    """Say by how many grey levels each pixel's strand is darker than the skin on both sides.

    The largest over the directions, less what the surroundings respond on average. The channels
    go through below one another: half as many calls, twice as long, are faster.

    Parameters
    ----------
    channels : list of ndarray of uint8, shape (height, width)

    Returns
    -------
    list of ndarray of uint8, shape (height, width), 0 where there is no strand
    """
    height, width = channels[0].shape
    padded = [cv2.copyMakeBorder(c, *[MARGIN] * 4, cv2.BORDER_REFLECT_101) for c in channels]
    padded = np.concatenate(padded).astype(np.uint16)
    rows = len(padded) - 2 * MARGIN  # those between two channels are of no use
    contrast = np.zeros((rows, width), np.uint16)
    for doublings, (dx, dy) in LINES:
        sums = _line_sums(padded, doublings)
        top, left = (sums.shape[0] - rows) // 2, (sums.shape[1] - width) // 2
        line, one_side, other_side = (
            sums[top + y : top + y + rows, left + x : left + x + width]
            for x, y in ((0, 0), (dx, dy), (-dx, -dy))
        )
        cv2.max(contrast, cv2.subtract(cv2.min(one_side, other_side), line), dst=contrast)
    contrast = cv2.convertScaleAbs(contrast, alpha=1 / SAMPLES)
    starts = range(0, rows, height + 2 * MARGIN)
    return [_less_texture(contrast[start : start + height]) for start in starts]


def _less_texture(contrast: np.ndarray) -> np.ndarray:
    texture = cv2.blur(cv2.min(contrast, STRAND_TEXTURE_CAP), (21, 21))
    return cv2.subtract(contrast, cv2.convertScaleAbs(texture, alpha=STRAND_TEXTURE))


def _line_sums(image: np.ndarray, doublings: tuple) -> np.ndarray:
    """Add up `SAMPLES` pixels along lines: each shift doubles what is summed, and crops."""
    for dx, dy in doublings:
        height, width = image.shape
        image = cv2.add(
            image[max(-dy, 0) : height - max(dy, 0), : width - dx],
            image[max(dy, 0) : height - max(-dy, 0), dx:],
        )
    return image


def _keep_strands(contrast: np.ndarray, colorfulness: np.ndarray) -> np.ndarray | None:
    """Keep connected strands that stand out, are long and thin, not more colourful, not the rim.

    Length is the diagonal of the box around a strand.

    Parameters
    ----------
    contrast : ndarray of uint8, shape (height, width)
        From `_strand_contrasts`.
    colorfulness : ndarray of uint8, shape (height, width)
        Largest less smallest channel.

    Returns
    -------
    ndarray of uint8, 0 and 1, shape (height, width); None where no strand is left
    """
    if contrast.max() <= STRAND_CONTRAST:
        return None
    labels, boxes = _components(cv2.compare(contrast, STRAND_CONTRAST // 2, cv2.CMP_GT))
    area = boxes[:, cv2.CC_STAT_AREA]
    length = np.hypot(boxes[:, cv2.CC_STAT_WIDTH], boxes[:, cv2.CC_STAT_HEIGHT])
    around = cv2.blur(colorfulness, (15, 15))
    inside = np.zeros_like(contrast)
    inside[FRAME_RIM:-FRAME_RIM, FRAME_RIM:-FRAME_RIM] = 1
    at = np.flatnonzero(labels)  # few pixels are on strands

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(labels.ravel()[at], values.ravel()[at], len(boxes))

    keep = (length >= STRAND_LENGTH) & (area < STRAND_COVER * length**2)
    keep &= total(contrast > STRAND_CONTRAST) > 0
    keep &= total(colorfulness) - total(around) < STRAND_COLOR * area
    keep &= 2 * total(inside) > area  # never the background, of which nothing is added up
    if not keep.any():
        return None
    strands = np.zeros_like(contrast)
    strands.ravel()[at] = keep[labels.ravel()[at]]
    return strands


def _cut_back(channel: np.ndarray, strands: np.ndarray, scale: float) -> np.ndarray:
    """Cut strands, widened by a pixel (at 256), back to what differs from around them; 0 and 255.

    A pixel counts if it stands out by 10 grey levels and a quarter of its neighbours' most.
    """
    side = round(4 * scale) * 2 + 1
    excess = cv2.morphologyEx(channel, cv2.MORPH_BLACKHAT, np.ones((side, side), np.uint8))
    excess = cv2.multiply(excess, cv2.dilate(strands, _square(scale)))
    peak = cv2.dilate(excess, _square(2 * scale))
    return cv2.compare(excess, cv2.max(cv2.convertScaleAbs(peak, alpha=1 / 4), 10), cv2.CMP_GT)


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label connected pixels; return labels, and box and area of each label, 0 the background."""
    height, width = mask.shape
    most = -(-height // 2) * -(-width // 2)  # components there can be
    kind = cv2.CV_16U if most < 2**16 - 1 else cv2.CV_32S  # the first is 2.5 times as fast
    _, labels, boxes, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask, 8, kind, cv2.CCL_SPAGHETTI
    )
    return labels, boxes


def _touched(labels: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """Return which labels, the background apart, have a pixel in the mask; shape (count,)."""
    touched = np.zeros(count, bool)
    touched[labels[mask > 0]] = True
    touched[0] = False
    return touched


def _shrunk(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a channel at `size` (width, height), as it is where it has that size."""
    if channel.shape == size[::-1]:
        return channel
    return cv2.resize(channel, size, interpolation=cv2.INTER_AREA)


def _scale(image: np.ndarray) -> float:
    """Return how many times larger than `STRAND_FRAME` an image is, at least 1."""
    return max(1, max(image.shape[:2]) / STRAND_FRAME)


def _square(scale: float) -> np.ndarray:
    """Return what a mask is dilated by to grow one pixel at `STRAND_FRAME`."""
    return np.ones((2 * round(scale) + 1,) * 2, np.uint8)


def _with_rim(mask: np.ndarray, scale: float) -> np.ndarray:
    """Grow a mask by a round rim of one pixel at `STRAND_FRAME`; ndarray of uint8, 0 and 1."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(scale) + 1,) * 2)
    return cv2.dilate(mask.astype(np.uint8), disk)


def _extremes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest and the smallest of the three channels of each pixel."""
    red, green, blue = cv2.split(image)
    return cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
