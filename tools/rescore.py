"""Compute the scores of a published run again from its files: `python -m tools.rescore RUN`."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from lib import paths, tables
from lib.data import splits
from lib.evaluation import metrics, prediction_files
from tools import publish, result_tables, whole_files
from tools.command_line import run_command

#: What `metrics.evaluate_run` reads of a published `metrics.json`.
NEEDED = ("classes", "titles", "primary", "comparisons", "training_prior", "models", "manifest")


def rescore(run: str) -> Path:
    """Replace the scores in reports/<run>/published/metrics.json, and update the pages of results.

    The predictions beside it are scored with today's `SCORES` and the settings stored in the file.
    Everything is read, checked and computed before anything is replaced.

    Raises
    ------
    FileNotFoundError
        The run is not published.
    ValueError
        A file cannot be read, or the files do not belong together.
    """
    folder = publish.REPORTS / run / "published"
    results = rescored(folder)
    pages = result_tables.build_pages(publish.REPORTS, results)
    tables.write_json(results, folder / "metrics.json")
    for part in pages:
        whole_files.write_part(*part)
    return folder / "metrics.json"


def rescored(folder: Path) -> dict:
    """Return the contents of a published `metrics.json` with scores of today."""
    file = folder / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(f"{paths.relative(file)}: no such file; `make publish` writes it")
    results = json.loads(file.read_text(encoding="utf-8"))
    split = pd.read_csv(folder / "split.csv", dtype=str, keep_default_na=False)
    if splits.digest(split) != results.get("split_sha256"):
        raise ValueError(f"{paths.relative(folder)}: split.csv is not the split of metrics.json")
    missing = [key for key in NEEDED if key not in results]
    missing += [] if "configuration" in results.get("manifest", {}) else ["manifest.configuration"]
    if missing:
        names = ", ".join(missing)
        raise ValueError(f"{paths.relative(file)} lacks {names}, which scoring needs")
    schema = prediction_files.predictions_schema(results["classes"])
    predictions = tables.read_table(folder / "predictions.csv", schema)
    held_out = split[split["split"] != "train"]
    _check_images(predictions, held_out, results["models"], folder)
    folds = results.get("cross_validation")
    if folds:
        schema = prediction_files.cross_validation_schema(results["classes"])
        models, folds = folds["models"], tables.read_table(folder / "cross_validation.csv", schema)
        _check_images(folds, split, models, folder)
    scores = {"schema_version": metrics.SCHEMA_VERSION}
    return results | scores | metrics.evaluate_run(results, predictions, folds)


def _check_images(table: pd.DataFrame, images: pd.DataFrame, models: dict, folder: Path) -> None:
    """Check that a table has the prediction of each model for each image, and no other rows."""
    pairs = set(zip(table["model"], table["image_id"], strict=True))
    if pairs != {(model, image) for model in models for image in images["image_id"]}:
        raise ValueError(
            f"{paths.relative(folder)}: the models and images of the predictions are not those of "
            "metrics.json and split.csv"
        )


def main(arguments: list[str] | None = None) -> int:
    """Score a published run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="the name of a published run, such as demo")
    run = parser.parse_args(arguments).run
    return run_command(lambda: print(paths.relative(rescore(run))))


if __name__ == "__main__":
    sys.exit(main())
