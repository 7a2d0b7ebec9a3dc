"""Replace masked pixels by what surrounds them."""

import cv2
import numpy as np

#: lengths in this package are pixels of an image of this size, and scale with larger ones
REFERENCE_SIZE = 256
#: pixels that OpenCV needs around a hole to fill it, and some more
FILL_REACH = 4


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace the masked pixels by inpainting; no other pixel changes.

    By fluid dynamics (Bertalmio, Bertozzi and Sapiro, CVPR 2001), which on thin strands is faster
    than Telea's method and closer to the truth.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    mask : ndarray, shape (height, width)
        Not zero where the image is filled in.

    Raises
    ------
    ValueError
        The mask has another size than the image.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape}; expected {image.shape[:2]}, the image's")
    mask = (mask != 0).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return image
    # OpenCV visits all pixels several times, so it gets only those that matter
    rows = slice(max(top - FILL_REACH, 0), top + height + FILL_REACH)
    columns = slice(max(left - FILL_REACH, 0), left + width + FILL_REACH)
    filled, around = image.copy(), (rows, columns)
    filled[around] = cv2.inpaint(image[around], mask[around], 1, cv2.INPAINT_NS)
    return filled


def fill_with_rim(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill in the masked pixels and a rim around them, one pixel wide at 256."""
    if not mask.any():
        return image
    side = 2 * round(scale_of(image)) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return fill(image, cv2.dilate(mask.astype(np.uint8), disk))


def scale_of(image: np.ndarray) -> float:
    """Return how many times larger than `REFERENCE_SIZE` an image is, at least 1.

    >>> scale_of(np.zeros((384, 512, 3)))
    2.0
    """
    return max(1.0, max(image.shape[:2]) / REFERENCE_SIZE)
