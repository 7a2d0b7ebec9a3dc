"""Figures: one style, one colour for each class, and one way to show and save."""

import io
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display, update_display
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest

from lib import paths, tables
from lib.config import Config

#: Paul Tol's muted scheme: safe for colour-blind readers, told apart by lightness in grey.
CLASS_COLORS = {
    "akiec": "#999933",
    "bcc": "#CC6677",
    "bkl": "#117733",
    "df": "#882255",
    "mel": "#332288",
    "nv": "#44AA99",
    "vasc": "#AA4499",
}
CLASS_LINES = dict(zip(CLASS_COLORS, ["-", "--", "-.", ":", "-", "-.", "--"], strict=True))
TRAINING, VALIDATION = "#332288", "#CC6677"
#: Resolution of figures: sharp on a screen that shows them at the width they were laid out for.
PIXELS_PER_CSS_PIXEL = 1.6
JPEG_QUALITY = 92


def use_style(config: Config) -> None:
    """Set the style of every figure of the session, and colours for classes that have none yet."""
    invented = [name for name in config.classes if name not in CLASS_COLORS]
    spare = [name for name in CLASS_COLORS if name not in config.classes] or list(CLASS_COLORS)
    for i, name in enumerate(invented):
        CLASS_COLORS[name] = CLASS_COLORS[spare[i % len(spare)]]
        CLASS_LINES[name] = CLASS_LINES[spare[i % len(spare)]]
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
        }
    )


def reserve_answer() -> None:
    """Reserve the place of the notebook's answer at its top; `fill_answer` fills it."""
    display(Markdown("**Answer.** The last cell writes it here."), display_id="answer")


def fill_answer(text: str) -> None:
    """Write the notebook's answer, in Markdown, to the place that `reserve_answer` reserved."""
    update_display(Markdown(f"**Answer.** {text}"), display_id="answer")


def show(
    figure: Figure,
    config: Config,
    number: str,
    name: str,
    caption: str,
    alt: str,
    table: pd.DataFrame | None = None,
    credit: bool = False,
) -> None:
    """Save a figure (and the table behind it) under reports/<run>/figures and display it.

    The saved file is a PNG. The notebook shows the same PNG, or for a figure with images of the
    data set a JPEG in full colour, so that `tools.publish` can tell the two kinds apart.

    Parameters
    ----------
    number : str
        As in "Figure 3.1"; starts the file's name and the caption.
    caption : str
        Markdown, shown below the figure.
    alt : str
        The finding, for a reader who does not see the figure.
    table : DataFrame, optional
        The numbers behind the figure, saved as CSV.
    credit : bool
        The figure shows images of the data set, so the caption names their source.
    """
    folder = paths.report_folder(config.name) / "figures"
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    options = {"bbox_inches": "tight", "dpi": PIXELS_PER_CSS_PIXEL * figure.dpi}
    figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    plt.close(figure)
    (folder / f"{number}_{name}.png").write_bytes(buffer.getvalue())
    if table is not None:
        tables.write_table(table, folder / f"{number}_{name}.csv")
    image = Image.open(buffer).convert("RGB")
    width = round(image.width / PIXELS_PER_CSS_PIXEL)
    kind, data = ("image/jpeg", _jpeg(image)) if credit else ("image/png", buffer.getvalue())
    text = f"Figure {number}: {alt}"
    display(
        {kind: data, "text/plain": text}, raw=True, metadata={kind: {"alt": alt, "width": width}}
    )
    text = f"**Figure {number}.** {caption}" + (f" {config.data.attribution}" if credit else "")
    display({"text/markdown": text, "text/plain": text}, raw=True)


