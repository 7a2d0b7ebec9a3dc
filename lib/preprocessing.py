"""Preprocessing of dermoscopic images: small pure steps.

Every image is cropped to a square and resized; each further step is switched in the configuration.
Arrays are RGB, uint8, shape (height, width, 3).
"""

import cv2
import numpy as np

from lib.config import Preprocessing

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


def hair_mask(image: np.ndarray, contrast: float = 8, texture: float = 3) -> np.ndarray:
    """Find hair: long thin strands darker, or lighter, than what lies on both sides of them.

    In each of eight directions, the mean along a short line is compared with the means along the
    parallel lines at either side; a border of a lesion differs from one side only. What the
    surroundings respond on average is taken off, which passes over a pigment network. Of the
    strands that are left, short or compact ones are discarded.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    contrast : float
        Grey levels by which a strand must stand out somewhere; half as many carry it on.
    texture : float
        How many times the mean response of the surroundings is taken off.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    size = image.shape[0]
    dark, light, mean = _strand_contrast(gray, length=size // 15 | 1, distance=max(2, size // 85))
    surroundings = texture * cv2.blur(mean, (size // 8 | 1, size // 8 | 1))
    strands = [_keep_strands(each - surroundings, contrast, size / 10) for each in (dark, light)]
    return np.logical_or(*strands)


def bubble_mask(image: np.ndarray, contrast: int = 30) -> np.ndarray:
    """Find glare of air bubbles and gel: small spots near white, brighter than around them.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    contrast : int
        Grey levels above the surroundings, in the darkest channel.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    darkest = image.min(axis=2)
    size = image.shape[0] // 12 | 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    excess = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, disk)
    spots = ((excess > contrast) & (darkest > 200)).astype(np.uint8)
    return cv2.dilate(spots, np.ones((3, 3), np.uint8)).astype(bool)


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace the masked pixels by inpainting from around them (Telea, J. Graph. Tools 9:23, 2004).

    Pixels outside the mask are not touched.
    """
    if not mask.any():
        return image
    return cv2.inpaint(image, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def remove_hair(image: np.ndarray) -> np.ndarray:
    """Fill what `hair_mask` finds, and a rim of one pixel: hair throws a shadow."""
    rim = np.ones((3, 3), np.uint8)
    return fill(image, cv2.dilate(hair_mask(image).astype(np.uint8), rim))


def remove_bubbles(image: np.ndarray) -> np.ndarray:
    """Fill what `bubble_mask` finds."""
    return fill(image, bubble_mask(image))


def shades_of_gray(image: np.ndarray, norm: int = 6) -> np.ndarray:
    """Take a colour cast off: the Minkowski mean of the three channels is made equal.

    Finlayson and Trezzi, Shades of gray and colour constancy, CIC 12:37 (2004).
    """
    illuminant = np.mean(image.astype(np.float64) ** norm, axis=(0, 1)) ** (1 / norm)
    gains = illuminant.mean() / np.maximum(illuminant, 1)
    return np.clip(np.rint(image * gains), 0, 255).astype(np.uint8)


def equalize_contrast(image: np.ndarray, clip_limit: float = 2.0) -> np.ndarray:
    """Equalise lightness locally (CLAHE on L of CIELAB, 8 x 8 tiles); hue is kept."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip_limit, (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def steps(settings: Preprocessing) -> dict:
    """Return the steps that are switched on, in order: name to function of an image."""
    size, kernel = settings.image_size, settings.median_kernel
    every = {
        "crop and resize": (True, lambda image: resize(crop_square(image), size)),
        "hair removal": (settings.remove_hair, remove_hair),
        "bubble removal": (settings.remove_bubbles, remove_bubbles),
        "median filter": (kernel > 0, lambda image: cv2.medianBlur(image, kernel)),
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


# -------------------------------------------------------------------------------------- details


def _strand_contrast(
    gray: np.ndarray, length: int, distance: int, directions: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare the mean along lines with those `distance` pixels to both sides, in all directions.

    Returns
    -------
    dark, light, mean : ndarray of float32, shape (height, width)
        Largest contrast to the nearer side, where the line is darker or lighter than both; mean
        contrast over the directions.
    """
    height, width = gray.shape
    margin = distance + 1
    padded = cv2.copyMakeBorder(gray, margin, margin, margin, margin, cv2.BORDER_REFLECT)
    dark = np.zeros_like(gray)
    light, total = dark.copy(), dark.copy()
    for angle in np.arange(directions) * np.pi / directions:
        means = cv2.filter2D(padded, -1, _line_kernel(length, angle))
        dx, dy = round(-distance * np.sin(angle)), round(distance * np.cos(angle))
        middle, one_side, other_side = (
            means[margin + y : margin + y + height, margin + x : margin + x + width]
            for x, y in ((0, 0), (dx, dy), (-dx, -dy))
        )
        darker = np.maximum(np.minimum(one_side, other_side) - middle, 0)
        lighter = np.maximum(middle - np.maximum(one_side, other_side), 0)
        np.maximum(dark, darker, out=dark)
        np.maximum(light, lighter, out=light)
        total += darker + lighter
    return dark, light, total / directions


def _line_kernel(length: int, angle: float) -> np.ndarray:
    """Return the mean along a straight line through the middle of a square, as a filter."""
    kernel = np.zeros((length, length), np.float32)
    middle, reach = length // 2, (length // 2) * np.array([np.cos(angle), np.sin(angle)])
    start, end = (np.rint(16 * (middle + sign * reach)).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_AA, shift=4)
    return kernel / kernel.sum()


def _keep_strands(response: np.ndarray, contrast: float, min_length: float) -> np.ndarray:
    """Keep connected strands that stand out somewhere, are long, and cover little of their box.

    Length is the diagonal of the box; the area may be 12 % of the diagonal squared.
    """
    weak = (response > contrast / 2).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(weak, connectivity=8)
    diagonal = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    stands_out = np.zeros(count, bool)
    stands_out[np.unique(labels[response > contrast])] = True
    keep = stands_out & (diagonal >= min_length)
    keep &= stats[:, cv2.CC_STAT_AREA] < 0.12 * diagonal**2
    keep[0] = False  # the background
    return keep[labels]
