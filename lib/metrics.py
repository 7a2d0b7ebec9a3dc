"""Predictions and what they are worth: scores, intervals over lesions, `metrics.json`."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.metrics import confusion_matrix, roc_curve

from lib import paths, splits, tables
from lib.config import Config

#: Names of the models in every table, in the order in which they are shown; `titles` puts the
#: configured backbone's name in place of VGG16's.
MODELS = {
    "majority": "Always the most frequent class",
    "color_texture_svm": "Colour and texture, SVM",
    "color_texture_forest": "Colour and texture, random forest",
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
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
}
#: What the paper reports; its accuracies do not agree with one another.
PAPER = {
    "accuracy": [
        {"value": 0.93, "where": "Result: three skin diseases"},
        {"value": 0.95, "where": "Conclusion: 'cats, dogs, and birds'"},
        {"value": 0.90, "where": "Conclusion: validation, 'cats, dogs, and birds'"},
    ]
}


#: Of each rule's predictions in a table: see `change_prior`.
PREDICTED = {"training_prior": "predicted", "equal_priors": "predicted_equal_priors"}
DIGITS = 6  # of a probability in a table


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
    counts = index.loc[index["split"] == "train", "label"].value_counts()
    counts = counts.reindex(classes, fill_value=0)
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


def read_predictions(config: Config, index: pd.DataFrame) -> pd.DataFrame:
    """Read every model's predictions on the validation and test images, and the majority's.

    Raises
    ------
    ValueError
        A table that is not as the schema has it, or that was made from another split.
    """
    parts = [_majority_predictions(index, config.classes)]
    held_out = index[index["split"] != "train"]
    key = ["model", "image_id", "lesion_id", "group_id", "split", "label"]
    for folder, names in FOLDERS.items():
        file = paths.run_folder(config.name) / folder / "predictions.csv"
        table = tables.read_table(file, predictions_schema(config.classes))
        expected = pd.concat([held_out.assign(model=name) for name in names])
        both = expected[key].merge(table[key], how="outer", indicator="where")
        wrong = both[both["where"] != "both"]
        if len(wrong):
            raise ValueError(
                f"{paths.relative(file)} was made from another split: {len(wrong)} rows are "
                f"missing or not of it, the first: {wrong.iloc[0][key].to_dict()}; run it again"
            )
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _majority_predictions(index: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
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
        As `metrics.json` holds it: `accuracy`, `balanced_accuracy`, `macro_auc`, each with
        `value`, `low`, `high`; `per_class`; `confusion` (counts, rows actual).
    """
    classes, settings = config.classes, config.evaluation
    table = table.sort_values("image_id")
    draws = lesion_weights(table, settings.bootstrap_draws, config.seed)
    scores = {
        name: interval(values, settings.confidence)
        for name, values in score_draws(table, classes, draws).items()
    }
    counts = confusion_matrix(table["label"], table["predicted"], labels=classes)
    return {
        **{name: scores[name] for name in SCORES},
        "per_class": {
            name: per_class(counts, i)
            | {
                "lesions": int(table.loc[table["label"] == name, "lesion_id"].nunique()),
                "sensitivity": scores[f"sensitivity_{name}"],
                "auc": scores[f"auc_{name}"],
            }
            for i, name in enumerate(classes)
        },
        "confusion": counts.tolist(),
    }


