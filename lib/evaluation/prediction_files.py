"""Tables of predictions: schema, writing, reading and checking."""

from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from lib import paths, tables
from lib.config import Config
from lib.data import splits
from lib.evaluation import model_names, priors

DIGITS = 6  # of a probability in a table

#: What a row of predictions and one of the index have in common.
KEY = ["model", "image_id", "lesion_id", "group_id", "split", "label"]


def prediction_table(
    model: str,
    rows: pd.DataFrame,
    probabilities: np.ndarray,
    classes: list[str],
    prior: np.ndarray,
) -> pd.DataFrame:
    """Put a model's probabilities, and what follows from them, beside what is known of each image.

    Parameters
    ----------
    rows : DataFrame
        The index's rows of these images.
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under the training prior. A network trained with balanced classes puts out
        posteriors under equal priors; `change_prior` converts them.
    prior : ndarray of float, shape (classes,)
        The training prior, from `training_prior`.

    Returns
    -------
    DataFrame
        `predictions_schema(classes)`: one row an image, probabilities rounded to six digits.
        `predicted` is the class with the highest of them, `predicted_equal_priors` that with the
        highest after `change_prior` to equal priors; both follow from the rounded numbers.
    """
    table = rows[["image_id", "lesion_id", "group_id", "split", "label"]].reset_index(drop=True)
    table.insert(0, "model", model)
    probabilities = np.asarray(probabilities, float).round(DIGITS)
    for column, chosen in priors.decide(probabilities, prior).items():
        table[column] = np.array(classes)[chosen]
    columns = {f"prob_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return table.assign(**columns)


def both_scores(table: pd.DataFrame) -> dict[str, float]:
    """Return each rule's own score of one model's predictions, without an interval."""
    return {
        "accuracy, training prior": accuracy_score(table["label"], table["predicted"]),
        "balanced accuracy, equal priors": balanced_accuracy_score(
            table["label"], table["predicted_equal_priors"]
        ),
    }


def score_table(predictions: pd.DataFrame, titles: dict[str, str]) -> pd.DataFrame:
    """Return `both_scores` of several models, one row per model, named by its title."""
    models = predictions.groupby("model", sort=False)
    return pd.DataFrame({titles[name]: both_scores(rows) for name, rows in models}).T


def confusion_matrices(
    predictions: pd.DataFrame, titles: dict[str, str], classes: list[str]
) -> dict[str, np.ndarray]:
    """Return the confusion matrix of each model under equal priors, rows the actual class."""
    return {
        titles[name]: confusion_matrix(
            rows["label"], rows["predicted_equal_priors"], labels=classes
        )
        for name, rows in predictions.groupby("model", sort=False)
    }


def predictions_schema(classes: list[str]) -> pa.DataFrameSchema:
    """Return the schema of `predictions.csv`; probabilities add up to 1 in each row."""
    adds_up = pa.Check(
        lambda table: abs(table[[f"prob_{name}" for name in classes]].sum(axis=1) - 1) < 1e-4,
        name="probabilities add up to 1",
    )
    return pa.DataFrameSchema(
        {
            "model": pa.Column(str, pa.Check.isin(model_names.MODELS)),
            "image_id": pa.Column(str),
            "lesion_id": pa.Column(str),
            "group_id": pa.Column(str),
            "split": pa.Column(str, pa.Check.isin(splits.SPLITS)),
            "label": pa.Column(str, pa.Check.isin(classes)),
        }
        | {column: pa.Column(str, pa.Check.isin(classes)) for column in priors.PREDICTED.values()}
        | {f"prob_{name}": pa.Column(float, pa.Check.in_range(0, 1)) for name in classes},
        checks=adds_up,
        unique=["model", "image_id"],
        strict=True,
    )


def cross_validation_schema(classes: list[str]) -> pa.DataFrameSchema:
    """Return the schema of `cross_validation.csv`: as `predictions.csv`, and the fold held out."""
    return predictions_schema(classes).add_columns({"fold": pa.Column(int, pa.Check.ge(0))})


def read_predictions(config: Config, index: pd.DataFrame) -> pd.DataFrame:
    """Read every model's predictions on the validation and test images, and the majority's.

    Raises
    ------
    FileNotFoundError
        A folder without predictions; the message names the notebook that makes them.
    ValueError
        A table that is not as the schema has it, that was made from another split, or whose
        predictions do not follow from its probabilities.
    """
    parts = [_majority_predictions(index, config.classes)]
    held_out = index[index["split"] != "train"]
    for folder, names in model_names.FOLDERS.items():
        file = existing_file(folder, "predictions.csv", config)
        table = tables.read_table(file, predictions_schema(config.classes))
        _check_images(table, names, held_out, KEY, file)
        _check_decisions(table, priors.training_prior(index, config.classes), config.classes, file)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def read_cross_validation(config: Config, index: pd.DataFrame) -> pd.DataFrame | None:
    """Read the out-of-fold predictions on every image; None where the run has none.

    They are posteriors under the prior of the images that each fold's models were trained on,
    `fold_prior`, not under the run's `training_prior`.

    Raises
    ------
    ValueError
        A table that is not as `cross_validation_schema` has it, that was made from other folds,
        or whose predictions do not follow from its probabilities and the prior of their fold.
    """
    file = paths.run_folder(config.name) / "vgg16_transfer" / "cross_validation.csv"
    if not file.is_file():
        return None
    table = tables.read_table(file, cross_validation_schema(config.classes))
    names = [name for name in model_names.MODELS if name in set(table["model"])]
    _check_images(table, names, index, [*KEY, "fold"], file)
    for fold, rows in table.groupby("fold"):
        prior = priors.fold_prior(index, fold, config.classes)
        _check_decisions(rows, prior, config.classes, file, f" of fold {fold}")
    return table


def existing_file(folder: str, name: str, config: Config) -> Path:
    """Return the path of a file of the run, or raise an error that names the notebook to run."""
    file = paths.run_folder(config.name) / folder / name
    if not file.is_file():
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run "
            f"notebooks/{model_names.NOTEBOOKS[folder]}.ipynb, "
            "which writes it"
        )
    return file


