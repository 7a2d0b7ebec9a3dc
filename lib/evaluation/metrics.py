"""Scores of all models with intervals over lesions (`metrics.json`), and tables of them."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, roc_curve

from lib import models, paths
from lib.config import Config, Handcrafted
from lib.data import splits
from lib.evaluation import bootstrap, prediction_files, priors
from lib.evaluation.scores import SCORES, rule_draws, rule_scores

#: Version of the contents of `metrics.json`; files without `schema_version` are version 1.
SCHEMA_VERSION = 2


def build_metrics(
    predictions: pd.DataFrame,
    index: pd.DataFrame,
    config: Config,
    comparisons: Sequence[tuple[str, str]] = (),
    cross_validation: pd.DataFrame | None = None,
) -> dict:
    """Return the contents of `metrics.json`, from which reports and README take their numbers.

    Parameters
    ----------
    predictions, cross_validation : DataFrame
        From `prediction_files.read_predictions` and `read_cross_validation`.
    comparisons : sequence of (str, str)
        A model and the one it is compared with.
    """
    prior = priors.training_prior(index, config.classes).tolist()
    counts = index.groupby("split")[["image_id", "lesion_id"]].nunique().loc[list(splits.SPLITS)]
    settings = {
        "classes": config.classes,
        "titles": models.titles(config),
        "draws": config.evaluation.bootstrap_draws,
        "confidence": config.evaluation.confidence,
        "seed": config.seed,
        "comparisons": comparisons,
    }
    folds = None if cross_validation is None else evaluate_folds(cross_validation, **settings)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": config.name,
        "title": config.title,
        "synthetic": config.data.synthetic is not None,
        "primary": config.primary,
        "classes": config.classes,
        "images": counts["image_id"].to_dict(),
        "lesions": counts["lesion_id"].to_dict(),
        "training_prior": dict(zip(config.classes, prior, strict=True)),
        "split_sha256": splits.digest(index),
        "interval": f"{100 * config.evaluation.confidence:g}% percentile bootstrap over lesions, "
        f"drawn within each class, {config.evaluation.bootstrap_draws} draws",
        **evaluate_models(predictions[predictions["split"] == "test"], **settings),
        "cross_validation": folds,
        "manifest": manifests(config) | {"configuration": configuration(config)},
    }


def evaluate_models(
    table: pd.DataFrame,
    classes: list[str],
    titles: dict[str, str],
    *,
    draws: int,
    confidence: float,
    seed: int,
    comparisons: Sequence[tuple[str, str]] = (),
) -> dict:
    """Score all models of a table and their differences, on the same bootstrap draws of lesions.

    Parameters
    ----------
    table : DataFrame
        Predictions of one or more models on the same images.
    titles : dict of str to str
        The title of each model, in the order of the result; models that are not in the table
        are left out.
    draws, confidence, seed : int, float, int
        Number of bootstrap draws, confidence level of the intervals, seed of the draws.
    comparisons : sequence of (str, str)
        As in `build_metrics`; pairs that are not in the table are left out.

    Returns
    -------
    dict
        `models`: for each its `title`; the headline value of each of `SCORES`, with `value`,
        `low` and `high`; and, for each of `priors.RULES`, `rules` with the scores of predicted
        classes, `per_class` and `confusion` (counts, rows actual). `differences`: for each pair
        `model`, `less` and the difference in each of `SCORES`.
    """
    tables = {name: rows.sort_values("image_id") for name, rows in table.groupby("model")}
    tables = {name: tables[name] for name in titles if name in tables}
    weights = bootstrap.lesion_weights(next(iter(tables.values())), draws, seed)
    values = {name: _score_draws(rows, classes, weights) for name, rows in tables.items()}
    return {
        "models": {
            name: {"title": titles[name]} | _summary(rows, values[name], classes, confidence)
            for name, rows in tables.items()
        },
        "differences": [
            {"model": model, "less": other}
            | _intervals(values[model]["headline"] - values[other]["headline"], confidence)
            for model, other in comparisons
            if model in values and other in values
        ],
    }


def evaluate_folds(table: pd.DataFrame, *arguments, **settings) -> dict:
    """Score a cross-validation with `evaluate_models`, and count its images, lesions and folds."""
    return {
        "images": table["image_id"].nunique(),
        "lesions": table["lesion_id"].nunique(),
        "folds": table["fold"].nunique(),
        **evaluate_models(table, *arguments, **settings),
    }


def _score_draws(table: pd.DataFrame, classes: list[str], weights: np.ndarray) -> dict[str, dict]:
    """Return the scores under each rule, the areas and the headline scores for every draw."""
    draws = {
        rule: rule_draws(table, column, classes, weights)
        for rule, column in priors.PREDICTED.items()
    }
    probabilities = table[[f"prob_{name}" for name in classes]].to_numpy()
    actual = table["label"].to_numpy()[:, None] == np.array(classes)
    images = probabilities, actual, weights
    areas = dict(zip(classes, bootstrap.class_aucs(*images), strict=True))
    headline = {
        name: draws[score.rule][name] if score.rule else score.function(*images)
        for name, score in SCORES.items()
    }
    return draws | {"auc": areas, "headline": pd.DataFrame(headline)}


def _intervals(draws: dict | pd.DataFrame, confidence: float) -> dict[str, dict]:
    return {name: bootstrap.interval(values, confidence) for name, values in draws.items()}


def _summary(
    table: pd.DataFrame, draws: dict[str, dict], classes: list[str], confidence: float
) -> dict:
    lesions = table.groupby("label")["lesion_id"].nunique()
    areas, rules = _intervals(draws["auc"], confidence), {}
    for rule, column in priors.PREDICTED.items():
        counts = confusion_matrix(table["label"], table[column], labels=classes)
        scores = _intervals(draws[rule], confidence)
        rules[rule] = {name: scores[name] for name in rule_scores()} | {
            "per_class": {
                name: per_class(counts, i)
                | {
                    "lesions": int(lesions[name]),
                    "sensitivity": scores[f"sensitivity_{name}"],
                    "auc": areas[name],
                }
                for i, name in enumerate(classes)
            },
            "confusion": counts.tolist(),
        }
    return _intervals(draws["headline"], confidence) | {"rules": rules}


def per_class(confusion: np.ndarray, i: int) -> dict:
    """Return sensitivity, specificity, precision and F1 of class `i` against the others.

    Precision is None for a class that was never predicted.

    Examples
    --------
    >>> per_class(np.array([[4, 1], [2, 8]]), 0)["sensitivity"]
    0.8
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
    """Return each class's ROC curve against the others, as one long table for one model."""
    parts = []
    for name in classes:
        curve = roc_curve(table["label"] == name, table[f"prob_{name}"], drop_intermediate=False)
        columns = ("false_positive_rate", "sensitivity", "threshold")
        parts.append(pd.DataFrame({"class": name} | dict(zip(columns, curve, strict=True))))
    return pd.concat(parts, ignore_index=True)


