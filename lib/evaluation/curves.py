"""ROC and precision-recall curves with pointwise bands, for figures."""

import numpy as np
import pandas as pd

from lib.evaluation import bootstrap

GRID = np.linspace(0, 1, 101)


def roc_curve(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, confidence: float
) -> pd.DataFrame:
    """Return the highest sensitivity at each false positive rate of a grid, with its band.

    Parameters
    ----------
    scores, positive, weights : ndarray
        As in `bootstrap.curve_draws`. With one row of weights there is no band.

    Returns
    -------
    DataFrame
        `x` (the false positive rate), `y`, `low` and `high`.
    """

    def sensitivity(true_positives, false_positives):
        last = _positions(false_positives / false_positives[:, -1:], "right") - 1
        return np.take_along_axis(true_positives / true_positives[:, -1:], last, axis=1)

    return _curve(sensitivity, scores, positive, weights, confidence)


def precision_recall_curve(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, confidence: float
) -> pd.DataFrame:
    """Return the precision where each sensitivity of a grid is reached, as `roc_curve` does."""

    def precision(true_positives, false_positives):
        hits, called = true_positives[:, 1:], (true_positives + false_positives)[:, 1:]
        first = _positions(hits / hits[:, -1:], "left")
        return np.take_along_axis(hits / np.maximum(called, 1e-9), first, axis=1)

    return _curve(precision, scores, positive, weights, confidence)


def _positions(rates: np.ndarray, side: str) -> np.ndarray:
    grid = GRID + (1e-9 if side == "right" else -1e-9)
    return np.array([np.searchsorted(row, grid, side) for row in rates])


def _curve(function, scores, positive, weights, confidence) -> pd.DataFrame:
    draws = bootstrap.curve_draws(scores, positive, weights, {"y": function})["y"]
    table = pd.DataFrame({"x": GRID, "y": draws[0]})
    if len(draws) > 1:
        tail = (1 - confidence) / 2
        table["low"], table["high"] = np.quantile(draws[1:], [tail, 1 - tail], axis=0)
    return table
