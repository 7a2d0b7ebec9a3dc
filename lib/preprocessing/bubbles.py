"""Find and remove air bubbles and reflections of gel: small spots near white."""

import cv2
import numpy as np

from lib.preprocessing import decode
from lib.preprocessing.inpainting import fill_with_rim, scale_of

#: the darkest channel of glare is brighter than this somewhere, and stands out by more than this
GLARE_LEVEL, GLARE_CONTRAST = 190, 40
#: grey levels by which a spot stands out as far as it reaches
GLARE_EDGE = 25


def bubble_mask(image: np.ndarray) -> np.ndarray:
    """Find glare of air bubbles and gel: small spots near white, brighter than around them.

    A white hat of the darkest channel tells by how much a pixel stands out. A spot must be bright
    somewhere; it reaches as far as it stands out, and a rim of one pixel (at 256) is marked too.
    The pale inside of a bubble is not marked: the skin shows through it.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB

    Returns
    -------
    ndarray of bool, shape (height, width)

    Raises
    ------
    ValueError
        Not an 8-bit RGB image.
    """
    decode.check_rgb(image)
    red, green, blue = cv2.split(image)
    darkest = cv2.min(cv2.min(red, green), blue)
    if darkest.max() <= GLARE_LEVEL:  # true of most images, and quickly known
        return np.zeros(darkest.shape, bool)
    side = max(darkest.shape) // 17 | 1
    excess = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8))
    is_core = (excess > GLARE_CONTRAST) & (darkest > GLARE_LEVEL)
    if not is_core.any():
        return is_core
    candidates = (excess > GLARE_EDGE).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(candidates)
    is_spot = np.zeros(count, np.uint8)
    is_spot[labels[is_core]] = 1
    is_spot[stats[:, cv2.CC_STAT_AREA] >= 2 * side**2] = 0
    rim = 2 * round(scale_of(image)) + 1
    return cv2.dilate(is_spot[labels], np.ones((rim, rim), np.uint8)) > 0


def remove_bubbles(image: np.ndarray) -> np.ndarray:
    """Fill in what `bubble_mask` finds and a rim of one pixel (at 256), for glare is blurred."""
    return fill_with_rim(image, bubble_mask(image))