def configuration(config: Config) -> dict:
    """Return a run's settings as in `metrics.json`; of a folder elsewhere only its name."""
    values = config.model_dump()
    values["data"]["folder"] = paths.relative(paths.resolve(config.data.folder))
    return values


def manifests(config: Config) -> dict[str, dict]:
    """Read the manifest of each model: how, when and where it was trained."""
    files = {
        name: prediction_files.existing_file(model, f"{model.manifest}.json", config)
        for name, model in models.models_of(config).items()
        if model.network or isinstance(model.settings, Handcrafted)
    }
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def headline_table(metrics: dict) -> pd.DataFrame:
    """Return the headline scores as `value (low to high)`, one row per model."""
    models = metrics["models"].values()
    return _score_table(models, [model["title"] for model in models])


def _score_table(rows: Iterable[dict], index: list[str] | pd.MultiIndex) -> pd.DataFrame:
    columns = {
        score.title: [bootstrap.format_interval(row.get(name)) for row in rows]
        for name, score in SCORES.items()
    }
    return pd.DataFrame(columns, index)


def rule_table(metrics: dict) -> pd.DataFrame:
    """Return the scores of predicted classes under both rules, one row per model."""
    models = {model["title"]: model["rules"] for model in metrics["models"].values()}
    columns = {
        (score.label, title): [
            bootstrap.format_interval(rules[rule].get(name)) for rules in models.values()
        ]
        for name, score in rule_scores().items()
        for rule, title in priors.RULES.items()
    }
    return pd.DataFrame(columns, list(models))


def difference_table(metrics: dict) -> pd.DataFrame:
    """Return the differences between models, one row per comparison; it may have no rows."""
    titles = {name: model["title"] for name, model in metrics["models"].items()}
    pairs = [(titles[pair["model"]], titles[pair["less"]]) for pair in metrics["differences"]]
    index = pd.MultiIndex.from_tuples(pairs, names=["model", "minus"])
    return _score_table(metrics["differences"], index)


def class_table(metrics: dict, rule: str = "equal_priors") -> pd.DataFrame:
    """Return the scores of each model and class; a dash where a score is not defined."""

    def text(value):
        if isinstance(value, int | float):
            return f"{value}" if isinstance(value, int) else f"{value:.2f}"
        return bootstrap.format_interval(value, 2)

    rows = {
        (model["title"], name): {score: text(value) for score, value in scores.items()}
        for model in metrics["models"].values()
        for name, scores in model["rules"][rule]["per_class"].items()
    }
    return pd.DataFrame(rows).T.rename_axis(["model", "class"])


def confusion_table(metrics: dict) -> pd.DataFrame:
    """Return all confusion matrices as one table: `model`, `rule`, classes and `images`."""
    axes = [pd.Index(metrics["classes"], name=name) for name in ("actual", "predicted")]
    counts = {
        (name, rule): pd.DataFrame(scores["confusion"], *axes).stack()
        for name, model in metrics["models"].items()
        for rule, scores in model["rules"].items()
    }
    return pd.concat(counts, names=["model", "rule"]).rename("images").reset_index()
