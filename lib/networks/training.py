"""Train a network in a way that survives a kill.

After every epoch, everything is written to a file: weights, optimiser, the state of every random
layer, the history and the weights to keep so far. A training that was killed resumes from its last
epoch and ends with the weights that it would have had.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lib import paths, stages
from lib.config import FineTune, Network, Stage, Transfer
from lib.networks import array_files, batching, devices, epoch_scores, model_graph, optimizer, vgg16
from lib.networks.backend import keras, machine, may_use, versions
from lib.networks.logit_adjustment import LogitAdjusted

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
    loss_prior: Sequence[float] | None = None,
    rates: Mapping[str, float] | None = None,
    verbose: bool = True,
) -> list[dict]:
    """Train with Adam or AdamW on cross-entropy, and keep the weights of one epoch.

    That is the epoch of the best validation balanced accuracy, the earlier of equals, or the last
    (`settings.keep`). Weights that were trained are rounded to half precision, in which networks
    are published. A model that was built on several devices (`devices.build`) is trained on all of
    them, and so is any part of it.

    Parameters
    ----------
    state : Path
        A file, `*.state.npz`, written after every epoch. If it is from the same training (data,
        settings, first weights, code, versions), the training resumes from it; a finished one is
        read instead of repeated, also that of another backend (`backend.may_use`). Otherwise
        training starts anew, and says why.
    stage : str
        Goes into the history, with epochs counted from `first_epoch`.
    prior : sequence of float, optional
        The class prior under which the outputs are posteriors (`batching.output_prior`), by
        default equal priors. Balanced accuracy, precision, recall and F1 are those under equal
        priors, so that the epoch is chosen by the score that is reported; accuracy is that of the
        plain outputs.
    loss_prior : sequence of float, optional
        Multiplies the outputs in the loss: the outputs then become posteriors under equal priors,
        although the images follow this prior (logit adjustment).
    rates : mapping of str to float, optional
        Of layers, by name: their learning rate relative to the settings', by default 1.
    verbose : bool
        Print scores, of ten epochs at most.

    Returns
    -------
    list of dict
        The history, an epoch in each row: its number `epoch`, counted on over the stages, and its
        `stage`; the scores (`epoch_scores.names`) of the training images, and with the prefix
        `val_` of the validation images; `seconds`; and `kept`, true for one epoch of each stage,
        the one whose weights stay.

    Raises
    ------
    NaNLossError
        The loss of a batch or of the validation images is NaN or infinite. The model has the
        weights to keep so far, which are in `state` as well. After any other error or interrupt,
        the model is as before, so that the same call resumes the training.
    """
    restore = model_graph.snapshot(model)
    with devices.devices_of(model) as n_devices:
        scores = epoch_scores.Scores(classes, prior)
        run = _Training(model, settings, state, stage, first_epoch, verbose)
        run.compile(train, validation, scores, n_devices, loss_prior, rates or {})
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
                    callbacks=run.callbacks(train),
                )
        except NaNLossError:
            run.restore_kept()
            raise
        except BaseException:
            restore()
            raise
        run.finish()
    columns = ["epoch", "stage", *epoch_scores.names(classes), "seconds"]
    rows = [{name: row[name] for name in columns} for row in run.rows]
    return [row | {"kept": row["epoch"] == run.kept_row()["epoch"]} for row in rows]


def fit_run(
    run: "Run",
    model: keras.Model,
    inputs: np.ndarray | dict,
    settings: Network | Transfer,
    *,
    state: Path,
    first_layer: str | None = None,
    stage_settings: Stage | None = None,
    class_balance: str | None = None,
    seed: int | None = None,
    **options,
) -> list[dict]:
    """Train a network, or its last layers, on the images of a run: `fit` with its batches.

    Beside the state it notes where the training was finished (`origin`).

    Parameters
    ----------
    run : lib.run.Run
    inputs : ndarray or dict
        `run.images`, or for each split the cached outputs of the frozen layers, as
        `batching.split_batches` takes them.
    settings : Network or Transfer
        The item of `models` in the configuration, with `batch_size` and `class_balance`.
    state : Path
        As for `fit`.
    first_layer : str, optional
        Freeze all layers that do not depend on this one; by default every layer is trained.
    stage_settings : Stage, optional
        Epochs and learning rate, by default those of `settings`.
    class_balance : {"logit_adjusted", "weights", "sampling", "none"}, optional
        By default that of `settings`.
    seed : int, optional
        Shuffles the training images, by default the run's seed.
    **options
        `stage`, `first_epoch` and `verbose` of `fit`.

    Returns
    -------
    list of dict
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
    options["loss_prior"] = run.class_prior if class_balance == "logit_adjusted" else None
    if isinstance(stage_settings, FineTune):
        options["rates"] = vgg16.learning_rates(model, settings)
    before = _modified(state)
    history = fit(model, *batches, stage_settings or settings, state=state, **options)
    if _modified(state) != before:
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        precision = model.layers[-2].dtype_policy.name
        note = {"finished": finished, "machine": machine(), "precision": precision} | versions()
        paths.write_text(state.with_suffix(".json"), json.dumps(note, indent=1) + "\n")
    return history


