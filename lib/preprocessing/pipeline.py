"""Preprocessing of an image: crop, resize, and the steps that the configuration switches on.

Images are RGB, uint8, shape (height, width, 3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lib.config import Preprocessing
from lib.preprocessing import bubbles, decode, hair
from lib.preprocessing.color_correction import equalize_contrast, shades_of_gray


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
    way = cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=way)


def crop_and_resize(image: np.ndarray, size: int, stored_size: int = 0) -> np.ndarray:
    """Crop to the central square and resize to `size` x `size` pixels, the first step of all.

    A side above `stored_size`, if that is not 0, is reduced to it in between.
    """
    image = crop_square(image)
    if 0 < stored_size < image.shape[0]:
        image = resize(image, stored_size)
    return resize(image, size)


@dataclass(frozen=True)
class Step:
    """One step of preprocessing; its name is its key in `STEPS`."""

    #: field of `Preprocessing`: the step is on unless its value is False or 0
    setting: str
    function: Callable[[np.ndarray, Preprocessing], np.ndarray]
    #: value of the setting for `all_steps` where the run has the step off
    example: bool | float = True


#: All steps in order; a function takes the image and the settings `s`. A new step is an entry here
#: and a field of `Preprocessing` that is off by default: notebook 02 shows it, and
#: `preprocess_image` applies it where it is on.
STEPS = {
    "crop and resize": Step(
        "image_size", lambda image, s: crop_and_resize(image, s.image_size, s.stored_size)
    ),
    "hair removal": Step("remove_hair", lambda image, s: hair.remove_hair(image, s.thick_hair)),
    "bubble removal": Step("remove_bubbles", lambda image, s: bubbles.remove_bubbles(image)),
    "median filter": Step(
        "median_kernel", lambda image, s: cv2.medianBlur(image, s.median_kernel), 3
    ),
    "mean filter": Step("mean_kernel", lambda image, s: cv2.blur(image, (s.mean_kernel,) * 2), 3),
    "colour constancy": Step("color_constancy", lambda image, s: shades_of_gray(image)),
    "contrast": Step("equalize_contrast", lambda image, s: equalize_contrast(image)),
}


def enabled_steps(settings: Preprocessing) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the steps that are switched on, in order: name to function of an image."""
    return {
        name: lambda image, step=step: step.function(image, settings)
        for name, step in STEPS.items()
        if getattr(settings, step.setting)
    }


def all_steps(settings: Preprocessing) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return every step like `enabled_steps`, those that are off with the example's setting."""
    off = [step for step in STEPS.values() if not getattr(settings, step.setting)]
    return enabled_steps(settings.model_copy(update={step.setting: step.example for step in off}))


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


def preprocess_mask(mask: np.ndarray, size: int, stored_size: int = 0) -> np.ndarray:
    """Crop and resize a lesion mask like its image; ndarray of bool, shape (size, size)."""
    mask = crop_square(mask)
    for side in (stored_size, size) if 0 < stored_size < mask.shape[0] else (size,):
        mask = resize(mask.astype(np.uint8) * 255, side) > 127
    return mask


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
