"""Draw docs/demo.png, the README's picture of the demonstration: `python -m tools.demo_picture`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from lib import paths
from lib.config import Config, load_config
from lib.evaluation import priors
from tools import synthetic, synthetic_images
from tools.command_line import run_command

PICTURE = paths.ROOT / "docs" / "demo.png"
IMAGES = 4  # of each class
MODELS = ("baseline_cnn", "vgg16_fine_tuned")


def draw_picture(config: Config, metrics: dict) -> Figure:
    """Draw synthetic images of each class beside the test confusion matrices of two models."""
    plan = synthetic.image_plan(config.data.synthetic.lesions, config.data.synthetic.seed)
    figure, axes = plt.subplots(
        len(config.classes), IMAGES, figsize=(11, 3.3), dpi=160, squeeze=False
    )
    figure.subplots_adjust(0.025, 0.02, 0.485, 0.92, wspace=0.03, hspace=0.03)
    for row, name in zip(axes, config.classes, strict=True):
        views = plan[plan["dx"] == name].drop_duplicates("lesion_id").head(IMAGES)
        for axis, view in zip(row, views.to_dict("records"), strict=True):
            axis.imshow(
                synthetic_images.draw_view_images(view, config.data.synthetic.seed)["image"]
            )
            axis.set(xticks=[], yticks=[])
            sns.despine(ax=axis, left=True, bottom=True)
        row[0].set_ylabel(name, fontsize=11)
    figure.text(0.255, 0.945, "synthetic images", ha="center", fontsize=11)
    for i, name in enumerate(MODELS):
        axis = figure.add_axes((0.55 + 0.24 * i, 0.16, 0.2, 0.68))
        _draw_confusion(axis, metrics["models"][name], config.classes)
        axis.set_ylabel("" if i else "actual")
    return figure


def _draw_confusion(axis: plt.Axes, model: dict, classes: list[str]) -> None:
    scores = model["rules"][priors.PRIMARY_RULE]
    title = f"{model['title']}\nbalanced accuracy {scores['balanced_accuracy']['value']:.2f}"
    counts = np.array(scores["confusion"])
    sensitivity = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = {"xticklabels": classes, "yticklabels": classes}
    sns.heatmap(
        sensitivity, annot=counts, fmt="d", vmin=0, vmax=1, cmap="Blues", cbar=False, square=True,
        ax=axis, **labels,
    )  # fmt: skip
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("predicted")


def write_picture(published: Path) -> Path:
    """Write docs/demo.png from the published metrics of the demonstration."""
    metrics = json.loads((published / "metrics.json").read_text(encoding="utf-8"))
    figure = draw_picture(load_config("configs/demo.yaml"), metrics)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Software": None})
    plt.close(figure)
    return PICTURE


def main() -> int:
    """Draw the picture."""
    published = paths.ROOT / "reports" / "demo" / "published"
    return run_command(lambda: print(paths.relative(write_picture(published))))


if __name__ == "__main__":
    sys.exit(main())
