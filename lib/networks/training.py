"""Training and prediction: batches from disk, one `fit` that can be killed, what it leaves behind.

A training is written down after every epoch, whole: weights, optimiser, the state of every random
layer, the history and the best weights so far. Started again after a kill, it goes on from there
and ends with the weights it would have had.
"""

import hashlib
import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib import paths
from lib.config import Network, Stage, VGG16Transfer
from lib.networks import array_files, batching, devices, epoch_scores, model_graph
from lib.networks.backend import keras, versions

if TYPE_CHECKING:
    from lib.run import Run


def set_seed(seed: int) -> None:
    """Make what follows repeatable on this machine: Python, NumPy and Keras seeded, operations too.

    The same processor and versions then give the same weights twice; other processors round
    differently.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


class NaNLossError(ValueError):
    """A training cannot go on."""


def snapshot(model: keras.Model) -> Callable[[], None]:
    """Keep all that a model holds, random layers' states included.

    Returns
    -------
    callable
        Puts it back, as often as it is called.
    """
    held = [(each, model_graph.to_numpy(each).copy()) for each in model_graph.variables_of(model)]

    def put_back():
        for variable, value in held:
            variable.assign(value)

    return put_back


def fit(
    model: keras.Model,
    train: batching.Batches,
    validation: batching.Batches,
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
    model built in `devices.on_devices` is trained on all of its devices, as is any part of it.

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
    NaNLossError
        The loss, of a batch or of the validation images, is not a number any more. The best weights
        so far are in the model and in `state`. Broken off in any other way, as by an interrupt,
        the model holds what it held before, and called again with it, the training goes on.
    """
    put_back = snapshot(model)
    with devices.devices_of(model) as n_devices:
        scores = epoch_scores.Scores(classes, prior)
        run = _Run(model, train, validation, settings, scores, state, stage, first_epoch, n_devices)
        run.go_on()
        try:
            if run.finished < settings.epochs:
                model.fit(
                    batching.filled_up(train, n_devices),
                    validation_data=batching.filled_up(validation, n_devices),
                    initial_epoch=run.finished,
                    epochs=settings.epochs,
                    verbose=0,
                    shuffle=False,  # the batches see to it
                    callbacks=[run.callback()],
                )
        except NaNLossError:
            run.take_best()
            raise
        except BaseException:
            put_back()
            raise
        run.take_best()
        for weight in model.trainable_weights:
            weight.assign(_rounded(model_graph.to_numpy(weight)))
    columns = list(epoch_scores.history_schema(classes).columns)
    return epoch_scores.history_schema(classes).validate(pd.DataFrame(run.rows)[columns])


def fit_run(
    run: "Run",
    model: keras.Model,
    inputs: np.ndarray | dict,
    settings: Network | VGG16Transfer,
    *,
    stage_settings: Stage | None = None,
    class_balance: str | None = None,
    seed: int | None = None,
    **options,
) -> pd.DataFrame:
    """Train a network, or a part of one, on the training images of a run: `fit` with its batches.

    Parameters
    ----------
    run : lib.run.Run
    inputs : ndarray or dict
        `run.images`, or the cached features of each split, as `split_batches` takes them.
    settings : Network or VGG16Transfer
        The section of the configuration with `batch_size` and `class_balance`.
    stage_settings : Stage, optional
        Epochs and learning rate, by default those of `settings`.
    class_balance : {"weights", "sampling", "none"}, optional
        By default that of `settings`.
    seed : int, optional
        Shuffles the training images, by default the run's seed.
    **options
        `state`, `stage`, `first_epoch` and `verbose` of `fit`.

    Returns
    -------
    DataFrame
        As `fit`.
    """
    class_balance = class_balance or settings.class_balance
    seed = run.config.seed if seed is None else seed
    train, validation = (
        batching.split_batches(
            run,
            split,
            inputs[split] if isinstance(inputs, dict) else inputs,
            settings,
            class_balance,
            seed=seed if split == "train" else None,
        )
        for split in ("train", "validation")
    )
    prior = batching.output_prior(run.class_prior, class_balance)
    settings = stage_settings or settings
    return fit(model, train, validation, settings, classes=run.classes, prior=prior, **options)


class _Run:
    """One training under way: its history, its best weights, and the file that keeps them."""

    def __init__(
        self, model, train, validation, settings, scores, state, stage, first_epoch, devices
    ):
        self.model, self.train, self.settings, self.devices = model, train, settings, devices
        self.state, self.stage, self.first_epoch = state, stage, first_epoch
        # before compiling, so that no metric is among them; random layers' states are
        self.variables = model_graph.variables_of(model)
        self.key = _key(self, scores, validation)
        model.compile(
            optimizer=_optimizer(model, settings, len(train)),
            loss="categorical_crossentropy",
            metrics=[epoch_scores.Accuracy(name="accuracy"), scores],
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
            raise NaNLossError(
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
            self.best = {
                n: model_graph.to_numpy(w).copy() for n, w in _named(self.model.weights).items()
            }
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
            random = {id(each) for each in model_graph.random_states(self.model)}
            now = {name: each for name, each in now.items() if id(each) in random}
        kept |= {f"now/{name}": model_graph.to_numpy(each) for name, each in now.items()}
        array_files.write_arrays(self.state, kept, {"key": self.key, "rows": self.rows})

    def _read(self):
        try:
            values, note = array_files.read_arrays(self.state)
        except FileNotFoundError:
            return None
        except array_files.DamagedFile as error:
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
        return all(
            np.array_equal(model_graph.to_numpy(variable), value) for variable, value in pairs
        )


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return values as half precision has them, in float32."""
    return np.asarray(values, np.float16).astype(np.float32)


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


def _key(run: _Run, scores: epoch_scores.Scores, validation: batching.Batches) -> dict[str, str]:
    """Return SHA-256s over all that decides how a training ends, on one machine.

    One is over what the model holds at first, one over everything else.
    """
    contents = {
        "layers": model_graph.layers_digest(run.model),
        "settings": run.settings.model_dump(),
        "scores": [scores.classes, scores.prior],
        "train": run.train.key(),
        "validation": validation.key(),
        "stage": [run.stage, run.first_epoch],
        "devices": run.devices,
        "code": _CODE,
        "versions": versions(),
    }
    held = b"".join(np.ascontiguousarray(model_graph.to_numpy(each)) for each in run.variables)
    return {
        "first_state": hashlib.sha256(held).hexdigest(),
        "training": model_graph.digest_of(contents),
    }


def _named(variables) -> dict:
    return {f"{place:04d}": each for place, each in enumerate(variables)}


def _part(values: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}


def _epoch_line(row: dict, last: int) -> str:
    def part(prefix):
        loss, score = row[f"{prefix}loss"], row[f"{prefix}balanced_accuracy"]
        return f"loss {loss:.3f}, balanced accuracy {score:.3f}"

    return f"epoch {row['epoch']:>2}/{last}   training: {part('')}   validation: {part('val_')}"


#: A SHA-256 of the code that a training's outcome depends on, layers apart; of the code as it was
#: imported, for files may change while it runs.
_CODE = model_graph.digest_of(
    [
        inspect.getsource(part)
        for part in (
            batching.Batches,
            batching.balanced_order,
            epoch_scores.Scores,
            epoch_scores.Accuracy,
            fit,
        )
        + (batching.FilledUp, _Run, _optimizer, _learning_rate)
    ]
)
