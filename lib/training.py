"""Training and prediction: batches from disk, one `fit`, and the files a training leaves behind."""

import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import paths, tables, weights
from lib.backend import keras
from lib.config import Config

SCORES = ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1")

#: `history.csv`: one row an epoch; validation scores carry the prefix `val_`. All scores but the
#: loss are shares; precision, recall and F1 are means over the classes.
HISTORY_SCHEMA = pa.DataFrameSchema(
    {"epoch": pa.Column(int, pa.Check.ge(1), unique=True), "stage": pa.Column(str)}
    | {f"{prefix}{score}": pa.Column(float) for prefix in ("", "val_") for score in SCORES},
    strict=True,
)


def set_seed(seed: int) -> None:
    """Make what follows repeatable on this machine: Python, NumPy and Keras seeded, operations too.

    The same processor and versions then give the same weights twice; other processors round
    differently.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


class Batches(keras.utils.PyDataset):
    """Batches of rows of an array, read as they are needed.

    Parameters
    ----------
    inputs : ndarray, shape (m, ...)
        Images or cached features; may be memory-mapped.
    rows : ndarray of int, shape (n,) or (n, views)
        Which rows to serve; of several views of an image, each epoch draws one.
    targets : ndarray of int, shape (n,)
        Class of each row, as its place in the list of classes.
    class_weights : ndarray of float, shape (classes,)
        Weight of each class in the loss.
    seed : int or None
        Shuffles (and draws views) anew each epoch; None keeps the order and the first view.
    """

    def __init__(self, inputs, rows, targets, class_weights, batch_size, seed=None):
        super().__init__()
        self.inputs, self.targets = inputs, np.asarray(targets)
        self.rows = np.asarray(rows).reshape(len(self.targets), -1)
        self.class_weights = np.asarray(class_weights, np.float32)
        self.batch_size = batch_size
        self.random = None if seed is None else np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, batch):
        chosen = self.order[batch * self.batch_size :][: self.batch_size]
        target = self.targets[chosen]
        one_hot = np.eye(len(self.class_weights), dtype=np.float32)[target]
        rows = self.rows[chosen, self.view[chosen]]
        return _as_input(self.inputs[rows]), one_hot, self.class_weights[target]

    def on_epoch_end(self):
        n, views = self.rows.shape
        self.order = np.arange(n) if self.random is None else self.random.permutation(n)
        self.view = np.zeros(n, int) if self.random is None else self.random.integers(views, size=n)


class MacroScores(keras.metrics.Metric):
    """Balanced accuracy, precision, recall and F1, each the plain mean over the classes.

    Kept as a confusion matrix over the epoch. A class that is never predicted has precision 0; a
    class without an image is left out of the means.
    """

    def __init__(self, n_classes: int, name: str = "scores"):
        super().__init__(name=name)
        self.n_classes = n_classes
        self.confusion = self.add_weight(shape=(n_classes, n_classes), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        predicted = keras.ops.one_hot(keras.ops.argmax(y_pred, axis=-1), self.n_classes)
        actual = keras.ops.cast(y_true, predicted.dtype)
        counts = keras.ops.matmul(keras.ops.transpose(actual), predicted)
        self.confusion.assign_add(keras.ops.cast(counts, self.confusion.dtype))

    def result(self):
        ops = keras.ops
        right = ops.diagonal(self.confusion)
        actual, predicted = ops.sum(self.confusion, axis=1), ops.sum(self.confusion, axis=0)
        present = ops.cast(actual > 0, right.dtype)

        def mean(scores):
            return ops.sum(scores * present) / ops.maximum(ops.sum(present), 1)

        recall = mean(right / ops.maximum(actual, 1))
        return {
            "balanced_accuracy": recall,
            "precision": mean(right / ops.maximum(predicted, 1)),
            "recall": recall,
            "f1": mean(2 * right / ops.maximum(actual + predicted, 1)),
        }


def class_weights(targets: np.ndarray, n_classes: int, how: str) -> np.ndarray:
    """Return the weight of each class in the loss.

    Parameters
    ----------
    how : {"balanced", "none"}
        `balanced`: inversely proportional to the class's number of images, 1 on average over the
        images; `none`: 1 each.
    """
    if how == "none":
        return np.ones(n_classes)
    counts = np.bincount(targets, minlength=n_classes)
    return len(targets) / (n_classes * np.maximum(counts, 1))


def fit(
    model: keras.Model,
    train: Batches,
    validation: Batches,
    *,
    epochs: int,
    learning_rate: float,
    checkpoint: Path,
    stage: str,
    first_epoch: int = 1,
) -> pd.DataFrame:
    """Train with Adam on cross-entropy and keep the epoch of best validation balanced accuracy.

    Prints one line an epoch. Ties go to the earlier epoch.

    Parameters
    ----------
    checkpoint : Path
        Where the best epoch's weights are written, `*.weights.h5`; the model ends with them.
    stage : str
        Goes into the history, with epochs counted from `first_epoch`.

    Returns
    -------
    DataFrame
        `HISTORY_SCHEMA`.

    Raises
    ------
    ValueError
        The loss is not a number any more.
    """
    n_classes = model.output_shape[-1]
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="categorical_crossentropy",
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy"), MacroScores(n_classes)],
    )
    rows: list[dict] = []

    def end_epoch(epoch, logs):
        rows.append({"epoch": first_epoch + epoch, "stage": stage} | logs)
        print(_epoch_line(rows[-1], first_epoch + epochs - 1), flush=True)
        if not np.isfinite(logs["loss"]):
            raise ValueError(f"{stage}: the loss is {logs['loss']} in epoch {epoch + 1}")

    best = keras.callbacks.ModelCheckpoint(
        checkpoint, "val_balanced_accuracy", mode="max", save_best_only=True, save_weights_only=True
    )
    report = keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    model.fit(train, validation_data=validation, epochs=epochs, verbose=0, callbacks=[report, best])
    model.load_weights(checkpoint)
    return HISTORY_SCHEMA.validate(pd.DataFrame(rows)[list(HISTORY_SCHEMA.columns)])


def best_epoch(history: pd.DataFrame) -> pd.Series:
    """Return the history's row that `fit` keeps."""
    return history.loc[history["val_balanced_accuracy"].idxmax()]


