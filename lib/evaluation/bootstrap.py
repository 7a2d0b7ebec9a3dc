"""Scores with bootstrap confidence intervals over lesions."""

import numpy as np
import pandas as pd

from lib.config import Config
from lib.evaluation import priors

BLOCK = 100  # draws whose areas are computed at once


def lesion_weights(table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
    """Draw lesions with replacement, within each class, and say how often each image is drawn.

    Images of one lesion are alike, so lesions are drawn, not images (cluster bootstrap, Field and
    Welsh, J. R. Stat. Soc. B 69:369, 2007); lesions joined for a near-duplicate count as one. The
    number of lesions of each class is held fixed.

    Returns
    -------
    ndarray of float, shape (1 + draws, n)
        The first row is the sample itself: all ones.
    """
    random = np.random.default_rng(seed)
    weights = np.ones((1 + draws, len(table)))
    lesion = table["group_id"].to_numpy()
    for label in sorted(table["label"].unique()):
        rows = np.flatnonzero(table["label"] == label)
        names, of_row = np.unique(lesion[rows], return_inverse=True)
        share = np.full(len(names), 1 / len(names))
        weights[1:, rows] = random.multinomial(len(names), share, size=draws)[:, of_row]
    return weights


def auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve for each row of weights; ties count one half.

    The scores are sorted once; each positive then counts the negatives below it.

    Parameters
    ----------
    score : ndarray of float, shape (n,)
    positive : ndarray of bool, shape (n,)
    weights : ndarray of float, shape (draws, n)
    """
    order = np.argsort(score, kind="stable")
    positive = positive[order]
    first = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)  # of each run of ties
    areas = []
    for start in range(0, len(weights), BLOCK):
        drawn = weights[start : start + BLOCK, order]
        of_positive = np.add.reduceat(drawn * positive, first, axis=1)
        of_negative = np.add.reduceat(drawn * ~positive, first, axis=1)
        below = np.cumsum(of_negative, axis=1) - of_negative / 2
        pairs = of_positive.sum(axis=1) * of_negative.sum(axis=1)
        areas.append((of_positive * below).sum(axis=1) / pairs)
    return np.concatenate(areas)


def mean_interval(values: np.ndarray, table: pd.DataFrame, config: Config) -> dict:
    """Return the mean of one value an image with its bootstrap interval over lesions."""
    weights = lesion_weights(table, config.evaluation.bootstrap_draws, config.seed)
    return interval(weights @ values / weights.sum(axis=1), config.evaluation.confidence)


def score_draws(
    table: pd.DataFrame, classes: list[str], weights: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return every score for each row of weights, ndarray of float, shape (draws,).

    Parameters
    ----------
    table : DataFrame
        `label`, both predictions and the probabilities, one row an image.
    weights : ndarray of float, shape (draws, n)
        From `lesion_weights`.

    Returns
    -------
    dict of dict
        For each of `RULES`: `accuracy`, `balanced_accuracy`, `sensitivity_<class>`; under `auc`:
        each class against the others, and `macro`, their mean. The areas are those of the
        posterior under the training prior.
    """
    rules = {
        rule: rule_draws(table, priors.PREDICTED[rule], classes, weights) for rule in priors.RULES
    }
    return rules | {"auc": auc_draws(table, classes, weights)}


def auc_draws(
    table: pd.DataFrame, classes: list[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each class's area under the ROC curve, and their mean, `macro`, for each draw."""
    areas = {
        name: auc(table[f"prob_{name}"].to_numpy(), (table["label"] == name).to_numpy(), weights)
        for name in classes
    }
    return areas | {"macro": np.mean(list(areas.values()), axis=0)}


def rule_draws(
    table: pd.DataFrame, column: str, classes: list[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the scores of the predictions in a column for each draw."""
    right = (table["label"] == table[column]).to_numpy(float)
    scores = {"accuracy": weights @ right / weights.sum(axis=1)}
    for name in classes:
        actual = (table["label"] == name).to_numpy(float)
        scores[f"sensitivity_{name}"] = weights @ (right * actual) / (weights @ actual)
    of_classes = [scores[f"sensitivity_{name}"] for name in classes]
    return scores | {"balanced_accuracy": np.mean(of_classes, axis=0)}


def interval(values: np.ndarray, confidence: float) -> dict[str, float]:
    """Return the first value (the sample's own) and the percentile interval of the others."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def format_interval(score: dict, digits: int = 3) -> str:
    """Return `0.873 (0.812 to 0.925)`."""
    value, low, high = (f"{score[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