def _check_images(
    table: pd.DataFrame, names: list[str], rows: pd.DataFrame, key: list[str], file: Path
) -> None:
    """Check that a table has each model's answer to each of these images, and no other."""
    expected = pd.concat([rows.assign(model=name) for name in names])
    both = expected[key].merge(table[key], how="outer", indicator="where")
    wrong = both[both["where"] != "both"]
    if len(wrong):
        raise ValueError(
            f"{paths.relative(file)} was made from another split: {len(wrong)} rows are "
            f"missing or not of it, the first: {wrong.iloc[0][key].to_dict()}; run it again"
        )


def _check_decisions(
    table: pd.DataFrame, prior: np.ndarray, classes: list[str], file: Path, of: str = ""
) -> None:
    """Check that both predictions follow from the probabilities and the training prior.

    Parameters
    ----------
    prior : ndarray of float, shape (classes,)
        Of the images that the models were trained on: `training_prior` or `fold_prior`.
    of : str
        Added to the words "training shares" in the error.
    """
    for column, chosen in priors.decide(_probabilities(table, classes), prior).items():
        expected = np.array(classes)[chosen]
        wrong = np.flatnonzero(table[column] != expected)
        if len(wrong):
            first = table.iloc[wrong[0]]
            raise ValueError(
                f"{paths.relative(file)}: {column} does not follow from the probabilities and the "
                f"training shares{of} {prior.round(4).tolist()} in {len(wrong)} rows, the first: "
                f"{first['model']}, {first['image_id']}: found {first[column]}, expected "
                f"{expected[wrong[0]]}"
            )


def _probabilities(table: pd.DataFrame, classes: list[str]) -> np.ndarray:
    return table[[f"prob_{name}" for name in classes]].to_numpy()


def _majority_predictions(index: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Answer every image with the most frequent class; of equals, the alphabet's first."""
    most_frequent = index.loc[index["split"] == "train", "label"].mode()[0]
    rows = index[index["split"] != "train"]
    always = np.tile([float(name == most_frequent) for name in classes], (len(rows), 1))
    return prediction_table(
        "majority", rows, always, classes, priors.training_prior(index, classes)
    )
