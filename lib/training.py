"""Training and prediction: batches from disk, one `fit` that can be killed, what it leaves behind.

A training is written down after every epoch, whole: weights, optimiser, the state of every random
layer, the history and the best weights so far. Started again after a kill, it goes on from there
and ends with the weights it would have had.
"""

import hashlib
import inspect
import json
import mmap
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import arrays, models, paths, precision, tables, weights
from lib.backend import keras, machine, versions
from lib.config import Config, Stage

MACRO_SCORES = ("balanced_accuracy", "precision", "recall", "f1")
CLASS_SCORES = ("precision", "recall", "f1")

#: Bytes taken from a memory-mapped file until its pages are let go. The system may have mapped
#: many times as much by then, as it maps what it holds in one piece together.
MAPPED_BYTES = 2**26
#: Rows of a memory-mapped file of at least so many bytes are announced before they are read.
ANNOUNCED_BYTES = 2**16
_taken: weakref.WeakKeyDictionary[mmap.mmap, int] = weakref.WeakKeyDictionary()


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


def set_seed(seed: int) -> None:
    """Make what follows repeatable on this machine: Python, NumPy and Keras seeded, operations too.

    The same processor and versions then give the same weights twice; other processors round
    differently.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


# ------------------------------------------------------------------------------------ batches


class Batches(keras.utils.PyDataset):
    """Batches of rows of an array, read as they are needed.

    Parameters
    ----------
    inputs : ndarray, shape (m, ...), or list of such
        Images or cached features; may be memory-mapped.
    rows : ndarray of int, shape (n,) or (n, views)
        Which rows to serve; of several views of an image, each epoch draws one.
    targets : ndarray of int, shape (n,)
        Class of each row, as its place in the list of classes.
    loss_weights : ndarray of float, shape (classes,)
        Weight of each class in the loss.
    seed : int or None
        Shuffles (and draws views) anew each epoch; None keeps the order and the first view. What
        an epoch serves depends on the seed and the epoch's number alone.
    balanced : bool
        Draw each class equally often: rare ones several times an epoch, of frequent ones a part.
        An epoch stays n images long. Needs a seed.
    """

    def __init__(self, inputs, rows, targets, loss_weights, batch_size, seed=None, balanced=False):
        super().__init__()
        if not len(targets):
            raise ValueError("no rows to serve; expected at least one")
        self.inputs, self.targets = inputs, np.asarray(targets)
        self.rows = np.asarray(rows).reshape(len(self.targets), -1)
        self.loss_weights = np.asarray(loss_weights, np.float32)
        self.batch_size, self.seed, self.balanced = batch_size, seed, balanced
        self.start_epoch(0)

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, batch):
        chosen = self.order[batch * self.batch_size :][: self.batch_size]
        target = self.targets[chosen]
        one_hot = np.eye(len(self.loss_weights), dtype=np.float32)[target]
        rows = self.rows[chosen, self.view[chosen]]
        served = _take(self.inputs, rows)
        served = tuple(served) if isinstance(served, list) else served  # TensorFlow takes no list
        return served, one_hot, self.loss_weights[target]

    def start_epoch(self, epoch: int) -> None:
        """Serve what epoch number `epoch` serves, counted from 0; `fit` calls it for each.

        Keras's own `on_epoch_end` will not do: Keras calls it once more before the first epoch.
        """
        self.epoch = epoch
        n, views = self.rows.shape
        if self.seed is None:
            self.order, self.view = np.arange(n), np.zeros(n, int)
            return
        random = np.random.default_rng([self.seed, epoch])
        self.order = (
            balanced_order(self.targets, random) if self.balanced else random.permutation(n)
        )
        self.view = random.integers(views, size=n)

    def key(self) -> dict:
        """Return what tells these batches from others."""
        parts = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        return {
            "inputs": [arrays.fingerprint(part) for part in parts],
            "rows": arrays.fingerprint(self.rows),
            "targets": arrays.fingerprint(self.targets),
            "loss_weights": self.loss_weights.tolist(),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "balanced": self.balanced,
        }


def balanced_order(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw as many places as there are targets, each class equally often (to within one).

    A class is gone through in random order before one of its images comes again.
    """
    present = np.unique(targets)
    share, rest = divmod(len(targets), len(present))
    counts = np.full(len(present), share)
    counts[random.permutation(len(present))[:rest]] += 1
    drawn = []
    for label, count in zip(present, counts, strict=True):
        places = np.flatnonzero(targets == label)
        rounds = [random.permutation(places) for _ in range(-(-count // len(places)))]
        drawn.append(np.concatenate(rounds)[:count])
    return random.permutation(np.concatenate(drawn))


def class_weights(targets: np.ndarray, n_classes: int, class_balance: str) -> np.ndarray:
    """Return the weight of each class in the loss.

    Parameters
    ----------
    class_balance : {"weights", "sampling", "none"}
        `weights`: inversely proportional to the class's number of images, 1 on average over the
        images; otherwise 1 each.
    """
    if class_balance != "weights":
        return np.ones(n_classes)
    counts = np.bincount(targets, minlength=n_classes)
    return len(targets) / (n_classes * np.maximum(counts, 1))


def output_prior(targets: np.ndarray, n_classes: int, class_balance: str) -> np.ndarray:
    """Return the class shares under which a network's outputs are posterior probabilities.

    Balanced weights and balanced sampling both make every class count the same; without either it
    is the classes' shares among the training images.
    """
    if class_balance == "none":
        return np.bincount(targets, minlength=n_classes) / len(targets)
    return np.full(n_classes, 1 / n_classes)


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


# -------------------------------------------------------------------------------------- fitting


class LossIsNoNumber(ValueError):
    """A training cannot go on."""


def snapshot(model: keras.Model) -> Callable[[], None]:
    """Keep all that a model holds, random layers' states included.

    Returns
    -------
    callable
        Puts it back, as often as it is called.
    """
    held = [(each, to_numpy(each).copy()) for each in _variables(model)]

    def put_back():
        for variable, value in held:
            variable.assign(value)

    return put_back


def fit(
    model: keras.Model,
    train: Batches,
    validation: Batches,
    settings: Stage,
    *,
    classes: Sequence[str],
    state: Path,
    stage: str,
    first_epoch: int = 1,
    prior: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Train with Adam on cross-entropy and keep the epoch of best validation balanced accuracy.

    Prints one line an epoch. Ties go to the earlier epoch. The model ends with the best epoch's
    weights; those that were trained are rounded to half precision, in which models are kept. A
    model built in `precision.shared_out` is trained on all of its devices, as is any part of it.

    Parameters
    ----------
    state : Path
        A file, `*.state.npz`, written after every epoch. If it is there and of the same training
        (data, settings, first weights, code, versions), the training goes on from it, or is taken
        as it is if it had ended; otherwise it starts anew, and says why.
    stage : str
        Goes into the history, with epochs counted from `first_epoch`.
    prior : sequence of float, optional
        The class shares under which the outputs are posteriors (`output_prior`), by default equal
        ones. Balanced accuracy, precision, recall and F1 are those of the outputs corrected to
        equal shares, so that the epoch is chosen by the score that is reported; accuracy is that
        of the outputs as they are.

    Returns
    -------
    DataFrame
        `history_schema(classes)`.

    Raises
    ------
    LossIsNoNumber
        The loss, of a batch or of the validation images, is not a number any more. The best weights
        so far are in the model and in `state`. Broken off in any other way, as by an interrupt,
        the model holds what it held before, and called again with it, the training goes on.
    """
    put_back = snapshot(model)
    with precision.devices_of(model) as devices:
        scores = Scores(classes, prior)
        run = _Run(model, train, validation, settings, scores, state, stage, first_epoch, devices)
        run.go_on()
        try:
            if run.finished < settings.epochs:
                model.fit(
                    _filled_up(train, devices),
                    validation_data=_filled_up(validation, devices),
                    initial_epoch=run.finished,
                    epochs=settings.epochs,
                    verbose=0,
                    shuffle=False,  # the batches see to it
                    callbacks=[run.callback()],
                )
        except LossIsNoNumber:
            run.take_best()
            raise
        except BaseException:
            put_back()
            raise
        run.take_best()
        for weight in model.trainable_weights:
            weight.assign(_rounded(to_numpy(weight)))
    columns = list(history_schema(classes).columns)
    return history_schema(classes).validate(pd.DataFrame(run.rows)[columns])


class _FilledUp(keras.utils.PyDataset):
    """Batches filled up to a multiple of the devices, with rows that count for nothing.

    Such a row has no class, and weight 0 in the loss of its batch, which stays the mean over the
    others. In an epoch's mean it makes the batch, the last one, count for that much more.
    """

    def __init__(self, batches: Batches, devices: int):
        super().__init__()
        self.batches, self.devices = batches, devices

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, batch):
        inputs, labels, loss_weights = self.batches[batch]
        n = len(labels)
        length = -(-n // self.devices) * self.devices
        real, row = np.arange(length) < n, np.minimum(np.arange(length), n - 1)
        several = isinstance(inputs, tuple)
        inputs = tuple(part[row] for part in inputs) if several else inputs[row]
        weights_ = np.where(real, loss_weights[row] * np.float32(length / n), np.float32(0))
        return inputs, np.where(real[:, None], labels[row], np.float32(0)), weights_


def _filled_up(batches: Batches, devices: int) -> keras.utils.PyDataset:
    return _FilledUp(batches, devices) if devices > 1 else batches


class _Run:
    """One training under way: its history, its best weights, and the file that keeps them."""

    def __init__(
        self, model, train, validation, settings, scores, state, stage, first_epoch, devices
    ):
        self.model, self.train, self.settings, self.devices = model, train, settings, devices
        self.state, self.stage, self.first_epoch = state, stage, first_epoch
        # before compiling, so that no metric is among them; random layers' states are
        self.variables = _variables(model)
        self.key = _key(self, scores, validation)
        model.compile(
            optimizer=_optimizer(model, settings, len(train)),
            loss="categorical_crossentropy",
            metrics=[Accuracy(name="accuracy"), scores],
        )
        model.optimizer.build(model.trainable_variables)
        self.rows: list[dict] = []
        self.best: dict[str, np.ndarray] = {}
        self.started = time.monotonic()

    @property
    def finished(self) -> int:
        return len(self.rows)

    def go_on(self) -> None:
        """Take up what an earlier attempt left, if it is of this training and whole."""
        kept = self._read()
        if kept is None:
            return
        values, note = kept
        self.rows = note["rows"]
        self.best = _part(values, "best/")
        for row in self.rows:
            print(_epoch_line(row, self._last_epoch), flush=True)
        for name, value in _part(values, "now/").items():
            self._all()[name].assign(value)

    def callback(self) -> keras.callbacks.Callback:
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=self._begin, on_train_batch_end=self._check, on_epoch_end=self._end
        )

    def take_best(self) -> None:
        """Give the model the weights of the best epoch, if one has ended."""
        for name, weight in _named(self.model.weights).items():
            if name in self.best:
                weight.assign(self.best[name])

    def _begin(self, epoch, logs=None):
        self.train.start_epoch(epoch)
        self.started = time.monotonic()

    def _check(self, batch, logs):
        self._expect_number(logs["loss"], "loss")

    def _expect_number(self, loss, which):
        if not np.isfinite(float(loss)):
            kept = f"epoch {self._best()['epoch']} is kept in" if self.rows else "none is kept in"
            raise LossIsNoNumber(
                f"{self.stage}: the {which} is {float(loss)} in epoch "
                f"{self.first_epoch + self.finished}; of the epochs before, {kept} "
                f"{paths.relative(self.state)}; try a smaller learning rate"
            )

    def _end(self, epoch, logs):
        self._expect_number(logs["val_loss"], "validation loss")
        before = self._best()["val_balanced_accuracy"] if self.rows else -1.0
        row = {"epoch": self.first_epoch + epoch, "stage": self.stage}
        self.rows.append(row | {name: float(value) for name, value in logs.items()})
        self.rows[-1]["seconds"] = round(time.monotonic() - self.started, 3)
        if self.rows[-1]["val_balanced_accuracy"] > before:
            self.best = {n: to_numpy(w).copy() for n, w in _named(self.model.weights).items()}
        self._write()
        print(_epoch_line(self.rows[-1], self._last_epoch), flush=True)

    @property
    def _last_epoch(self) -> int:
        return self.first_epoch + self.settings.epochs - 1

    def _best(self) -> dict:
        return max(self.rows, key=lambda row: row["val_balanced_accuracy"])  # the first of equals

    def _all(self) -> dict[str, keras.Variable]:
        optimizer = {f"optimizer {n}": v for n, v in _named(self.model.optimizer.variables).items()}
        return _named(self.variables) | optimizer

    def _write(self) -> None:
        kept = {f"best/{name}": value for name, value in self.best.items()}
        now = self._all()
        if self.finished == self.settings.epochs:  # what is drawn next, and the best, are enough
            random = {id(each) for each in random_states(self.model)}
            now = {name: each for name, each in now.items() if id(each) in random}
        kept |= {f"now/{name}": to_numpy(each) for name, each in now.items()}
        arrays.write_arrays(self.state, kept, {"key": self.key, "rows": self.rows})

    def _read(self):
        try:
            values, note = arrays.read_arrays(self.state)
        except FileNotFoundError:
            return None
        except arrays.DamagedFile as error:
            print(f"{error}: damaged, so this training starts over", flush=True)
            return None
        if note["key"] != self.key and not self._is_end_of(values, note):
            print(f"{paths.relative(self.state)} is of another training: started anew", flush=True)
            return None
        return values, note

    def _is_end_of(self, values, note) -> bool:
        """Say whether the model holds what this training ended with, as when a cell runs again."""
        if note["key"]["training"] != self.key["training"]:
            return False
        if len(note["rows"]) < self.settings.epochs:
            return False
        trained = {id(each) for each in self.model.trainable_weights}
        now, ended = _part(values, "now/"), _part(values, "best/")
        pairs = [(each, now[name]) for name, each in self._all().items() if name in now]
        for name, weight in _named(self.model.weights).items():
            value = ended[name]
            pairs.append((weight, _rounded(value) if id(weight) in trained else value))
        return all(np.array_equal(to_numpy(variable), value) for variable, value in pairs)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return values as half precision has them, in float32."""
    return np.asarray(values, np.float16).astype(np.float32)


def best_epoch(history: pd.DataFrame) -> pd.Series:
    """Return the history's row that `fit` keeps."""
    return history.loc[history["val_balanced_accuracy"].idxmax()]


def _optimizer(model: keras.Model, settings: Stage, steps: int) -> keras.optimizers.Optimizer:
    """Return Adam; in float16 with a scaled loss, or small gradients would be rounded to zero.

    Keras sees to that for a model built in this format, but not for a part cut out of one.
    """
    adam = keras.optimizers.Adam(_learning_rate(settings, steps))
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        return keras.optimizers.LossScaleOptimizer(adam)
    return adam


def _learning_rate(settings: Stage, steps: int):
    """Return the learning rate, or its course over the steps; `steps` is those of an epoch."""
    if settings.schedule == "constant":
        return settings.learning_rate
    warmup = settings.warmup_epochs * steps
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else settings.learning_rate,
        decay_steps=settings.epochs * steps - warmup,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _key(run: _Run, scores: Scores, validation: Batches) -> dict[str, str]:
    """Return SHA-256s over all that decides how a training ends, on one machine.

    One is over what the model holds at first, one over everything else.
    """
    contents = {
        "layers": layers_digest(run.model),
        "settings": run.settings.model_dump(),
        "scores": [scores.classes, scores.prior],
        "train": run.train.key(),
        "validation": validation.key(),
        "stage": [run.stage, run.first_epoch],
        "devices": run.devices,
        "code": _CODE,
        "versions": versions(),
    }
    held = b"".join(np.ascontiguousarray(to_numpy(each)) for each in run.variables)
    return {"first_state": hashlib.sha256(held).hexdigest(), "training": _digest(contents)}


def _digest(contents) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()


def layers_digest(model: keras.Model) -> str:
    """Return a SHA-256 over what a model computes, its weights apart.

    That is the kinds of its layers and other operations, how they are set, and what each takes
    from which; of layers of our own, also their code. Their names are left out, for Keras counts
    them up within a process; not those of their number formats, which are further down.
    """
    places, parts, steps = {}, {}, []

    def place(value):
        return places.get(id(value), value)

    for number, call in enumerate(models.calls(model)):
        places |= {id(tensor): f"{number} {i}" for i, tensor in enumerate(call.outputs)}
        part, taken = call.operation, [call.arguments.args, call.arguments.kwargs]
        own = type(part).__module__.startswith("lib.")
        steps.append(
            {
                "kind": type(part).__name__,
                "which": parts.setdefault(id(part), len(parts)),  # one layer may be called twice
                "settings": part.get_config() | {"name": None},
                "code": inspect.getsource(type(part)) if own else None,
                "takes": keras.tree.map_structure(place, taken),
            }
        )
    ends = [[places[id(tensor)] for tensor in each] for each in (model.inputs, model.outputs)]
    return _digest([steps, ends])


def random_states(model: keras.Model) -> list:
    """Return the variables that random layers draw from: a seed and a counter each."""
    weights_ = {id(each) for each in model.weights}
    return [each for each in _variables(model) if id(each) not in weights_]


def _variables(model: keras.Model) -> list:
    metrics = {id(each) for each in model.metrics_variables}
    return [each for each in model.variables if id(each) not in metrics]


def _named(variables) -> dict:
    return {f"{place:04d}": each for place, each in enumerate(variables)}


def _part(values: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}


def to_numpy(variable) -> np.ndarray:
    """Return a variable's or a tensor's values."""
    value = getattr(variable, "value", variable)
    if keras.backend.backend() == "tensorflow" and hasattr(value, "numpy"):
        return value.numpy()  # Keras's own way warns about a variable's missing keyword
    return np.asarray(keras.ops.convert_to_numpy(value))


# ------------------------------------------------------------------------------------ prediction


def forward(
    model: keras.Model,
    inputs: np.ndarray | list[np.ndarray],
    rows: np.ndarray | None = None,
    batch_size: int = 32,
    view: int = 0,
) -> np.ndarray:
    """Return a model's outputs outside training, ndarray of float32, shape (n, ...).

    Parameters
    ----------
    rows : ndarray of int, shape (n,), optional
        Which inputs, read batch by batch; by default all.
    view : int
        Which flip or quarter turn of the images, as `turned` counts them.
    """
    first = inputs[0] if isinstance(inputs, list) else inputs
    rows = np.arange(len(first)) if rows is None else np.asarray(rows)
    batches = (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
    return np.concatenate(
        [
            call(model, turned(_take(inputs, batch), view) if view else _take(inputs, batch))
            for batch in batches
        ]
    )


def predict(
    model: keras.Model,
    inputs: np.ndarray | list[np.ndarray],
    rows: np.ndarray | None = None,
    batch_size: int = 32,
    views: int = 1,
) -> np.ndarray:
    """Return class probabilities, ndarray of float, shape (n, classes), rows adding up to 1.

    Parameters
    ----------
    views : {1, 2, 4, 8}
        In how many flips and quarter turns each image is predicted; the probabilities are averaged.
    """
    seen = [
        forward(model, inputs, rows, batch_size, view).astype(np.float64) for view in range(views)
    ]
    probabilities = np.mean(seen, axis=0)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def turned(images: np.ndarray, view: int) -> np.ndarray:
    """Return images in one of their eight flips and quarter turns.

    Parameters
    ----------
    images : ndarray, shape (n, size, size, channels)
    view : int
        0: as they are; 1: left and right exchanged; 2: turned by half; 3: top and bottom exchanged;
        4 to 7: the same, turned by a quarter more.
    """
    flip, half, quarter = view in (1, 3, 5, 7), view in (2, 3, 6, 7), view >= 4
    images = images[:, :, ::-1] if flip else images
    return np.ascontiguousarray(np.rot90(images, 2 * half + quarter, axes=(1, 2)))


def call(model: keras.Model, batch, training: bool = False):
    """Return a model's output for one batch as an array, or as a list of arrays if it has several.

    The model is called directly: `predict` would trace a function for every model and batch size.
    """
    output = model(batch, training=training)
    if isinstance(output, list | tuple):
        return [to_numpy(part).astype(np.float32, copy=False) for part in output]
    return to_numpy(output).astype(np.float32, copy=False)


def _take(inputs, rows: np.ndarray):
    """Read rows; cached features are widened: half precision is for the disk; images stay uint8."""
    if isinstance(inputs, list):
        return [_take(part, rows) for part in inputs]
    _announce(inputs, rows)
    batch = inputs[rows]
    let_go(inputs, batch.nbytes)
    return batch.astype(np.float32) if batch.dtype == np.float16 else np.asarray(batch)


def _announce(array: np.ndarray, rows: np.ndarray) -> None:
    """Let the system read rows of a memory-mapped array side by side, before they are touched.

    Otherwise it reads them one after another, a few pages at a time. Small rows are left to it.
    """
    mapped, size = _mapping(array), array.strides[0]
    if mapped is None or size < ANNOUNCED_BYTES or not hasattr(mmap, "MADV_WILLNEED"):
        return
    start = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    for row in rows.tolist():
        place = start + row * size
        page = place - place % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, place + size - page)


def let_go(array: np.ndarray, taken: int = MAPPED_BYTES) -> None:
    """Count bytes taken from a memory-mapped array, and let its pages go once they are many.

    What was read of a mapped file counts as memory of the process until the system wants it back:
    in the end all of it. Pages that are let go stay in the system's cache, or on the disk, and are
    mapped again when they are read. Of an array that is not mapped, nothing happens; nor where the
    system has no such call.

    Parameters
    ----------
    taken : int
        Bytes that were read or written; by default so many that the pages are let go now.
    """
    mapped = _mapping(array)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    _taken[mapped] = _taken.get(mapped, 0) + taken
    if _taken[mapped] >= MAPPED_BYTES:
        mapped.madvise(mmap.MADV_DONTNEED)
        _taken[mapped] = 0


def _mapping(array) -> mmap.mmap | None:
    """Return the file mapping that an array is a view of, unless changes to it are its own."""
    private = False
    while array is not None and not isinstance(array, mmap.mmap):
        private |= getattr(array, "mode", None) == "c"  # never written, so they would be lost
        array = getattr(array, "base", None)
    return None if private else array


# --------------------------------------------------------------------------- files of a training


def save(
    model: keras.Model, folder: Path, history: pd.DataFrame, name: str = "model", **notes
) -> dict:
    """Write `<name>.keras`, `history.csv` and `manifest.json`, each whole or not at all.

    A name other than `model` goes into the names of the other two as well.

    Whatever precision it was trained in, the model is kept in float32.

    Parameters
    ----------
    notes
        What else the manifest shall say.

    Returns
    -------
    dict
        The manifest: weights' hash, best epoch, duration, versions, machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exact = in_float32(model)
    file = folder / f"{name}.keras"
    partial = paths.temporary(file)
    exact.save(partial)
    os.replace(partial, file)
    suffix = "" if name == "model" else f"_{name}"
    tables.write_table(history, folder / f"history{suffix}.csv")
    last_stage = history["stage"].iloc[-1]
    return write_manifest(
        folder,
        f"manifest{suffix}",
        parameters=model.count_params(),
        weights_sha256=weights.weights_digest(exact),
        epochs=len(history),
        best_epoch=int(best_epoch(history[history["stage"] == last_stage])["epoch"]),
        seconds=round(float(history["seconds"].sum()), 1),
        precision=model.layers[-2].dtype_policy.name,
        **notes,
    )


def write_manifest(folder: Path, name: str = "manifest", **notes) -> dict:
    """Write `<name>.json`: how a model came about, when, on what machine, with which versions."""
    manifest = notes | {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
    }
    manifest |= versions()
    paths.write_text(folder / f"{name}.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def add_to_manifest(folder: Path, name: str = "manifest", **notes) -> None:
    """Add to `<name>.json` what was found after the model had been saved."""
    file = folder / f"{name}.json"
    manifest = json.loads(file.read_text(encoding="utf-8")) | notes
    paths.write_text(file, json.dumps(manifest, indent=1) + "\n")


def in_float32(model: keras.Model) -> keras.Model:
    """Return the model with every layer in float32; itself if it is so already."""
    layers = [part for part in model.layers if isinstance(part, keras.Layer)]
    if all(each.dtype_policy.name in ("float32", "uint8") for each in layers):
        return model

    def exact(part):
        settings = part.get_config()
        if isinstance(part, keras.Layer):  # the others, `keras.ops`, take their inputs' format
            settings["dtype"] = "float32"
        return type(part).from_config(settings)

    twin = keras.models.clone_model(model, clone_function=exact)
    twin.set_weights(model.get_weights())
    for part in twin.layers:
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()  # it computes with a copy of its weights
    return twin


def read_model(config: Config, folder: str, name: str = "model") -> keras.Model:
    """Load a model that `save` wrote.

    Raises
    ------
    FileNotFoundError
        There is none, or no manifest beside it.
    ValueError
        The file is no model, or one that carries code of its own, which is not run, or its weights
        are not those that the manifest beside it names.
    """
    file = paths.run_folder(config.name) / folder / f"{name}.keras"
    if not file.is_file():
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run the notebook that trains it"
        )
    model = load_model(file)
    said, expected = read_manifest(file).get("weights_sha256"), weights.weights_digest(model)
    if said != expected:
        raise ValueError(
            f"{paths.relative(file)}: its manifest says weights_sha256 = {said}; expected "
            f"{expected}; run the notebook that trains it again"
        )
    return model


def read_manifest(file: Path) -> dict:
    """Read the manifest that `save` wrote beside a model.

    Raises
    ------
    FileNotFoundError, ValueError
        There is none, or it is no JSON file.
    """
    suffix = "" if file.stem == "model" else f"_{file.stem}"
    manifest = file.with_name(f"manifest{suffix}.json")
    if not manifest.is_file():
        raise FileNotFoundError(f"{paths.relative(manifest)}: no such file; {file.name} needs it")
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{paths.relative(manifest)}: not a JSON file: {error}") from None


def load_model(file: Path) -> keras.Model:
    """Load a `.keras` file in safe mode: nothing that is code in it is run."""
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except arrays.DAMAGE as error:
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{paths.relative(file)}: not a model that can be used: {said}") from None


def _epoch_line(row: dict, last: int) -> str:
    def part(prefix):
        loss, score = row[f"{prefix}loss"], row[f"{prefix}balanced_accuracy"]
        return f"loss {loss:.3f}, balanced accuracy {score:.3f}"

    return f"epoch {row['epoch']:>2}/{last}   training: {part('')}   validation: {part('val_')}"


#: A SHA-256 of the code that a training's outcome depends on, layers apart; of the code as it was
#: imported, for files may change while it runs.
_CODE = _digest(
    [
        inspect.getsource(part)
        for part in (Batches, balanced_order, Scores, Accuracy, fit)
        + (_FilledUp, _Run, _optimizer, _learning_rate)
    ]
)
