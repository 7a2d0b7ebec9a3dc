"""Operating points of binary questions, such as melanoma or not, and decision curves.

The score of a question is the sum of the posteriors, under the training prior, of its classes. An
image is called positive if its score reaches a threshold, which is chosen on validation images.
"""

import numpy as np
import pandas as pd

from lib.evaluation import bootstrap

LEVELS = (0.80, 0.90, 0.95)
#: Mean of 58 dermatologists on 100 images, melanoma or benign nevus (Haenssle et al., Ann. Oncol.
#: 29:1836, 2018): other images and another proportion of melanomas.
DERMATOLOGISTS = {"sensitivity": 0.866, "specificity": 0.713}
#: Threshold probabilities of decision curves.
THRESHOLDS = np.arange(2, 61, 2) / 100


def questions(classes: list[str], malignant: list[str]) -> dict[str, list[str]]:
    """Return the binary questions of a run: the classes that are positive in each.

    >>> questions(["bcc", "mel", "nv"], malignant=["akiec", "bcc", "mel"])
    {'melanoma': ['mel'], 'malignant': ['bcc', 'mel']}
    """
    positive = {"melanoma": [name for name in classes if name == "mel"]}
    if (part := [name for name in classes if name in malignant]) != positive["melanoma"]:
        positive["malignant"] = part
    return {name: part for name, part in positive.items() if 0 < len(part) < len(classes)}


def binary(table: pd.DataFrame, positive: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of each image and whether it is positive, for one model's predictions."""
    scores = table[[f"prob_{name}" for name in positive]].sum(axis=1).to_numpy()
    return scores, table["label"].isin(positive).to_numpy()


def choose_threshold(scores: np.ndarray, positive: np.ndarray, fixed: str, level: float) -> float:
    """Return the threshold at which a rate is at least `level` and the other one is highest.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        Of validation images.
    positive : ndarray of bool, shape (n,)
    fixed : {"sensitivity", "specificity"}
        The rate.

    Examples
    --------
    >>> scores, positive = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, False, True, True])
    >>> [choose_threshold(scores, positive, f"{rate}ity", 0.5) for rate in ("specific", "sensitiv")]
    [0.4, 0.9]
    """
    candidates = np.append(np.unique(scores), np.nextafter(1, 2))  # the last one calls no image
    below = [np.searchsorted(np.sort(scores[group]), candidates) for group in (positive, ~positive)]
    if fixed == "specificity":
        return float(candidates[(below[1] >= level * (~positive).sum()).argmax()])
    reached = positive.sum() - below[0] >= level * positive.sum()
    return float(candidates[np.flatnonzero(reached)[-1]])


def evaluate(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    positive: list[str],
    weights: np.ndarray,
    confidence: float,
) -> list[dict]:
    """Choose thresholds of one model on validation images, and measure them on test images.

    Parameters
    ----------
    validation, test : DataFrame
        The model's predictions.
    positive : list of str
        The positive classes, from `questions`.
    weights : ndarray of float, shape (draws, n)
        From `bootstrap.lesion_weights`, for the test images.

    Returns
    -------
    list of dict
        For each rate that is fixed (`fixed`) and each `level` the `threshold`; `sensitivity`,
        `specificity` and `number_needed_to_biopsy` (called images per positive one) on the test
        images, with intervals. For a fixed specificity also `roc_sensitivity`, at a specificity of
        at least `level` on the test images, which needs no threshold.
    """
    scores, actual = binary(test, positive)
    functions = {str(level): bootstrap.sensitivity_at(level) for level in LEVELS}
    exact = bootstrap.curve_draws(scores, actual, weights, functions)
    pairs = [(fixed, level) for fixed in ("specificity", "sensitivity") for level in LEVELS]
    thresholds = [choose_threshold(*binary(validation, positive), *pair) for pair in pairs]
    draws, rows = _rates(scores[:, None] >= thresholds, actual, weights), []
    for i, (fixed, level) in enumerate(pairs):
        row = {"fixed": fixed, "level": level, "threshold": thresholds[i]}
        row |= {name: bootstrap.interval(rate[:, i], confidence) for name, rate in draws.items()}
        if fixed == "specificity":
            row["roc_sensitivity"] = bootstrap.interval(exact[str(level)], confidence)
        rows.append(row)
    return rows


def _rates(called: np.ndarray, actual: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rates at thresholds, (draws, thresholds); NaN where no image is called rightly.

    `called` is an ndarray of bool, shape (n, thresholds).
    """
    positive, negative = (weights @ group[:, None] for group in (actual, ~actual))
    hits, false = (weights @ (called & group[:, None]) for group in (actual, ~actual))
    return {
        "sensitivity": hits / positive,
        "specificity": 1 - false / negative,
        "number_needed_to_biopsy": np.divide(
            hits + false, hits, out=np.full_like(hits, np.nan), where=hits > 0
        ),
    }


def decision_curve(
    test: pd.DataFrame, positive: list[str], weights: np.ndarray, confidence: float
) -> list[dict]:
    """Return the net benefit of one model's predictions over threshold probabilities.

    A biopsy of a healthy lesion costs threshold / (1 - threshold) of what finding a positive one is
    worth (Vickers and Elkin, Med. Decis. Making 26:565, 2006).

    Returns
    -------
    list of dict
        For each of `THRESHOLDS` the `threshold`, the net benefit of the `model` with its interval,
        and that of a biopsy of all lesions (`all`).
    """
    scores, actual = binary(test, positive)
    called = scores[:, None] >= THRESHOLDS
    cost, total = THRESHOLDS / (1 - THRESHOLDS), weights.sum(axis=1, keepdims=True)
    hits, false = weights @ (called & actual[:, None]), weights @ (called & ~actual[:, None])
    model, everyone = (hits - cost * false) / total, actual.mean() - cost * (~actual).mean()
    return [
        {"threshold": float(threshold), "all": float(everyone[i])}
        | {"model": bootstrap.interval(model[:, i], confidence)}
        for i, threshold in enumerate(THRESHOLDS)
    ]
