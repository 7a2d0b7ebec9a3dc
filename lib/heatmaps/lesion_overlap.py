"""Score heatmaps against lesion masks, also heatmaps that ignore the image.

Heatmaps are ndarray of float, shape (n, height, width), or (1, height, width) for all masks; masks
are ndarray of bool, shape (n, height, width). A heatmap that is zero everywhere scores NaN.
"""

import numpy as np
import pandas as pd

#: The scores, from 0 to 1; by chance each is about the relative area of the lesion.
SCORES = ["mass inside", "pointing game", "IoU"]
#: Thresholds of IoU, relative to the maximum of a heatmap, and widths of Gaussians, relative to
#: half the side of the image.
THRESHOLDS, WIDTHS = np.arange(1, 20) / 20, np.arange(1, 21) / 20


def scores(heatmaps: np.ndarray, masks: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return the `SCORES` of each heatmap, one row a mask."""
    values = mass_inside(heatmaps, masks), points_inside(heatmaps, masks)
    return pd.DataFrame(dict(zip(SCORES, (*values, iou(heatmaps, masks, threshold)), strict=True)))


def mass_inside(heatmaps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the proportion of each heatmap's mass that is inside the lesion.

    Examples
    --------
    >>> mass_inside(np.array([[[1.0, 3.0]]]), np.array([[[False, True]]]))
    array([0.75])
    """
    inside = (heatmaps * masks).sum(axis=(1, 2), dtype=np.float64)
    total = np.broadcast_to(heatmaps.sum(axis=(1, 2), dtype=np.float64), inside.shape)
    return np.divide(inside, total, out=np.full(len(inside), np.nan), where=total > 0)


def points_inside(heatmaps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return 1.0 where the highest value is inside the lesion, else 0.0: the pointing game.

    Zhang, Bargal, Lin, Brandt, Shen and Sclaroff, Int. J. Comput. Vis. 126:1084, 2018.
    """
    flat, n = np.broadcast_to(heatmaps, masks.shape).reshape(len(masks), -1), np.arange(len(masks))
    inside = masks.reshape(len(masks), -1)[n, flat.argmax(axis=1)]
    return np.where(flat.any(axis=1), inside, np.nan)


def iou(heatmaps: np.ndarray, masks: np.ndarray, threshold: float) -> np.ndarray:
    """Return intersection over union of the lesion and the part of the heatmap at the threshold."""
    marked = heatmaps >= threshold * heatmaps.max(axis=(1, 2), keepdims=True)
    ratio = (marked & masks).sum(axis=(1, 2)) / (marked | masks).sum(axis=(1, 2))
    return np.where(heatmaps.any(axis=(1, 2)), ratio, np.nan)


def best_threshold(heatmaps: np.ndarray, masks: np.ndarray) -> float:
    """Return the threshold with the highest mean IoU; of equals, and if all are zero, the first."""
    means = [np.nan_to_num(iou(heatmaps, masks, level)).mean() for level in THRESHOLDS]
    return float(THRESHOLDS[np.argmax(means)])


def best_gaussian(masks: np.ndarray) -> np.ndarray:
    """Return the Gaussian in the centre, (1, height, width), with the best IoU at 0.5."""
    y, x = (np.linspace(-1, 1, side) for side in masks.shape[1:])
    squared = np.add.outer(y**2, x**2)[None]
    gaussians = [np.exp(-squared / (2 * width**2)).astype(np.float32) for width in WIDTHS]
    return max(gaussians, key=lambda gaussian: iou(gaussian, masks, 0.5).mean())
