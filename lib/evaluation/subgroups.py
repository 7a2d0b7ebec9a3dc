"""Scores by age, sex, body site, way of diagnosis, skin tone and artefacts in the image."""

import numpy as np
import pandas as pd

from lib.evaluation import bootstrap, priors
from lib.evaluation.score_tables import TARGET
from lib.evaluation.scores import rule_draws

#: The columns of `subgroups.csv` beside `image_id`, and how each is called.
ATTRIBUTES = {
    "age": "age in years",
    "sex": "sex",
    "site": "body site",
    "diagnosis": "way of diagnosis",
    "skin_tone": "skin tone in the image",
    "artefact": "artefact in the image",
}
AGES = ("0 to 29", "30 to 44", "45 to 59", "60 to 74", "75 and over")
MISSING = "missing"
#: Fewer lesions than this give no figure.
FEWEST = 20


def assign(images: pd.DataFrame, survey: pd.DataFrame, artefacts: list[str]) -> pd.DataFrame:
    """Return the subgroups of each image: `image_id` and the columns of `ATTRIBUTES`, all text.

    Parameters
    ----------
    images : DataFrame
        Metadata: `image_id`, `age`, `sex`, `localization`, `dx_type`.
    survey : DataFrame
        Of the same images in the same order: `skin_tone`, and a boolean column for each artefact.
    """
    has_artefact = survey[artefacts].fillna(False).astype(bool).any(axis=1)
    table = pd.DataFrame(
        {
            "image_id": images["image_id"],
            "age": pd.cut(images["age"], [0, 30, 45, 60, 75, 121], right=False, labels=AGES),
            "sex": images["sex"],
            "site": images["localization"],
            "diagnosis": images["dx_type"].map(
                lambda way: "histopathology" if way == "histo" else "other", na_action="ignore"
            ),
            "skin_tone": survey["skin_tone"].to_numpy(),
            "artefact": np.where(has_artefact, "present", "none found"),
        }
    )
    return table.astype(object).where(table.notna(), MISSING).reset_index(drop=True)


def evaluate(
    table: pd.DataFrame,
    subgroups: pd.DataFrame,
    classes: list[str],
    weights: np.ndarray,
    confidence: float,
) -> list[dict]:
    """Score one model under the primary rule in every subgroup.

    Parameters
    ----------
    table : DataFrame
        The model's predictions of the test images.
    subgroups : DataFrame
        From `assign`.
    weights : ndarray of float, shape (draws, n)
        From `bootstrap.lesion_weights`.

    Returns
    -------
    list of dict
        `attribute`, `group`, `lesions`, `target_lesions` (those with melanoma), and the scores with
        intervals: `accuracy`, `balanced_accuracy`, and `sensitivity` and `specificity` of melanoma.
        A score is None if it rests on fewer than `FEWEST` lesions, and balanced accuracy also if a
        class is missing.
    """
    groups = table[["image_id"]].merge(subgroups, how="left").fillna(MISSING)
    rows = []
    for attribute in ATTRIBUTES:
        for group in sorted(groups[attribute].unique(), key=lambda name: (name == MISSING, name)):
            member = (groups[attribute] == group).to_numpy()
            scores = _score(table[member], classes, weights[:, member], confidence)
            rows.append({"attribute": attribute, "group": group} | scores)
    return rows


def table(rows: list[dict]) -> pd.DataFrame:
    """Return what `evaluate` has returned as a table for a reader; a dash where lesions are few."""
    columns = ["accuracy", "balanced_accuracy", "sensitivity", "specificity"]
    shown = pd.DataFrame(rows).set_index(["attribute", "group"])
    shown[columns] = shown[columns].map(lambda score: bootstrap.format_interval(score, 2))
    return shown.rename(index=ATTRIBUTES).rename(columns=lambda name: name.replace("_", " "))


def _score(table: pd.DataFrame, classes: list[str], weights: np.ndarray, confidence: float) -> dict:
    """Return the numbers of lesions of a group and its scores, None where they are too few."""
    is_target = table["label"] == TARGET
    parts = {"all": table, "target": table[is_target], "others": table[~is_target]}
    lesions = {name: part["lesion_id"].nunique() for name, part in parts.items()}
    result = {"lesions": lesions["all"], "target_lesions": lesions["target"]}
    draws = {}
    if lesions["all"] >= FEWEST:
        column = priors.PREDICTED[priors.PRIMARY_RULE]
        draws = rule_draws(table, column, classes, weights)
    for name, lesions_of in _SCORES.items():
        key = name if lesions_of == "all" else f"{name}_{TARGET}"
        known = key in draws and lesions[lesions_of] >= FEWEST
        result[name] = bootstrap.interval(draws[key], confidence) if known else None
    return result


#: The lesions that each score of a group rests on.
_SCORES = {"accuracy": "all", "balanced_accuracy": "all"}
_SCORES |= {"sensitivity": "target", "specificity": "others"}
