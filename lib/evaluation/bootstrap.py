"""Bootstrap draws of lesions, areas under ROC curves, and confidence intervals."""

import numpy as np
import pandas as pd

BLOCK = 100  # draws whose areas under the ROC curve are computed at once
#: Of intervals outside the evaluation, whose own are in the configuration.
DRAWS, CONFIDENCE = 1000, 0.95


def lesion_weights(table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
    """Draw lesions with replacement within each class; return how often each image is drawn.

    Images of one lesion are alike, so lesions are drawn instead of images (cluster bootstrap:
    Field and Welsh, J. R. Stat. Soc. B 69:369, 2007). Lesions joined as near-duplicates count as
    one (`group_id`). The number of lesions of each class is fixed.

    Returns
    -------
    ndarray of float, shape (1 + draws, n)
        The first row is the sample itself: all ones.

    Examples
    --------
    >>> table = pd.DataFrame({"group_id": ["a", "a", "b"], "label": ["nv", "nv", "nv"]})
    >>> lesion_weights(table, draws=2, seed=4)
    array([[1., 1., 1.],
           [2., 2., 0.],
           [1., 1., 1.]])
    """
    random = np.random.default_rng(seed)
    weights = np.ones((1 + draws, len(table)))
    groups = table["group_id"].to_numpy()
    for label in sorted(table["label"].unique()):
        rows = np.flatnonzero(table["label"] == label)
        lesions, lesion_of_row = np.unique(groups[rows], return_inverse=True)
        n = len(lesions)
        counts = random.multinomial(n, np.full(n, 1 / n), size=draws)
        weights[1:, rows] = counts[:, lesion_of_row]
    return weights


def confusions(
    table: pd.DataFrame, column: str, classes: list[str], weights: np.ndarray
) -> np.ndarray:
    """Return the confusion matrix of each draw, rows the actual class.

    Parameters
    ----------
    table : DataFrame
        `label` and the predicted classes in `column`, one row per image.
    weights : ndarray of float, shape (draws, n)
        From `lesion_weights`.

    Returns
    -------
    ndarray of float, shape (draws, classes, classes)
    """
    n = len(classes)
    cells = n * table["label"].map(classes.index) + table[column].map(classes.index)
    return (weights @ np.eye(n * n)[cells]).reshape(-1, n, n)


def sensitivities(confusion: np.ndarray) -> np.ndarray:
    """Return the sensitivity of each class, ndarray of float, shape (draws, classes)."""
    return np.diagonal(confusion, axis1=1, axis2=2) / confusion.sum(axis=2)


def class_aucs(probabilities: np.ndarray, actual: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return each class's area under the ROC curve, against the others, for each draw.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under the training prior.
    actual : ndarray of bool, shape (n, classes)
        True in the column of an image's class.
    weights : ndarray of float, shape (draws, n)
        From `lesion_weights`.

    Returns
    -------
    ndarray of float, shape (classes, draws)
    """
    columns = zip(probabilities.T, actual.T, strict=True)
    return np.array([auc(*column, weights) for column in columns])


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve for each row of weights; ties count one half.

    The negatives are sorted once; then each positive counts those ranked below it.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
    positive : ndarray of bool, shape (n,)
    weights : ndarray of float, shape (draws, n)

    Examples
    --------
    >>> auc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]), np.ones((1, 3)))
    array([0.75])
    """
    negative = np.flatnonzero(~positive)
    negative = negative[np.argsort(scores[negative])]
    below = np.searchsorted(scores[negative], scores[positive], "left")
    not_above = np.searchsorted(scores[negative], scores[positive], "right")
    areas = []
    for block in np.split(weights, range(BLOCK, len(weights), BLOCK)):
        ranked = np.cumsum(np.pad(block[:, negative], ((0, 0), (1, 0))), axis=1)
        counts = (ranked[:, below] + ranked[:, not_above]) / 2
        pairs = block[:, positive].sum(axis=1) * ranked[:, -1]
        areas.append((block[:, positive] * counts).sum(axis=1) / pairs)
    return np.concatenate(areas)


def interval(values: np.ndarray, confidence: float) -> dict[str, float]:
    """Return the first value, that of the sample, and the percentile interval of the others.

    Examples
    --------
    >>> interval(np.array([0.7, 0.5, 0.6, 0.7, 0.8, 0.9]), confidence=0.5)
    {'value': 0.7, 'low': 0.6, 'high': 0.8}
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def mean_interval(values: np.ndarray, table: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return the mean of one value per image, with its bootstrap interval over lesions."""
    weights = lesion_weights(table, DRAWS, seed)
    return interval(weights @ values / weights.sum(axis=1), CONFIDENCE)


def format_interval(score: dict | None, digits: int = 3) -> str:
    """Return a score and its interval as text; a dash where a run has no such score.

    Examples
    --------
    >>> format_interval({"value": 0.8731, "low": 0.812, "high": 0.925})
    '0.873 (0.812 to 0.925)'
    """
    if score is None:
        return "–"
    value, low, high = (f"{score[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
