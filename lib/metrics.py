"""Predictions and what they are worth: scores, intervals over lesions, `metrics.json`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, roc_curve

from lib import paths, splits, tables
from lib.config import Config

#: Names of the models in every table, in the order in which they are shown; `titles` puts the
#: configured backbone's name in place of VGG16's.
MODELS = {
    "majority": "Always the most frequent class",
    "color_texture_svm": "Hand-crafted features, SVM",
    "color_texture_forest": "Hand-crafted features, random forest",
    "baseline_cnn": "Baseline CNN (8 convolutions)",
    "alexnet": "AlexNet, from scratch",
    "vgg16_linear": "VGG16 features, logistic regression",
    "vgg16_frozen": "VGG16, frozen",
    "vgg16_fine_tuned": "VGG16, fine-tuned",
}
#: The folders under runs/<run> and the models that each holds.
FOLDERS = {
    "traditional": ["color_texture_svm", "color_texture_forest"],
    "baseline_cnn": ["baseline_cnn"],
    "alexnet": ["alexnet"],
    "vgg16_transfer": ["vgg16_linear", "vgg16_frozen", "vgg16_fine_tuned"],
}
#: The notebook that makes each folder.
NOTEBOOKS = {
    "traditional": "03_baseline_cnn",
    "baseline_cnn": "03_baseline_cnn",
    "alexnet": "03_baseline_cnn",
    "vgg16_transfer": "04_vgg16_transfer",
}
#: How each came about: a name, the folder and the file. `vgg16_transfer` is the fine-tuned network.
MANIFESTS = {folder: (folder, "manifest.json") for folder in FOLDERS} | {
    "vgg16_frozen": ("vgg16_transfer", "manifest_frozen.json")
}
#: Pairs whose difference answers a question: a model, and the one it is compared with.
COMPARISONS = [
    ("baseline_cnn", "majority"),  # does the paper's network beat an answer without looking?
    ("baseline_cnn", "color_texture_svm"),  # does it beat hand-crafted features?
    ("alexnet", "baseline_cnn"),  # is the other network from scratch better?
    ("vgg16_frozen", "baseline_cnn"),  # is a pretrained one?
    ("vgg16_frozen", "vgg16_linear"),  # does a trained head beat a linear classifier?
    ("vgg16_fine_tuned", "vgg16_frozen"),  # does fine-tuning help?
    ("vgg16_fine_tuned", "vgg16_linear"),  # does it beat the linear classifier?
    ("vgg16_fine_tuned", "color_texture_svm"),  # does the whole effort beat hand-crafted features?
]
#: The two rules, and the column that holds each one's predictions (`decide`).
RULES = {"training_prior": "training prior", "equal_priors": "equal priors"}
PREDICTED = {"training_prior": "predicted", "equal_priors": "predicted_equal_priors"}
#: The headline scores. Accuracy counts images as they come, so it is that of the training prior's
#: rule; balanced accuracy weighs the classes alike, so it is that of the equal priors'.
SCORES = {
    "accuracy": "accuracy (training prior)",
    "balanced_accuracy": "balanced accuracy (equal priors)",
    "macro_auc": "macro AUC (training prior)",
}
HEADLINE = {"accuracy": "training_prior", "balanced_accuracy": "equal_priors"}
#: What the paper reports; its accuracies do not agree with one another.
PAPER = {
    "accuracy": [
        {"value": 0.93, "where": "Result: three skin diseases"},
        {"value": 0.95, "where": "Conclusion: 'cats, dogs, and birds'"},
        {"value": 0.90, "where": "Conclusion: validation, 'cats, dogs, and birds'"},
    ]
}


BLOCK = 100  # draws whose areas are computed at once
DIGITS = 6  # of a probability in a table
#: What a row of predictions and one of the index have in common.
KEY = ["model", "image_id", "lesion_id", "group_id", "split", "label"]


def titles(config: Config) -> dict[str, str]:
    """Return the name of each model, with the configured backbone in place of VGG16."""
    backbone = config.vgg16_transfer.backbone
    return {name: title.replace("VGG16", backbone) for name, title in MODELS.items()}


# ------------------------------------------------------------------------------ priors and rules


def training_prior(index: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return each class's share among the training images, ndarray of float, shape (classes,).

    Raises
    ------
    ValueError
        A class without a training image: no posterior can be converted to or from its prior.
    """
    return _shares(index.loc[index["split"] == "train", "label"], classes)


