"""Scores of all models with intervals over lesions: the contents of `metrics.json`."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from lib import models, paths
from lib.config import TRANSFER_ROWS, Config, Handcrafted
from lib.data import splits
from lib.evaluation import (
    bootstrap,
    calibration,
    calibration_scores,
    comparison,
    operating_points,
    prediction_files,
    priors,
)
from lib.evaluation.scores import CLASS_LABELS, SCORES, probability_draws, rule_draws

#: Version of the contents of `metrics.json`; files without `schema_version` are version 1.
SCHEMA_VERSION = 3


def build_metrics(
    predictions: pd.DataFrame,
    index: pd.DataFrame,
    config: Config,
    cross_validation: pd.DataFrame | None = None,
) -> dict:
    """Return the contents of `metrics.json`, from which reports and README take their numbers.

    Parameters
    ----------
    predictions, cross_validation : DataFrame
        From `prediction_files.read_predictions` and `read_cross_validation`.
    """
    prior = priors.training_prior(index, config.classes).tolist()
    counts = index.groupby("split")[["image_id", "lesion_id"]].nunique().loc[list(splits.SPLITS)]
    note = {
        "schema_version": SCHEMA_VERSION,
        "run": config.name,
        "title": config.title,
        "synthetic": config.data.synthetic is not None,
        "primary": config.primary,
        "primary_rule": priors.PRIMARY_RULE,
        "classes": config.classes,
        "titles": models.titles(config),
        "comparisons": comparisons(config),
        "images": counts["image_id"].to_dict(),
        "lesions": counts["lesion_id"].to_dict(),
        "training_prior": dict(zip(config.classes, prior, strict=True)),
        "split_sha256": splits.digest(index),
        "interval": f"{100 * config.evaluation.confidence:g}% percentile bootstrap over lesions, "
        f"drawn within each class, {config.evaluation.bootstrap_draws:,} draws",
        "manifest": manifests(config) | {"configuration": configuration(config)},
    }
    return note | evaluate_run(note, predictions, cross_validation)


def comparisons(config: Config) -> list[list[str]]:
    """Return the pairs of models to compare, which were chosen in advance.

    The primary model with each other one. The paper's network with the majority-class baseline and
    with hand-crafted features. A new head with a linear classifier on the same features.
    """
    main, baseline = config.primary, config.baseline.name
    pairs = [(main, name) for name in models.titles(config) if name != main]
    pairs += [(baseline, "majority"), (baseline, config.handcrafted[0].name)]
    linear, frozen, _ = (f"{config.transfers[0].name}_{row}" for row in TRANSFER_ROWS)
    return [list(pair) for pair in (*pairs, (frozen, linear))]


def evaluate_run(
    note: dict, predictions: pd.DataFrame, cross_validation: pd.DataFrame | None
) -> dict:
    """Return all scores of a run.

    Parameters
    ----------
    note : dict
        What `build_metrics` knows of a run, or its `metrics.json`.
    predictions, cross_validation : DataFrame
        As in `build_metrics`.

    Returns
    -------
    dict
        As `evaluate_models` returns them; `operating_points` and `decision_curves`, for each of
        `operating_points.questions`; `calibration` of each model, before and after (None where
        there is nothing to undo); `cross_validation`, scored by `evaluate_models` as well.
    """
    options = settings(note["manifest"]["configuration"])
    malignant = note["manifest"]["configuration"]["evaluation"]["malignant"]
    questions = operating_points.questions(note["classes"], malignant)
    validation, test = (
        _by_model(predictions[predictions["split"] == split], note["titles"])
        for split in ("validation", "test")
    )
    weights = bootstrap.lesion_weights(next(iter(test.values())), options["draws"], options["seed"])
    drawn = weights, options["confidence"]
    folds = None
    if cross_validation is not None:
        columns = {"images": "image_id", "lesions": "lesion_id", "folds": "fold"}
        folds = {key: cross_validation[name].nunique() for key, name in columns.items()}
        folds |= evaluate_models(cross_validation, note["titles"], **options)
    return {
        **evaluate_models(
            pd.concat(test.values()), note["titles"], **options, comparisons=note["comparisons"]
        ),
        "operating_points": {
            question: {
                name: operating_points.evaluate(validation[name], rows, positive, *drawn)
                for name, rows in test.items()
            }
            for question, positive in questions.items()
        },
        "decision_curves": {
            question: operating_points.decision_curve(test[note["primary"]], positive, *drawn)
            for question, positive in questions.items()
        },
        "calibration": {
            name: _calibration(rows, note, note["manifest"].get(name, {}), *drawn)
            for name, rows in test.items()
        },
        "cross_validation": folds,
    }


def settings(configuration: dict) -> dict:
    """Return what `evaluate_models` takes from a run's configuration.

    Parameters
    ----------
    configuration : dict
        `config.model_dump()`, or what `metrics.json` has of it.
    """
    draws, confidence = (configuration["evaluation"][k] for k in ("bootstrap_draws", "confidence"))
    options = {name: configuration[name] for name in ("classes", "seed")}
    return options | {"draws": draws, "confidence": confidence}


def evaluate_models(
    table: pd.DataFrame,
    titles: dict[str, str],
    *,
    classes: list[str],
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
    classes, draws, confidence, seed : list of str, int, float, int
        From `settings`: the classes, the number of bootstrap draws, the confidence level of the
        intervals, and the seed of the draws.
    comparisons : sequence of (str, str)
        A model and the one it is compared with.

    Returns
    -------
    dict
        `models`: for each its `title` and, for each of `priors.RULES`, `rules`: the classifier's
        value of each of `SCORES`, with `low` and `high`, `per_class` with those of `CLASS_LABELS`
        (None where a score is undefined), and `confusion` (counts, rows actual). `differences`:
        from `comparison.compare`.
    """
    parts = _by_model(table, titles)
    weights = bootstrap.lesion_weights(next(iter(parts.values())), draws, seed)
    values = {}
    for name, rows in parts.items():
        of_both = probability_draws(rows, classes, weights)
        rules = priors.PREDICTED.items()
        values[name] = {r: rule_draws(rows, c, classes, weights) | of_both for r, c in rules}
    return {
        "models": {
            name: {
                "title": titles[name],
                "rules": {
                    rule: _summary(rows, priors.PREDICTED[rule], drawn, classes, confidence)
                    for rule, drawn in values[name].items()
                },
            }
            for name, rows in parts.items()
        },
        "differences": comparison.compare(parts, values, comparisons, confidence),
    }


