"""Classify images with a trained network: `python -m tools.predict IMAGE ...`."""

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import Preprocessing, load_config
from lib.data import datasets
from lib.evaluation import priors, refusal
from lib.networks import inference, probes
from lib.networks.backend import keras
from lib.preprocessing import pipeline, threads
from tools import finished_run, published_networks
from tools.command_line import given_path

DISCLAIMER = "Research software, not a medical device"
DEFAULT_RUN, DEFAULT_MODEL = "ham10000", "vgg16_fine_tuned"
BATCH = 8  # images in memory at a time
RULE_TITLES = {"training_prior": "the training prior", "equal_priors": "equal priors"}
#: What `pipeline.prepare` and the file system raise for an unusable image.
IMAGE_ERRORS = (OSError, ValueError)


def predict_files(
    files: Sequence[Path],
    network: keras.Model,
    note: published_networks.Note,
    batch_size: int = BATCH,
) -> Iterator[tuple[Path, pd.DataFrame | Exception]]:
    """Yield the predictions of a network for image files, in order.

    An image is preprocessed like those of the network's run, averaged over as many flips and
    quarter turns, and calibrated in the same way. One batch is in memory at a time.

    Yields
    ------
    file : Path
    prediction : DataFrame or Exception
        One row per class, indexed by its code: `diagnosis`, the full name; `training_prior`, the
        probability under the training prior; `equal_priors`, the probability under equal priors.
        Its `attrs` say how `strange` the image is by each score, whether it is `refused`, and the
        `thresholds` that decide it; they are empty for a network that never refuses.
        Or the error of an unusable image.
    """
    classes, names = list(note.classes), list(note.classes.values())
    equal = np.full(len(classes), 1 / len(classes))
    prepare = functools.partial(_prepare, settings=note.preprocessing)
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        with threads.one_opencv_thread():
            prepared = threads.map_files(prepare, batch)
        usable = [image for image in prepared if isinstance(image, np.ndarray)]
        predictions = iter(())
        if usable:
            outputs = inference.predict(network, np.stack(usable), views=note.test_time_views)
            posterior = note.calibration.apply(outputs)
            corrected = priors.change_prior(posterior, note.training_prior, equal)
            strange = _strangeness(network, np.stack(usable), note)
            predictions = (
                _prediction(*rows, classes, names)
                for rows in zip(posterior, corrected, strange, strict=True)
            )
        for file, image in zip(batch, prepared, strict=True):
            yield file, next(predictions) if isinstance(image, np.ndarray) else image


def _strangeness(
    network: keras.Model, images: np.ndarray, note: published_networks.Note
) -> list[dict]:
    """Return for each image how strange it is to the network, and whether that is too much."""
    if note.refusal is None:
        return [{}] * len(images)
    thresholds = note.refusal.thresholds
    scores = refusal.strangeness(probes.assess(network, images, note.space, note.calibration))
    rows = zip(scores.to_dict("records"), refusal.refused(scores, thresholds), strict=True)
    return [
        {"refused": bool(is_refused), "strange": strange, "thresholds": thresholds}
        for strange, is_refused in rows
    ]


def predicted_classes(prediction: pd.DataFrame) -> dict[str, str]:
    """Return the most probable class under each rule; of equal probabilities, the first."""
    return {rule: prediction[rule].idxmax() for rule in priors.RULES}


def list_images(path: Path) -> tuple[list[Path], int]:
    """Return the images that a path names: itself, or all images in a folder, without masks.

    Returns
    -------
    files : list of Path
        A path that is not a folder is returned unchecked.
    ignored : int
        Number of other files in the folder.

    Raises
    ------
    FileNotFoundError
        A folder without an image.
    """
    if not path.is_dir():
        return [path], 0
    files = sorted(file for file in path.rglob("*") if file.is_file())
    images = [file for file in files if datasets.is_image_file(file)]
    if not images:
        raise FileNotFoundError(
            f"{path.name}: a folder without images; expected files that end in "
            f"{', '.join(datasets.IMAGE_SUFFIXES)}"
        )
    return images, len(files) - len(images)


def open_network(
    run: str, model: str, own: bool = False
) -> tuple[keras.Model, published_networks.Note]:
    """Return a network and its note, from the user's own run or from the published ones.

    Parameters
    ----------
    run : str
        The run's name, or the path of its configuration.
    own : bool
        Look in runs/<run> first.
    """
    name = Path(run).stem if run.endswith(".yaml") else run
    if own:
        config = load_config(run if run.endswith(".yaml") else f"configs/{run}.yaml")
        if finished_run.run_file(config, model).is_file():
            return finished_run.read_run(config, model)
    return published_networks.load(name, model)


