"""Figures of the evaluation: curves, operating points and reliability diagrams."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib import figures
from lib.evaluation.operating_points import DERMATOLOGISTS

MODEL, BEFORE = "#332288", "#CC6677"


def class_curves(
    curves: dict[str, pd.DataFrame], areas: dict[str, dict[str, float]], labels: dict[str, str]
) -> Figure:
    """Draw curves of each class against the others, one panel per model.

    Parameters
    ----------
    curves : dict of str to DataFrame
        For each title, tables of `lib.evaluation.curves` with a leading column `class`.
    areas : dict of str to dict
        For each title, the area under the curve of each class.
    labels : dict of str to str
        `x`, `y`, and `area`, the name of the areas.
    """
    columns = 4 if len(curves) > 3 else 3
    height = figures.PAGE_WIDTH / columns + 0.2
    figure, axes, key = figures.panels(len(curves), columns, height)
    for axis, (title, table) in zip(axes, curves.items(), strict=True):
        for name, curve in table.groupby("class", sort=False):
            color = figures.CLASS_COLORS[name]
            _line(axis, curve, color, ls=figures.CLASS_LINES[name], label=name)
        values = [f"{name} {area:.2f}" for name, area in areas[title].items()]
        right = labels["x"] != "sensitivity"  # the free corner of the panel
        place = {"x": 0.98, "ha": "right"} if right else {"x": 0.02, "ha": "left"}
        text = f"{labels['area']}\n" + "\n".join(values)
        axis.text(y=0.03, s=text, va="bottom", fontsize=8, transform=axis.transAxes, **place)
        axis.set(xlabel=labels["x"], ylabel=labels["y"], xlim=(0, 1), ylim=(0, 1.02))
        axis.set_title(textwrap.fill(title, figures.TITLE_WIDTH), fontsize=9)
    figures.add_key(axes[0], key)
    return figure


def operating_points(
    rocs: dict[str, pd.DataFrame], points: dict[str, list[dict]], curves: dict[str, list[dict]]
) -> Figure:
    """Draw the ROC curve with operating points above the decision curve of each question.

    Parameters
    ----------
    rocs : dict of str to DataFrame
        For each question, `curves.roc_curve`.
    points, curves : dict of str to list of dict
        For each question, of one model, from `metrics.json`.
    """
    size = (figures.PAGE_WIDTH / 2 * len(rocs), 7.2)
    figure, axes = plt.subplots(2, len(rocs), figsize=size, squeeze=False)
    for (above, below), (question, roc) in zip(axes.T, rocs.items(), strict=True):
        _line(above, roc, MODEL, label="test images")
        marks = pd.DataFrame(points[question])
        x, y = (marks[n].map(lambda s: s["value"]) for n in ("specificity", "sensitivity"))
        above.plot(1 - x, y, "o", color="black", ms=5, label="thresholds from validation")
        if question == "melanoma":
            x, y = DERMATOLOGISTS["specificity"], DERMATOLOGISTS["sensitivity"]
            label = "58 dermatologists, other images"
            above.plot(1 - x, y, "D", color=BEFORE, ms=7, label=label)
        above.set(xlabel="1 − specificity", ylabel="sensitivity", title=question, ylim=(0, 1.02))
        _decision_curve(below, pd.DataFrame(curves[question]))
        for axis in (above, below):
            axis.legend(frameon=False, fontsize=8)
    return figure


def _decision_curve(axis: plt.Axes, curve: pd.DataFrame) -> None:
    model = pd.DataFrame(curve["model"].tolist()).rename(columns={"value": "y"})
    _line(axis, model.assign(x=curve["threshold"]), MODEL, label="model")
    axis.plot(curve["threshold"], curve["all"], color="gray", ls="--", label="biopsy all")
    axis.axhline(0, color="gray", lw=0.8, label="biopsy none")
    top = model["high"].max()
    axis.set(xlabel="threshold probability", ylabel="net benefit", ylim=(-0.5 * top, 1.1 * top))


def reliability_diagrams(parts: dict[str, dict | None], classes: list[str]) -> Figure:
    """Draw reliability diagrams of one model, one panel per class.

    Parameters
    ----------
    parts : dict of str to dict
        `before` and `after` calibration, from `metrics.json`; `before` may be None.
    """
    figure, axes, _ = figures.panels(len(classes), min(len(classes), 4), 2.8)
    for axis, name in zip(axes, classes, strict=True):
        axis.plot([0, 1], [0, 1], color="gray", lw=0.8)
        for key, color, marker in (("before", BEFORE, "s"), ("after", MODEL, "o")):
            if not parts[key]:
                continue
            bins = parts[key]["diagrams"][name]
            x = [row["predicted"] for row in bins]
            table = pd.DataFrame([row["observed"] for row in bins]).assign(x=x)
            table = table.rename(columns={"value": "y"})
            _line(axis, table, color, key == "after", marker=marker, ms=4, lw=1, label=key)
        axis.set(xlabel=f"predicted probability of {name}", ylabel="observed proportion")
        axis.legend(frameon=False, fontsize=8)
    return figure


def _line(axis: plt.Axes, table: pd.DataFrame, color: str, band: bool = True, **options) -> None:
    """Draw `y` over `x`, with the band from `low` to `high` where the table has one."""
    axis.plot(table["x"], table["y"], color=color, **options)
    if band and "low" in table:
        axis.fill_between(table["x"], table["low"], table["high"], color=color, alpha=0.2, lw=0)


def intervals(rows: dict[str, dict], label: str) -> Figure:
    """Draw scores with their intervals, one below the other.

    Parameters
    ----------
    rows : dict of str to dict
        For each name a score with `value`, `low` and `high`.
    """
    values = pd.DataFrame(rows, index=["value", "low", "high"]).T
    figure, axis = plt.subplots(figsize=(7, 0.26 * len(values) + 1))
    errors = [values["value"] - values["low"], values["high"] - values["value"]]
    axis.errorbar(values["value"], values.index, xerr=errors, fmt="o", color=MODEL)
    axis.invert_yaxis()
    axis.margins(y=0.1)
    axis.set(xlabel=label)
    return figure
