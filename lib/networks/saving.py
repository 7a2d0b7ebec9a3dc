"""Save trained networks with their manifests, and load them again."""

import json
import os
import time
from pathlib import Path

import pandas as pd

from lib import paths, tables
from lib.config import Config
from lib.networks import array_files, epoch_scores, model_graph
from lib.networks.backend import keras, machine, versions


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
        weights_sha256=model_graph.weights_digest(exact),
        epochs=len(history),
        best_epoch=int(epoch_scores.best_epoch(history[history["stage"] == last_stage])["epoch"]),
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
    said, expected = read_manifest(file).get("weights_sha256"), model_graph.weights_digest(model)
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
    except array_files.DAMAGE as error:
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{paths.relative(file)}: not a model that can be used: {said}") from None