def as_text(file: Path, prediction: pd.DataFrame) -> str:
    """Return a prediction as a table, with the most probable class under each rule.

    A refused image has no table.
    """
    if prediction.attrs.get("refused"):
        strange, thresholds = prediction.attrs["strange"], prediction.attrs["thresholds"]
        reasons = [
            f"{refusal.SCORES[score]} {strange[score]:.3g}, threshold {threshold:.3g}"
            for score, threshold in thresholds.items()
            if strange[score] > threshold
        ]
        text = "refused: unlike the images that the network was trained on"
        return "\n".join([str(file), f"{text} ({'; '.join(reasons)})", DISCLAIMER, ""])
    titles = [f"under {title}" for title in RULE_TITLES.values()]
    code = max(len("class"), *prediction.index.str.len())
    name = max(len("diagnosis"), *prediction["diagnosis"].str.len())
    lines = [f"{'class':{code}}  {'diagnosis':{name}}  {titles[0]}  {titles[1]}"]
    for row in prediction.itertuples():
        cells = [
            f"{getattr(row, rule):{len(title)}.3f}"
            for rule, title in zip(RULE_TITLES, titles, strict=True)
        ]
        lines.append(f"{row.Index:{code}}  {row.diagnosis:{name}}  {'  '.join(cells)}")
    for rule, predicted in predicted_classes(prediction).items():
        diagnosis = prediction.loc[predicted, "diagnosis"]
        lines.append(f"most probable under {RULE_TITLES[rule]}: {predicted} ({diagnosis})")
    return "\n".join([str(file), *lines, DISCLAIMER, ""])


def as_json(file: Path, prediction: pd.DataFrame, run: str, model: str, source: str) -> str:
    """Return a prediction as one line of JSON."""
    rules = {
        rule: {"predicted": name, "probabilities": prediction[rule].to_dict()}
        for rule, name in predicted_classes(prediction).items()
    }
    same = len(set(predicted_classes(prediction).values())) == 1
    values = {"image": str(file), "run": run, "model": model, "source": source, **rules}
    values |= {"same_answer": same, "diagnoses": prediction["diagnosis"].to_dict()}
    values |= prediction.attrs
    return json.dumps(values | {"note": DISCLAIMER}, ensure_ascii=False)


def _prepare(file: Path, settings: Preprocessing) -> np.ndarray | Exception:
    try:
        return pipeline.prepare(file, settings)
    except IMAGE_ERRORS as error:
        return error


def _prediction(training_prior, equal_priors, strange, classes, names) -> pd.DataFrame:
    columns = {"training_prior": training_prior, "equal_priors": equal_priors}
    table = pd.DataFrame({"diagnosis": names, **columns}, index=classes)
    table.attrs |= strange
    return table


def main(arguments: list[str] | None = None) -> int:
    """Classify images; return 1 if one of them could not be classified, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.predict", description=__doc__)
    parser.add_argument(
        "images", nargs="+", type=given_path, metavar="IMAGE", help="a file or a folder"
    )
    parser.add_argument(
        "--config",
        default=DEFAULT_RUN,
        metavar="RUN",
        help="the run, or its configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="MODEL", help="default: %(default)s"
    )
    parser.add_argument(
        "--run", action="store_true", help="use the network of runs/<run> where it exists"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON for each image")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # names of files may be in any encoding
        stream.reconfigure(errors="backslashreplace")
    try:
        network, note = open_network(options.config, options.model, options.run)
    except (OSError, ValueError) as error:
        _print_error(str(error))
        return 1
    # on stderr where a line on stdout would break the JSON
    print(
        f"{note.title}, run {note.run}, from {note.source}\n",
        file=sys.stderr if options.json else sys.stdout,
        flush=True,
    )
    files, faults = _list_all(options.images)
    for file, prediction in predict_files(files, network, note):
        if isinstance(prediction, Exception):
            faults += 1
            _print_error(_with_name(file, prediction))
        elif options.json:
            line = as_json(file, prediction, note.run, options.model, note.source)
            print(line, flush=True)
        else:
            print(as_text(file, prediction), flush=True)
    return 1 if faults else 0


def _list_all(folders: Sequence[Path]) -> tuple[list[Path], int]:
    """Return the images of all paths, and the number of folders without an image."""
    files, faults = [], 0
    for path in folders:
        try:
            images, ignored = list_images(path)
        except FileNotFoundError as error:
            faults += 1
            _print_error(str(error))
            continue
        files += images
        if ignored:
            print(f"{path.name}: {ignored} other files ignored", file=sys.stderr, flush=True)
    return files, faults


def _print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def _with_name(file: Path, error: Exception) -> str:
    """Return an error's message on one line, with the file's name."""
    message = " ".join(str(error).split())
    return message if file.name in message else f"{file.name}: {message}"


if __name__ == "__main__":
    sys.exit(main())
