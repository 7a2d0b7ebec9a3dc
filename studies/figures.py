"""Figures of the side experiments."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from lib.config import load_config
from lib.figures import PIXELS_PER_CSS_PIXEL, TRAINING, VALIDATION
from lib.figures import use_style as use_style_of_runs

COLORS = (TRAINING, VALIDATION, "#44AA99", "#DDCC77")
MARKERS = ("o", "s", "^", "D")


def use_style() -> None:
    """Set the style of the reports."""
    use_style_of_runs(load_config("configs/ham10000.yaml"))


def show(figure: Figure, number: str, caption: str, alt: str) -> None:
    """Display a figure with its caption; both name the finding.

    Parameters
    ----------
    number : str
        As in "Figure L.1".
    caption : str
        Markdown, shown below the figure.
    alt : str
        The finding, for a reader who does not see the figure.
    """
    buffer = io.BytesIO()
    dpi = PIXELS_PER_CSS_PIXEL * figure.dpi
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=dpi, metadata={"Software": None})
    plt.close(figure)
    width = round(Image.open(buffer).width / PIXELS_PER_CSS_PIXEL)
    data = {"image/png": buffer.getvalue(), "text/plain": f"Figure {number}: {alt}"}
    display(data, raw=True, metadata={"image/png": {"alt": alt, "width": width}})
    text = f"**Figure {number}.** {caption}"
    display({"text/markdown": text, "text/plain": text}, raw=True)


def split_scores(table: pd.DataFrame, score: str, label: str) -> Figure:
    """Draw a score over the ways to split, one panel per classifier: each seed, and the mean.

    Parameters
    ----------
    table : DataFrame
        `leakage.RESULT_SCHEMA`; three classes, so chance is one third.
    """
    names = list(table["classifier"].unique())
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3), sharey=True)
    for axis, name in zip(axes, names, strict=True):
        rows = table[table["classifier"] == name]
        axis.plot(rows["split"], rows[score], "o", color="gray", ms=4, mfc="none", label="a seed")
        means = rows.groupby("split", sort=False)[score].mean()
        axis.plot(means.index, means, "_", color=TRAINING, ms=30, mew=2.5, label="mean")
        axis.axhline(1 / 3, color="black", lw=0.8, ls="--", label="chance")
        axis.set(title=name)
        axis.margins(x=0.2)
    axes[0].set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    handles[1] = plt.Line2D([], [], color=TRAINING, lw=2.5)
    axes[0].legend(handles, labels, frameon=False, fontsize=8, loc=(0.02, 0.1))
    return figure


def step_differences(table: pd.DataFrame) -> Figure:
    """Draw the effect of each preprocessing step, with its intervals and a line at zero.

    Parameters
    ----------
    table : DataFrame
        `ablation.RESULT_SCHEMA`; rows without a comparison are left out. The thick interval is
        that of the single comparison, the thin one is corrected for their number.
    """
    rows = table.dropna(subset=["compared"]).iloc[::-1]
    places = np.arange(len(rows))
    colors = [
        "gray" if low <= 0 <= high else TRAINING if low > 0 else VALIDATION
        for low, high in zip(rows["difference_low"], rows["difference_high"], strict=True)
    ]
    figure, axis = plt.subplots(figsize=(7.2, 0.32 * len(rows) + 1.1))
    axis.axvline(0, color="black", lw=0.8, ls="--")
    axis.hlines(places, rows["corrected_low"], rows["corrected_high"], colors, lw=1)
    axis.hlines(places, rows["difference_low"], rows["difference_high"], colors, lw=3.5)
    axis.scatter(rows["difference"], places, color=colors, s=36, edgecolors="black", zorder=3)
    axis.set_yticks(places, rows["compared"])
    axis.set_xlabel("difference in balanced accuracy, with the step minus without it")
    return figure


def interval_rows(table: pd.DataFrame, label: str, limit: float | None = None) -> Figure:
    """Draw one interval per row, named by the index, and a dashed line at `limit`.

    Parameters
    ----------
    table : DataFrame
        `value`, `low` and `high`.
    """
    rows = table.iloc[::-1]
    places = np.arange(len(rows))
    figure, axis = plt.subplots(figsize=(7.2, 0.34 * len(rows) + 0.9))
    axis.hlines(places, rows["low"], rows["high"], TRAINING, lw=2.5)
    axis.scatter(rows["value"], places, color=TRAINING, s=36, zorder=3)
    if limit is not None:
        axis.axvline(limit, color="black", lw=0.8, ls="--")
    axis.set_yticks(places, rows.index)
    axis.set_xlim(left=min(0, 1.1 * rows["low"].min()))
    axis.set_xlabel(label)
    return figure


def trade_off(table: pd.DataFrame, x: str, y: str, labels: tuple[str, str]) -> Figure:
    """Draw two scores of each row against each other, each point named by the index."""
    figure, axis = plt.subplots(figsize=(5.6, 3.6))
    for name, row in table.iterrows():
        is_mean = name.startswith("mean")
        style = {"color": COLORS[is_mean], "marker": MARKERS[is_mean]}
        axis.scatter(row[x], row[y], s=45, **style)
        place = {"xytext": (0, -17 if is_mean else 9), "textcoords": "offset points"}
        axis.annotate(name, (row[x], row[y]), ha="center", fontsize=9, **place)
    axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.margins(0.15)
    return figure


def bars(table: pd.DataFrame, label: str, digits: int = 0, log: bool = False) -> Figure:
    """Draw horizontal bars: one group per row, one bar per column with a value, with its number."""
    rows, height = table.iloc[::-1], 0.8 / len(table.columns)
    rank = rows.notna().cumsum(axis=1)
    middle = (rank.max(axis=1) + 1) / 2
    figure, axis = plt.subplots(figsize=(7.6, (0.28 * len(table.columns) + 0.15) * len(rows) + 0.9))
    for i, column in enumerate(table.columns):
        values = rows[column].dropna()
        places = (np.arange(len(rows)) + (middle - rank[column]) * height)[values.index]
        drawn = axis.barh(places, values, height, color=COLORS[i], label=column)
        axis.bar_label(drawn, [f"{v:,.{digits}f}" for v in values], fontsize=8, padding=2)
    axis.set_yticks(range(len(rows)), rows.index)
    axis.set_xlabel(label)
    axis.margins(x=0.12)
    if log:
        axis.set_xscale("log")
    if len(table.columns) > 1:
        axis.legend(frameon=False, fontsize=8)
    return figure


def histograms(table: pd.DataFrame) -> Figure:
    """Draw the histogram of each channel, one panel a step, the first step's in grey behind.

    Parameters
    ----------
    table : DataFrame
        `step`, `channel`, `low` (the bin's lowest grey level) and `share` of the pixels.
    """
    colors = {"red": "#CC3311", "green": "#228833", "blue": "#0077BB"}
    options = {"hue": "channel", "style": "channel", "palette": colors, "errorbar": None}
    layout = {"col": "step", "col_wrap": 4, "height": 2.1, "aspect": 1.05}
    with plt.rc_context({"figure.constrained_layout.use": False}):  # a grid arranges itself
        grid = sns.relplot(table, x="low", y="share", kind="line", **options, **layout)
    first = table[table["step"] == table["step"].iloc[0]]
    for axis in grid.axes.flat:
        sns.lineplot(
            first, x="low", y="share", units="channel", estimator=None, color="silver", lw=2.5,
            zorder=0, legend=False, ax=axis,
        )  # fmt: skip
    grid.set_titles("{col_name}").set_axis_labels("intensity (0–255)", "proportion of pixels")
    return grid.figure


def histories(tables: dict[str, pd.DataFrame], columns: dict[str, str]) -> Figure:
    """Draw columns of several trainings over the epochs, one panel per column.

    Parameters
    ----------
    tables : dict of str to DataFrame
        For each training one row per epoch, with `epoch`.
    columns : dict of str to str
        Column and its label.
    """
    figure, axes = plt.subplots(1, len(columns), figsize=(3.4 * len(columns), 3))
    for axis, (column, label) in zip(axes, columns.items(), strict=True):
        for i, (name, table) in enumerate(tables.items()):
            axis.plot(table["epoch"], table[column], color=COLORS[i], marker=MARKERS[i], label=name)
        axis.set(xlabel="epoch of fine-tuning", ylabel=label)
    axes[0].legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure
