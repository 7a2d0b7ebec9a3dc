"""Prediction sets that contain the actual class with a chosen probability, in every class."""

import numpy as np
from crepes.base import ConformalClassifier

LEVELS = (0.90, 0.95)


def p_values(outputs: np.ndarray, targets: np.ndarray, new_outputs: np.ndarray) -> np.ndarray:
    """Return how well each class conforms with new images, ndarray of float, shape (n, classes).

    Class-conditional (Mondrian) conformal prediction: a class is compared with the calibration
    images of this class only, so its coverage holds for rare classes as well (Vovk, Gammerman and
    Shafer, Algorithmic Learning in a Random World, 2005). An image conforms the less, the lower the
    probability of the class.

    Parameters
    ----------
    outputs, new_outputs : ndarray of float, shape (m, classes) and (n, classes)
        Of images that decided nothing about the outputs, and of new ones.
    targets : ndarray of int, shape (m,)
    """
    columns = []
    for i in range(outputs.shape[1]):
        classifier = ConformalClassifier().fit(1 - outputs[targets == i, i])
        values = classifier.predict_p(1 - new_outputs[:, [i]], smoothing=False)
        columns.append(np.ravel(values))
    return np.column_stack(columns)


def prediction_sets(p: np.ndarray, level: float) -> np.ndarray:
    """Return which classes are in the set of each image, ndarray of bool, shape (n, classes)."""
    return p > round(1 - level, 9)  # 1 - 0.9 is a little less than 0.1
