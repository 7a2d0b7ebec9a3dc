"""Differences between classifiers on the same images: intervals, p-values, McNemar's test."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from lib.evaluation import bootstrap, priors
from lib.evaluation.scores import SCORES


def compare(
    tables: dict[str, pd.DataFrame],
    draws: dict[str, dict[str, dict[str, np.ndarray]]],
    comparisons: Sequence[tuple[str, str]],
    confidence: float,
) -> list[dict]:
    """Compare pairs of models under each decision rule.

    Parameters
    ----------
    tables : dict of str to DataFrame
        The predictions of each model, for the same images in the same order.
    draws : dict
        For each model and rule the bootstrap draws of its scores, the same lesions in each.
    comparisons : sequence of (str, str)
        A model and the one it is compared with.

    Returns
    -------
    list of dict
        For each rule and pair: `rule`, `model`, `less`, and for each of `SCORES` that both models
        have the difference with its interval, its `p` and `p_holm`, which is corrected for all
        pairs of the rule. And `mcnemar`.
    """
    rows = []
    for rule in priors.RULES:
        pairs = []
        for model, other in comparisons:
            pair = {"rule": rule, "model": model, "less": other}
            for score in SCORES:
                difference = draws[model][rule][score] - draws[other][rule][score]
                if interval := bootstrap.interval(difference, confidence):
                    pair[score] = interval | {"p": p_value(difference)}
            pair["mcnemar"] = mcnemar(tables[model], tables[other], priors.PREDICTED[rule])
            pairs.append(pair)
        for score in SCORES:
            tested = [pair[score] for pair in pairs if score in pair]
            for result, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
                result["p_holm"] = p
        rows += pairs
    return rows


def p_value(differences: np.ndarray) -> float:
    """Return the two-sided p-value of no difference, from its bootstrap distribution.

    Twice the proportion of draws on the other side of zero; never below 2 / (draws + 1). The first
    value is that of the sample. Draws without a value (NaN) are left out.
    """
    draws = differences[1:][~np.isnan(differences[1:])]
    n = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(2 * (n + 1) / (len(draws) + 1), 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, Scand. J. Stat. 6:65, 1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected.round(12).tolist()


def mcnemar(table: pd.DataFrame, other: pd.DataFrame, column: str) -> dict:
    """Compare which images two classifiers get right (exact McNemar test).

    It counts images, as if those of one lesion were independent.

    Returns
    -------
    dict
        `only_model` and `only_less`, the images that only one of them gets right, and `p`.
    """
    right, other_right = ((rows["label"] == rows[column]).to_numpy() for rows in (table, other))
    counts = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    p = float(binomtest(counts[0], sum(counts)).pvalue) if sum(counts) else 1.0
    return {"only_model": counts[0], "only_less": counts[1], "p": p}