def origin(state: Path) -> dict[str, str]:
    """Return when, where and with what a training was finished, for its manifest.

    Empty if nothing is noted beside the state.
    """
    note = state.with_suffix(".json")
    return paths.read_note(note, {"finished", "machine"}, "the manifest names this machine")


def _modified(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.is_file() else None


class _Training:
    """A training under way: its history, the weights to keep, and the file that holds them."""

    def __init__(self, model, settings, state, stage, first_epoch, verbose):
        self.model, self.settings, self.state = model, settings, state
        self.stage, self.first_epoch, self.verbose = stage, first_epoch, verbose
        self.rows: list[dict] = []  # of the history
        self.kept: list[np.ndarray] = []  # weights
        self.last_weights: str | None = None  # the digest of what it ended with

    @property
    def finished(self) -> int:
        return len(self.rows)

    def compile(self, train, validation, scores, n_devices, loss_prior, rates) -> None:
        """Compile the model, and describe what decides how the training ends."""
        self.variables = model_graph.variables_of(self.model)  # before metrics are among them
        self.first_weights = model_graph.weights_digest(self.model)
        factors = [
            rates.get(layer.name, 1.0)
            for layer in self.model.layers
            for _ in layer.trainable_variables
        ]
        description = {
            "layers": model_graph.layers_digest(self.model),
            "settings": {key: getattr(self.settings, key) for key in Stage.model_fields},
            "scores": [scores.classes, scores.prior],
            "loss_prior": None if loss_prior is None else list(loss_prior),
            "factors": factors,
            "train": train.key(),
            "validation": validation.key(),
            "stage": [self.stage, self.first_epoch],
            "code": _CODE,
        }
        self.key = model_graph.digest_of(description)
        number_formats = model_graph.number_formats(self.model)
        self.made_with = versions() | {"devices": n_devices, "number_formats": number_formats}
        self.model.compile(
            optimizer=_optimizer(self.model, self.settings, len(train), factors),
            loss="categorical_crossentropy" if loss_prior is None else LogitAdjusted(loss_prior),
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
        if not self._is_same(note):
            name = paths.relative(self.state)
            print(
                f"{name} is from another training or other versions, so this one starts anew",
                flush=True,
            )
            return
        for row in note["rows"]:
            self.rows.append(row)
            self._print_last()
        self.last_weights = note["last"]
        self.kept = [arrays[f"kept/{i}"] for i in range(note["kept"])]
        for i, variable in enumerate([*self.variables, *self.model.optimizer.variables]):
            if f"now/{i}" in arrays:  # a finished training has no optimiser any more
                variable.assign(arrays[f"now/{i}"])

    def _is_same(self, note: dict) -> bool:
        """Say whether a state is of this training."""
        if note.get("key") != self.key:
            return False
        if not may_use(note["made_with"], self.made_with, bool(note["last"])):
            return False
        # a cell that is run again has the model that its training ended with; and another backend
        # draws other initial weights, with which only the first stage begins
        is_first_elsewhere = note["made_with"] != self.made_with and self.first_epoch == 1
        return is_first_elsewhere or self.first_weights in (note["first"], note["last"])

    def callbacks(self, train: batching.Batches) -> list[keras.callbacks.Callback]:
        def start_epoch(epoch, logs):
            train.start_epoch(epoch)
            self.started = time.monotonic()

        ours = keras.callbacks.LambdaCallback(
            on_epoch_begin=start_epoch,
            on_train_batch_end=lambda batch, logs: self._check(logs["loss"], "loss"),
            on_epoch_end=self._end_epoch,
        )
        # validates with the averaged weights
        return [ours, keras.callbacks.SwapEMAWeights()] if self.settings.average else [ours]

    def restore_kept(self) -> None:
        """Give the model the weights to keep, if an epoch has ended."""
        for weight, value in zip(self.model.weights, self.kept, strict=False):
            weight.assign(value)

    def finish(self) -> None:
        """Leave the weights to keep, rounded, in the model, and in the file without the state."""
        if self.last_weights:
            return
        self.restore_kept()
        for weight in self.model.trainable_weights:
            half = model_graph.to_numpy(weight).astype(np.float16)
            weight.assign(half.astype(np.float32))
        self.kept, self.last_weights = [], model_graph.weights_digest(self.model)
        self._write(self.variables)

    def _end_epoch(self, epoch, logs) -> None:
        self._check(logs["val_loss"], "validation loss")
        row = {"epoch": self.first_epoch + epoch, "stage": self.stage}
        row |= {name: float(value) for name, value in logs.items()}
        row["seconds"] = round(time.monotonic() - self.started, 3)
        self.rows.append(row)
        if self.kept_row() is row:
            self.kept = self._averaged_weights()
        self._write([*self.variables, *self.model.optimizer.variables])
        self._print_last()

    def _averaged_weights(self) -> list[np.ndarray]:
        """Return the weights of the model, averaged where the optimiser averages them."""
        adam = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        variables = self.model.trainable_variables
        averages = getattr(adam, "_model_variables_moving_average", variables)
        pairs = zip(variables, averages, strict=True)
        averages = {id(variable): average for variable, average in pairs}
        values = [averages.get(id(weight), weight) for weight in self.model.weights]
        return [model_graph.to_numpy(value).copy() for value in values]

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
            best = f"the weights to keep, of epoch {self.kept_row()['epoch']}, are in {file}"
        raise NaNLossError(
            f"{self.stage}: the {name} is {float(loss)} in epoch "
            f"{self.first_epoch + self.finished}; {best}; try a smaller learning rate"
        )

    def kept_row(self) -> dict:
        """Return the row of the epoch whose weights are kept; of equals, the first."""
        if self.settings.keep == "last":
            return self.rows[-1]
        return max(self.rows, key=lambda row: row["val_balanced_accuracy"])

    def _write(self, variables: list) -> None:
        arrays = {f"now/{i}": model_graph.to_numpy(value) for i, value in enumerate(variables)}
        arrays |= {f"kept/{i}": value for i, value in enumerate(self.kept)}
        note = {"key": self.key, "first": self.first_weights, "last": self.last_weights}
        note |= {"made_with": self.made_with, "kept": len(self.kept), "rows": self.rows}
        array_files.write_arrays(self.state, arrays, note)


def _optimizer(
    model: keras.Model, settings: Stage, steps: int, factors: list[float]
) -> keras.optimizers.Optimizer:
    """Return the optimiser; in float16 the loss is scaled, or small gradients would become zero.

    Keras scales the loss of a model that was built in this format, but not of a part of one.
    """
    rate, decay = _learning_rate(settings, steps), settings.weight_decay
    adam = optimizer.AdamW(rate, factors, decay, settings.average, settings.clip_norm)
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        return keras.optimizers.LossScaleOptimizer(adam)
    return adam


def _learning_rate(settings: Stage, steps: int):
    """Return the learning rate, or its schedule; an epoch has this many steps."""
    if settings.schedule == "constant":
        return settings.learning_rate
    warmup = min(round(settings.warmup_epochs * steps), settings.epochs * steps - 1)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else settings.learning_rate,
        decay_steps=settings.epochs * steps - warmup,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


#: The code that decides how a training ends, layers apart, as it was imported.
_CODE = model_graph.digest_of(list(stages.code_of("transfer").values()))
