"""Scores of preprocessed images: masks, similarity to a clean image, colour, channels.

Images are RGB, uint8, shape (height, width, 3); masks are bool, shape (height, width).
"""

import cv2
import numpy as np
import pandas as pd

#: Mean squared error of rounding to whole grey levels: the smallest error that counts.
ROUNDING_ERROR = 1 / 12
SSIM_RADIUS = 5  # pixels; the reach of the window of the structural similarity

# ------------------------------------------------------------------------------ against a truth


def mask_scores(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compare a mask with the true one, pixel by pixel.

    Returns
    -------
    dict
        `dice`, `precision` and `recall`, from 0 to 1. Dice is 1 where both masks are empty;
        precision is NaN where `mask` is empty, recall where `truth` is.

    Raises
    ------
    ValueError
        The masks differ in shape or are not of type bool.

    Examples
    --------
    >>> mask_scores(np.array([[True, True]]), np.array([[True, False]]))
    {'dice': 0.6666666666666666, 'precision': 0.5, 'recall': 1.0}
    """
    for name, array in {"mask": mask, "truth": truth}.items():
        if array.dtype != bool or array.shape != mask.shape:
            raise ValueError(
                f"{name}: an array of {array.dtype}, shape {array.shape}; expected a mask of bool, "
                f"shape {mask.shape}"
            )
    hits, size, true_size = (int(m.sum()) for m in (mask & truth, mask, truth))
    return {
        "dice": 2 * hits / (size + true_size) if size + true_size else 1.0,
        "precision": hits / size if size else np.nan,
        "recall": hits / true_size if true_size else np.nan,
    }


def removal_scores(
    image: np.ndarray, mask: np.ndarray, clean: np.ndarray, truth: np.ndarray, ignored: np.ndarray
) -> dict[str, float]:
    """Score the removal of an artefact: its mask, and the image under the artefact and elsewhere.

    Parameters
    ----------
    image, clean : ndarray of uint8, shape (height, width, 3)
        After removal, and without the artefact.
    mask, truth, ignored : ndarray of bool, shape (height, width)
        What was detected, where the artefact is, and what is left out (with 5 pixels around it).

    Returns
    -------
    dict
        `dice`, `precision`, `recall`; `psnr_inside` and `psnr_outside` the artefact.
    """
    valid = ~grow_mask(ignored, SSIM_RADIUS)
    error = np.square(clean.astype(np.float32) - image)
    scores = mask_scores(mask & valid, truth & valid)
    for name, region in {"inside": truth & valid, "outside": ~truth & valid}.items():
        scores[f"psnr_{name}"] = psnr(error[region])
    return scores


def psnr(squared_error: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB, NaN without pixels.

    At most 58.9: an error below that of rounding to whole grey levels counts as that.
    """
    if not squared_error.size:
        return np.nan
    return 10 * np.log10(255**2 / max(squared_error.mean(dtype=np.float64), ROUNDING_ERROR))


def grow_mask(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Dilate a mask by a square that reaches `pixels` to each side."""
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), square).astype(bool)


# ---------------------------------------------------------------------------------------- colour


def angular_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return the angle in degrees between two colours, whatever their brightness.

    Between an estimated illuminant and the true one this is the recovery angular error (Hordley
    and Finlayson, J. Opt. Soc. Am. A 23:1008, 2006).

    Parameters
    ----------
    a, b : array_like, shape (3,), RGB, not black

    Raises
    ------
    ValueError
        Another shape, or a colour that is black or not finite.

    Examples
    --------
    >>> round(angular_error([1, 1, 0], [1, 0, 0]), 6)
    45.0
    """
    a, b = _check_color(a), _check_color(b)
    # the arc tangent is exact for small angles, the arc cosine is not
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def draw_color_casts(count: int, seed: int, strength: float = 0.1) -> np.ndarray:
    """Draw colour casts: a gain of each channel, at most 1, so that no pixel is clipped.

    Parameters
    ----------
    strength : float
        Standard deviation of the gains' logarithm.

    Returns
    -------
    ndarray of float, shape (count, 3)
    """
    gains = np.exp(np.random.default_rng(seed).normal(0, strength, (count, 3)))
    return gains / gains.max(axis=1, keepdims=True)


def apply_gains(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Multiply each channel by its gain, round, and clip at 255."""
    return np.clip(np.rint(image * np.asarray(gains)), 0, 255).astype(np.uint8)


# -------------------------------------------------------------------------------------- channels


def channel_statistics(image: np.ndarray) -> pd.Series:
    """Return mean (grey levels) and variance (grey levels squared) of each channel.

    Returns
    -------
    Series of float
        Indexed by (mean or variance; red, green or blue).
    """
    index = pd.MultiIndex.from_product([["mean", "variance"], ["red", "green", "blue"]])
    return pd.Series([*image.mean(axis=(0, 1)), *image.var(axis=(0, 1))], index)


def channel_histograms(image: np.ndarray, bins: int = 64) -> pd.Series:
    """Return the histogram of each channel.

    Returns
    -------
    Series of float, named `share` (of the pixels)
        Indexed by `channel` and `low`, the lowest grey level of the bin.
    """
    values = image.reshape(-1, 3) // (256 // bins)
    shares = [np.bincount(channel, minlength=bins) / len(values) for channel in values.T]
    index = pd.MultiIndex.from_product(
        [["red", "green", "blue"], range(0, 256, 256 // bins)], names=["channel", "low"]
    )
    return pd.Series(np.concatenate(shares), index, name="share")


def _check_color(value: np.ndarray) -> np.ndarray:
    color = np.asarray(value, np.float64)
    if color.shape != (3,) or not np.isfinite(color).all() or not color.any():
        raise ValueError(f"{color.tolist()}: not a colour; expected three numbers, not all 0")
    return color