def cache_features(
    trunk: keras.Model,
    images: np.ndarray,
    rows: np.ndarray,
    target: Path,
    views: int,
    batch_size: int,
) -> np.ndarray:
    """Compute what frozen layers make of images once, and keep it in a file.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        Which images.
    views : int
        1: the plain image; each further view is augmented anew by the trunk's own layers.

    Returns
    -------
    ndarray of float16, shape (views * n, ...), memory-mapped
        View v of the i-th row is at v * n + i.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = paths.temporary(target)
    shape = (views * len(rows), *trunk.output_shape[1:])
    features = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
    for view in range(views):
        for start in range(0, len(rows), batch_size):
            batch = images[rows[start : start + batch_size]]
            first = view * len(rows) + start
            features[first : first + len(batch)] = _call(trunk, batch, training=view > 0)
    features.flush()
    os.replace(partial, target)
    return np.load(target, mmap_mode="r")


def forward(
    model: keras.Model, inputs: np.ndarray, rows: np.ndarray | None = None, batch_size: int = 32
) -> np.ndarray:
    """Return a model's outputs outside training, ndarray of float32, shape (n, ...).

    Parameters
    ----------
    rows : ndarray of int, shape (n,), optional
        Which inputs, read batch by batch; by default all.
    """
    rows = np.arange(len(inputs)) if rows is None else np.asarray(rows)
    batches = (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
    return np.concatenate([_call(model, _as_input(inputs[batch])) for batch in batches])


def predict(
    model: keras.Model, inputs: np.ndarray, rows: np.ndarray | None = None, batch_size: int = 32
) -> np.ndarray:
    """Return class probabilities, ndarray of float, shape (n, classes), rows adding up to 1."""
    probabilities = forward(model, inputs, rows, batch_size).astype(np.float64)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


# --------------------------------------------------------------------------- files of a training


def save(model: keras.Model, folder: Path, history: pd.DataFrame, seconds: float) -> dict:
    """Write `model.keras`, `history.csv` and `manifest.json`, each whole or not at all.

    Returns
    -------
    dict
        The manifest: weights' hash, best epoch, duration, versions, machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last_stage = history["stage"].iloc[-1]
    partial = paths.temporary(folder / "model.keras")
    model.save(partial)
    os.replace(partial, folder / "model.keras")
    tables.write_table(history, folder / "history.csv")
    manifest = {
        "parameters": model.count_params(),
        "weights_sha256": weights.weights_digest(model),
        "epochs": len(history),
        "best_epoch": int(best_epoch(history[history["stage"] == last_stage])["epoch"]),
        "seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "precision": keras.config.dtype_policy().name,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    paths.write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def read_history(config: Config, model: str) -> pd.DataFrame:
    """Read a model's `history.csv`."""
    return tables.read_table(paths.run_folder(config.name) / model / "history.csv", HISTORY_SCHEMA)


def read_model(config: Config, model: str) -> keras.Model:
    """Load a model that `save` wrote."""
    file = paths.run_folder(config.name) / model / "model.keras"
    if not file.is_file():
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run the notebook that trains it"
        )
    return keras.saving.load_model(file, compile=False)


def _call(model: keras.Model, batch: np.ndarray, training: bool = False) -> np.ndarray:
    # called directly: `predict` would trace a function for every model and size of batch
    return keras.ops.convert_to_numpy(model(batch, training=training))


def _as_input(batch: np.ndarray) -> np.ndarray:
    """Widen cached features: half precision is for the disk; images stay uint8."""
    return batch.astype(np.float32) if batch.dtype == np.float16 else np.asarray(batch)


def _epoch_line(row: dict, last: int) -> str:
    def part(prefix):
        loss, score = row[f"{prefix}loss"], row[f"{prefix}balanced_accuracy"]
        return f"loss {loss:.3f}, balanced accuracy {score:.3f}"

    return f"epoch {row['epoch']:>2}/{last}   training: {part('')}   validation: {part('val_')}"
