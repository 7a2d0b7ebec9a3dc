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
from sklearn.metrics import ConfusionMatrixDisplay

from lib import paths, tables
from lib.config import Config

#: Paul Tol's muted scheme: safe for colour-blind readers, told apart by lightness in grey.
CLASS_COLORS = {"akiec": "#999933", "bcc": "#CC6677", "bkl": "#117733", "df": "#882255"}
CLASS_COLORS |= {"mel": "#332288", "nv": "#44AA99", "vasc": "#AA4499"}
CLASS_LINES = dict(zip(CLASS_COLORS, ["-", "--", "-.", ":", "-", "-.", "--"], strict=True))
TRAINING, VALIDATION = "#332288", "#CC6677"
#: Resolution of figures: sharp on a screen that shows them at the width they were laid out for.
PIXELS_PER_CSS_PIXEL = 1.6
PAGE_WIDTH = 9.6  # inches of 100 CSS pixels
TITLE_WIDTH, JPEG_QUALITY = 30, 92  # characters of a panel's title in one line


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
    shown = {"alt": alt, "width": round(image.width / PIXELS_PER_CSS_PIXEL)}
    kind, data = "image/png", buffer.getvalue()
    if credit:  # with its colours at full resolution
        image.save(buffer := io.BytesIO(), format="jpeg", quality=JPEG_QUALITY, subsampling=0)
        kind, data = "image/jpeg", buffer.getvalue()
    text = f"Figure {number}: {alt}"
    display({kind: data, "text/plain": text}, raw=True, metadata={kind: shown})
    text = f"**Figure {number}.** {caption}" + (f" {config.data.attribution}" if credit else "")
    display({"text/markdown": text, "text/plain": text}, raw=True)


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
    options = {"cmap": "Blues", "colorbar": False, "im_kw": {"vmin": 0, "vmax": 1}}
    size = 9 if few else 7
    for axis, (title, counts) in zip(axes, confusions.items(), strict=True):
        counts = np.asarray(counts)
        proportions = counts / counts.sum(axis=1, keepdims=True)
        texts = np.vectorize("{}\n{:.2f}".format)(counts, proportions) if few else counts
        # seaborn's heatmap would draw the whole figure once more for each panel
        matrix = ConfusionMatrixDisplay(proportions, display_labels=classes)
        cells = matrix.plot(ax=axis, **options).text_.flat
        for cell, text, value in zip(cells, texts.flat, proportions.flat, strict=True):
            cell.set(text=text, fontsize=size, color="white" if value > 0.5 else "black")
        axis.set(xlabel="predicted", ylabel="actual")
        axis.tick_params(labelsize=size)
        axis.set_title(textwrap.fill(title, TITLE_WIDTH), fontsize=9)
    if key:
        bar = key.inset_axes([0.3, 0.1, 0.1, 0.8])
        bar.set_in_layout(False)
        figure.colorbar(axes[0].images[0], cax=bar, label="proportion of the actual class")
    return figure


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lay a heatmap in [0, 1] over an image; higher values are more opaque.

    Returns
    -------
    ndarray of float in [0, 1], shape (height, width, 3), RGB
    """
    opacity = 0.75 * heatmap[..., None]
    return (1 - opacity) * image / 255 + opacity * plt.get_cmap("inferno")(heatmap)[..., :3]
