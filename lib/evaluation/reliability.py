"""For whom a network works, by what it decides, and when it refuses: `reliability.json`."""

import numpy as np
import pandas as pd

from lib.evaluation import bootstrap, conformal, metrics, priors, refusal, subgroups
from lib.evaluation.scores import rule_draws

#: Images of which a part is hidden, from `networks.probes.hide`.
HIDDEN = ("lesion only", "background only", "lesion covered")
WHOLE = "whole image"


def build(
    note: dict, predictions: pd.DataFrame, probes: pd.DataFrame, groups: pd.DataFrame
) -> dict:
    """Return the contents of `reliability.json`.

    Parameters
    ----------
    note : dict
        `metrics.json` of the run.
    predictions : DataFrame
        From `prediction_files.read_predictions`.
    probes : DataFrame
        `probes.csv` of one or more networks, the primary one among them.
    groups : DataFrame
        `subgroups.csv`.
    """
    settings = metrics.settings(note["manifest"]["configuration"])
    confidence = settings["confidence"]
    primary = predictions[predictions["model"] == note["primary"]].sort_values("image_id")
    validation, test = (primary[primary["split"] == split] for split in ("validation", "test"))
    weights = bootstrap.lesion_weights(test, settings["draws"], settings["seed"])
    of_primary = probes[probes["model"] == note["primary"]]
    return {
        "run": note["run"],
        "primary": note["primary"],
        "title": note["titles"][note["primary"]],
        "classes": note["classes"],
        "interval": note["interval"],
        "subgroups": subgroups.evaluate(test, groups, note["classes"], weights, confidence),
        "hidden": {
            name: {"title": note["titles"][name]}
            | hidden_parts(rows, test, note, settings["draws"], confidence)
            for name, rows in probes.groupby("model", sort=False)
        },
        "conformal": sets(note, validation, test, groups),
        "refusal": refusal.evaluate(of_primary),
        "errors": errors(test, note["classes"]),
    }


def hidden_parts(
    probes: pd.DataFrame, test: pd.DataFrame, note: dict, draws: int, confidence: float
) -> dict:
    """Return a network's balanced accuracy on test images, whole and with a part hidden.

    All from the plain view, of the images that have a lesion mask.
    """
    prior, scores = np.array(list(note["training_prior"].values())), {}
    masked = probes.loc[probes["kind"] == HIDDEN[0], "image_id"]
    groups = test.loc[test["image_id"].isin(masked), ["image_id", "group_id"]]
    column = priors.PREDICTED[priors.PRIMARY_RULE]
    for kind in (WHOLE, *HIDDEN) if len(groups) else ():
        rows = probes[probes["kind"] == ("held_out" if kind == WHOLE else kind)]
        table = groups.merge(rows, on="image_id")
        probabilities = table[[f"prob_{name}" for name in note["classes"]]].to_numpy()
        table[column] = np.array(note["classes"])[priors.decide(probabilities, prior)[column]]
        weights = bootstrap.lesion_weights(table, draws, 0)
        values = rule_draws(table, column, note["classes"], weights)["balanced_accuracy"]
        scores[kind] = bootstrap.interval(values, confidence)
    return {"images": len(groups), "balanced_accuracy": scores}


def sets(note: dict, validation: pd.DataFrame, test: pd.DataFrame, groups: pd.DataFrame) -> dict:
    """Return coverage and size of the primary model's prediction sets, for each level.

    The validation images decide nothing but the sets: the fitted calibration is undone.
    """
    classes, settings = note["classes"], metrics.settings(note["manifest"]["configuration"])
    weights = bootstrap.lesion_weights(test, settings["draws"], settings["seed"])
    manifest, prior = note["manifest"].get(note["primary"], {}), note["training_prior"]
    outputs = []
    for table in (validation, test):
        posteriors = table[[f"prob_{name}" for name in classes]].to_numpy()
        plain = metrics.uncalibrated(posteriors, manifest, prior)
        outputs.append(posteriors if plain is None else plain)
    targets = validation["label"].map(classes.index).to_numpy()
    p = conformal.p_values(outputs[0], targets, outputs[1])
    joined = test[["image_id", "label"]].merge(groups, how="left").fillna(subgroups.MISSING)
    joined = joined.rename(columns={"label": "class"}).assign(all="all")
    actual, result = joined["class"].map(classes.index).to_numpy(), {}
    for level in conformal.LEVELS:
        members = conformal.prediction_sets(p, level)
        table = test.assign(covered=members[np.arange(len(test)), actual], size=members.sum(axis=1))
        result[f"{level:.2f}"] = [
            {"attribute": attribute, "group": group}
            | _coverage(table.iloc[rows], weights[:, rows], settings["confidence"])
            for attribute in ("all", "class", *subgroups.ATTRIBUTES)
            for group, rows in joined.groupby(attribute).indices.items()
        ]
    return result


def _coverage(table: pd.DataFrame, weights: np.ndarray, confidence: float) -> dict:
    lesions, covered = table["lesion_id"].nunique(), table["covered"].to_numpy()
    if lesions < subgroups.FEWEST:
        return {"lesions": lesions, "coverage": None, "size": None, "single": None}
    return {
        "lesions": lesions,
        "coverage": bootstrap.interval(weights @ covered / weights.sum(axis=1), confidence),
        "size": float(table["size"].mean()),
        "single": float((table["size"] == 1).mean()),
    }


def errors(test: pd.DataFrame, classes: list[str], n: int = 5) -> list[dict]:
    """Return the most confident errors of each class under the training prior, one a lesion."""
    wrong = test[test["label"] != test["predicted"]].copy()
    wrong["probability"] = wrong[[f"prob_{name}" for name in classes]].max(axis=1)
    ranked = wrong.sort_values("probability", ascending=False).drop_duplicates("group_id")
    first = ranked.groupby("label", sort=False).head(n)
    first = first.sort_values(["label", "probability"], ascending=[True, False])
    return first[["image_id", "label", "predicted", "probability"]].to_dict("records")
