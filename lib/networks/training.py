"""Train a network in a way that survives a kill.

After every epoch, everything is written to a file: weights, optimiser, the state of every random
layer, the history and the best weights so far. A training that was killed resumes from its last
epoch and ends with the weights that it would have had.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib import paths, stages
from lib.config import Network, Stage, Transfer
from lib.networks import array_files, batching, devices, epoch_scores, model_graph
from lib.networks.backend import keras, versions

if TYPE_CHECKING:
    from lib.run import Run


class NaNLossError(ValueError):
    """The loss is NaN or infinite, so training cannot continue."""


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and Keras, and make TensorFlow's operations deterministic.

    The same processor and versions then give the same weights twice; other processors round
    differently.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


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
    verbose: bool = True,
) -> pd.DataFrame:
    """Train with Adam on cross-entropy; keep the epoch of the best validation balanced accuracy.

    Ties go to the earlier epoch. The model ends with the weights of the
    best epoch; those that were trained are rounded to half precision, in which networks are
    published. A model that was built on several devices (`devices.build`) is trained on all of
    them, and so is any part of it.

    Parameters
    ----------
    state : Path
        A file, `*.state.npz`, written after every epoch. If it is from the same training (data,
        settings, first weights, code, versions), the training resumes from it; a finished one is
        read instead of repeated. Otherwise training starts anew, and says why.
    stage : str
        Goes into the history, with epochs counted from `first_epoch`.
    prior : sequence of float, optional
        The class prior under which the outputs are posteriors (`batching.output_prior`), by
        default equal priors. Balanced accuracy, precision, recall and F1 are those under equal
        priors, so that the epoch is chosen by the score that is reported; accuracy is that of the
        plain outputs.
    verbose : bool
        Print scores, of ten epochs at most.

    Returns
    -------
    DataFrame
        `epoch_scores.history_schema(classes)`.

    Raises
    ------
    NaNLossError
        The loss of a batch or of the validation images is NaN or infinite. The model has the best
        weights so far, which are in `state` as well. After any other error or interrupt, the model
        is as before, so that the same call resumes the training.
    """
    restore = model_graph.snapshot(model)
    scores = epoch_scores.Scores(classes, prior)
    with devices.devices_of(model) as n_devices:
        run = _Training(model, settings, state, stage, first_epoch, verbose)
        run.compile(train, validation, scores, n_devices)
        run.resume()
        try:
            if run.finished < settings.epochs:
                model.fit(
                    batching.pad(train, n_devices),
                    validation_data=batching.pad(validation, n_devices),
                    initial_epoch=run.finished,
                    epochs=settings.epochs,
                    verbose=0,
                    shuffle=False,  # Batches shuffle by themselves
                    callbacks=[run.callback(train)],
                )
        except NaNLossError:
            run.restore_best()
            raise
        except BaseException:
            restore()
            raise
        run.finish()
    schema = epoch_scores.history_schema(classes)
    return schema.validate(pd.DataFrame(run.rows)[list(schema.columns)])


def fit_run(
    run: "Run",
    model: keras.Model,
    inputs: np.ndarray | dict,
    settings: Network | Transfer,
    *,
    first_layer: str | None = None,
    stage_settings: Stage | None = None,
    class_balance: str | None = None,
    seed: int | None = None,
    **options,
) -> pd.DataFrame:
    """Train a network, or its last layers, on the images of a run: `fit` with its batches.

    Parameters
    ----------
    run : lib.run.Run
    inputs : ndarray or dict
        `run.images`, or for each split the cached outputs of the frozen layers, as
        `batching.split_batches` takes them.
    settings : Network or Transfer
        The item of `models` in the configuration, with `batch_size` and `class_balance`.
    first_layer : str, optional
        Freeze all layers that do not depend on this one; by default every layer is trained.
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
    if first_layer:
        model_graph.train_from(model, first_layer)
        if isinstance(inputs, dict):
            model = model_graph.split_before(model, first_layer)[1]
    class_balance = class_balance or settings.class_balance
    seeds = {"train": run.config.seed if seed is None else seed, "validation": None}
    batches = []
    for split, shuffle in seeds.items():
        part = inputs[split] if isinstance(inputs, dict) else inputs
        batches.append(batching.split_batches(run, split, part, settings, class_balance, shuffle))
    prior = batching.output_prior(run.class_prior, class_balance)
    options |= {"classes": run.classes, "prior": prior}
    return fit(model, *batches, stage_settings or settings, **options)


