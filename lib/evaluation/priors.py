"""Class priors, and the two decision rules that differ in the prior they assume."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

if TYPE_CHECKING:  # training on a server does without pandas
    import pandas as pd

#: The two rules, and the column of a table that holds the predictions of each.
RULES = {"training_prior": "training prior", "equal_priors": "equal priors"}
PREDICTED = {"training_prior": "predicted", "equal_priors": "predicted_equal_priors"}
#: The rule of the primary result, which was fixed in advance.
PRIMARY_RULE = "equal_priors"
#: Smaller probabilities count as this, which has a logarithm in float32.
SMALLEST = 1e-30


def training_prior(index: "pd.DataFrame", classes: list[str]) -> np.ndarray:
    """Return the class frequencies among the training images, ndarray of float, (classes,).

    Raises
    ------
    ValueError
        A class has no training image: no posterior can be converted to or from its prior.

    Examples
    --------
    >>> import pandas as pd
    >>> index = pd.DataFrame({"split": ["train"] * 4, "label": ["mel", "nv", "nv", "nv"]})
    >>> training_prior(index, ["mel", "nv"])
    array([0.25, 0.75])
    """
    return _class_frequencies(index.loc[index["split"] == "train", "label"], classes)


def fold_prior(index: "pd.DataFrame", fold: int, classes: list[str]) -> np.ndarray:
    """Return the class frequencies among the images of all other folds, whatever their split.

    The models that predict the images of a fold were trained on those. Raises as
    `training_prior` does.
    """
    return _class_frequencies(index.loc[index["fold"] != fold, "label"], classes)


def _class_frequencies(labels: "pd.Series", classes: list[str]) -> np.ndarray:
    counts = labels.value_counts().reindex(classes, fill_value=0)
    if not counts.all():
        raise ValueError(f"no training image of class {counts.idxmin()}; expected some of each")
    return counts.to_numpy() / counts.sum()


def change_prior(probabilities: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Convert posteriors from one prior to another: p * after / before, renormalised.

    Saerens, Latinne and Decaestecker, Neural Computation 14:21, 2002, equation 2.4.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under `before`; 0 stays 0.
    before, after : ndarray of float, shape (classes,)
        Class frequencies, as proportions or as counts.

    Returns
    -------
    ndarray of float, shape (n, classes)
        Rows sum to 1.

    Raises
    ------
    ValueError
        The shapes do not match, a value is negative or not finite, a row is all zeros, or the
        prior of a class with positive probability is 0.

    Examples
    --------
    >>> change_prior(np.array([[0.2, 0.8]]), before=[0.2, 0.8], after=[0.5, 0.5])
    array([[0.5, 0.5]])
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
            raise ValueError(f"{name}: expected finite values >= 0; found {values.min()}")
    impossible = (priors == 0).any(axis=0) & (probabilities > 0).any(axis=0)
    if impossible.any():
        raise ValueError(
            f"class {np.flatnonzero(impossible)[0]} has positive probability and a prior of 0: "
            f"found {priors[0].tolist()} and {priors[1].tolist()}"
        )
    empty = ~probabilities.any(axis=1)
    if empty.any():
        raise ValueError(f"row {np.flatnonzero(empty)[0]}: all probabilities are 0")
    ratio = np.divide(priors[1], priors[0], out=np.zeros(len(priors[0])), where=priors[0] > 0)
    converted = probabilities * ratio
    return converted / converted.sum(axis=1, keepdims=True)


def average_views(probabilities: np.ndarray) -> np.ndarray:
    """Average the posteriors of several views of an image: the mean of their logarithms.

    The mean of logits up to a constant, so the views count as the network weighs its evidence.

    Parameters
    ----------
    probabilities : ndarray of float, shape (views, n, classes)

    Returns
    -------
    ndarray of float, shape (n, classes)
        Rows sum to 1.

    Examples
    --------
    >>> average_views(np.array([[[0.5, 0.5]], [[0.1, 0.9]]])).round(2)
    array([[0.25, 0.75]])
    """
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST)).mean(axis=0)
    return softmax(logs, axis=1)


def decide(probabilities: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    """Return the class that each rule predicts, as positions, under the name of its column.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under `prior`. The first of several equal maxima is chosen.
    """
    equal = change_prior(probabilities, prior, np.full(len(prior), 1 / len(prior)))
    return {
        PREDICTED["training_prior"]: probabilities.argmax(axis=1),
        PREDICTED["equal_priors"]: equal.argmax(axis=1),
    }
