"""The scores of the evaluation: to add one, write its function and its entry in `SCORES`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.evaluation import bootstrap, priors


@dataclass(frozen=True)
class Score:
    """A score as text, as a function of bootstrap draws, and how to read it.

    Attributes
    ----------
    label : str
        Its name in tables, such as `balanced accuracy`.
    function : callable
        Returns one value per draw, ndarray of float, shape (draws,). With a rule, it takes the
        confusion matrices of the draws, ndarray of float, shape (draws, classes, classes), rows
        the actual class. Without one, it takes what `macro_auc` takes.
    rule : str or None
        The decision rule of the headline value, one of `priors.RULES`; None for a score of the
        probabilities.
    higher_is_better : bool
    """

    label: str
    function: Callable[..., np.ndarray]
    rule: str | None
    higher_is_better: bool = True

    @property
    def title(self) -> str:
        """The label and the prior; probabilities are posteriors under the training prior."""
        return f"{self.label} ({priors.RULES[self.rule or 'training_prior']})"


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the proportion of correct predictions.

    Examples
    --------
    >>> accuracy(np.array([[[4, 1], [5, 90]]]))
    array([0.94])
    """
    return np.trace(confusion, axis1=1, axis2=2) / confusion.sum(axis=(1, 2))


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the mean of `bootstrap.sensitivities` over the classes."""
    return bootstrap.sensitivities(confusion).mean(axis=1)


def macro_auc(probabilities: np.ndarray, actual: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of `bootstrap.class_aucs`, which describes the arguments."""
    return bootstrap.class_aucs(probabilities, actual, weights).mean(axis=0)


#: Accuracy counts images as they come, so it is that of the training prior; balanced accuracy
#: weights classes equally, so it is that of equal priors. The order is that of all tables.
SCORES = {
    "accuracy": Score("accuracy", accuracy, "training_prior"),
    "balanced_accuracy": Score("balanced accuracy", balanced_accuracy, "equal_priors"),
    "macro_auc": Score("macro AUC", macro_auc, None),
}


def rule_scores() -> dict[str, Score]:
    """Return the scores that have a decision rule."""
    return {name: score for name, score in SCORES.items() if score.rule}


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
        Each of `rule_scores`, and `sensitivity_<class>`.
    """
    confusion = bootstrap.confusions(table, column, classes, weights)
    values = {name: score.function(confusion) for name, score in rule_scores().items()}
    per_class = bootstrap.sensitivities(confusion)
    return values | {f"sensitivity_{name}": per_class[:, i] for i, name in enumerate(classes)}


def both_scores(table: pd.DataFrame) -> dict[str, float]:
    """Return each of `rule_scores` under its own rule for one model, without an interval."""
    classes = [name.removeprefix("prob_") for name in table if name.startswith("prob_")]
    once, scores = np.ones((1, len(table))), {}
    for name, score in rule_scores().items():
        draws = rule_draws(table, priors.PREDICTED[score.rule], classes, once)
        scores[f"{score.label}, {priors.RULES[score.rule]}"] = float(draws[name][0])
    return scores


def score_table(predictions: pd.DataFrame, titles: dict[str, str]) -> pd.DataFrame:
    """Return `both_scores` of several models, one row per model, named by its title."""
    models = predictions.groupby("model", sort=False)
    return pd.DataFrame({titles[name]: both_scores(rows) for name, rows in models}).T
