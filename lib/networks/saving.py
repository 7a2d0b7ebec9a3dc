"""Save trained networks with their manifests, and load them again."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib import paths, tables
from lib.config import Config
from lib.evaluation import calibration
from lib.models import Model
from lib.networks import alexnet, array_files, batching, common_layers, model_graph  # noqa: F401 (their layers register themselves)
from lib.networks.backend import keras, machine, versions

if TYPE_CHECKING:
    from lib.run import Run


def save(
    model: keras.Model, folder: Path, history: pd.DataFrame, name: str = "model", **values
) -> dict:
    """Write `<name>.keras`, `history.csv` and `manifest.json`, each whole or not at all.

    With a name other than `model`, the other two are `history_<name>.csv` and
    `manifest_<name>.json`. The model is saved in float32, whatever it was trained in.

    Parameters
    ----------
    history : DataFrame
        From `training.fit`.
    **values
        Further entries of the manifest, and those that are not of this machine
        (`training.origin`).

    Returns
    -------
    dict
        The manifest: SHA-256 of the weights, their epoch, duration, versions, machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exact = model_graph.in_float32(model)
    file = folder / f"{name}.keras"
    partial = paths.temporary(file)
    exact.save(partial)
    os.replace(partial, file)
    suffix = _suffix(name)
    tables.write_table(history, folder / f"history{suffix}.csv")
    return write_manifest(
        folder,
        f"manifest{suffix}",
        parameters=model.count_params(),
        weights_sha256=model_graph.weights_digest(exact),
        epochs=len(history),
        kept_epoch=int(history.loc[history["kept"], "epoch"].iloc[-1]),
        seconds=round(float(history["seconds"].sum()), 1),
        **{"precision": model.layers[-2].dtype_policy.name} | values,
    )


def write_manifest(folder: Path, name: str = "manifest", **values) -> dict:
    """Write `<name>.json`: the values, and when, on which machine and with which versions."""
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    manifest = {"finished": finished, "machine": machine()} | versions() | values
    tables.write_json(manifest, folder / f"{name}.json")
    return manifest


def add_to_manifest(folder: Path, name: str = "manifest", **values) -> None:
    """Add values to `<name>.json`."""
    file = folder / f"{name}.json"
    tables.write_json(_read_json(file) | values, file)


def calibrate(run: "Run", model: Model, outputs: np.ndarray) -> np.ndarray:
    """Calibrate a network's outputs on the validation images.

    The fitted values and the prior of the outputs without them are added to its manifest.

    Parameters
    ----------
    run : lib.run.Run
    model : lib.models.Model
        The network, which `save` has written.
    outputs : ndarray of float, shape (held-out images, classes)
        In the order of `run.held_out`.

    Returns
    -------
    ndarray of float, shape (held-out images, classes)
        Posteriors under the class prior of the training images.
    """
    class_balance = model.settings.class_balance
    fitted = fit_calibration(run, class_balance, outputs)
    prior = batching.output_prior(run.class_prior, class_balance).tolist()
    values = {"calibration": fitted.model_dump(), "output_prior": prior}
    add_to_manifest(run.folder / model.folder, model.manifest, **values)
    return fitted.apply(outputs)


def fit_calibration(run: "Run", class_balance: str, outputs: np.ndarray) -> calibration.Calibration:
    """Fit the calibration of a network's outputs to the validation images.

    Parameters
    ----------
    run : lib.run.Run
    class_balance : {"logit_adjusted", "weights", "sampling", "none"}
        How the network was trained, which decides the prior that its outputs are posteriors under.
    outputs : ndarray of float, shape (held-out images, classes)
        In the order of `run.held_out`.
    """
    validation = (run.held_out["split"] == "validation").to_numpy()
    return calibration.fit(
        outputs[validation],
        run.targets[run.held_out.index[validation]],
        batching.output_prior(run.class_prior, class_balance),
        run.class_prior,
        run.classes,
    )


def read_model(config: Config, folder: str, name: str = "model") -> keras.Model:
    """Load a model of a run that `save` wrote.

    Parameters
    ----------
    folder : str
        Below runs/<run>, such as `baseline_cnn`.

    Raises
    ------
    FileNotFoundError
        There is none, or no manifest beside it.
    ValueError
        The file is not a model, or contains code, which is never run, or its weights are not those
        that the manifest names.
    """
    file = paths.run_folder(config.name) / folder / f"{name}.keras"
    if not file.is_file():
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run the notebook that trains it"
        )
    model = load_model(file)
    digest, expected = read_manifest(file).get("weights_sha256"), model_graph.weights_digest(model)
    if digest != expected:
        raise ValueError(
            f"{paths.relative(file)}: its manifest says weights_sha256 = {digest}; expected "
            f"{expected}; run the notebook that trains it again"
        )
    return model


def read_manifest(file: Path) -> dict:
    """Read the manifest that `save` wrote beside a model.

    Raises
    ------
    FileNotFoundError, ValueError
        There is none, or it is not a JSON file.
    """
    return _read_json(file.with_name(f"manifest{_suffix(file.stem)}.json"))


def load_model(file: Path) -> keras.Model:
    """Load a `.keras` file in safe mode: code in it is not run.

    Raises
    ------
    ValueError
        The file is damaged, not a model, or contains code.
    """
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except array_files.DAMAGE as error:
        reason = f"not a model that can be used: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{paths.relative(file)}: {reason}") from None


def _suffix(name: str) -> str:
    return "" if name == "model" else f"_{name}"


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run the notebook that writes it"
        ) from None
    except ValueError as error:
        raise ValueError(f"{paths.relative(file)}: not a JSON file: {error}") from None
