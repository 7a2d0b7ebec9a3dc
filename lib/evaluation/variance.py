"""The spread of scores over seeds and folds, which `studies/variance.py` measures."""

import hashlib
import json

import pandas as pd

from lib import paths
from lib.config import Config
from lib.data import splits
from lib.evaluation import bootstrap, priors
from lib.evaluation.scores import SCORES

#: Committed measurements: `<run>.csv`, and `<run>.json` with their summary and `key`.
FOLDER = paths.ROOT / "reports" / "studies" / "variance"


def key(config: Config, index: pd.DataFrame) -> dict[str, str]:
    """Return what decides about all trainings of a run and their scores: split, settings, rule."""
    sections = "classes seed preprocessing augmentation training models".split()
    settings = config.model_dump(mode="json", include=set(sections), exclude_defaults=True)
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    parts = {"split_sha256": splits.digest(index), "settings_sha256": digest}
    return parts | {"rule": priors.PRIMARY_RULE}


def summarise(config: Config, index: pd.DataFrame) -> list[dict]:
    """Read what has been measured of a run; nothing if its split or settings have changed.

    Returns
    -------
    list of dict
        For each model with two trainings or more: `model`, `varied` (seed or fold), the number of
        `trainings`, and of each score `mean`, `deviation` (standard deviation, n - 1), `low` and
        `high` (the extremes).
    """
    note = FOLDER / f"{config.name}.json"
    contents = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    return contents["summary"] if key(config, index).items() <= contents.items() else []


def table(metrics: dict) -> pd.DataFrame:
    """Return each score's interval over lesions beside its mean and spread over trainings.

    Both are of the primary rule.

    Parameters
    ----------
    metrics : dict
        The contents of `metrics.json`, with `summarise` as `variance`.
    """
    rows = {}
    for row in metrics["variance"]:
        model = metrics["models"][row["model"]]
        scores = model["rules"][priors.PRIMARY_RULE]
        of_model = rows[model["title"], f"{row['trainings']} {row['varied']}s"] = {}
        for name, score in SCORES.items():
            of_model[score.label, "over lesions"] = bootstrap.format_interval(scores[name])
            of_model[score.label, "over trainings"] = format_spread(row.get(name))
    return pd.DataFrame(rows).T.rename_axis(["model", "trainings"])


def finding(metrics: dict, score: str = "balanced_accuracy") -> str:
    """Return a sentence on the model whose score varies most with the seed of its training."""
    rows = [row for row in metrics["variance"] if row["varied"] == "seed"]
    if not rows:
        return "The spread over seeds has not been measured for this run."
    row = max(rows, key=lambda row: row[score]["deviation"])
    title, spread = metrics["models"][row["model"]]["title"], row[score]
    return (
        f"Of the models trained with several seeds, *{title}* varies most in "
        f"{SCORES[score].label}: **{spread['low']:.3f} to {spread['high']:.3f}**, on the same "
        "test images."
    )


def format_spread(spread: dict | None) -> str:
    """Return a mean and its standard deviation as text; a dash if there is none.

    >>> format_spread({"mean": 0.8124, "deviation": 0.0061})
    '0.812 ± 0.006'
    """
    if spread is None:
        return "–"
    return f"{spread['mean']:.3f} ± {spread['deviation']:.3f}"
