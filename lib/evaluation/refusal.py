"""When to refuse: how well images that a network was not taught are told from test images.

Three scores of an image, higher for stranger ones. One score is chosen for lesions of other
diagnoses, and one for images without a lesion. The network refuses an image if a chosen score is
above its threshold; the thresholds together accept most validation images.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.metrics import roc_auc_score

#: Proportion of the validation images that the thresholds accept together, or more.
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


def strange_kinds(table: pd.DataFrame) -> tuple[dict[str, list[str]], list[str]]:
    """Return the kinds of strange images that choose a score, by sort, and the other kinds.

    The sorts are other diagnoses and no lesion; of each, the first half of the kinds chooses.
    """
    kinds = sorted(set(table.loc[table["split"] == "other", "kind"]))
    sorts = {"other diagnoses": [kind for kind in kinds if kind.startswith("diagnosis ")]}
    sorts["no lesion"] = [kind for kind in kinds if kind not in sorts["other diagnoses"]]
    choosing = {sort: names[: len(names) // 2] for sort, names in sorts.items() if len(names) > 1}
    return choosing, [kind for kind in kinds if kind not in chain(*choosing.values())]


def refused(scores: pd.DataFrame, thresholds: dict[str, float]) -> np.ndarray:
    """Return whether a score of each image is above its threshold, bool of shape (n,)."""
    return (scores[list(thresholds)] > pd.Series(thresholds)).any(axis=1).to_numpy()


def evaluate(table: pd.DataFrame) -> dict:
    """Compare the scores for one network, and choose one for each sort of strange images.

    Parameters
    ----------
    table : DataFrame
        Its rows of `probes.csv`.

    Returns
    -------
    dict
        `auroc` of each score for each kind, against the test images; `chosen`, for each sort the
        score with the highest mean of it against the validation images; `chosen_on` and
        `reported_on`, the kinds; `thresholds` of the chosen scores, from the validation images;
        `refused`, the proportion of each kind above one of them.
    """
    scores, held_out = strangeness(table), table["kind"] == "held_out"
    validation, test = (scores[held_out & (table["split"] == s)] for s in ("validation", "test"))
    choosing, reported = strange_kinds(table)
    chosen_on = list(chain(*choosing.values()))

    def auroc(ordinary, kinds):
        rows = {}
        for kind in kinds:
            strange = scores[table["kind"] == kind]
            actual = np.repeat([0, 1], [len(ordinary), len(strange)])
            rows[kind] = [roc_auc_score(actual, [*ordinary[s], *strange[s]]) for s in SCORES]
        return pd.DataFrame(rows, index=list(SCORES), dtype=float).T

    chosen = {sort: auroc(validation, kinds).mean().idxmax() for sort, kinds in choosing.items()}
    names = sorted(set(chosen.values()))
    # each score refuses its part, so that together they accept ACCEPTED or more
    thresholds = validation[names].quantile(1 - (1 - ACCEPTED) / len(names)).to_dict()
    kind_of = table["kind"].where(~held_out, table["split"]).to_numpy()
    return {
        "chosen": chosen,
        "chosen_on": chosen_on,
        "reported_on": reported,
        "thresholds": thresholds,
        "refused": pd.Series(refused(scores, thresholds)).groupby(kind_of).mean().to_dict(),
        "auroc": auroc(test, chosen_on + reported).to_dict(),
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
