"""Publish the numbers of a run, without images: `python -m tools.publish CONFIG`."""

import argparse
import base64
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

from lib import paths, tables
from lib.config import Config, load_config
from lib.data import splits
from lib.evaluation import bootstrap, metrics, prediction_files

REPORTS = paths.ROOT / "reports"
README = paths.ROOT / "README.md"
MARKS = "<!-- results: make publish writes this -->", "<!-- end of results -->"
#: The networks and their histories under runs/<run>; the second is optional.
HISTORIES = {
    "baseline_cnn": "baseline_cnn/history.csv",
    "baseline_cnn_relu": "baseline_cnn/history_relu.csv",
    "alexnet": "alexnet/history.csv",
    "vgg16_transfer": "vgg16_transfer/history.csv",
}
OPTIONAL = ("baseline_cnn_relu",)
#: What was done about rare classes, compared on validation images (notebook 04).
CLASS_BALANCE = "vgg16_transfer/class_balance.csv"
#: Figures that may be published: curves and confusion matrices of these notebooks.
FIGURES = re.compile(r"(?P<notebook>[345])\.\d+_(\w+_)?(curves|confusion)\.png")
NOTEBOOKS = {"3": "03_baseline_cnn", "4": "04_vgg16_transfer", "5": "05_evaluation"}


# ------------------------------------------------------------------------------------ publishing


def publish(config: Config) -> Path:
    """Put a finished run's numbers into reports/<run>/published and write the README's table anew.

    What is published: `metrics.json`, `split.csv` (ids only), `predictions.csv`, `history.csv`,
    `class_balance.csv`, `cross_validation.csv` where the run has one, `manifest.json`, and the
    figures that show no image. The folder is replaced whole or not at all.

    Raises
    ------
    FileNotFoundError
        The run is not complete.
    ValueError
        Its files do not belong together, or a figure is not what the notebooks show.
    """
    index, predictions, results = _read_run(config)
    paths.expect_part(README, MARKS)
    target = REPORTS / config.name / "published"
    with paths.whole_folder(target) as partial:
        tables.write_table(index[splits.COLUMNS], partial / "split.csv")
        tables.write_table(predictions, partial / "predictions.csv")
        cross_validation = prediction_files.read_cross_validation(config, index)
        if cross_validation is not None:
            tables.write_table(cross_validation, partial / "cross_validation.csv")
        tables.write_table(_histories(config), partial / "history.csv")
        shutil.copyfile(
            paths.run_folder(config.name) / CLASS_BALANCE, partial / "class_balance.csv"
        )
        tables.write_json(_manifest(config, results), partial / "manifest.json")
        for file in _figures(config):
            shutil.copyfile(file, partial / file.name)
        tables.write_json(results, partial / "metrics.json")
    paths.write_part(README, MARKS, results_tables(REPORTS))
    return target


def _read_run(config: Config) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Read a run's index, predictions and metrics, and check that they belong together."""
    file = paths.run_folder(config.name) / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(f"{paths.relative(file)}: no such file; `make reproduce` writes it")
    results = json.loads(file.read_text(encoding="utf-8"))
    index = pd.read_csv(file.with_name("index.csv"), dtype=str).astype({"fold": int})
    expected = {
        "split_sha256": splits.digest(index),
        "configuration": metrics.configuration(config),
    }
    found = {
        "split_sha256": results.get("split_sha256"),
        "configuration": results.get("manifest", {}).get("configuration"),
    }
    for key, value in expected.items():
        if found[key] != value:
            raise ValueError(
                f"{paths.relative(file)} was computed with another {key}: found {found[key]}, "
                f"expected {value}; run notebook 05 again"
            )
    predictions = prediction_files.read_predictions(config, index)
    changed = _trained_since(results, config) + _predicted_since(results, predictions)
    if changed:
        raise ValueError(
            f"{paths.relative(file)} is older than what it was computed from: another manifest or "
            f"other predictions of {', '.join(sorted(set(changed)))}; run notebook 05 again"
        )
    return index, predictions, results


def _trained_since(results: dict, config: Config) -> list[str]:
    """Return the networks whose manifest is not the one that the scores were computed with."""
    now = metrics.manifests(config)
    return [name for name, said in now.items() if results["manifest"].get(name) != said]


def _predicted_since(results: dict, predictions: pd.DataFrame) -> list[str]:
    """Return the models whose test predictions do not have the scores that were computed."""
    test = predictions[predictions["split"] == "test"]
    changed = []
    for name, table in test.groupby("model"):
        kept = results["models"][name]
        values = [kept[key]["value"] for key in ("accuracy", "balanced_accuracy")]
        if not np.allclose(
            values, list(prediction_files.both_scores(table).values()), rtol=0, atol=1e-9
        ):
            changed.append(name)
    return changed


