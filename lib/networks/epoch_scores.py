"""Scores computed after every epoch, and the table of the training history."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib.networks.backend import keras

MACRO_SCORES = ("balanced_accuracy", "precision", "recall", "f1")

CLASS_SCORES = ("precision", "recall", "f1")


def history_schema(classes: Sequence[str]) -> pa.DataFrameSchema:
    """Return the schema of `history.csv`: one row an epoch.

    Validation scores carry the prefix `val_`. All scores but the loss are shares; those without a
    class are means over the classes. A class without an image has no recall and no F1. `seconds`
    is the duration of the epoch, validation included.
    """
    every = ["loss", "accuracy", *MACRO_SCORES]
    each = [f"{score}_{name}" for name in classes for score in CLASS_SCORES]
    columns = {"epoch": pa.Column(int, pa.Check.ge(1), unique=True), "stage": pa.Column(str)}
    for prefix in ("", "val_"):
        columns |= {prefix + score: pa.Column(float) for score in every}
        columns |= {prefix + score: pa.Column(float, nullable=True) for score in each}
    return pa.DataFrameSchema(columns | {"seconds": pa.Column(float)}, strict=True)


@keras.saving.register_keras_serializable(package="lib")
class Scores(keras.metrics.Metric):
    """Balanced accuracy, precision, recall and F1: means over the classes, and of each class.

    An answer is the class with the highest output after it was divided by the class's share in
    `prior`: the rule of equal priors, whatever the outputs are posteriors under. A class that is
    never predicted has precision 0; a class without an image has no recall and no F1, and is left
    out of the means. Kept as a confusion matrix over the epoch.
    """

    def __init__(
        self,
        classes: Sequence[str],
        prior: Sequence[float] | None = None,
        name: str = "scores",
        dtype: str = "float32",
    ):
        super().__init__(name=name, dtype=dtype)
        self.classes = list(classes)
        equal = [1 / len(self.classes)] * len(self.classes)
        self.prior = equal if prior is None else [float(share) for share in prior]
        shape = (len(self.classes), len(self.classes))
        self.confusion = self.add_weight(shape=shape, initializer="zeros")

    def get_config(self):
        return super().get_config() | {"classes": self.classes, "prior": self.prior}

    def update_state(self, y_true, y_pred, sample_weight=None):
        answers = keras.ops.argmax(y_pred / keras.ops.cast(self.prior, y_pred.dtype), axis=-1)
        predicted = keras.ops.one_hot(answers, len(self.classes))
        actual = keras.ops.cast(y_true, predicted.dtype)
        counts = keras.ops.matmul(keras.ops.transpose(actual), predicted)
        self.confusion.assign_add(keras.ops.cast(counts, self.confusion.dtype))

    def result(self):
        ops = keras.ops
        right = ops.diagonal(self.confusion)
        actual, predicted = ops.sum(self.confusion, axis=1), ops.sum(self.confusion, axis=0)
        present = ops.cast(actual > 0, right.dtype)
        each = {
            "precision": right / ops.maximum(predicted, 1),
            "recall": right / ops.maximum(actual, 1),
            "f1": 2 * right / ops.maximum(actual + predicted, 1),
        }
        mean = {
            score: ops.sum(values * present) / ops.maximum(ops.sum(present), 1)
            for score, values in each.items()
        }
        absent = {
            score: values if score == "precision" else ops.where(actual > 0, values, np.nan)
            for score, values in each.items()
        }
        return (
            {"balanced_accuracy": mean["recall"]}
            | mean
            | {
                f"{score}_{name}": absent[score][i]
                for i, name in enumerate(self.classes)
                for score in CLASS_SCORES
            }
        )


@keras.saving.register_keras_serializable(package="lib")
class Accuracy(keras.metrics.CategoricalAccuracy):
    """The share of rows that are predicted right; a row without a class does not count."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, y_pred, keras.ops.sum(y_true, axis=-1))


def best_epoch(history: pd.DataFrame) -> pd.Series:
    """Return the history's row that `fit` keeps."""
    return history.loc[history["val_balanced_accuracy"].idxmax()]