class _Training:
    """A training under way: its history, its best weights, and the file that holds them."""

    def __init__(self, model, settings, state, stage, first_epoch, verbose):
        self.model, self.settings, self.state = model, settings, state
        self.stage, self.first_epoch, self.verbose = stage, first_epoch, verbose
        self.rows: list[dict] = []  # of the history
        self.best: list[np.ndarray] = []  # weights
        self.last_state: str | None = None  # the digest of what it ended with

    @property
    def finished(self) -> int:
        return len(self.rows)

    def compile(self, train, validation, scores, n_devices) -> None:
        """Compile the model, and describe what decides how the training ends on this machine."""
        self.variables = model_graph.variables_of(self.model)  # before metrics are among them
        self.first_state = model_graph.values_digest(self.variables)
        description = {
            "layers": model_graph.layers_digest(self.model),
            "settings": {key: getattr(self.settings, key) for key in Stage.model_fields},
            "scores": [scores.classes, scores.prior],
            "train": train.key(),
            "validation": validation.key(),
            "stage": [self.stage, self.first_epoch],
            "devices": n_devices,
            "code": _CODE,
            "versions": versions(),
        }
        self.key = model_graph.digest_of(description)
        self.model.compile(
            optimizer=_optimizer(self.model, self.settings, len(train)),
            loss="categorical_crossentropy",
            metrics=[epoch_scores.Accuracy(name="accuracy"), scores],
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def resume(self) -> None:
        """Continue from what an earlier attempt left, if it is from this training and whole."""
        try:
            arrays, note = array_files.read_arrays(self.state)
        except FileNotFoundError:
            return
        except array_files.DamagedFile as error:
            print(f"{error}: damaged, so this training starts over", flush=True)
            return
        # a cell that is run again has the model that its training ended with
        if note["key"] != self.key or self.first_state not in (note["first"], note["last"]):
            name = paths.relative(self.state)
            print(f"{name} is from another training, so this one starts anew", flush=True)
            return
        for row in note["rows"]:
            self.rows.append(row)
            self._print_last()
        self.last_state = note["last"]
        self.best = [arrays[f"best/{i}"] for i in range(note["best"])]
        for i, variable in enumerate([*self.variables, *self.model.optimizer.variables]):
            if f"now/{i}" in arrays:  # a finished training has no optimiser any more
                variable.assign(arrays[f"now/{i}"])

    def callback(self, train: batching.Batches) -> keras.callbacks.Callback:
        def start_epoch(epoch, logs):
            train.start_epoch(epoch)
            self.started = time.monotonic()

        return keras.callbacks.LambdaCallback(
            on_epoch_begin=start_epoch,
            on_train_batch_end=lambda batch, logs: self._check(logs["loss"], "loss"),
            on_epoch_end=self._end_epoch,
        )

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch, if one has ended."""
        for weight, value in zip(self.model.weights, self.best, strict=False):
            weight.assign(value)

    def finish(self) -> None:
        """Leave the best weights, rounded, in the model, and in the file instead of the state."""
        if self.last_state:
            return
        self.restore_best()
        for weight in self.model.trainable_weights:
            half = model_graph.to_numpy(weight).astype(np.float16)
            weight.assign(half.astype(np.float32))
        self.best, self.last_state = [], model_graph.values_digest(self.variables)
        self._write(self.variables)

    def _end_epoch(self, epoch, logs) -> None:
        self._check(logs["val_loss"], "validation loss")
        best_before = self._best_row()["val_balanced_accuracy"] if self.rows else -1.0
        row = {"epoch": self.first_epoch + epoch, "stage": self.stage}
        row |= {name: float(value) for name, value in logs.items()}
        row["seconds"] = round(time.monotonic() - self.started, 3)
        self.rows.append(row)
        if row["val_balanced_accuracy"] > best_before:
            self.best = [model_graph.to_numpy(weight).copy() for weight in self.model.weights]
        self._write([*self.variables, *self.model.optimizer.variables])
        self._print_last()

    def _print_last(self) -> None:
        """Print the scores of the last epoch, if it is one of ten or fewer to print."""
        n, row = self.settings.epochs, self.rows[-1]
        if not self.verbose or (self.finished < n and self.finished % -(-n // 10)):
            return
        scores = [
            f"{split}: loss {row[prefix + 'loss']:.3f}, "
            f"balanced accuracy {row[prefix + 'balanced_accuracy']:.3f}"
            for split, prefix in (("training", ""), ("validation", "val_"))
        ]
        last = self.first_epoch + n - 1
        print(f"epoch {row['epoch']:>2}/{last}   {'   '.join(scores)}", flush=True)

    def _check(self, loss, name: str) -> None:
        if np.isfinite(float(loss)):
            return
        file, best = paths.relative(self.state), "no epoch was finished before"
        if self.rows:
            best = f"the best weights before, of epoch {self._best_row()['epoch']}, are in {file}"
        raise NaNLossError(
            f"{self.stage}: the {name} is {float(loss)} in epoch "
            f"{self.first_epoch + self.finished}; {best}; try a smaller learning rate"
        )

    def _best_row(self) -> dict:
        return max(self.rows, key=lambda row: row["val_balanced_accuracy"])  # the first of equals

    def _write(self, variables: list) -> None:
        arrays = {f"now/{i}": model_graph.to_numpy(value) for i, value in enumerate(variables)}
        arrays |= {f"best/{i}": value for i, value in enumerate(self.best)}
        note = {"key": self.key, "first": self.first_state, "last": self.last_state}
        note |= {"best": len(self.best), "rows": self.rows}
        array_files.write_arrays(self.state, arrays, note)


def _optimizer(model: keras.Model, settings: Stage, steps: int) -> keras.optimizers.Optimizer:
    """Return Adam; in float16 with a scaled loss, or small gradients would be rounded to zero.

    Keras scales the loss of a model that was built in this format, but not of a part of one.
    """
    adam = keras.optimizers.Adam(_learning_rate(settings, steps))
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        return keras.optimizers.LossScaleOptimizer(adam)
    return adam


def _learning_rate(settings: Stage, steps: int):
    """Return the learning rate, or its schedule; an epoch has this many steps."""
    if settings.schedule == "constant":
        return settings.learning_rate
    warmup = settings.warmup_epochs * steps
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else settings.learning_rate,
        decay_steps=settings.epochs * steps - warmup,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


#: The code that decides how a training ends, layers apart, as it was imported.
_CODE = model_graph.digest_of(list(stages.code_of("transfer").values()))
