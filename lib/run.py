"""Open a run: its configuration, index, images and class prior; write and read predictions."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lib import figures, paths, tables
from lib.config import Config, load_config
from lib.data import datasets
from lib.evaluation import prediction_files, priors
from lib.preprocessing import image_array


class Run:
    """A run whose index notebook 01 has written.

    Attributes
    ----------
    config : Config
    classes : list of str
    folder : Path
        `runs/<run>`: what the run computes.
    index : DataFrame
        `datasets.index_schema`: one row per image; row i is row i of `images`.
    targets : ndarray of int, shape (n,)
        The class of each image, as its position in `classes`.
    class_prior : ndarray of float, shape (classes,)
        The frequency of each class among the training images, the training prior.
    held_out : DataFrame
        The validation and test images: those rows of the index, in its order.
    """

    def __init__(self, config: Config):
        self.config, self.classes = config, config.classes
        self.folder = paths.run_folder(config.name)
        self.index = datasets.read_index(config)
        self.targets = self.index["label"].map(self.classes.index).to_numpy()
        self.class_prior = priors.training_prior(self.index, self.classes)
        self.held_out = self.index[self.index["split"] != "train"]

    @cached_property
    def images(self) -> np.ndarray:
        """The preprocessed images, ndarray of uint8, shape (n, size, size, 3), memory-mapped."""
        return image_array.open_images(self.index, self.config)

    def write_images(self) -> None:
        """Preprocess the images of the index into `images.npy`; unchanged ones are kept."""
        image_array.write_images(self.index, self.data_folder, self.config)

    @cached_property
    def data_folder(self) -> Path:
        """The folder of the original images and masks."""
        return datasets.open_folder(self.config)

    @cached_property
    def has_mask(self) -> np.ndarray:
        """Whether each image has a lesion mask, ndarray of bool, shape (n,)."""
        masks = datasets.find_masks(self.data_folder, self.index["image_id"])
        return self.index["image_id"].isin(masks.index).to_numpy()

    @cached_property
    def read_mask(self) -> Callable[[int], np.ndarray | None]:
        """The function that `datasets.lesion_mask_reader` returns for these images."""
        return datasets.lesion_mask_reader(self.data_folder, self.index, self.config.preprocessing)

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split (`train`, `validation` or `test`), ndarray of int."""
        return np.flatnonzero(self.index["split"] == split)

    def prediction_table(
        self, model: str, probabilities: np.ndarray, rows: np.ndarray | None = None
    ) -> pd.DataFrame:
        """Return a model's predictions, by default on the held-out images.

        Parameters
        ----------
        model : str
            A name of `models.models_of(config)`.
        probabilities : ndarray of float, shape (n, classes)
            Posteriors under the training prior.
        rows : ndarray of int, shape (n,), optional
            The rows of the index that were predicted.

        Returns
        -------
        DataFrame
            `prediction_files.predictions_schema`.
        """
        images = self.held_out if rows is None else self.index.loc[rows]
        return prediction_files.prediction_table(
            model, images, probabilities, self.classes, self.class_prior
        )

    def write_predictions(self, folder: str, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
        """Write `<folder>/predictions.csv`, the predictions of models on the held-out images.

        Parameters
        ----------
        folder : str
            Below the run's folder, such as `baseline_cnn`.
        probabilities : dict of str to ndarray of float, shape (held-out images, classes)
            For each model, posteriors under the training prior, in the order of `held_out`.

        Returns
        -------
        DataFrame
            `prediction_files.predictions_schema`.
        """
        table = pd.concat(
            [self.prediction_table(model, values) for model, values in probabilities.items()],
            ignore_index=True,
        )
        tables.write_table(table, self.folder / folder / "predictions.csv")
        return table

    def read_predictions(self) -> pd.DataFrame:
        """Read the predictions of all models on the held-out images.

        Returns
        -------
        DataFrame
            As `write_predictions` returns it, with the predictions of `models.TRIVIAL` added.

        Raises
        ------
        FileNotFoundError, ValueError
            A notebook that writes predictions has not run, or its table is of another split.
        """
        return prediction_files.read_predictions(self.config, self.index)


def open_run(config: str | Path) -> Run:
    """Read a configuration and the run's index, and set the style of figures.

    Notebooks that train or run networks also call `training.set_seed(run.config.seed)`.

    Parameters
    ----------
    config : str or Path
        A YAML file, relative to the repository or absolute.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such configuration or it is invalid; or notebook 01 has not written the index,
        or wrote it with other settings.

    Examples
    --------
    >>> run = open_run("configs/demo.yaml")  # doctest: +SKIP
    >>> run.images[run.rows("train")[0]].shape  # doctest: +SKIP
    (256, 256, 3)
    """
    settings = load_config(config)
    figures.use_style(settings)
    return Run(settings)