def _by_model(table: pd.DataFrame, titles: dict[str, str]) -> dict[str, pd.DataFrame]:
    """Return the rows of each model, in the order of the titles, its images in the same order."""
    parts = {name: rows.sort_values("image_id") for name, rows in table.groupby("model")}
    return {name: parts[name] for name in titles if name in parts}


def _summary(
    table: pd.DataFrame, column: str, draws: dict, classes: list[str], confidence: float
) -> dict:
    """Return the scores of one classifier with intervals, and its confusion matrix."""
    intervals = {name: bootstrap.interval(values, confidence) for name, values in draws.items()}
    of_class = table.groupby("label")
    lesions, counts = of_class["lesion_id"].nunique(), of_class.size()
    return {name: intervals[name] for name in SCORES} | {
        "per_class": {
            name: {"images": int(counts[name]), "lesions": int(lesions[name])}
            | {score: intervals[f"{score}_{name}"] for score in CLASS_LABELS}
            for name in classes
        },
        "confusion": confusion_matrix(table["label"], table[column], labels=classes).tolist(),
    }


def _calibration(
    table: pd.DataFrame, note: dict, manifest: dict, weights: np.ndarray, confidence: float
) -> dict:
    """Score one model's calibration, and what it was before where its manifest tells."""
    classes = note["classes"]
    after = table[[f"prob_{name}" for name in classes]].to_numpy()
    parts = {"before": uncalibrated(after, manifest, note["training_prior"]), "after": after}
    return {
        key: None
        if probabilities is None
        else calibration_scores.evaluate(table, probabilities, classes, weights, confidence)
        for key, probabilities in parts.items()
    }


def uncalibrated(
    posteriors: np.ndarray, manifest: dict, training_prior: dict[str, float]
) -> np.ndarray | None:
    """Return the posteriors without the fitted calibration: only the prior is converted.

    Parameters
    ----------
    posteriors : ndarray of float, shape (n, classes)
        Calibrated, under the training prior.
    manifest : dict
        Of the model; None is returned if it has no calibration.
    training_prior : dict of str to float
        For each class.
    """
    if "calibration" not in manifest:
        return None
    outputs = calibration.Calibration(**manifest["calibration"]).invert(posteriors)
    return priors.change_prior(outputs, manifest["output_prior"], list(training_prior.values()))


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
