"""Correct colour casts and contrast. Images are RGB, uint8, shape (height, width, 3)."""

import cv2
import numpy as np


def estimate_illuminant(image: np.ndarray, norm: int = 6) -> np.ndarray:
    """Estimate the colour of the light as the Minkowski mean of each channel, shape (3,).

    Finlayson and Trezzi, Shades of gray and colour constancy, CIC 12:37 (2004).

    Parameters
    ----------
    norm : int
        Exponent of the mean: 1 is the grey-world assumption; the larger, the closer to taking the
        brightest spot for white.
    """
    counts = np.array([np.bincount(c.ravel(), minlength=256) for c in cv2.split(image)])
    return (counts @ np.arange(256.0) ** norm / counts[0].sum()) ** (1 / norm)


def shades_of_gray(image: np.ndarray, norm: int = 6) -> np.ndarray:
    """Remove a colour cast: the estimated illuminant becomes grey of the same brightness."""
    illuminant = estimate_illuminant(image, norm)
    gains = illuminant.mean() / np.maximum(illuminant, 1)
    table = np.clip(np.rint(np.arange(256)[:, None] * gains), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])


def equalize_contrast(image: np.ndarray, clip_limit: float = 2.0) -> np.ndarray:
    """Equalise lightness locally (CLAHE on L of CIELAB, 8 x 8 tiles); hue is unchanged."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip_limit, (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