def _histories(config: Config) -> pd.DataFrame:
    """Return every network's history, as it is written, under a leading column `model`."""
    folder, parts = paths.run_folder(config.name), {}
    for model, name in HISTORIES.items():
        if (folder / name).is_file() or model not in OPTIONAL:
            parts[model] = pd.read_csv(folder / name, dtype=str)
    return pd.concat(parts, names=["model"]).reset_index("model").reset_index(drop=True)


def _manifest(config: Config, results: dict) -> dict:
    """Gather how the run came about: choices, seeds, versions, hardware, durations, hashes."""
    seeds = {"run": config.seed, "split": config.split.seed}
    if config.data.synthetic:
        seeds["synthetic images"] = config.data.synthetic.seed
    note = {"run": config.name, "split_sha256": results["split_sha256"], "seeds": seeds}
    return note | results["manifest"]


def _figures(config: Config) -> list[Path]:
    """Return the figures to publish: by name, and as the executed notebooks show them.

    A figure that shows images of the data set has fewer colours in its notebook than in its file
    (`figures.show`), so that it is refused whatever its name; so is one of an earlier run.

    Raises
    ------
    ValueError
        A figure is not what its notebook shows, or a notebook has none.
    """
    folder = paths.report_folder(config.name) / "figures"
    found = {file: FIGURES.fullmatch(file.name) for file in sorted(folder.glob("*.png"))}
    of_notebook = {file: match["notebook"] for file, match in found.items() if match}
    for number, name in NOTEBOOKS.items():
        shown = _pictures(paths.run_folder(config.name) / "notebooks" / f"{name}.ipynb")
        mine = [file for file, notebook in of_notebook.items() if notebook == number]
        if not mine:
            raise ValueError(
                f"{paths.relative(folder)}: no curves or confusion matrices of {name}; found "
                f"{', '.join(file.name for file in found) or 'nothing'}"
            )
        for file in mine:
            if file.read_bytes() not in shown:
                raise ValueError(
                    f"{paths.relative(file)} is not what {name} shows: it was left by an earlier "
                    "run, or it shows images, which are never published; remove it"
                )
    return list(of_notebook)


def _pictures(notebook: Path) -> set[bytes]:
    """Return every PNG picture among a notebook's outputs."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output["data"].get("image/png") for output in outputs if "data" in output]
    return {base64.b64decode(picture) for picture in pictures if picture}


# ------------------------------------------------------------------------------ the README's table


def current_tables() -> str:
    """Return the results that stand in the README now."""
    return paths.read_part(README, MARKS)


def published_runs(folder: Path) -> list[dict]:
    """Return the `metrics.json` of each published run, real images first."""
    files = sorted(folder.glob("*/published/metrics.json"))
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(runs, key=lambda run: (run["synthetic"], run["run"]))


def results_tables(folder: Path) -> str:
    """Return one Markdown table for each published run."""
    runs = published_runs(folder)
    return "\n" + ("\n".join(_table(run) for run in runs) or "No run has been published yet.\n")


def _table(run: dict) -> str:
    kind = "synthetic images, no medical evidence" if run["synthetic"] else "real images"
    images, lesions = run["images"]["test"], run["lesions"]["test"]
    lines = [
        f"**{run['title']}** (`CONFIG={run['run']}`; {kind}; "
        f"{images} test images of {lesions} lesions)",
        "",
        f"| Model | {' | '.join(metrics.SCORES.values())} |",
        "|---" * (1 + len(metrics.SCORES)) + "|",
        *_rows(run["models"]),
    ]
    folds, beside = run["cross_validation"], ""
    if folds:
        note = f"{folds['folds']}-fold cross-validation, all {folds['images']:,} images"
        lines += _rows(folds["models"], f" ({note})")
        beside = (
            " The cross-validated row is another experiment, and does not compare with the rows "
            "above: trained on all other folds, test images among them, and one view an image."
        )
    rules = (
        "Accuracy is that of the most probable class; balanced accuracy that of the most probable "
        "class after the probabilities were corrected from the classes' shares among the training "
        "images to equal ones."
    )
    return "\n".join([*lines, "", f"{rules}{beside} In brackets: {run['interval']}.", ""])


def _rows(models: dict, note: str = "") -> list[str]:
    return [
        f"| {model['title']}{note} | "
        + " | ".join(bootstrap.format_interval(model[score]) for score in metrics.SCORES)
        + " |"
        for model in models.values()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Publish a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="the run, such as configs/demo.yaml")
    try:
        print(paths.relative(publish(load_config(parser.parse_args(arguments).config))))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
