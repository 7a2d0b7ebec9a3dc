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
PAGE_WIDTH = 9.6  # inches of 100 CSS pixels
JPEG_QUALITY = 92


def use_style(config: Config) -> None:
    """Set the style of every figure of the session, and colours for classes that have none yet."""
    invented = [name for name in config.classes if name not in CLASS_COLORS]
    spare = [name for name in CLASS_COLORS if name not in config.classes] or list(CLASS_COLORS)
    for i, name in enumerate(invented):
        CLASS_COLORS[name] = CLASS_COLORS[spare[i % len(spare)]]
        CLASS_LINES[name] = CLASS_LINES[spare[i % len(spare)]]
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9)
    plt.rc("figure", dpi=100)
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("image", cmap="viridis", interpolation="nearest")


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
    image.save(buffer, format="jpeg", quality=JPEG_QUALITY, subsampling=0)
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
    titled_rows = -(-len(titles or []) // columns)
    height = rows * (size * images[0].shape[0] / images[0].shape[1] + 0.05) + 0.25 * titled_rows
    width = size * columns + (0.3 if row_labels else 0)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
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
    wrapped = [textwrap.fill(names[c], letters, break_long_words=False) for c in counts.index]
    axis.set_xticks(range(len(counts)), list(map("{}\n{}".format, counts.index, wrapped)))
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


def curves(history: pd.DataFrame, scores: list[str]) -> Figure:
    """Draw training and validation scores over the epochs, with the key in a free panel.

    A dotted line separates stages; a ring marks the epoch whose weights each stage keeps.
    """
    figure, axes, key = panels(len(scores), 3, 2.6)
    epochs, stages = history["epoch"], history.groupby("stage", sort=False)
    ringed = history[history["kept"]]
    options = {"marker": "o", "ls": "", "ms": 10, "mfc": "none", "color": VALIDATION}
    for axis, score in zip(axes, scores, strict=True):
        validation = history[f"val_{score}"]
        axis.plot(epochs, history[score], "o-", ms=3, color=TRAINING, label="training")
        axis.plot(epochs, validation, "s--", ms=3, color=VALIDATION, label="validation")
        axis.plot(ringed["epoch"], ringed[f"val_{score}"], label="weights kept", **options)
        for epoch in stages["epoch"].max().iloc[:-1]:
            axis.axvline(epoch + 0.5, color="gray", ls=":", label="next stage")
        axis.set(xlabel="epoch", ylabel=score.replace("_", " ").replace("f1", "F1"))
        axis.xaxis.get_major_locator().set_params(integer=True)
        if score != "loss":
            axis.set_ylim(0, 1.02)
    add_key(axes[0], key)
    return figure


def panels(n: int, columns: int, height: float) -> tuple[Figure, np.ndarray, plt.Axes | None]:
    """Return a figure of the page's width, its first n axes, and a blank one if there is any."""
    rows = -(-n // columns)
    size = (PAGE_WIDTH / columns * min(n, columns), height * rows)
    figure, axes = plt.subplots(rows, min(n, columns), figsize=size, squeeze=False)
    for axis in axes.flat[n:]:
        axis.axis("off")
    return figure, axes.flat[:n], axes.flat[-1] if n < axes.size else None


def add_key(axis: plt.Axes, key: plt.Axes | None) -> None:
    """Put the legend of an axis into the blank axis `key`, or into the axis itself."""
    handles, labels = axis.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    place = {"loc": "center"} if key else {"fontsize": 8}
    (key or axis).legend(entries.values(), entries.keys(), frameon=False, **place)


def confusion_matrices(confusions: dict[str, np.ndarray], classes: list[str]) -> Figure:
    """Draw confusion matrices, one panel per model.

    Each cell holds the number of images and, for up to four classes, the proportion of the actual
    class, which is also the colour.
    """
    few = len(classes) <= 4
    columns = 4 if few and len(confusions) > 3 else 3
    figure, axes, key = panels(len(confusions), columns, PAGE_WIDTH / columns + 0.2)
    options = {"xticklabels": classes, "yticklabels": classes, "cmap": "Blues", "square": True}
    options |= {"fmt": "", "vmin": 0, "vmax": 1, "cbar": False}
    for axis, (title, counts) in zip(axes, confusions.items(), strict=True):
        counts = np.asarray(counts)
        proportions = counts / counts.sum(axis=1, keepdims=True)
        texts = np.vectorize("{}\n{:.2f}".format)(counts, proportions) if few else counts
        options["annot_kws"] = {"fontsize": 9 if few else 7}
        sns.heatmap(proportions, annot=texts, ax=axis, **options)
        axis.set(xlabel="predicted", ylabel="actual")
        axis.tick_params(rotation=0, labelsize=9 if few else 7)
        axis.set_title(title, fontsize=9)
    if key:
        bar = key.inset_axes([0.3, 0.1, 0.1, 0.8])
        bar.set_in_layout(False)
        label = "proportion of the actual class"
        figure.colorbar(axes[0].collections[0], cax=bar, label=label)
    return figure


def probability_heatmap(table: pd.DataFrame, classes: list[str]) -> Figure:
    """Draw predicted probabilities, one row per image, grouped by actual class (paper, Fig. 6).

    Within a class the images are ordered by the probability of that class.

    Parameters
    ----------
    table : DataFrame
        Predictions of one model on one split.
    """
    parts = [
        table[table["label"] == name].sort_values(f"prob_{name}", ascending=False)
        for name in classes
    ]
    ordered = pd.concat(parts)
    figure, axis = plt.subplots(figsize=(4.6, 6))
    options = {"vmin": 0, "vmax": 1, "cmap": "viridis", "xticklabels": classes}
    options |= {"yticklabels": False, "cbar_kws": {"label": "predicted probability"}}
    sns.heatmap(ordered[[f"prob_{name}" for name in classes]].to_numpy(), ax=axis, **options)
    edges = np.cumsum([0] + [len(part) for part in parts])
    axis.hlines(edges[1:-1], *axis.get_xlim(), color="white", lw=2)
    middles = (edges[:-1] + edges[1:]) / 2
    axis.set_yticks(middles, [f"{c}\n({len(p)})" for c, p in zip(classes, parts, strict=True)])
    axis.tick_params(axis="y", rotation=0, length=0)
    axis.set(xlabel="predicted class", ylabel="actual class (number of test images)")
    return figure


def overlay(image: np.ndarray, heatmap: np.ndarray, strength: float = 0.75) -> np.ndarray:
    """Lay a heatmap in [0, 1] over an image; higher values are more opaque.

    Returns
    -------
    ndarray of float in [0, 1], shape (height, width, 3), RGB
    """
    opacity = strength * heatmap[..., None]
    return (1 - opacity) * image / 255 + opacity * plt.get_cmap("inferno")(heatmap)[..., :3]


def heatmap_grid(examples: list[dict[str, np.ndarray]]) -> Figure:
    """Lay out images beside their heatmaps, two examples per row, with a colour bar.

    Parameters
    ----------
    examples : list of dict
        For each example its images by title, the same number in each.
    """
    n, rows = len(examples[0]), -(-len(examples) // 2)
    size = PAGE_WIDTH / (2 * n + 0.2)
    widths = [1] * n + [0.1] + [1] * n
    shape = {"figsize": (PAGE_WIDTH, (size + 0.3) * rows + 0.7), "width_ratios": widths}
    figure, axes = plt.subplots(rows, len(widths), squeeze=False, **shape)
    for axis in axes.flat:
        axis.axis("off")
    halves = [half for row in axes for half in (row[:n], row[n + 1 :])]
    for half, example in zip(halves, examples, strict=False):
        for axis, (title, image) in zip(half, example.items(), strict=True):
            axis.imshow(image)
            axis.set_title(title, fontsize=9)
    scale = plt.cm.ScalarMappable(plt.Normalize(0, 1), "inferno")
    label = "heatmap, relative to the maximum of each map"
    figure.colorbar(scale, ax=axes, location="bottom", shrink=0.5, aspect=40, label=label)
    return figure


def class_boxes(table: pd.DataFrame, axis_labels: dict[str, str]) -> Figure:
    """Draw box plots of columns by class (`dx`), whiskers at the 5th and 95th percentile."""
    columns = 2 if len(axis_labels) == 4 else len(axis_labels)
    rows = -(-len(axis_labels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.8 * rows))
    order = [name for name in CLASS_COLORS if name in set(table["dx"])]
    options = {"whis": (5, 95), "showfliers": False, "linecolor": "black", "saturation": 1}
    options |= {"medianprops": {"color": "white", "lw": 2}, "palette": CLASS_COLORS}
    for axis, (column, label) in zip(np.ravel(axes), axis_labels.items(), strict=True):
        sns.boxplot(table, x="dx", y=column, hue="dx", order=order, ax=axis, **options)
        axis.set(xlabel="class", ylabel=label)
    return figure


def predicted_grid(
    images: np.ndarray, rows: pd.DataFrame, classes: list[str], examples: int
) -> Figure:
    """Lay out correct predictions (left half) and errors (right half), one row per class.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3)
    rows : DataFrame
        For each image `label`, `predicted`, `correct` and `confidence`.
    """
    columns = 2 * examples
    side = min(PAGE_WIDTH / columns, 2)  # inches
    size = (side * columns, (side + 0.25) * len(classes))
    figure, axes = plt.subplots(len(classes), columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    options = {"rotation": 90, "va": "center", "ha": "right", "fontweight": "bold"}
    for name, (axis, *_) in zip(classes, axes, strict=True):
        color = CLASS_COLORS[name]
        axis.text(-0.06, 0.5, name, transform=axis.transAxes, color=color, **options)
    image_of = pd.Series(list(images), index=rows.index)
    for (label, correct), group in rows.groupby(["label", "correct"]):
        first = 0 if correct else examples
        for column, (key, row) in enumerate(group.iterrows(), start=first):
            axis = axes[classes.index(label), column]
            axis.imshow(image_of[key])
            title = f"{row['predicted']}, {row['confidence']:.2f}"
            axis.set_title(title, fontsize=9, color="#117733" if correct else "#AA2222")
    return figure
