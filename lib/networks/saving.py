"""Save trained networks with their manifests, and load them again."""

import json
import os
import time
from pathlib import Path

import pandas as pd

from lib import paths, tables
from lib.config import Config
from lib.networks import array_files, epoch_scores, model_graph
from lib.networks.alexnet import LocalResponseNormalization
from lib.networks.backend import keras, machine, versions
from lib.networks.common_layers import RandomAffine

#: Layers of our own that a saved model may have.
OWN_LAYERS = {
    f"lib>{layer.__name__}": layer for layer in (LocalResponseNormalization, RandomAffine)
}


def save(
    model: keras.Model, folder: Path, history: pd.DataFrame, name: str = "model", **values
) -> dict:
    """Write `<name>.keras`, `history.csv` and `manifest.json`, each whole or not at all.

    With a name other than `model`, the other two are `history_<name>.csv` and
    `manifest_<name>.json`. The model is saved in float32, whatever it was trained in.

    Parameters
    ----------
    history : DataFrame
        `epoch_scores.history_schema`.
    **values
        Further entries of the manifest.

    Returns
    -------
    dict
        The manifest: SHA-256 of the weights, best epoch, duration, versions, machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exact = in_float32(model)
    file = folder / f"{name}.keras"
    partial = paths.temporary(file)
    exact.save(partial)
    os.replace(partial, file)
    suffix = _suffix(name)
    tables.write_table(history, folder / f"history{suffix}.csv")
    last_stage = history[history["stage"] == history["stage"].iloc[-1]]
    return write_manifest(
        folder,
        f"manifest{suffix}",
        parameters=model.count_params(),
        weights_sha256=model_graph.weights_digest(exact),
        epochs=len(history),
        best_epoch=int(epoch_scores.best_epoch(last_stage)["epoch"]),
        seconds=round(float(history["seconds"].sum()), 1),
        precision=model.layers[-2].dtype_policy.name,
        **values,
    )


def write_manifest(folder: Path, name: str = "manifest", **values) -> dict:
    """Write `<name>.json`: the values, and when, on which machine and with which versions."""
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    manifest = values | {"finished": finished, "machine": machine()} | versions()
    tables.write_json(manifest, folder / f"{name}.json")
    return manifest


def add_to_manifest(folder: Path, name: str = "manifest", **values) -> None:
    """Add values to `<name>.json`."""
    file = folder / f"{name}.json"
    tables.write_json(_read_json(file) | values, file)


def in_float32(model: keras.Model) -> keras.Model:
    """Return the model with every layer in float32; the model itself if that is so already."""
    layers = [layer for layer in model.layers if isinstance(layer, keras.Layer)]
    if all(layer.dtype_policy.name in ("float32", "uint8") for layer in layers):
        return model

    def copy(layer):
        settings = layer.get_config()
        if isinstance(layer, keras.Layer):  # operations of `keras.ops` follow their inputs
            settings["dtype"] = "float32"
        return type(layer).from_config(settings)

    exact = keras.models.clone_model(model, clone_function=copy)
    exact.set_weights(model.get_weights())
    for layer in exact.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights
    return exact


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
        return keras.saving.load_model(file, OWN_LAYERS, compile=False, safe_mode=True)
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
