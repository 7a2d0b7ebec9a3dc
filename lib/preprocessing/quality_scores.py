"""Scores of preprocessed images: masks, likeness to a clean image, colour, noise, channels.

Images are RGB, uint8, shape (height, width, 3); masks are bool, shape (height, width).
"""

import cv2
import numpy as np
import pandas as pd
from skimage.metrics import structural_similarity

#: Mean squared error of rounding to whole grey levels: the smallest error that counts.
ROUNDING_ERROR = 1 / 12
SSIM_RADIUS = 5  # pixels that the window of the structural similarity reaches to each side

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
        if array.dtype != bool:
            raise ValueError(f"{name}: an array of {array.dtype}; expected a mask of bool")
    _check_same_shape(mask, truth)
    hits, size, true_size = (int(m.sum()) for m in (mask & truth, mask, truth))
    return {
        "dice": 2 * hits / (size + true_size) if size + true_size else 1.0,
        "precision": hits / size if size else np.nan,
        "recall": hits / true_size if true_size else np.nan,
    }


def image_similarity(
    clean: np.ndarray, image: np.ndarray, regions: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Compare an image with the clean one by PSNR and SSIM within regions.

    Parameters
    ----------
    clean, image : ndarray of uint8, at least 11 pixels a side
    regions : dict of str to mask

    Returns
    -------
    dict
        For each region `psnr`, the peak signal-to-noise ratio in dB over its pixels' three
        channels (at most 58.9, for an error below that of rounding counts as that); and `ssim`,
        the mean structural similarity over its pixels and channels, at most 1 (Wang et al., IEEE
        Trans. Image Process. 13:600, 2004; Gaussian window of 11 x 11 pixels, which reaches 5
        pixels beyond the region). Both are NaN where the region is empty.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_same_shape(clean, image)
    clean, image = clean.astype(np.float32), image.astype(np.float32)
    squared_error = np.square(clean - image)
    similarity = structural_similarity(
        clean,
        image,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )[1]
    scores = {}
    for name, region in regions.items():
        _check_same_shape(clean[..., 0], region)
        if not region.any():
            scores[name] = {"psnr": np.nan, "ssim": np.nan}
            continue
        error, ssim = (float(v[region].mean(dtype=np.float64)) for v in (squared_error, similarity))
        scores[name] = {"psnr": 10 * np.log10(255**2 / max(error, ROUNDING_ERROR)), "ssim": ssim}
    return scores


def removal_scores(
    restored: np.ndarray,
    mask: np.ndarray,
    clean: np.ndarray,
    truth: np.ndarray,
    ignored: np.ndarray,
) -> dict[str, float]:
    """Score the removal of an artefact: its mask, and the image under the artefact and elsewhere.

    Parameters
    ----------
    restored, clean : ndarray of uint8, shape (height, width, 3)
        The image after removal, and without the artefact.
    mask, truth, ignored : ndarray of bool, shape (height, width)
        What was detected, where the artefact is, and what is left out (with 5 pixels around it).

    Returns
    -------
    dict
        `dice`, `precision`, `recall`; `psnr_inside` and `psnr_outside` the artefact.
    """
    valid = ~grow_mask(ignored, SSIM_RADIUS)
    regions = {"inside": truth & valid, "outside": ~truth & valid}
    similarity = image_similarity(clean, restored, regions)
    scores = mask_scores(mask & valid, truth & valid)
    return scores | {f"psnr_{name}": similarity[name]["psnr"] for name in regions}


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


def reproduction_error(illuminant: np.ndarray, estimate: np.ndarray) -> float:
    """Return the angle in degrees between grey and a white surface corrected by the estimate.

    The reproduction angular error of Finlayson and Zakizadeh (BMVC, 2014).

    Parameters
    ----------
    illuminant, estimate : array_like, shape (3,), RGB, above 0
    """
    illuminant, estimate = _check_color(illuminant), _check_color(estimate)
    if (estimate <= 0).any():
        raise ValueError(f"estimate: {estimate.tolist()}; expected three numbers above 0")
    return angular_error(illuminant / estimate, np.ones(3))


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


# ------------------------------------------------------------------------------ noise and border


def flat_skin_noise(
    image: np.ndarray,
    lesion_mask: np.ndarray,
    original: np.ndarray | None = None,
    distance: int = 10,
    block: int = 16,
    sigma: float = 2,
) -> float:
    """Return the standard deviation of the noise on flat skin, in grey levels.

    Noise is the grey image (luma, ITU-R BT.601) minus its Gaussian. Skin is cut into blocks that
    lie wholly at least `distance` pixels from the lesion; the quarter of them whose Gaussian
    varies least is flat. White noise of standard deviation 1 scores 0.97, because the Gaussian
    keeps a little of it.

    Parameters
    ----------
    original : ndarray of uint8, optional
        The image on which flat blocks are chosen; by default `image`. Give it to measure filtered
        versions of one image in the same place.
    distance, block : int
        Pixels.
    sigma : float
        Width of the Gaussian, pixels.

    Returns
    -------
    float
        NaN where no block lies far enough from the lesion.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    original = image if original is None else original
    _check_same_shape(image, original)
    _check_same_shape(image[..., 0], lesion_mask)
    smooth = cv2.GaussianBlur(_gray(original), (0, 0), sigma)
    noise = _gray(image) - cv2.GaussianBlur(_gray(image), (0, 0), sigma)
    on_skin = _blocks(~grow_mask(lesion_mask, distance), block).all(axis=1)
    if not on_skin.any():
        return np.nan
    texture = _blocks(smooth, block)[on_skin].std(axis=1)
    flat = texture <= np.quantile(texture, 0.25)
    return float(np.sqrt(_blocks(noise, block)[on_skin][flat].var(axis=1).mean()))


def border_strength(image: np.ndarray, lesion_mask: np.ndarray, width: int = 2) -> float:
    """Return the mean gradient along the lesion's border, in grey levels a pixel.

    The magnitude of Scharr's gradient in grey (luma, ITU-R BT.601), over the pixels within `width`
    pixels of the mask's contour on either side.

    Returns
    -------
    float
        NaN where the mask has no contour: it is empty, or the whole image.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_same_shape(image[..., 0], lesion_mask)
    band = grow_mask(lesion_mask, width) & grow_mask(~lesion_mask, width)
    if not band.any():
        return np.nan
    gray = _gray(image)
    across, down = (cv2.Scharr(gray, cv2.CV_32F, *d) / 32 for d in ((1, 0), (0, 1)))
    return float(np.hypot(across, down)[band].mean())


def grow_mask(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Dilate a mask by a square that reaches `pixels` to each side."""
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), square).astype(bool)


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


def _blocks(array: np.ndarray, size: int) -> np.ndarray:
    """Cut an array into squares, shape (blocks, size * size); incomplete ones are left out."""
    down, across = (length // size for length in array.shape)
    cut = array[: down * size, : across * size].reshape(down, size, across, size)
    return cut.swapaxes(1, 2).reshape(down * across, size * size)


def _gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)


def _check_color(value: np.ndarray) -> np.ndarray:
    color = np.asarray(value, np.float64)
    if color.shape != (3,) or not np.isfinite(color).all() or not color.any():
        raise ValueError(f"{color.tolist()}: not a colour; expected three numbers, not all 0")
    return color


def _check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: found {a.shape} and {b.shape}, expected one shape")