def _jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG with its colours at full resolution."""
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def image_grid(
    images: list[np.ndarray],
    columns: int,
    titles: list[str] | None = None,
    row_labels: list[str] | None = None,
    size: float = 1.5,
) -> Figure:
    """Lay images out in a grid, row by row; `size` is the width of one in inches."""
    rows = -(-len(images) // columns)
    height = size * images[0].shape[0] / images[0].shape[1] + (0.3 if titles else 0.05)
    width = size * columns + (0.3 if row_labels else 0)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image)
    for axis, title in zip(axes.flat, titles or [], strict=False):
        axis.set_title(title, fontsize=8.5)
    for axis, label in zip(axes[:, 0], row_labels or [], strict=False):
        axis.set_ylabel(label, color=CLASS_COLORS.get(label, "black"), fontweight="bold")
    return figure


def class_grid(images: dict[str, list[np.ndarray]], size: float = 1.4) -> Figure:
    """Lay images out with one row per class, named at its left."""
    columns = max(len(row) for row in images.values())
    blank = np.full_like(next(iter(images.values()))[0], 255)
    filled = [image for row in images.values() for image in (row + columns * [blank])[:columns]]
    return image_grid(filled, columns, row_labels=list(images), size=size)


def class_bars(counts: pd.DataFrame, names: dict[str, str], label: str) -> Figure:
    """Draw grouped bars: one group per class (index), one bar per column, with its number above.

    `names` are the full names of the classes.
    """
    figure, axis = plt.subplots(figsize=(max(7, 1.5 * len(counts)), 3))
    shades = np.linspace(1, 0.35, counts.shape[1])
    width = 0.8 / counts.shape[1]
    for i, column in enumerate(counts):
        centers = np.arange(len(counts)) + (i - (counts.shape[1] - 1) / 2) * width
        colors = [(*plt.matplotlib.colors.to_rgb(CLASS_COLORS[c]), shades[i]) for c in counts.index]
        bars = axis.bar(centers, counts[column], width, color=colors, edgecolor="black", lw=0.6)
        axis.bar_label(bars, [f"{n:,}\n{column}" for n in counts[column]], fontsize=8)
    letters = 20 if len(counts) < 5 else 12
    ticks = [
        f"{name}\n{textwrap.fill(names[name], letters, break_long_words=False)}"
        for name in counts.index
    ]
    axis.set_xticks(range(len(counts)), ticks)
    axis.set_ylabel(label)
    axis.margins(y=0.2)
    return figure


def class_proportions(flagged: pd.DataFrame, judged: pd.DataFrame, label: str) -> Figure:
    """Draw proportions as bars: one group per column, one bar per class, with Wilson intervals.

    Parameters
    ----------
    flagged, judged : DataFrame of int
        Numerators and denominators, indexed by class; a column without any judged is left out.
    """
    columns = [column for column in flagged if judged[column].sum()]
    figure, axis = plt.subplots(figsize=(max(5, 1.8 * len(columns)), 2.8))
    width = 0.8 / len(flagged)
    for i, name in enumerate(flagged.index):
        centers = np.arange(len(columns)) + (i - (len(flagged) - 1) / 2) * width
        tests = [
            binomtest(int(flagged.loc[name, c]), max(int(judged.loc[name, c]), 1)) for c in columns
        ]
        heights = np.array([test.statistic for test in tests])
        limits = np.array([test.proportion_ci(method="wilson") for test in tests])
        errors = np.abs(limits.T - heights)
        color = CLASS_COLORS[name]
        axis.bar(centers, heights, width, color=color, edgecolor="black", lw=0.6, label=name)
        for line, lw in (("white", 2.4), ("black", 0.9)):  # seen on dark bars, too
            axis.errorbar(centers, heights, errors, fmt="none", ecolor=line, elinewidth=lw)
    axis.set_xticks(range(len(columns)), [column.replace("_", " ") for column in columns])
    axis.set_ylabel(label)
    axis.legend(frameon=False, fontsize=8)
    return figure


def split_scores(table: pd.DataFrame, score: str, label: str) -> Figure:
    """Draw a score over the ways to split, one panel a classifier: each seed, and the mean.

    Parameters
    ----------
    table : DataFrame
        `leakage.RESULT_SCHEMA`; three classes, so chance is at one third.
    """
    names = list(table["classifier"].unique())
    figure, axes = plt.subplots(
        1, len(names), figsize=(3.4 * len(names), 2.8), sharey=True, squeeze=False
    )
    for axis, name in zip(axes.flat, names, strict=True):
        rows = table[table["classifier"] == name]
        axis.plot(rows["split"], rows[score], "o", color="gray", ms=4, mfc="none")
        means = rows.groupby("split", sort=False)[score].mean()
        axis.plot(means.index, means, "_", color=TRAINING, ms=30, mew=2.5)
        axis.axhline(1 / 3, color="black", lw=0.8, ls="--")
        axis.set(title=name)
        axis.margins(x=0.2)
    axes.flat[0].set_ylabel(label)
    return figure


def histograms(table: pd.DataFrame) -> Figure:
    """Draw the histogram of each channel, one panel a step, the first step's in grey behind.

    Parameters
    ----------
    table : DataFrame
        `step`, `channel`, `low` (the bin's lowest grey level) and `share` of the pixels.
    """
    steps = table["step"].unique()
    columns = 4
    rows = -(-len(steps) // columns)
    size = (2.2 * columns, 2.1 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    lines = {"red": ("#CC3311", "-"), "green": ("#228833", "--"), "blue": ("#0077BB", "-.")}
    for axis, step in zip(axes.flat, steps, strict=False):
        for channel, (color, line) in lines.items():
            for name, style in (
                (steps[0], {"color": "silver", "lw": 2.5}),
                (step, {"color": color, "ls": line, "lw": 1.2, "label": channel}),
            ):
                of_step = table[(table["step"] == name) & (table["channel"] == channel)]
                axis.plot(of_step["low"], of_step["share"], **style)
        axis.set_title(step, fontsize=9)
    for axis in axes.flat[len(steps) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, len(steps) - columns) : len(steps)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("intensity (0–255)")
    for axis in axes[:, 0]:
        axis.set_ylabel("proportion of pixels")
    axes.flat[0].legend(frameon=False, fontsize=7)
    sns.despine(figure)
    return figure


def curves(history: pd.DataFrame, scores: list[str]) -> Figure:
    """Draw scores over the epochs, training and validation; a dotted line parts the stages.

    A ring marks the epoch that each stage keeps.
    """
    figure, axes = _panels(len(scores), 3.2, 2.6)
    stages = history.groupby("stage", sort=False)
    last_of_stage = stages["epoch"].max().iloc[:-1]
    kept = history.loc[stages["val_balanced_accuracy"].idxmax()]
    for axis, score in zip(axes, scores, strict=True):
        axis.plot(history["epoch"], history[score], "o-", ms=3, color=TRAINING, label="training")
        axis.plot(
            history["epoch"],
            history[f"val_{score}"],
            "s--",
            ms=3,
            color=VALIDATION,
            label="validation",
        )
        axis.plot(kept["epoch"], kept[f"val_{score}"], "o", ms=9, mfc="none", color=VALIDATION)
        for epoch in last_of_stage:
            axis.axvline(epoch + 0.5, color="gray", ls=":")
        axis.set(xlabel="epoch", ylabel=score.replace("_", " ").replace("f1", "F1"))
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes:
        if axis.get_ylabel() not in ("loss", ""):
            axis.set_ylim(0, 1.02)
    axes[0].legend(frameon=False)
    return figure


def _panels(n: int, width: float, height: float, **options) -> tuple[Figure, np.ndarray]:
    """Return a figure and its first n axes, in rows of three; the others are hidden."""
    columns = min(n, 3)
    rows = -(-n // columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    return figure, axes.flat[:n]


def confusion_matrices(confusions: dict[str, np.ndarray], classes: list[str]) -> Figure:
    """Draw confusion matrices, one panel a model: in each cell the count, and its share of the row.

    The colour is that of the share of the actual class.
    """
    side = max(3, 0.65 * len(classes))  # inches
    figure, axes = _panels(len(confusions), side + 0.3, side + 0.3)
    options = {"xticklabels": classes, "yticklabels": classes, "cmap": "Blues", "square": True}
    options["annot_kws"] = {"fontsize": 8 if len(classes) > 4 else 10}
    for axis, (title, counts) in zip(axes, confusions.items(), strict=True):
        counts = np.asarray(counts)
        shares = counts / counts.sum(axis=1, keepdims=True)
        said = np.vectorize("{}\n{:.2f}".format)(counts, shares)
        sns.heatmap(shares, annot=said, fmt="", vmin=0, vmax=1, cbar=False, ax=axis, **options)
        axis.set(xlabel="predicted", ylabel="actual")
        axis.set_title(title, fontsize=9)
    return figure


def roc(tables_of_models: dict[str, pd.DataFrame], labels: dict[str, dict[str, str]]) -> Figure:
    """Draw ROC curves of each class against the others, one panel a model, in rows of three.

    Parameters
    ----------
    tables_of_models : dict of str to DataFrame
        From `metrics.roc_curves`.
    labels : dict of str to dict
        For each model, the legend's text of each class.
    """
    figure, axes = _panels(len(tables_of_models), 3.3, 3.5)
    for axis, (title, table) in zip(axes, tables_of_models.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="gray", lw=0.8)
        for name, curve in table.groupby("class", sort=False):
            axis.plot(
                curve["false_positive_rate"],
                curve["sensitivity"],
                color=CLASS_COLORS[name],
                ls=CLASS_LINES[name],
                label=labels[title][name],
            )
        axis.set(xlabel="1 − specificity", ylabel="sensitivity", aspect="equal")
        axis.set_title(title, fontsize=9)
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def probability_heatmap(table: pd.DataFrame, classes: list[str]) -> Figure:
    """Draw predicted probabilities, one row an image, grouped by actual class (paper, Fig. 6).

    Within a class the images are ordered by the probability of that class.

    Parameters
    ----------
    table : DataFrame
        One model's predictions of one split.
    """
    parts = [
        table[table["label"] == name].sort_values(f"prob_{name}", ascending=False)
        for name in classes
    ]
    ordered = pd.concat(parts)
    figure, axis = plt.subplots(figsize=(4.6, 6))
    sns.heatmap(
        ordered[[f"prob_{name}" for name in classes]].to_numpy(),
        vmin=0,
        vmax=1,
        cmap="viridis",
        ax=axis,
        xticklabels=classes,
        yticklabels=False,
        cbar_kws={"label": "predicted probability"},
    )
    edges = np.cumsum([0] + [len(part) for part in parts])
    axis.hlines(edges[1:-1], *axis.get_xlim(), color="white", lw=2)
    middles = (edges[:-1] + edges[1:]) / 2
    axis.set_yticks(middles, [f"{c}\n({len(p)})" for c, p in zip(classes, parts, strict=True)])
    axis.tick_params(axis="y", rotation=0, length=0)
    axis.set(xlabel="predicted class", ylabel="actual class (number of test images)")
    return figure


def overlay(image: np.ndarray, heatmap: np.ndarray, strength: float = 0.75) -> np.ndarray:
    """Lay a heatmap in [0, 1] over an image, the more opaque the higher it is.

    Returns
    -------
    ndarray of float in [0, 1], shape (height, width, 3), RGB
    """
    opacity = strength * heatmap[..., None]
    return (1 - opacity) * image / 255 + opacity * plt.get_cmap("inferno")(heatmap)[..., :3]


def triples(groups: dict[str, list[tuple[str, np.ndarray]]], columns: int) -> Figure:
    """Lay out titled images in threes, one row a class, up to `columns` threes, with a key."""
    figure, axes = plt.subplots(
        len(groups),
        4 * columns,
        figsize=(3.6 * columns, 1.45 * len(groups)),
        gridspec_kw={"width_ratios": [1, 1, 1, 0.12] * columns},
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, pictures in zip(axes, groups.values(), strict=True):
        places = [axis for i, axis in enumerate(row) if i % 4 < 3]
        for axis, (title, image) in zip(places, pictures, strict=False):
            axis.imshow(image)
            axis.set_title(title, fontsize=8)
    scale = plt.cm.ScalarMappable(plt.Normalize(0, 1), "inferno")
    label = "Grad-CAM, share of each map's maximum"
    figure.colorbar(scale, ax=axes, location="bottom", shrink=0.4, aspect=40, label=label)
    return figure


def class_boxes(table: pd.DataFrame, axis_labels: dict[str, str]) -> Figure:
    """Draw box plots of columns by class (`dx`), whiskers at the 5th and 95th percentile."""
    columns = 2 if len(axis_labels) == 4 else len(axis_labels)
    rows = -(-len(axis_labels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.8 * rows))
    order = [name for name in CLASS_COLORS if name in set(table["dx"])]
    for axis, (column, label) in zip(np.ravel(axes), axis_labels.items(), strict=True):
        sns.boxplot(
            table,
            x="dx",
            y=column,
            hue="dx",
            order=order,
            palette=CLASS_COLORS,
            saturation=1,
            linecolor="black",
            medianprops={"color": "white", "lw": 2},
            whis=(5, 95),
            showfliers=False,
            ax=axis,
        )
        axis.set(xlabel="class", ylabel=label)
    return figure


def predicted_grid(
    images: np.ndarray, rows: pd.DataFrame, classes: list[str], examples: int
) -> Figure:
    """Lay out right answers (left half) and wrong ones (right half), one row a class.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3)
    rows : DataFrame
        For each image `label`, `predicted`, `right` and `confidence`.
    """
    columns = 2 * examples
    size = (1.15 * columns, 1.4 * len(classes))
    figure, axes = plt.subplots(len(classes), columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    pictures = pd.Series(list(images), index=rows.index)
    for (label, right), group in rows.groupby(["label", "right"]):
        first = 0 if right else examples
        for place, (key, row) in enumerate(group.iterrows(), start=first):
            axis = axes[classes.index(label), place]
            axis.imshow(pictures[key])
            title = f"{row['label']} → {row['predicted']}, {row['confidence']:.2f}"
            axis.set_title(title, fontsize=7.5, color="#117733" if right else "#AA2222")
    return figure


def excess_boxes(excess: pd.DataFrame) -> Figure:
    """Draw box plots of differences, one a column, with a line at zero."""
    figure, axis = plt.subplots(figsize=(6.5, 2.4))
    sns.boxplot(excess, orient="h", whis=(5, 95), showfliers=False, color="#88CCEE", ax=axis)
    axis.axvline(0, color="black", lw=0.8, ls="--")
    axis.set(xlabel="share of mass inside the lesion, less a uniform map's")
    return figure


def step_differences(table: pd.DataFrame) -> Figure:
    """Draw what each preprocessing step changes, with its intervals and a line at zero.

    Parameters
    ----------
    table : DataFrame
        `ablation.RESULT_SCHEMA`; rows without a comparison are left out. The thick interval is
        the one of the single comparison, the thin one allows for their number.
    """
    rows = table.dropna(subset=["compared"]).iloc[::-1]
    places = np.arange(len(rows))
    colors = [
        "gray" if low <= 0 <= high else TRAINING if low > 0 else VALIDATION
        for low, high in zip(rows["difference_low"], rows["difference_high"], strict=True)
    ]
    figure, axis = plt.subplots(figsize=(7.2, 0.32 * len(rows) + 1.1), layout="constrained")
    axis.axvline(0, color="black", lw=0.8, ls="--")
    axis.hlines(places, rows["corrected_low"], rows["corrected_high"], colors, lw=1)
    axis.hlines(places, rows["difference_low"], rows["difference_high"], colors, lw=3.5)
    axis.scatter(rows["difference"], places, color=colors, s=36, edgecolors="black", zorder=3)
    axis.set_yticks(places, rows["compared"])
    axis.set_xlabel("difference in balanced accuracy, with the step less without it")
    sns.despine(ax=axis)
    return figure
