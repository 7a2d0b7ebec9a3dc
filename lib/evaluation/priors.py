"""Class priors and the two decision rules."""

import numpy as np
import pandas as pd

#: The two rules, and the column that holds each one's predictions (`decide`).
RULES = {"training_prior": "training prior", "equal_priors": "equal priors"}

PREDICTED = {"training_prior": "predicted", "equal_priors": "predicted_equal_priors"}


def training_prior(index: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return each class's share among the training images, ndarray of float, shape (classes,).

    Raises
    ------
    ValueError
        A class without a training image: no posterior can be converted to or from its prior.
    """
    return _shares(index.loc[index["split"] == "train", "label"], classes)


def fold_prior(index: pd.DataFrame, fold: int, classes: list[str]) -> np.ndarray:
    """Return each class's share among the images of the other folds, shape (classes,).

    The models that predict a fold's images were trained on those, whatever the split.

    Raises
    ------
    ValueError
        As `training_prior`.
    """
    return _shares(index.loc[index["fold"] != fold, "label"], classes)


def _shares(labels: pd.Series, classes: list[str]) -> np.ndarray:
    counts = labels.value_counts().reindex(classes, fill_value=0)
    if not counts.all():
        raise ValueError(f"no training image of class {counts.idxmin()}; expected some of each")
    return counts.to_numpy() / counts.sum()


def change_prior(probabilities: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Convert posteriors from one prior to another: p * after / before, renormalised.

    Saerens, Latinne, Decaestecker (2002), Neural Computation 14:21, equation 2.4.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under `before`; 0 stays 0.
    before, after : ndarray of float, shape (classes,)
        Shares of the classes, as shares or as counts.

    Returns
    -------
    ndarray of float, shape (n, classes)
        Rows add up to 1.

    Raises
    ------
    ValueError
        Other shapes, values that are negative or not numbers, a row of all zeros, or a prior of
        0 for a class that has probability.
    """
    probabilities = np.asarray(probabilities, float)
    priors = np.array([before, after], float)
    if probabilities.ndim != 2 or priors.shape != (2, probabilities.shape[1]):
        raise ValueError(
            f"found probabilities of shape {probabilities.shape} and priors of shape "
            f"{np.shape(before)} and {np.shape(after)}; expected (n, classes) and (classes,)"
        )
    for name, values in (("probabilities", probabilities), ("priors", priors)):
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{name}: expected numbers from 0 up; found {values.min()}")
    impossible = (priors == 0).any(axis=0) & (probabilities > 0).any(axis=0)
    if impossible.any():
        raise ValueError(
            f"class {np.flatnonzero(impossible)[0]} has probability, but a prior of 0: found "
            f"{priors[0].tolist()} and {priors[1].tolist()}"
        )
    empty = ~probabilities.any(axis=1)
    if empty.any():
        raise ValueError(f"row {np.flatnonzero(empty)[0]}: all probabilities are 0")
    ratio = np.divide(priors[1], priors[0], out=np.zeros(len(priors[0])), where=priors[0] > 0)
    converted = probabilities * ratio
    return converted / converted.sum(axis=1, keepdims=True)


def decide(probabilities: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each rule chooses, one column of a table each: the place of a class.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under `prior`. Of equal ones, the first class is chosen.
    """
    equal = change_prior(probabilities, prior, np.full(len(prior), 1 / len(prior)))
    return {
        PREDICTED["training_prior"]: probabilities.argmax(axis=1),
        PREDICTED["equal_priors"]: equal.argmax(axis=1),
    }
