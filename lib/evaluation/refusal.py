"""When to refuse: how well images that a network was not taught are told from test images.

Three scores of an image, higher for stranger ones. The network refuses an image whose score is
above a threshold that accepts most validation images.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.metrics import roc_auc_score

#: Proportion of the validation images that the threshold accepts.
ACCEPTED = 0.95
SCORES = {
    "uncertainty": "1 − highest probability",
    "energy": "energy",
    "distance": "Mahalanobis distance",
}


def probes_schema(classes: Sequence[str]) -> pa.DataFrameSchema:
    """Return the schema of `probes.csv`: an image of a kind in each row."""
    text = {name: pa.Column(str) for name in ("model", "kind", "image_id", "split", "label")}
    columns = {f"prob_{name}": pa.Column(float, pa.Check.in_range(0, 1)) for name in classes}
    columns |= {"energy": pa.Column(float), "distance": pa.Column(float, pa.Check.ge(0))}
    return pa.DataFrameSchema(text | columns, unique=["model", "kind", "image_id"], strict=True)


def strangeness(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `SCORES` for rows of `probes.csv`."""
    highest = table.filter(regex="^prob_").max(axis=1)
    return table[["energy", "distance"]].assign(uncertainty=1 - highest)[list(SCORES)]


def strange_kinds(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the kinds of strange images that choose a score, and those it is reported on.

    Of the diagnoses that were not taught, the first half by name chooses; without such images, of
    the images without a lesion.
    """
    kinds = sorted(set(table.loc[table["split"] == "other", "kind"]))
    diagnoses = [kind for kind in kinds if kind.startswith("diagnosis ")]
    choosing = (diagnoses or kinds)[: len(diagnoses or kinds) // 2]
    return choosing, [kind for kind in kinds if kind not in choosing]


def evaluate(table: pd.DataFrame) -> dict:
    """Compare the scores for one network, and choose one.

    Parameters
    ----------
    table : DataFrame
        Its rows of `probes.csv`.

    Returns
    -------
    dict
        `chosen`, the score with the highest mean AUROC over the kinds `chosen_on`; `threshold`;
        `refused`, the proportion of test images above it; `scores`: for each score and kind
        `auroc` against the test images, `accepted`, the proportion at or below the threshold, and
        `images`.
    """
    scores = strangeness(table)
    held_out = table["kind"] == "held_out"
    validation, test = (scores[held_out & (table["split"] == s)] for s in ("validation", "test"))
    limits = validation.quantile(ACCEPTED)
    choosing, reported = strange_kinds(table)
    rows = {name: {} for name in SCORES}
    for kind in choosing + reported:
        strange = scores[table["kind"] == kind]
        actual = np.repeat([0, 1], [len(test), len(strange)])
        for name in SCORES:
            rows[name][kind] = {
                "auroc": float(roc_auc_score(actual, np.append(test[name], strange[name]))),
                "accepted": float((strange[name] <= limits[name]).mean()),
                "images": len(strange),
            }
    mean = {name: np.mean([rows[name][kind]["auroc"] for kind in choosing]) for name in SCORES}
    chosen = max(mean, key=mean.get)
    return {
        "chosen": chosen,
        "chosen_on": choosing,
        "reported_on": reported,
        "threshold": float(limits[chosen]),
        "refused": float((test[chosen] > limits[chosen]).mean()),
        "scores": rows,
    }


def risk_coverage(scores: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """Return the error rate among the least strange images, for every number of them.

    Returns
    -------
    DataFrame
        `coverage` (proportion of images answered) and `risk` (proportion of errors among them).

    Examples
    --------
    >>> risk_coverage(np.array([0.1, 0.9]), np.array([True, False]))["risk"].tolist()
    [0.0, 0.5]
    """
    errors = np.cumsum(~correct[np.argsort(scores, kind="stable")])
    answered = np.arange(1, len(scores) + 1)
    return pd.DataFrame({"coverage": answered / len(scores), "risk": errors / answered})
