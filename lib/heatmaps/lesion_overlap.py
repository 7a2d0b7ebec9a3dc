"""Score heatmaps against lesion masks."""

import numpy as np


def mass_inside(heatmaps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the proportion of each heatmap's mass that lies inside the lesion mask.

    Parameters
    ----------
    heatmaps : ndarray of float, shape (n, height, width), or (1, height, width) for all masks
    masks : ndarray of bool, shape (n, height, width)

    Returns
    -------
    ndarray of float, shape (n,)
        NaN for a heatmap that is zero everywhere. A uniform heatmap scores the relative area of
        the lesion.

    Examples
    --------
    >>> mass_inside(np.array([[[1.0, 3.0]]]), np.array([[[False, True]]]))
    array([0.75])
    """
    inside = (heatmaps * masks).sum(axis=(1, 2), dtype=np.float64)
    total = np.broadcast_to(heatmaps.sum(axis=(1, 2), dtype=np.float64), inside.shape)
    return np.divide(inside, total, out=np.full(len(inside), np.nan), where=total > 0)
