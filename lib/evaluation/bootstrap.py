"""Bootstrap draws of lesions, confusion matrices and ROC curves of each draw, and intervals."""

from collections.abc import Callable

import numpy as np
import pandas as pd

BLOCK = 100  # draws whose ROC curves are in memory at once
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


def curve_draws(
    scores: np.ndarray,
    positive: np.ndarray,
    weights: np.ndarray,
    functions: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]],
) -> dict[str, np.ndarray]:
    """Compute values of the ROC curve for each draw.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
    positive : ndarray of bool, shape (n,)
    weights : ndarray of float, shape (draws, n)
        From `lesion_weights`.
    functions : dict of callable
        Each takes the weights of the positives and of the negatives at or above each threshold,
        both ndarray of float, shape (draws, 1 + thresholds), the first column 0, and returns one
        value or one row per draw. Equal scores are one threshold.

    Examples
    --------
    >>> scores, positive = np.array([0.9, 0.4, 0.4]), np.array([True, True, False])
    >>> curve_draws(scores, positive, np.ones((1, 3)), {"auc": auc})
    {'auc': array([0.75])}
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    groups, parts = (positive[order], ~positive[order]), []
    for start in range(0, len(weights), BLOCK):
        block = weights[start : start + BLOCK, order]
        counts = [np.cumsum(block * group, axis=1)[:, last] for group in groups]
        curve = [np.pad(count, ((0, 0), (1, 0))) for count in counts]
        parts.append({name: function(*curve) for name, function in functions.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in functions}


def auc(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each draw; ties count one half."""
    area = np.trapezoid(true_positives, false_positives, axis=1)
    return area / (true_positives[:, -1] * false_positives[:, -1])


def average_precision(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    """Return the precision at each threshold, averaged over the gain in sensitivity."""
    predicted = (true_positives + false_positives)[:, 1:]
    gain = np.diff(true_positives, axis=1)
    precision = true_positives[:, 1:] / np.maximum(predicted, 1)
    return (gain * precision).sum(axis=1) / true_positives[:, -1]


def sensitivity_at(specificity: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function for `curve_draws`: the sensitivity at a specificity of at least this."""

    def function(true_positives, false_positives):
        allowed = (1 - specificity) * false_positives[:, -1:] + 1e-9
        last = (false_positives <= allowed).sum(axis=1, keepdims=True) - 1
        return (np.take_along_axis(true_positives, last, axis=1) / true_positives[:, -1:])[:, 0]

    return function


def interval(values: np.ndarray, confidence: float) -> dict[str, float] | None:
    """Return the first value, that of the sample, and the percentile interval of the others.

    They are rounded to six digits, so that they are the same on every processor. Undefined values
    (NaN) of draws are left out; None if that of the sample is undefined.

    Examples
    --------
    >>> interval(np.array([0.7, 0.5, 0.6, 0.7, 0.8, 0.9]), confidence=0.5)
    {'value': 0.7, 'low': 0.6, 'high': 0.8}
    """
    if np.isnan(values[0]):
        return None
    tail = (1 - confidence) / 2
    ends = np.nanquantile(values[1:], [tail, 1 - tail])
    numbers = map(float, np.append(values[0], ends).round(6))
    return dict(zip(("value", "low", "high"), numbers, strict=True))


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
