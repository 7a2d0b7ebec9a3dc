"""Scores computed after every epoch of a training."""

from collections.abc import Sequence

import numpy as np

from lib.networks.backend import keras

MACRO_SCORES = ("balanced_accuracy", "precision", "recall", "f1")
CLASS_SCORES = ("precision", "recall", "f1")


def names(classes: Sequence[str]) -> list[str]:
    """Return the names of all scores of an epoch: of training, then (`val_`) of validation."""
    of_classes = [f"{score}_{name}" for name in classes for score in CLASS_SCORES]
    scores = ["loss", "accuracy", *MACRO_SCORES, *of_classes]
    return [*scores, *(f"val_{score}" for score in scores)]


@keras.saving.register_keras_serializable(package="lib")
class Scores(keras.metrics.Metric):
    """Balanced accuracy, precision, recall and F1: means over the classes, and of each class.

    The prediction is the class with the highest output after division by `prior`: the decision
    under equal priors, whatever prior the outputs are posteriors under. A class that is never
    predicted has precision 0; a class without an image has no recall and no F1, and is left out of
    the means. The state is the confusion matrix of the epoch.

    Parameters
    ----------
    classes : sequence of str
    prior : sequence of float, optional
        By default equal priors.
    """

    def __init__(self, classes, prior=None, name="scores", dtype="float32"):
        super().__init__(name=name, dtype=dtype)
        n = len(classes)
        self.classes = list(classes)
        self.prior = [1 / n] * n if prior is None else [float(p) for p in prior]
        self.confusion = self.add_weight(shape=(n, n), initializer="zeros")

    def get_config(self):
        return super().get_config() | {"classes": self.classes, "prior": self.prior}

    def update_state(self, y_true, y_pred, sample_weight=None):
        ops = keras.ops
        labels = ops.argmax(y_pred / ops.cast(self.prior, y_pred.dtype), axis=-1)
        predicted = ops.one_hot(labels, len(self.classes))
        actual = ops.cast(y_true, predicted.dtype)
        counts = ops.matmul(ops.transpose(actual), predicted)
        self.confusion.assign_add(ops.cast(counts, self.confusion.dtype))

    def result(self):
        ops = keras.ops
        correct = ops.diagonal(self.confusion)
        actual, predicted = ops.sum(self.confusion, axis=1), ops.sum(self.confusion, axis=0)
        present = ops.cast(actual > 0, correct.dtype)
        scores = {
            "precision": correct / ops.maximum(predicted, 1),
            "recall": correct / ops.maximum(actual, 1),
            "f1": 2 * correct / ops.maximum(actual + predicted, 1),
        }
        means = {
            score: ops.sum(values * present) / ops.maximum(ops.sum(present), 1)
            for score, values in scores.items()
        }
        for score in ("recall", "f1"):
            scores[score] = ops.where(actual > 0, scores[score], np.nan)
        of_classes = {
            f"{score}_{name}": scores[score][i]
            for i, name in enumerate(self.classes)
            for score in CLASS_SCORES
        }
        return {"balanced_accuracy": means["recall"]} | means | of_classes


@keras.saving.register_keras_serializable(package="lib")
class Accuracy(keras.metrics.CategoricalAccuracy):
    """The proportion of correct predictions; rows without a class do not count."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, y_pred, keras.ops.sum(y_true, axis=-1))
