"""Preprocessing of an image: crop, resize, and the steps that the configuration switches on.

Images are RGB, uint8, shape (height, width, 3).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from lib.config import Preprocessing
from lib.preprocessing import bubbles, color_correction, decode, hair
from lib.preprocessing.area_average import area_average

#: the name of the step that searches for thick hair, too
TWO_SCALES = "hair removal at two scales"


def crop_square(image: np.ndarray) -> np.ndarray:
    """Cut the central square out of an image or a mask.

    >>> crop_square(np.zeros((450, 600, 3))).shape
    (450, 450, 3)
    """
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
    """Crop to the central square and resize to `size` x `size` pixels, the first step of all."""
    return resize(crop_square(image), size)


def enabled_steps(settings: Preprocessing) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the steps that are switched on, in order: name to function of an image."""
    size, median, mean = settings.image_size, settings.median_kernel, settings.mean_kernel
    thin, thick = settings.remove_hair and not settings.thick_hair, settings.thick_hair
    steps = {
        "crop and resize": (True, lambda image: crop_and_resize(image, size)),
        "hair removal": (thin, hair.remove_hair),
        TWO_SCALES: (settings.remove_hair and thick, partial(hair.remove_hair, thick=True)),
        "bubble removal": (settings.remove_bubbles, bubbles.remove_bubbles),
        "median filter": (median > 0, lambda image: cv2.medianBlur(image, median)),
        "mean filter": (mean > 0, lambda image: cv2.blur(image, (mean, mean))),
        "colour constancy": (settings.color_constancy, color_correction.shades_of_gray),
        "contrast": (settings.equalize_contrast, color_correction.equalize_contrast),
    }
    return {name: step for name, (is_on, step) in steps.items() if is_on}


def preprocess_image(image: np.ndarray, settings: Preprocessing) -> np.ndarray:
    """Apply every enabled step: the one way for training, evaluation and prediction.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB

    Returns
    -------
    ndarray of uint8, shape (image_size, image_size, 3), RGB
    """
    for step in enabled_steps(settings).values():
        image = step(image)
    return image


def preprocess_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Crop and resize a lesion mask like its image; ndarray of bool, shape (size, size)."""
    return crop_and_resize(mask.astype(np.uint8) * 255, size) > 127


def prepare(file: Path, settings: Preprocessing) -> np.ndarray:
    """Read and preprocess an image file.

    Returns
    -------
    ndarray of uint8, shape (image_size, image_size, 3), RGB

    Raises
    ------
    FileNotFoundError, ValueError
        The image is missing or cannot be used (`decode.read_image`).
    """
    return preprocess_image(decode.read_image(file), settings)
