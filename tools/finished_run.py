"""Load a network of a finished run, runs/<run>, to publish it or to predict with it."""

import json
from pathlib import Path

from lib import paths
from lib.config import Config
from lib.data import datasets
from lib.evaluation import priors
from lib.evaluation.calibration import Calibration
from lib.models import models_of
from lib.networks import array_files, probes, saving
from lib.networks.backend import keras
from tools import published_networks


def run_file(config: Config, model: str) -> Path:
    """Return the file of a network of one's own run, whether it exists or not.

    Raises
    ------
    ValueError
        The configuration lists no such network.
    """
    row = models_of(config).get(model)
    networks = [name for name, other in models_of(config).items() if other.network]
    if row is None or row.network is None:
        raise ValueError(
            f"run {config.name} has no network {model!r}; it has: {', '.join(networks)}"
        )
    return paths.run_folder(config.name) / row.folder / f"{row.network}.keras"


def read_run(config: Config, model: str) -> tuple[keras.Model, published_networks.Note]:
    """Load a network of one's own run, runs/<run>.

    Raises
    ------
    FileNotFoundError
        The run has none, or lacks a file that belongs to it.
    ValueError
        It was trained, or its images were prepared, with other settings; or its weights are not
        those that its training ended with.
    """
    file, row = run_file(config, model), models_of(config)[model]
    network = saving.read_model(config, row.folder, row.network)
    index = datasets.read_index(config)
    prepared = {"preprocessing": config.preprocessing.model_dump()}
    paths.check_note(paths.run_folder(config.name) / "images.npy", prepared, "notebook 02")
    manifest = saving.read_manifest(file)
    expected = {"class_balance": row.settings.class_balance}
    if row.test_time_views > 1:
        expected["test_time_views"] = row.test_time_views
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise ValueError(
                f"{paths.relative(file)}: its manifest says {key} = {manifest.get(key)}; expected "
                f"{value}; run the notebook that trains it again"
            )
    try:
        fitted = Calibration.model_validate(manifest.get("calibration"))
        calibration = fitted.of_classes(config.classes)
    except ValueError as error:  # pydantic's as well
        raise ValueError(
            f"{paths.relative(file)}: its manifest lacks a calibration that can be used "
            f"({' '.join(str(error).split())}); run the notebook that trains it again"
        ) from None
    return network, published_networks.Note(
        source=paths.relative(file),
        run=config.name,
        title=row.title,
        settings=row.settings,
        classes={name: config.names[name] for name in config.classes},
        preprocessing=config.preprocessing,
        training_prior=priors.training_prior(index, config.classes),
        calibration=calibration,
        test_time_views=row.test_time_views,
        weights_sha256=manifest["weights_sha256"],
        **_refusal(config, file.parent, model),
    )


def _refusal(config: Config, folder: Path, model: str) -> dict:
    """Return when the network refuses an image, as notebook 07 has found out."""
    file = paths.run_folder(config.name) / "reliability.json"
    if model != config.primary or not file.is_file():
        return {"refusal": None, "space": None}
    chosen = json.loads(file.read_text(encoding="utf-8"))["refusal"]
    arrays, note = array_files.read_arrays(folder / "space.npz")
    if note["model"] != model:
        raise ValueError(
            f"{paths.relative(folder)}/space.npz is of {note['model']}, not of {model}"
        )
    refusal = published_networks.Refusal(thresholds=chosen["thresholds"])
    return {"refusal": refusal, "space": probes.Space(**arrays)}
