"""The scores of the evaluation: to add one, write its function and its entry in `SCORES`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.evaluation import bootstrap, priors


@dataclass(frozen=True)
class Score:
    """A score of a classifier as text, as a function of bootstrap draws, and how to read it.

    Attributes
    ----------
    label : str
        Its name in tables, such as `balanced accuracy`.
    function : callable
        Returns one value per draw, ndarray of float, shape (draws,). It takes the confusion
        matrices of the draws, ndarray of float, shape (draws, classes, classes), rows the actual
        class; or, for a score of the probabilities, what `curve_scores` returns.
    of_probabilities : bool
        The decision rule does not matter.
    """

    label: str
    function: Callable[..., np.ndarray]
    of_probabilities: bool = False


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the proportion of correct predictions.

    Examples
    --------
    >>> accuracy(np.array([[[4, 1], [5, 90]]]))
    array([0.94])
    """
    return np.trace(confusion, axis1=1, axis2=2) / confusion.sum(axis=(1, 2))


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the mean of the sensitivities of the classes."""
    return class_scores(confusion)["sensitivity"].mean(axis=1)


def macro_auc(curve_scores: dict[str, np.ndarray]) -> np.ndarray:
    """Return the mean area under the ROC curves of each class against the others."""
    return curve_scores["auc"].mean(axis=1)


#: In the order of all tables.
SCORES = {
    "balanced_accuracy": Score("balanced accuracy", balanced_accuracy),
    "accuracy": Score("accuracy", accuracy),
    "macro_auc": Score("macro AUC", macro_auc, of_probabilities=True),
}
#: The scores of a single class against all others: of its decisions, and of its ROC curve.
CLASS_LABELS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "auc": "AUC",
    "average_precision": "average precision",
}
_CURVE_SCORES = {"auc": bootstrap.auc, "average_precision": bootstrap.average_precision}


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of decisions for each class against the others.

    Parameters
    ----------
    confusion : ndarray of float, shape (draws, classes, classes)
        Rows the actual class.

    Returns
    -------
    dict of str to ndarray of float, shape (draws, classes)
        The first entries of `CLASS_LABELS`. PPV and NPV are NaN where they divide by nothing.
    """
    correct = np.diagonal(confusion, axis1=1, axis2=2)
    actual, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = actual.sum(axis=1, keepdims=True)
    true_negative = total - actual - predicted + correct
    with np.errstate(invalid="ignore"):
        return {
            "sensitivity": correct / actual,
            "specificity": true_negative / (total - actual),
            "ppv": correct / predicted,
            "npv": true_negative / (total - predicted),
            "f1": 2 * correct / (actual + predicted),
        }


def curve_scores(
    probabilities: np.ndarray, actual: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the scores of probabilities for each class against the others.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
    actual : ndarray of bool, shape (n, classes)
        True in the column of an image's class.
    weights : ndarray of float, shape (draws, n)
        From `bootstrap.lesion_weights`.

    Returns
    -------
    dict of str to ndarray of float, shape (draws, classes)
        The last entries of `CLASS_LABELS`.
    """
    columns = zip(probabilities.T, actual.T, strict=True)
    parts = [bootstrap.curve_draws(*column, weights, _CURVE_SCORES) for column in columns]
    return {name: np.column_stack([part[name] for part in parts]) for name in _CURVE_SCORES}


def rule_draws(
    table: pd.DataFrame, column: str, classes: list[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return scores of the predicted classes in a column, one value per draw.

    Parameters
    ----------
    table : DataFrame
        `label` and the column, one row per image.
    weights : ndarray of float, shape (draws, n)
        From `bootstrap.lesion_weights`.

    Returns
    -------
    dict of str to ndarray of float, shape (draws,)
        Each of `SCORES` that is not `of_probabilities`, and `<score>_<class>` for each of
        `class_scores`.
    """
    confusion = bootstrap.confusions(table, column, classes, weights)
    values = {n: s.function(confusion) for n, s in SCORES.items() if not s.of_probabilities}
    return values | _by_class(class_scores(confusion), classes)


def probability_draws(
    table: pd.DataFrame, classes: list[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return scores of the probabilities, one value per draw, as `rule_draws` does.

    Returns
    -------
    dict of str to ndarray of float, shape (draws,)
        Each of `SCORES` that is `of_probabilities`, and `<score>_<class>` for AUC and average
        precision.
    """
    probabilities = table[[f"prob_{name}" for name in classes]].to_numpy()
    actual = table["label"].to_numpy()[:, None] == np.array(classes)
    of_classes = curve_scores(probabilities, actual, weights)
    values = {n: s.function(of_classes) for n, s in SCORES.items() if s.of_probabilities}
    return values | _by_class(of_classes, classes)


def _by_class(scores: dict[str, np.ndarray], classes: list[str]) -> dict[str, np.ndarray]:
    return {
        f"{s}_{name}": draws[:, i] for s, draws in scores.items() for i, name in enumerate(classes)
    }


def point_scores(table: pd.DataFrame, rule: str = priors.PRIMARY_RULE) -> dict[str, float]:
    """Return each of `SCORES` that needs decisions for one model, without an interval."""
    classes = [name.removeprefix("prob_") for name in table if name.startswith("prob_")]
    draws = rule_draws(table, priors.PREDICTED[rule], classes, np.ones((1, len(table))))
    return {name: float(draws[name][0]) for name in SCORES if name in draws}
