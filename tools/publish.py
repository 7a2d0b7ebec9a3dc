"""Publish the numbers of a run, without images: `python -m tools.publish CONFIG`."""

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
from lib.config import Config
from lib.data import splits
from lib.evaluation import metrics, prediction_files
from lib.evaluation.scores import point_scores
from tools import demo_picture, published_pages, result_tables, whole_files
from tools.command_line import run_on_config

REPORTS = paths.ROOT / "reports"
#: Figures that may be published: curves, diagrams and confusion matrices of these notebooks.
FIGURES = re.compile(
    r"(?P<notebook>[3-7])\.\d+_(\w+_)?"
    r"(curves|confusion|roc|precision_recall|operating_points|calibration|subgroups|risk_coverage"
    r"|localisation|probabilities)"
    r"\.png"
)
NOTEBOOKS = {"3": "03_baseline_cnn", "4": "04_vgg16_transfer", "5": "05_evaluation"}
NOTEBOOKS |= {"6": "06_heatmaps", "7": "07_reliability"}


def publish(config: Config) -> Path:
    """Publish a finished run in reports/<run>/published and update the pages of results.

    The folder holds `metrics.json`, `localisation.json`, `reliability.json`, `split.csv` (ids
    only), `predictions.csv`, `history.csv`, `class_balance.csv`, `cross_validation.csv` where the
    run has one, `manifest.json`, and the figures that show no image. It is replaced completely or
    not at all.

    Raises
    ------
    FileNotFoundError
        The run is not complete.
    ValueError
        Its files do not belong together, or a figure is not the one that its notebook shows.
    """
    index, predictions, results = _read_run(config)
    result_tables.build_pages(REPORTS, results)  # raises before anything is replaced
    target = REPORTS / config.name / "published"
    with whole_files.whole_folder(target) as partial:
        tables.write_table(index[splits.COLUMNS], partial / "split.csv")
        tables.write_table(predictions, partial / "predictions.csv")
        cross_validation = prediction_files.read_cross_validation(config, index)
        if cross_validation is not None:
            tables.write_table(cross_validation, partial / "cross_validation.csv")
        tables.write_table(_histories(config), partial / "history.csv")
        for name in ("localisation.json", "reliability.json"):
            shutil.copyfile(paths.run_folder(config.name) / name, partial / name)
        balance = paths.run_folder(config.name) / config.transfers[0].name / "class_balance.csv"
        shutil.copyfile(balance, partial / balance.name)
        tables.write_json(_manifest(config, results), partial / "manifest.json")
        for file in _figures(config):
            (partial / file.name).write_bytes(published_pages.smaller(file.read_bytes()))
        tables.write_json(results, partial / "metrics.json")
        published_pages.write_pages(config, results, partial)
    for part in result_tables.build_pages(REPORTS, results):
        whole_files.write_part(*part)
    if config.name == "demo":
        demo_picture.write_picture(target)
    return target


def _read_run(config: Config) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Read a run's index, predictions and metrics, and check that they belong together."""
    file = paths.run_folder(config.name) / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(f"{paths.relative(file)}: no such file; `make reproduce` writes it")
    results = json.loads(file.read_text(encoding="utf-8"))
    index = pd.read_csv(file.with_name("index.csv"), dtype=str, keep_default_na=False)
    index = index.astype({"fold": int})
    expected = {
        "split_sha256": splits.digest(index),
        "configuration": metrics.configuration(config),
    }
    actual = {
        "split_sha256": results.get("split_sha256"),
        "configuration": results.get("manifest", {}).get("configuration"),
    }
    for key, value in expected.items():
        if actual[key] != value:
            raise ValueError(
                f"{paths.relative(file)} was computed with another {key}: found {actual[key]}, "
                f"expected {value}; run notebook 05 again"
            )
    predictions = prediction_files.read_predictions(config, index)
    changed = _retrained(results, config) + _predicted_again(results, predictions)
    if changed:
        raise ValueError(
            f"{paths.relative(file)} is older than what it was computed from: another manifest or "
            f"other predictions of {', '.join(sorted(set(changed)))}; run notebook 05 again"
        )
    return index, predictions, results


def _retrained(results: dict, config: Config) -> list[str]:
    """Return the networks whose manifest has changed since the scores were computed."""
    manifests = metrics.manifests(config)
    return [name for name, now in manifests.items() if results["manifest"].get(name) != now]


def _predicted_again(results: dict, predictions: pd.DataFrame) -> list[str]:
    """Return the models whose test predictions no longer give the scores that were computed."""
    test = predictions[predictions["split"] == "test"]
    changed = []
    for name, table in test.groupby("model"):
        for rule, scores in results["models"][name]["rules"].items():
            now = point_scores(table, rule)
            known = [key for key in now if key in scores]
            before = [scores[key]["value"] for key in known]
            if not np.allclose(before, [now[key] for key in known], rtol=0, atol=1e-6):
                changed.append(name)
    return changed


def _histories(config: Config) -> pd.DataFrame:
    """Return the history of every network, unchanged, with a leading column `model`."""
    folder = paths.run_folder(config.name)
    names = [item.name for item in (*config.networks, *config.transfers)]
    parts = {name: pd.read_csv(folder / name / "history.csv", dtype=str) for name in names}
    relu = folder / config.baseline.name / "history_relu.csv"  # absent after a NaN loss
    if relu.is_file():
        parts[f"{config.baseline.name}_relu"] = pd.read_csv(relu, dtype=str)
    return pd.concat(parts, names=["model"]).reset_index("model").reset_index(drop=True)


def _manifest(config: Config, results: dict) -> dict:
    """Return how the run came about: choices, seeds, versions, hardware, durations, hashes."""
    seeds = {"run": config.seed, "split": config.split.seed}
    if config.data.synthetic:
        seeds["synthetic images"] = config.data.synthetic.seed
    note = {"run": config.name, "split_sha256": results["split_sha256"], "seeds": seeds}
    return note | results["manifest"]


def _figures(config: Config) -> list[Path]:
    """Return the figures to publish: their names match, and the executed notebooks show them.

    A figure that shows images of the data set is embedded as JPEG (`figures.show`) and so never
    equals its PNG file: it is refused whatever its name, as is a figure of an earlier run.

    Raises
    ------
    ValueError
        A figure differs from the one in its notebook, or a notebook has none.
    """
    folder = paths.report_folder(config.name) / "figures"
    matches = {file: FIGURES.fullmatch(file.name) for file in sorted(folder.glob("*.png"))}
    notebook_of = {file: match["notebook"] for file, match in matches.items() if match}
    for number, name in NOTEBOOKS.items():
        shown = _png_outputs(paths.run_folder(config.name) / "notebooks" / f"{name}.ipynb")
        files = [file for file, notebook in notebook_of.items() if notebook == number]
        if not files:
            raise ValueError(
                f"{paths.relative(folder)}: no curves or confusion matrices of {name}; found "
                f"{', '.join(file.name for file in matches) or 'nothing'}"
            )
        for file in files:
            if file.read_bytes() not in shown:
                raise ValueError(
                    f"{paths.relative(file)} is not what {name} shows: it is left over from an "
                    "earlier run, or it shows images, which are never published; remove it"
                )
    return list(notebook_of)


def _png_outputs(notebook: Path) -> set[bytes]:
    """Return every PNG among a notebook's outputs."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output["data"].get("image/png") for output in outputs if "data" in output]
    return {base64.b64decode(picture) for picture in pictures if picture}


def main(arguments: list[str] | None = None) -> int:
    """Publish a run."""
    return run_on_config(__doc__, publish, arguments)


if __name__ == "__main__":
    sys.exit(main())
