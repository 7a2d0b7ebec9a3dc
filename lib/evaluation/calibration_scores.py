"""How well probabilities are calibrated: reliability diagrams, calibration error, Brier score."""

import numpy as np
import pandas as pd

from lib.evaluation import bootstrap

BINS = 10  # of as many images each


def evaluate(
    table: pd.DataFrame,
    probabilities: np.ndarray,
    classes: list[str],
    weights: np.ndarray,
    confidence: float,
) -> dict:
    """Score the calibration of one model.

    Parameters
    ----------
    table : DataFrame
        `label`, one row per image.
    probabilities : ndarray of float, shape (n, classes)
    weights : ndarray of float, shape (draws, n)
        From `bootstrap.lesion_weights`.

    Returns
    -------
    dict
        `ece`, the expected calibration error of the most probable class in bins of equal mass
        (Naeini, Cooper and Hauskrecht, AAAI 2015; few images bias it upwards); `brier`, the mean
        squared distance to the actual class, summed over the classes, 0 to 2; both with intervals.
        And `diagrams`: for each class the bins of its probability, with the mean `predicted` and
        the proportion `observed`, with its interval.
    """
    actual = table["label"].to_numpy()[:, None] == np.array(classes)
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(table))
    correct = actual[rows, best]
    top = _bins(probabilities[rows, best], correct, weights)
    error = (top["mass"] * np.abs(top["observed"] - top["predicted"])).sum(axis=1)
    distance = ((probabilities - actual) ** 2).sum(axis=1)
    brier = weights @ distance / weights.sum(axis=1)
    diagrams = {
        name: _diagram(_bins(probabilities[:, i], actual[:, i], weights), confidence)
        for i, name in enumerate(classes)
    }
    return {
        "ece": bootstrap.interval(error, confidence),
        "brier": bootstrap.interval(brier, confidence),
        "diagrams": diagrams,
    }


def _bins(
    probabilities: np.ndarray, outcomes: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return mass, mean probability and mean outcome of each bin and draw, (draws, bins).

    Equal probabilities are in one bin, so there may be fewer; an empty bin of a draw has mass 0.
    """
    edges = np.unique(np.quantile(probabilities, np.arange(1, BINS) / BINS))
    member = np.eye(len(edges) + 1)[np.searchsorted(edges, probabilities, "right")]
    member = member[:, member.any(axis=0)]
    count = weights @ member
    sums = [weights @ (member * values[:, None]) for values in (probabilities, outcomes)]
    predicted, observed = (part / np.maximum(count, 1e-9) for part in sums)
    mass = count / count.sum(axis=1, keepdims=True)
    return {"mass": mass, "predicted": predicted, "observed": observed}


def _diagram(bins: dict[str, np.ndarray], confidence: float) -> list[dict]:
    observed = np.where(bins["mass"] > 0, bins["observed"], np.nan)
    return [
        {"predicted": round(float(predicted), 6), "observed": bootstrap.interval(draws, confidence)}
        for predicted, draws in zip(bins["predicted"][0], observed.T, strict=True)
    ]