def fold_prior(index: pd.DataFrame, fold: int, classes: list[str]) -> np.ndarray:
    """Return each class's share among the images of the other folds, shape (classes,).

    The models that predict a fold's images were trained on those, whatever the split.

    Raises
    ------
    ValueError
        As `training_prior`.
    """
    return _shares(index.loc[index["fold"] != fold, "label"], classes)


def _shares(labels: pd.Series, classes: list[str]) -> np.ndarray:
    counts = labels.value_counts().reindex(classes, fill_value=0)
    if not counts.all():
        raise ValueError(f"no training image of class {counts.idxmin()}; expected some of each")
    return counts.to_numpy() / counts.sum()


def change_prior(probabilities: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Convert posteriors from one prior to another: p * after / before, renormalised.

    Saerens, Latinne, Decaestecker (2002), Neural Computation 14:21, equation 2.4.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under `before`; 0 stays 0.
    before, after : ndarray of float, shape (classes,)
        Shares of the classes, as shares or as counts.

    Returns
    -------
    ndarray of float, shape (n, classes)
        Rows add up to 1.

    Raises
    ------
    ValueError
        Other shapes, values that are negative or not numbers, a row of all zeros, or a prior of
        0 for a class that has probability.
    """
    probabilities = np.asarray(probabilities, float)
    priors = np.array([before, after], float)
    if probabilities.ndim != 2 or priors.shape != (2, probabilities.shape[1]):
        raise ValueError(
            f"found probabilities of shape {probabilities.shape} and priors of shape "
            f"{np.shape(before)} and {np.shape(after)}; expected (n, classes) and (classes,)"
        )
    for name, values in (("probabilities", probabilities), ("priors", priors)):
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{name}: expected numbers from 0 up; found {values.min()}")
    impossible = (priors == 0).any(axis=0) & (probabilities > 0).any(axis=0)
    if impossible.any():
        raise ValueError(
            f"class {np.flatnonzero(impossible)[0]} has probability, but a prior of 0: found "
            f"{priors[0].tolist()} and {priors[1].tolist()}"
        )
    empty = ~probabilities.any(axis=1)
    if empty.any():
        raise ValueError(f"row {np.flatnonzero(empty)[0]}: all probabilities are 0")
    ratio = np.divide(priors[1], priors[0], out=np.zeros(len(priors[0])), where=priors[0] > 0)
    converted = probabilities * ratio
    return converted / converted.sum(axis=1, keepdims=True)


# -------------------------------------------------------------------------------- predictions


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
    for column, chosen in decide(probabilities, prior).items():
        table[column] = np.array(classes)[chosen]
    columns = {f"prob_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return table.assign(**columns)


def decide(probabilities: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each rule chooses, one column of a table each: the place of a class.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        Posteriors under `prior`. Of equal ones, the first class is chosen.
    """
    equal = change_prior(probabilities, prior, np.full(len(prior), 1 / len(prior)))
    return {
        PREDICTED["training_prior"]: probabilities.argmax(axis=1),
        PREDICTED["equal_priors"]: equal.argmax(axis=1),
    }


def both_scores(table: pd.DataFrame) -> dict[str, float]:
    """Return each rule's own score of one model's predictions, without an interval."""
    return {
        "accuracy, training prior": accuracy_score(table["label"], table["predicted"]),
        "balanced accuracy, equal priors": balanced_accuracy_score(
            table["label"], table["predicted_equal_priors"]
        ),
    }


def predictions_schema(classes: list[str]) -> pa.DataFrameSchema:
    """Return the schema of `predictions.csv`; probabilities add up to 1 in each row."""
    adds_up = pa.Check(
        lambda table: abs(table[[f"prob_{name}" for name in classes]].sum(axis=1) - 1) < 1e-4,
        name="probabilities add up to 1",
    )
    return pa.DataFrameSchema(
        {
            "model": pa.Column(str, pa.Check.isin(MODELS)),
            "image_id": pa.Column(str),
            "lesion_id": pa.Column(str),
            "group_id": pa.Column(str),
            "split": pa.Column(str, pa.Check.isin(splits.SPLITS)),
            "label": pa.Column(str, pa.Check.isin(classes)),
        }
        | {column: pa.Column(str, pa.Check.isin(classes)) for column in PREDICTED.values()}
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
    for folder, names in FOLDERS.items():
        file = _made_by(folder, "predictions.csv", config)
        table = tables.read_table(file, predictions_schema(config.classes))
        _check_images(table, names, held_out, KEY, file)
        _check_decisions(table, training_prior(index, config.classes), config.classes, file)
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
    names = [name for name in MODELS if name in set(table["model"])]
    _check_images(table, names, index, [*KEY, "fold"], file)
    for fold, rows in table.groupby("fold"):
        prior = fold_prior(index, fold, config.classes)
        _check_decisions(rows, prior, config.classes, file, f" of fold {fold}")
    return table


def _made_by(folder: str, name: str, config: Config) -> Path:
    file = paths.run_folder(config.name) / folder / name
    if not file.is_file():
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run notebooks/{NOTEBOOKS[folder]}.ipynb, "
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
    for column, chosen in decide(_probabilities(table, classes), prior).items():
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
    return prediction_table("majority", rows, always, classes, training_prior(index, classes))


# ------------------------------------------------------------------------------------- scores


def evaluate(table: pd.DataFrame, config: Config) -> dict:
    """Score one model's predictions, each score with a bootstrap interval over lesions.

    Parameters
    ----------
    table : DataFrame
        One model's rows of one split.

    Returns
    -------
    dict
        As `metrics.json` holds it: the headline `accuracy`, `balanced_accuracy` and `macro_auc`,
        each with `value`, `low`, `high`; in `rules`, for each of `RULES`: `accuracy`,
        `balanced_accuracy`, `per_class` and `confusion` (counts, rows actual).
    """
    table = table.sort_values("image_id")
    draws = lesion_weights(table, config.evaluation.bootstrap_draws, config.seed)
    return _summary(table, score_draws(table, config.classes, draws), config)


def evaluate_models(table: pd.DataFrame, config: Config) -> dict:
    """Score every model of a table and compare those of `COMPARISONS`, on the same draws.

    Parameters
    ----------
    table : DataFrame
        The predictions of several models on the same images.

    Returns
    -------
    dict
        `models`: for each its `title` and what `evaluate` returns; `differences`: for each pair
        that is there its `model`, `less` and the difference in each of `SCORES`.
    """
    parts = {
        name: table[table["model"] == name].sort_values("image_id")
        for name in MODELS
        if name in set(table["model"])
    }
    images = next(iter(parts.values()))
    weights = lesion_weights(images, config.evaluation.bootstrap_draws, config.seed)
    draws = {name: score_draws(rows, config.classes, weights) for name, rows in parts.items()}
    names = titles(config)
    return {
        "models": {
            name: {"title": names[name]} | _summary(rows, draws[name], config)
            for name, rows in parts.items()
        },
        "differences": [
            {"model": after, "less": before}
            | _intervals(_differences(draws[after], draws[before]), config)
            for after, before in COMPARISONS
            if after in draws and before in draws
        ],
    }


def _summary(table: pd.DataFrame, draws: dict, config: Config) -> dict:
    """Turn one model's `score_draws` into what `evaluate` returns."""
    return _intervals(_headline(draws), config) | {
        "rules": {rule: _rule_summary(table, rule, draws, config) for rule in RULES}
    }


def _rule_summary(table: pd.DataFrame, rule: str, draws: dict, config: Config) -> dict:
    classes, level = config.classes, config.evaluation.confidence
    counts = confusion_matrix(table["label"], table[PREDICTED[rule]], labels=classes)
    lesions = table.groupby("label")["lesion_id"].nunique()
    return {
        "accuracy": interval(draws[rule]["accuracy"], level),
        "balanced_accuracy": interval(draws[rule]["balanced_accuracy"], level),
        "per_class": {
            name: per_class(counts, i)
            | {
                "lesions": int(lesions[name]),
                "sensitivity": interval(draws[rule][f"sensitivity_{name}"], level),
                "auc": interval(draws["auc"][name], level),
            }
            for i, name in enumerate(classes)
        },
        "confusion": counts.tolist(),
    }


def _headline(draws: dict) -> dict[str, np.ndarray]:
    scores = {score: draws[rule][score] for score, rule in HEADLINE.items()}
    return scores | {"macro_auc": draws["auc"]["macro"]}


def _differences(after: dict, before: dict) -> dict[str, np.ndarray]:
    before = _headline(before)
    return {score: values - before[score] for score, values in _headline(after).items()}


def _intervals(draws: dict[str, np.ndarray], config: Config) -> dict[str, dict]:
    return {name: interval(draws[name], config.evaluation.confidence) for name in draws}


def per_class(confusion: np.ndarray, i: int) -> dict:
    """Return sensitivity, specificity, precision and F1 of class `i` against the others.

    Precision is None for a class that was never predicted.
    """
    true_positive = int(confusion[i, i])
    actual, predicted = int(confusion[i].sum()), int(confusion[:, i].sum())
    others = int(confusion.sum()) - actual
    true_negative = others - (predicted - true_positive)
    return {
        "images": actual,
        "sensitivity": true_positive / actual,
        "specificity": true_negative / others,
        "precision": true_positive / predicted if predicted else None,
        "f1": 2 * true_positive / (actual + predicted),
    }


def lesion_weights(table: pd.DataFrame, draws: int, seed: int) -> np.ndarray:
    """Draw lesions with replacement, within each class, and say how often each image is drawn.

    Images of one lesion are alike, so lesions are drawn, not images (cluster bootstrap, Field and
    Welsh, J. R. Stat. Soc. B 69:369, 2007); lesions joined for a near-duplicate count as one. The
    number of lesions of each class is held fixed.

    Returns
    -------
    ndarray of float, shape (1 + draws, n)
        The first row is the sample itself: all ones.
    """
    random = np.random.default_rng(seed)
    weights = np.ones((1 + draws, len(table)))
    lesion = table["group_id"].to_numpy()
    for label in sorted(table["label"].unique()):
        rows = np.flatnonzero(table["label"] == label)
        names, of_row = np.unique(lesion[rows], return_inverse=True)
        share = np.full(len(names), 1 / len(names))
        weights[1:, rows] = random.multinomial(len(names), share, size=draws)[:, of_row]
    return weights


def auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve for each row of weights; ties count one half.

    The scores are sorted once; each positive then counts the negatives below it.

    Parameters
    ----------
    score : ndarray of float, shape (n,)
    positive : ndarray of bool, shape (n,)
    weights : ndarray of float, shape (draws, n)
    """
    order = np.argsort(score, kind="stable")
    positive = positive[order]
    first = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)  # of each run of ties
    areas = []
    for start in range(0, len(weights), BLOCK):
        drawn = weights[start : start + BLOCK, order]
        of_positive = np.add.reduceat(drawn * positive, first, axis=1)
        of_negative = np.add.reduceat(drawn * ~positive, first, axis=1)
        below = np.cumsum(of_negative, axis=1) - of_negative / 2
        pairs = of_positive.sum(axis=1) * of_negative.sum(axis=1)
        areas.append((of_positive * below).sum(axis=1) / pairs)
    return np.concatenate(areas)


def roc_curves(table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Return each class's ROC curve against the others, as a long table for one model."""
    parts = []
    for name in classes:
        false_positive, true_positive, threshold = roc_curve(
            table["label"] == name, table[f"prob_{name}"], drop_intermediate=False
        )
        parts.append(
            pd.DataFrame(
                {
                    "class": name,
                    "false_positive_rate": false_positive,
                    "sensitivity": true_positive,
                    "threshold": threshold,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def mean_interval(values: np.ndarray, table: pd.DataFrame, config: Config) -> dict:
    """Return the mean of one value an image with its bootstrap interval over lesions."""
    weights = lesion_weights(table, config.evaluation.bootstrap_draws, config.seed)
    return interval(weights @ values / weights.sum(axis=1), config.evaluation.confidence)


def score_draws(
    table: pd.DataFrame, classes: list[str], weights: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return every score for each row of weights, ndarray of float, shape (draws,).

    Parameters
    ----------
    table : DataFrame
        `label`, both predictions and the probabilities, one row an image.
    weights : ndarray of float, shape (draws, n)
        From `lesion_weights`.

    Returns
    -------
    dict of dict
        For each of `RULES`: `accuracy`, `balanced_accuracy`, `sensitivity_<class>`; under `auc`:
        each class against the others, and `macro`, their mean. The areas are those of the
        posterior under the training prior.
    """
    rules = {rule: rule_draws(table, PREDICTED[rule], classes, weights) for rule in RULES}
    return rules | {"auc": auc_draws(table, classes, weights)}


def auc_draws(
    table: pd.DataFrame, classes: list[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each class's area under the ROC curve, and their mean, `macro`, for each draw."""
    areas = {
        name: auc(table[f"prob_{name}"].to_numpy(), (table["label"] == name).to_numpy(), weights)
        for name in classes
    }
    return areas | {"macro": np.mean(list(areas.values()), axis=0)}


def rule_draws(
    table: pd.DataFrame, column: str, classes: list[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the scores of the predictions in a column for each draw."""
    right = (table["label"] == table[column]).to_numpy(float)
    scores = {"accuracy": weights @ right / weights.sum(axis=1)}
    for name in classes:
        actual = (table["label"] == name).to_numpy(float)
        scores[f"sensitivity_{name}"] = weights @ (right * actual) / (weights @ actual)
    of_classes = [scores[f"sensitivity_{name}"] for name in classes]
    return scores | {"balanced_accuracy": np.mean(of_classes, axis=0)}


def interval(values: np.ndarray, confidence: float) -> dict[str, float]:
    """Return the first value (the sample's own) and the percentile interval of the others."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


# ------------------------------------------------------------------------------- metrics.json


def build_metrics(
    predictions: pd.DataFrame,
    index: pd.DataFrame,
    config: Config,
    cross_validation: pd.DataFrame | None = None,
) -> dict:
    """Gather what the reports and the README say of a run: the contents of `metrics.json`.

    Parameters
    ----------
    predictions : DataFrame
        From `read_predictions`.
    cross_validation : DataFrame, optional
        From `read_cross_validation`.
    """
    settings = config.evaluation
    return {
        "run": config.name,
        "title": config.title,
        "synthetic": config.data.synthetic is not None,
        "classes": config.classes,
        "images": _count(index, "image_id"),
        "lesions": _count(index, "lesion_id"),
        "training_prior": dict(
            zip(config.classes, training_prior(index, config.classes).tolist(), strict=True)
        ),
        "split_sha256": splits.digest(index),
        "interval": f"{100 * settings.confidence:g}% percentile bootstrap over lesions, drawn "
        f"within each class, {settings.bootstrap_draws} draws",
        **evaluate_models(predictions[predictions["split"] == "test"], config),
        "cross_validation": _cross_validation(cross_validation, config),
        "paper": PAPER,
        "manifest": manifests(config) | {"configuration": configuration(config)},
    }


def configuration(config: Config) -> dict:
    """Return a run's choices as `metrics.json` holds them; of a folder elsewhere, its name only."""
    values = config.model_dump()
    values["data"]["folder"] = paths.relative(paths.resolve(config.data.folder))
    return values


def _count(index: pd.DataFrame, unit: str) -> dict[str, int]:
    counts = index.groupby("split")[unit].nunique()
    return {split: int(counts[split]) for split in splits.SPLITS}


def _cross_validation(table: pd.DataFrame | None, config: Config) -> dict | None:
    if table is None:
        return None
    counts = table[["image_id", "lesion_id", "fold"]].nunique()
    return {
        "images": int(counts["image_id"]),
        "lesions": int(counts["lesion_id"]),
        "folds": int(counts["fold"]),
        **evaluate_models(table, config),
    }


# -------------------------------------------------------------------------- tables for a reader
# Each takes `metrics.json`, or its part on cross-validation where that is there.


def headline_table(metrics: dict) -> pd.DataFrame:
    """Return one row a model, one column a score, as `value (low to high)`, ready to be shown."""
    return pd.DataFrame(
        {
            title: {
                model["title"]: format_interval(model[score])
                for model in metrics["models"].values()
            }
            for score, title in SCORES.items()
        }
    )


def rule_table(metrics: dict) -> pd.DataFrame:
    """Return one row a model, and accuracy and balanced accuracy under each rule, to be shown."""
    return pd.DataFrame(
        {
            (score.replace("_", " "), title): {
                model["title"]: format_interval(model["rules"][rule][score])
                for model in metrics["models"].values()
            }
            for score in HEADLINE
            for rule, title in RULES.items()
        }
    )


def difference_table(metrics: dict) -> pd.DataFrame:
    """Return one row for each pair of models that is compared, ready to be shown.

    Without a pair of `COMPARISONS`, as where only one model is cross-validated, it has no rows.
    """
    names = {name: model["title"] for name, model in metrics["models"].items()}
    pairs = [(names[pair["model"]], names[pair["less"]]) for pair in metrics["differences"]]
    return pd.DataFrame(
        [
            {title: format_interval(pair[score]) for score, title in SCORES.items()}
            for pair in metrics["differences"]
        ],
        index=pd.MultiIndex.from_tuples(pairs, names=["model", "less"]),
        columns=list(SCORES.values()),
    )


def class_table(metrics: dict, rule: str = "equal_priors") -> pd.DataFrame:
    """Return one row a model and class, ready to be shown; a dash where a score is not defined."""

    def show(value):
        if isinstance(value, dict):
            return format_interval(value, 2)
        return "–" if value is None else f"{value}" if isinstance(value, int) else f"{value:.2f}"

    rows = {
        (model["title"], name): {score: show(value) for score, value in scores.items()}
        for model in metrics["models"].values()
        for name, scores in model["rules"][rule]["per_class"].items()
    }
    return pd.DataFrame(rows).T.rename_axis(["model", "class"])


def confusion_table(metrics: dict) -> pd.DataFrame:
    """Return every confusion matrix as one long table: `model`, `rule`, classes and `images`."""
    classes = metrics["classes"]
    return pd.DataFrame(
        [
            {"model": name, "rule": rule, "actual": actual, "predicted": predicted, "images": n}
            for name, model in metrics["models"].items()
            for rule, scores in model["rules"].items()
            for actual, row in zip(classes, scores["confusion"], strict=True)
            for predicted, n in zip(classes, row, strict=True)
        ]
    )


def format_interval(score: dict, digits: int = 3) -> str:
    """Return `0.873 (0.812 to 0.925)`."""
    value, low, high = (f"{score[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def write_json(values: dict, file: Path) -> Path:
    """Write a JSON file whole or not at all."""
    return paths.write_text(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def manifests(config: Config) -> dict:
    """Read how each model came about, and the speeds by which its number format was chosen."""
    said = {}
    for name, (folder, file) in MANIFESTS.items():
        said[name] = json.loads(_made_by(folder, file, config).read_text(encoding="utf-8"))
        measured = paths.run_folder(config.name) / folder / "precision.json"
        if config.training.precision == "auto" and measured.is_file():
            speeds = json.loads(measured.read_text(encoding="utf-8"))["images_per_second"]
            said[name]["images_per_second"] = speeds
    return said
