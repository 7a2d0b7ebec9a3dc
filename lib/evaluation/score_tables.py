"""Tables of the contents of `metrics.json` for a reader: one classifier in each row."""

import pandas as pd

from lib.evaluation import priors
from lib.evaluation.bootstrap import format_interval
from lib.evaluation.scores import CLASS_LABELS, SCORES

#: The class of the last columns, where the run has it, and their scores.
TARGET, TARGET_TITLE, TARGET_SCORES = "mel", "melanoma", ("sensitivity", "specificity")


def classifier_table(metrics: dict, rules: list[str] | None = None) -> pd.DataFrame:
    """Return all scores of each classifier, as `value (low to high)`.

    Parameters
    ----------
    metrics : dict
        `metrics.json`, or what `metrics.evaluate_models` has returned.
    rules : list of str, optional
        By default both of `priors.RULES`.
    """
    rows = {}
    for rule in rules or priors.RULES:
        for model in metrics["models"].values():
            scores = model["rules"][rule]
            row = {score.label: scores.get(name) for name, score in SCORES.items()}
            if TARGET in scores["per_class"]:
                target = scores["per_class"][TARGET]
                row |= {f"{TARGET_TITLE} {name}": target[name] for name in TARGET_SCORES}
            rows[priors.RULES[rule], model["title"]] = row
    return pd.DataFrame(rows).T.map(format_interval).rename_axis(["rule", "model"])


def difference_table(metrics: dict, rule: str = priors.PRIMARY_RULE) -> pd.DataFrame:
    """Return the differences between models under one rule, with p-values."""
    rows = {}
    for pair in metrics["differences"]:
        if pair["rule"] != rule:
            continue
        row = {}
        for name in ("balanced_accuracy", "accuracy"):
            label = SCORES[name].label
            row[label] = format_difference(pair[name])
            row[f"p ({label})"] = format_p(pair[name]["p_holm"])
        row["p (McNemar)"] = format_p(pair["mcnemar"]["p"])
        rows[tuple(metrics["models"][pair[side]]["title"] for side in ("model", "less"))] = row
    return pd.DataFrame(rows).T.rename_axis(["model", "minus"])


def format_difference(score: dict) -> str:
    """Return a difference and its interval as text, with signs.

    >>> format_difference({"value": 0.06, "low": -0.013, "high": 0.113})
    '+0.060 (-0.013 to +0.113)'
    """
    return "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**score)


def format_p(p: float) -> str:
    """Return a p-value as text, to three digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def class_table(metrics: dict, rule: str = priors.PRIMARY_RULE) -> pd.DataFrame:
    """Return the scores of each class; a dash where one is undefined."""
    rows = {}
    for model in metrics["models"].values():
        for name, scores in model["rules"][rule]["per_class"].items():
            row = {label: format_interval(scores[key], 2) for key, label in CLASS_LABELS.items()}
            rows[model["title"], name] = {"images": scores["images"]} | row
    return pd.DataFrame(rows).T.rename_axis(["model", "class"])


def operating_table(metrics: dict, model: str) -> pd.DataFrame:
    """Return one model's operating points: rates on test images at thresholds from validation."""
    rows = {}
    for question, models in metrics["operating_points"].items():
        for point in models[model]:
            row = {
                "threshold": f"{point['threshold']:.3f}",
                "sensitivity": format_interval(point["sensitivity"], 2),
                "specificity": format_interval(point["specificity"], 2),
                "number needed to biopsy": format_interval(point["number_needed_to_biopsy"], 1),
            }
            rows[question, f"{point['fixed']} {point['level']:.2f} on validation"] = row
    return pd.DataFrame(rows).T.rename_axis(["question", "chosen for"])


def calibration_table(metrics: dict) -> pd.DataFrame:
    """Return calibration error and Brier score of each model, before and after calibration."""
    rows = {}
    for name, parts in metrics["calibration"].items():
        rows[metrics["titles"][name]] = {
            (label, key): format_interval((part or {}).get(score))
            for score, label in (("ece", "calibration error"), ("brier", "Brier score"))
            for key, part in parts.items()
        }
    return pd.DataFrame(rows).T