def paired_differences(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Compare each model with the one before it, on the same draws of lesions.

    Parameters
    ----------
    table : DataFrame
        Every model's predictions of one split.

    Returns
    -------
    DataFrame
        One row a pair, one column a score: `difference (low to high)`.
    """
    draws = {}
    for name in MODELS:
        rows = table[table["model"] == name].sort_values("image_id")
        weights = lesion_weights(rows, config.evaluation.bootstrap_draws, config.seed)
        draws[name] = score_draws(rows, config.classes, weights)
    steps = list(MODELS)
    return pd.DataFrame(
        {
            f"{MODELS[after]}, less {MODELS[before]}": {
                title: format_interval(
                    interval(
                        draws[after][score] - draws[before][score], config.evaluation.confidence
                    )
                )
                for score, title in SCORES.items()
            }
            for before, after in itertools.pairwise(steps)
        }
    ).T


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

    Parameters
    ----------
    score : ndarray of float, shape (n,)
    positive : ndarray of bool, shape (n,)
    weights : ndarray of float, shape (draws, n)
    """
    above = np.sign(score[positive][:, None] - score[~positive][None, :]) / 2 + 0.5
    of_positive, of_negative = weights[:, positive], weights[:, ~positive]
    pairs = of_positive.sum(axis=1) * of_negative.sum(axis=1)
    return np.einsum("dp,dp->d", of_positive, of_negative @ above.T) / pairs


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
) -> dict[str, np.ndarray]:
    """Return every score for each row of weights, ndarray of float, shape (draws,).

    Parameters
    ----------
    table : DataFrame
        `label`, `predicted` and the probabilities, one row an image.
    weights : ndarray of float, shape (draws, n)
        From `lesion_weights`.
    """
    right = (table["label"] == table["predicted"]).to_numpy(float)
    scores = {"accuracy": weights @ right / weights.sum(axis=1)}
    for name in classes:
        actual = (table["label"] == name).to_numpy()
        scores[f"sensitivity_{name}"] = (
            weights[:, actual] @ right[actual] / weights[:, actual].sum(axis=1)
        )
        scores[f"auc_{name}"] = auc(table[f"prob_{name}"].to_numpy(), actual, weights)
    scores["balanced_accuracy"] = np.mean(
        [scores[f"sensitivity_{name}"] for name in classes], axis=0
    )
    scores["macro_auc"] = np.mean([scores[f"auc_{name}"] for name in classes], axis=0)
    return scores


def interval(values: np.ndarray, confidence: float) -> dict[str, float]:
    """Return the first value (the sample's own) and the percentile interval of the others."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


# ------------------------------------------------------------------------------- metrics.json


def build_metrics(predictions: pd.DataFrame, index: pd.DataFrame, config: Config) -> dict:
    """Gather what the reports and the README say of a run: the contents of `metrics.json`."""
    test = predictions[predictions["split"] == "test"]
    count = index.groupby("split").agg(
        images=("image_id", "size"), lesions=("lesion_id", "nunique")
    )
    settings = config.evaluation
    return {
        "run": config.name,
        "title": config.title,
        "synthetic": config.data.synthetic is not None,
        "classes": config.classes,
        "images": {split: int(count.loc[split, "images"]) for split in splits.SPLITS},
        "lesions": {split: int(count.loc[split, "lesions"]) for split in splits.SPLITS},
        "split_sha256": splits.digest(index),
        "interval": f"{100 * settings.confidence:g}% percentile bootstrap over lesions, "
        f"{settings.bootstrap_draws} draws",
        "models": {
            name: {"title": title} | evaluate(test[test["model"] == name], config)
            for name, title in MODELS.items()
        },
        "paper": PAPER,
        "manifest": _manifests(config),
    }


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


def class_table(metrics: dict) -> pd.DataFrame:
    """Return one row a model and class, ready to be shown; a dash where a score is not defined."""

    def show(value):
        if isinstance(value, dict):
            return format_interval(value, 2)
        return "–" if value is None else f"{value}" if isinstance(value, int) else f"{value:.2f}"

    rows = {
        (model["title"], name): {score: show(value) for score, value in scores.items()}
        for model in metrics["models"].values()
        for name, scores in model["per_class"].items()
    }
    return pd.DataFrame(rows).T.rename_axis(["model", "class"])


def format_interval(score: dict, digits: int = 3) -> str:
    """Return `0.873 (0.812 to 0.925)`."""
    value, low, high = (f"{score[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def write_json(values: dict, file: Path) -> Path:
    """Write a JSON file whole or not at all."""
    return paths.write_text(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _manifests(config: Config) -> dict:
    files = {name: paths.run_folder(config.name) / name / "manifest.json" for name in FOLDERS}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
