"""Predictions and what they are worth: scores, intervals over lesions, `metrics.json`."""

import json

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, roc_curve

from lib import paths
from lib.config import Config
from lib.data import splits
from lib.evaluation import bootstrap, model_names, prediction_files, priors

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
    draws = bootstrap.lesion_weights(table, config.evaluation.bootstrap_draws, config.seed)
    return _summary(table, bootstrap.score_draws(table, config.classes, draws), config)


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
        for name in model_names.MODELS
        if name in set(table["model"])
    }
    images = next(iter(parts.values()))
    weights = bootstrap.lesion_weights(images, config.evaluation.bootstrap_draws, config.seed)
    draws = {
        name: bootstrap.score_draws(rows, config.classes, weights) for name, rows in parts.items()
    }
    names = model_names.titles(config)
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
        "rules": {rule: _rule_summary(table, rule, draws, config) for rule in priors.RULES}
    }


def _rule_summary(table: pd.DataFrame, rule: str, draws: dict, config: Config) -> dict:
    classes, level = config.classes, config.evaluation.confidence
    counts = confusion_matrix(table["label"], table[priors.PREDICTED[rule]], labels=classes)
    lesions = table.groupby("label")["lesion_id"].nunique()
    return {
        "accuracy": bootstrap.interval(draws[rule]["accuracy"], level),
        "balanced_accuracy": bootstrap.interval(draws[rule]["balanced_accuracy"], level),
        "per_class": {
            name: per_class(counts, i)
            | {
                "lesions": int(lesions[name]),
                "sensitivity": bootstrap.interval(draws[rule][f"sensitivity_{name}"], level),
                "auc": bootstrap.interval(draws["auc"][name], level),
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
    return {name: bootstrap.interval(draws[name], config.evaluation.confidence) for name in draws}


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
            zip(config.classes, priors.training_prior(index, config.classes).tolist(), strict=True)
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


def headline_table(metrics: dict) -> pd.DataFrame:
    """Return one row a model, one column a score, as `value (low to high)`, ready to be shown."""
    return pd.DataFrame(
        {
            title: {
                model["title"]: bootstrap.format_interval(model[score])
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
                model["title"]: bootstrap.format_interval(model["rules"][rule][score])
                for model in metrics["models"].values()
            }
            for score in HEADLINE
            for rule, title in priors.RULES.items()
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
            {title: bootstrap.format_interval(pair[score]) for score, title in SCORES.items()}
            for pair in metrics["differences"]
        ],
        index=pd.MultiIndex.from_tuples(pairs, names=["model", "less"]),
        columns=list(SCORES.values()),
    )


def class_table(metrics: dict, rule: str = "equal_priors") -> pd.DataFrame:
    """Return one row a model and class, ready to be shown; a dash where a score is not defined."""

    def show(value):
        if isinstance(value, dict):
            return bootstrap.format_interval(value, 2)
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


def manifests(config: Config) -> dict:
    """Read the manifest of each model: how and where it was trained."""
    return {
        name: json.loads(
            prediction_files.existing_file(folder, file, config).read_text(encoding="utf-8")
        )
        for name, (folder, file) in model_names.MANIFESTS.items()
    }
