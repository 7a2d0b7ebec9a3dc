"""Figures: what is saved, what the notebook shows."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import figures, models, paths
from lib.config import load_config
from lib.evaluation import plots


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Return a function that shows a figure and returns its file, data, options and caption."""
    outputs = []
    monkeypatch.setattr(paths, "report_folder", lambda name: tmp_path)
    monkeypatch.setattr(figures, "display", lambda data, **options: outputs.append((data, options)))
    config = load_config(paths.ROOT / "configs/demo.yaml")

    def show(credit):
        image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
        figure = figures.image_grid([image] * 6, 3, ["title"] * 6, ["before", "after"])
        figures.show(figure, config, "9.1", "a_name", "Caption.", "Finding.", credit=credit)
        (data, options), (caption, _) = outputs
        return (tmp_path / "figures/9.1_a_name.png").read_bytes(), data, options, caption

    return show


def test_a_figure_without_images_is_shown_as_it_is_saved(shown):
    saved, data, options, caption = shown(credit=False)
    assert data["image/png"] == saved
    assert options["metadata"]["image/png"]["alt"] == "Finding."
    assert caption["text/markdown"] == "**Figure 9.1.** Caption."


def test_a_figure_with_images_is_shown_as_jpeg_in_full_colour(shown):
    """Never the bytes of its PNG, so `tools.publish` refuses it."""
    saved, data, options, caption = shown(credit=True)
    assert "image/png" not in data
    difference = np.abs(pixels(saved).astype(int) - pixels(data["image/jpeg"]))
    assert difference.mean() < 8  # noise is the worst case for JPEG
    assert options["metadata"]["image/jpeg"]["alt"] == "Finding."
    assert caption["text/markdown"].endswith("Synthetic images, no medical evidence.")


@pytest.mark.parametrize("credit", [False, True])
def test_a_figure_has_more_than_one_and_a_half_pixels_per_css_pixel(shown, credit):
    _, data, options, _ = shown(credit)
    ((kind, metadata),) = options["metadata"].items()
    assert pixels(data[kind]).shape[1] >= 1.5 * metadata["width"]


def test_figures_are_closed_after_they_are_shown(shown):
    open_before = plt.get_fignums()
    shown(credit=False)
    assert plt.get_fignums() == open_before


CLASSES = ["bcc", "mel", "nv"]
CURVE = pd.DataFrame({"class": CLASSES, "x": 0.5, "y": 0.5})
LABELS = {"x": "1 − specificity", "y": "sensitivity", "area": "AUC"}
GRIDS = {
    "confusion matrices": lambda titles: figures.confusion_matrices(
        dict.fromkeys(titles, np.eye(3, dtype=int)), CLASSES
    ),
    "curves": lambda titles: plots.class_curves(
        dict.fromkeys(titles, CURVE),
        dict.fromkeys(titles, dict.fromkeys(CLASSES, 0.5)),
        LABELS,
    ),
}


@pytest.mark.parametrize("config", sorted(paths.ROOT.glob("configs/*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("draw", GRIDS.values(), ids=GRIDS)
def test_no_title_runs_into_that_of_another_panel(draw, config):
    rows = models.models_of(load_config(config)).values()
    figures.use_style(load_config(config))
    figure = draw([row.title for row in rows])
    figure.canvas.draw()
    boxes = [a.title.get_window_extent() for a in figure.axes if a.get_title()]
    plt.close(figure)
    assert len(boxes) == len(rows)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
