"""Test a network on images from elsewhere: `python -m tools.external_test RUN FOLDER`.

The folder is in HAM10000's layout (`make data FROM=` converts others). Nothing is chosen on its
images: the network, its calibration and the threshold of its refusal are those of the run. Images
of the run are left out. What notebook 08 reads is written to runs/<run>/external.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths, tables
from lib.config import CLASS_NAMES
from lib.data import datasets, survey
from lib.evaluation import prediction_files, subgroups
from tools import download, predict, published_networks, whole_files
from tools.command_line import given_path, run_command

FOLDER = "external"


def predict_folder(run: str, folder: Path, model: str, own: bool = False) -> Path:
    """Predict the images of a folder, and write what notebook 08 reads; return its folder.

    It writes `predictions.csv` (images of the run's classes), `strange.csv` (all images, and how
    strange they are to the network), `subgroups.csv` and `external.json`.

    Raises
    ------
    FileNotFoundError, ValueError
        The network or the folder cannot be used, or no image of a class is left: a score such as
        balanced accuracy needs them all.
    """
    if not (folder / datasets.METADATA).is_file():
        raise FileNotFoundError(
            f"{folder}: no {datasets.METADATA} there; expected a folder in HAM10000's layout; "
            "`make data FROM=` converts others"
        )
    network, note = predict.open_network(run, model, own)
    scores_folder = _scores_folder(note, model, own)
    metadata = datasets.read_metadata(folder, {*CLASS_NAMES, *note.classes})
    images, left_out = _new_images(metadata, note.run, own)
    files = datasets.find_images(folder, images["image_id"])
    left_out["no file"] = int((~images["image_id"].isin(files.index)).sum())
    images = images[images["image_id"].isin(files.index)].reset_index(drop=True)
    classes = list(note.classes)
    _require_classes(classes, images, folder, left_out)  # predicting takes long
    start = time.monotonic()
    places = [folder / files[image_id] for image_id in images["image_id"]]
    results = []
    with download.progress("images", len(places), unit=" images") as bar:
        for _, result in predict.predict_files(places, network, note, batch_size=32):
            results.append(result)
            bar.update(1)
    usable = np.array([isinstance(result, pd.DataFrame) for result in results], bool)
    for file, result in zip(places, results, strict=True):
        if isinstance(result, Exception):
            print(f"left out: {file.name}: {result}", file=sys.stderr, flush=True)
    left_out["cannot be used"] = int((~usable).sum())
    images = images[usable].reset_index(drop=True)
    results = [result for result, is_usable in zip(results, usable, strict=True) if is_usable]
    _require_classes(classes, images, folder, left_out)
    is_known = images["dx"].isin(classes).to_numpy()
    posteriors = np.stack([result["training_prior"].to_numpy() for result in results])
    rows = images.assign(label=images["dx"], group_id=images["lesion_id"], split="test")
    known = prediction_files.prediction_table(
        model, rows[is_known], posteriors[is_known], classes, note.training_prior
    )
    strange = images[["image_id", "lesion_id", "dx"]].assign(
        refused=[result.attrs.get("refused", False) for result in results],
    )
    scores = pd.DataFrame([result.attrs.get("strange", {}) for result in results])
    strange = pd.concat([strange, scores], axis=1)
    seconds = time.monotonic() - start
    masks = datasets.find_masks(folder, images["image_id"])
    measured = survey.measure_all(folder, files[images["image_id"]], masks)
    groups = subgroups.assign(images, measured, list(survey.THRESHOLDS))
    contents = {
        "run": note.run,
        "model": model,
        "title": note.title,
        "network": note.source,
        "weights_sha256": note.weights_sha256,
        "scores": paths.relative(scores_folder),
        "folder": folder.resolve().name,
        "images": int(is_known.sum()),
        "lesions": int(known["lesion_id"].nunique()),
        "other_diagnoses": int((~is_known).sum()),
        "left_out": left_out,
        "seconds": round(seconds, 1),
    }
    target = paths.run_folder(note.run) / FOLDER
    with whole_files.whole_folder(target) as partial:  # what notebook 08 found before goes, too
        tables.write_table(known, partial / "predictions.csv")
        tables.write_table(strange, partial / "strange.csv")
        tables.write_table(groups, partial / "subgroups.csv")
        tables.write_json(contents, partial / "external.json")
    return target


def _scores_folder(note: published_networks.Note, model: str, own: bool) -> Path:
    """Return the folder with the scores of this network, with which notebook 08 compares."""
    folders = [paths.run_folder(note.run), paths.ROOT / "reports" / note.run / "published"]
    for folder in folders if own else reversed(folders):
        file = folder / "metrics.json"
        if file.is_file():
            trained = json.loads(file.read_text(encoding="utf-8"))["manifest"].get(model, {})
            if trained.get("weights_sha256") == note.weights_sha256:
                return folder
    places = " or ".join(paths.relative(folder) for folder in folders)
    raise FileNotFoundError(
        f"no scores of {note.source} in {places}; `make reproduce` and `make publish` write them"
    )


def _require_classes(
    classes: list[str], images: pd.DataFrame, folder: Path, left_out: dict[str, int]
) -> None:
    if missing := [name for name in classes if name not in set(images["dx"])]:
        raise ValueError(
            f"{folder.name}: no image of {', '.join(missing)} that the run has not seen; left out: "
            f"{left_out}"
        )


def _new_images(metadata: pd.DataFrame, run: str, own: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the images that are not of the run, by image and by lesion, and how many are."""
    places = [paths.ROOT / "reports" / run / "published" / "split.csv"]
    places.insert(0 if own else 1, paths.run_folder(run) / "index.csv")
    file = next((file for file in places if file.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{paths.relative(places[0])}: no such file; it tells the images of the run from others"
        )
    split = pd.read_csv(file, dtype=str, keep_default_na=False)
    is_seen = metadata["image_id"].isin(split["image_id"])
    is_seen |= metadata["lesion_id"].isin(split["lesion_id"])
    return metadata[~is_seen], {"of the run": int(is_seen.sum())}


def main(arguments: list[str] | None = None) -> int:
    """Test a network on images from elsewhere."""
    parser = argparse.ArgumentParser(prog="python -m tools.external_test", description=__doc__)
    parser.add_argument("run", help="the run, such as ham10000")
    parser.add_argument("folder", type=given_path, help="images and a table, in HAM10000's layout")
    parser.add_argument("--model", default=predict.DEFAULT_MODEL, help="default: %(default)s")
    parser.add_argument("--run-network", action="store_true", dest="own", help="of runs/<run>")
    options = parser.parse_args(arguments)
    values = vars(options)
    return run_command(lambda: print(paths.relative(predict_folder(**values))))


if __name__ == "__main__":
    sys.exit(main())
