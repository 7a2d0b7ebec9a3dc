"""Prediction tables: build them, and read and check the files that notebooks 03 and 04 wrote."""

from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import paths, tables
from lib.config import Config
from lib.data import splits
from lib.evaluation import priors
from lib.models import Model, models_of

DIGITS = 6  # to which probabilities are rounded

#: What a row of predictions shares with the index, besides the model.
KEY = ["model", "image_id", "lesion_id", "group_id", "split", "label"]


def prediction_table(
    model: str, rows: pd.DataFrame, probabilities: np.ndarray, classes: list[str], prior: np.ndarray
) -> pd.DataFrame:
    """Return a model's predictions of some images as a table.

    Parameters
    ----------
    rows : DataFrame
        The rows of the index for these images.
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under `prior`. The outputs of a network trained with balanced classes are
        posteriors under equal priors; `calibration.Calibration.apply` converts them.
    prior : ndarray of float, shape (classes,)
        The training prior, from `priors.training_prior`.

    Returns
    -------
    DataFrame
        `predictions_schema(classes)`: one row per image, probabilities rounded to six digits.
        `predicted` is the most probable class, `predicted_equal_priors` the most probable class
        after `priors.change_prior` to equal priors. Both follow from the rounded numbers.
    """
    table = rows.assign(model=model)[KEY].reset_index(drop=True)
    probabilities = np.asarray(probabilities, float).round(DIGITS)
    for column, positions in priors.decide(probabilities, prior).items():
        table[column] = np.array(classes)[positions]
    columns = {f"prob_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return table.assign(**columns)


def predictions_schema(classes: list[str]) -> pa.DataFrameSchema:
    """Return the schema of `predictions.csv`; probabilities sum to 1 in each row."""
    columns = priors.PREDICTED.values()
    sum_to_one = pa.Check(
        lambda table: abs(table[[f"prob_{name}" for name in classes]].sum(axis=1) - 1) < 1e-4,
        name="probabilities sum to 1",
    )
    return pa.DataFrameSchema(
        {name: pa.Column(str) for name in KEY}
        | {"split": pa.Column(str, pa.Check.isin(splits.SPLITS))}
        | {name: pa.Column(str, pa.Check.isin(classes)) for name in ("label", *columns)}
        | {f"prob_{name}": pa.Column(float, pa.Check.in_range(0, 1)) for name in classes},
        checks=sum_to_one,
        unique=["model", "image_id"],
        strict=True,
    )


def cross_validation_schema(classes: list[str]) -> pa.DataFrameSchema:
    """Return the schema of `cross_validation.csv`: `predictions.csv` and the held-out fold."""
    return predictions_schema(classes).add_columns({"fold": pa.Column(int, pa.Check.ge(0))})


def read_predictions(config: Config, index: pd.DataFrame) -> pd.DataFrame:
    """Read all models' predictions of held-out images, and those of `models.TRIVIAL`.

    Raises
    ------
    FileNotFoundError
        A folder has no predictions; the message names the notebook that writes them.
    ValueError
        A table does not match the schema or the split, or its predictions do not follow from its
        probabilities.
    """
    held_out = index[index["split"] != "train"]
    prior = priors.training_prior(index, config.classes)
    parts = _trivial_predictions(held_out, config.classes, prior, config.seed)
    for item in config.models:
        models = [model for model in models_of(config).values() if model.settings is item]
        file = existing_file(models[0], "predictions.csv", config)
        table = tables.read_table(file, predictions_schema(config.classes))
        _check_images(table, models, held_out, KEY, file)
        _check_decisions(table, prior, config.classes, file)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def read_cross_validation(config: Config, index: pd.DataFrame) -> pd.DataFrame | None:
    """Read the out-of-fold predictions on every image; None if the run has none.

    They are posteriors under the `fold_prior` of each fold, not under the `training_prior`.

    Raises
    ------
    ValueError
        The table does not match `cross_validation_schema` or the folds, or its predictions do not
        follow from its probabilities and the prior of their fold.
    """
    parts = []
    for item in config.transfers:
        model = models_of(config)[f"{item.name}_linear"]
        file = paths.run_folder(config.name) / model.folder / "cross_validation.csv"
        if not file.is_file():
            continue
        table = tables.read_table(file, cross_validation_schema(config.classes))
        _check_images(table, [model], index, [*KEY, "fold"], file)
        for fold, rows in table.groupby("fold"):
            prior = priors.fold_prior(index, fold, config.classes)
            _check_decisions(rows, prior, config.classes, file, f" of fold {fold}")
        parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else None


def existing_file(model: Model, name: str, config: Config) -> Path:
    """Return the path of a file of a model; if missing, the error names the notebook to run."""
    file = paths.run_folder(config.name) / model.folder / name
    if not file.is_file():
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run notebooks/"
            f"{model.notebook}.ipynb, which writes it"
        )
    return file


def _check_images(
    table: pd.DataFrame, models: list[Model], rows: pd.DataFrame, key: list[str], file: Path
) -> None:
    """Check that a table has the prediction of each model for each image, and no other rows."""
    expected = pd.concat([rows.assign(model=model.name) for model in models])
    joined = expected[key].merge(table[key], how="outer", indicator="side")
    wrong = joined[joined["side"] != "both"]
    if len(wrong):
        raise ValueError(
            f"{paths.relative(file)} was written for another split: {len(wrong)} rows are "
            f"missing or unexpected, the first: {wrong.iloc[0][key].to_dict()}; run "
            f"notebooks/{models[0].notebook}.ipynb again"
        )


def _check_decisions(
    table: pd.DataFrame, prior: np.ndarray, classes: list[str], file: Path, where: str = ""
) -> None:
    """Check that both predictions follow from the probabilities and the training prior."""
    probabilities = table[[f"prob_{name}" for name in classes]].to_numpy()
    for column, positions in priors.decide(probabilities, prior).items():
        expected = np.array(classes)[positions]
        wrong = np.flatnonzero(table[column] != expected)
        if len(wrong):
            first = table.iloc[wrong[0]]
            raise ValueError(
                f"{paths.relative(file)}: {column} does not follow from the probabilities and the "
                f"training prior{where} {prior.round(4).tolist()} in {len(wrong)} rows, the first: "
                f"{first['model']}, {first['image_id']}: found {first[column]}, expected "
                f"{expected[wrong[0]]}"
            )


def _trivial_predictions(
    rows: pd.DataFrame, classes: list[str], prior: np.ndarray, seed: int
) -> list[pd.DataFrame]:
    """Predict without looking: the majority class for all, and classes drawn from the prior."""
    drawn = np.random.default_rng(seed).choice(len(classes), size=len(rows), p=prior)
    chosen = {"majority": np.full(len(rows), prior.argmax()), "stratified": drawn}
    one_hot = np.eye(len(classes))
    return [
        prediction_table(name, rows, one_hot[positions], classes, prior)
        for name, positions in chosen.items()
    ]
