"""Preprocessing of dermoscopic images: small pure steps.

Every image is cropped to a square and resized; each further step is switched in the configuration.
Arrays are RGB, uint8, shape (height, width, 3).
"""

from pathlib import Path

import cv2
import numpy as np

from lib.config import Preprocessing
from lib.preprocessing import decode
from lib.preprocessing.area import area_average
from lib.preprocessing.artefacts import bubble_mask, hair_mask, scale_of

#: the name of the step that looks for thick hair too
TWO_SCALES = "hair removal at two scales"
#: what lies this far from a hole decides what it is filled with, and some more; pixels
FILL_REACH = 4

# -------------------------------------------------------------------------------------- steps


def crop_square(image: np.ndarray) -> np.ndarray:
    """Cut the central square out of an image of any shape; masks may be cut too."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a square image to `size` x `size` pixels: by area when shrinking, else bilinearly."""
    if size < image.shape[0]:
        return area_average(image, size)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def crop_and_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bring an image to `size` x `size` pixels: what every run begins with."""
    return resize(crop_square(image), size)


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace the masked pixels by inpainting from around them.

    By fluid dynamics (Bertalmio, Bertozzi and Sapiro, CVPR 2001), on thin strands faster than
    Telea's method and nearer to the truth. Pixels outside the mask are not touched.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    mask : ndarray, shape (height, width)
        Not zero where the image is filled in.

    Raises
    ------
    ValueError
        A mask of another size.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape}; expected {image.shape[:2]}, the image's")
    mask = (mask != 0).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return image
    # OpenCV goes through all pixels it is given several times: only those that matter
    rows = slice(max(top - FILL_REACH, 0), top + height + FILL_REACH)
    columns = slice(max(left - FILL_REACH, 0), left + width + FILL_REACH)
    filled = image.copy()
    filled[rows, columns] = cv2.inpaint(
        image[rows, columns], mask[rows, columns], 1, cv2.INPAINT_NS
    )
    return filled


def remove_hair(image: np.ndarray, thick: bool = False) -> np.ndarray:
    """Fill what `hair_mask` finds, and a rim of one pixel (at 256): hair throws a shadow."""
    return _fill_with_rim(image, hair_mask(image, thick))


def remove_thick_hair(image: np.ndarray) -> np.ndarray:
    """Remove hair as `remove_hair` does, looked for at two scales."""
    return remove_hair(image, thick=True)


def remove_bubbles(image: np.ndarray) -> np.ndarray:
    """Fill what `bubble_mask` finds, and a rim of one pixel (at 256) more: glare is blurred."""
    return _fill_with_rim(image, bubble_mask(image))


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


def enabled_steps(settings: Preprocessing) -> dict:
    """Return the steps that are switched on, in order: name to function of an image."""
    size, median, mean = settings.image_size, settings.median_kernel, settings.mean_kernel
    every = {
        "crop and resize": (True, lambda image: crop_and_resize(image, size)),
        "hair removal": (settings.remove_hair and not settings.thick_hair, remove_hair),
        TWO_SCALES: (settings.remove_hair and settings.thick_hair, remove_thick_hair),
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
    for function in enabled_steps(settings).values():
        image = function(image)
    return image


def preprocess_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Crop and resize a lesion mask as its image was; ndarray of bool, shape (size, size)."""
    return resize(crop_square(mask).astype(np.uint8) * 255, size) > 127


def _fill_with_rim(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return image
    rim = (2 * round(scale_of(image)) + 1,) * 2
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, rim)
    return fill(image, cv2.dilate(mask.view(np.uint8), disk))


def prepare(file: Path, settings: Preprocessing) -> np.ndarray:
    """Return what every model is given for an image file, in training and ever after.

    Returns
    -------
    ndarray of uint8, shape (image_size, image_size, 3), RGB

    Raises
    ------
    FileNotFoundError, ValueError
        An image that is missing or cannot be used (`datasets.read_image`).
    """
    return preprocess_image(decode.read_image(file), settings)
