"""Load a network of a finished run, runs/<run>, to publish it or to predict with it."""

from pathlib import Path

from lib import paths
from lib.config import Config
from lib.data import datasets
from lib.evaluation import priors
from lib.evaluation.calibration import Calibration
from lib.networks import published_networks, saving
from lib.networks.backend import keras


def run_file(config: Config, model: str) -> Path:
    """Return the file of a network of one's own run, whether it exists or not."""
    folder, name = published_networks.SOURCES[model]
    return paths.run_folder(config.name) / folder / f"{name}.keras"


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
    network, file = (
        saving.read_model(config, *published_networks.SOURCES[model]),
        run_file(config, model),
    )
    index = datasets.read_index(config)
    prepared = {"preprocessing": config.preprocessing.model_dump()}
    paths.check_note(paths.run_folder(config.name) / "images.npy", prepared, "notebook 02")
    manifest = saving.read_manifest(file)
    settings = config.baseline_cnn if model == "baseline_cnn" else config.vgg16_transfer
    expected = {"class_balance": settings.class_balance}
    if model != "baseline_cnn":  # which predicts each image once
        expected["test_time_views"] = settings.test_time_views
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
        config=config,
        training_prior=priors.training_prior(index, config.classes),
        calibration=calibration,
        class_balance=settings.class_balance,
        test_time_views=expected.get("test_time_views", 1),
        weights_sha256=manifest["weights_sha256"],
    )
