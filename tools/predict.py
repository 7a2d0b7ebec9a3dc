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
from lib.evaluation import model_names, priors
from lib.networks import inference, published_networks
from lib.networks.backend import keras
from lib.preprocessing import pipeline, threads

DISCLAIMER = "Research software, not a medical device"
DEFAULT_RUN, DEFAULT_MODEL = "ham10000", "vgg16_fine_tuned"
BATCH = 8  # images in memory at a time
#: What may be wrong with an image, as `pipeline.prepare` and the file system say it.
IMAGE_ERRORS = (OSError, ValueError)


def predict_files(
    files: Sequence[Path],
    network: keras.Model,
    note: published_networks.Note,
    batch_size: int = BATCH,
) -> Iterator[tuple[Path, pd.DataFrame | Exception]]:
    """Yield what a network answers for each image file, in order, a batch in memory at a time.

    An image is prepared as those of the run were, seen in as many flips and quarter turns, and the
    outputs are calibrated as the run's were.

    Yields
    ------
    file : Path
    answer : DataFrame or Exception
        One row a class, with its code as index: `diagnosis`, its full name; `training_prior`, its
        probability where classes are as frequent as among the training images; `equal_priors`,
        where they are equally frequent. Or what is wrong with the image.
    """
    classes, config = note.config.classes, note.config
    names = [config.names[name] for name in classes]
    equal = np.full(len(classes), 1 / len(classes))
    prepare = functools.partial(_prepare, settings=config.preprocessing)
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        with threads.one_opencv_thread():
            prepared = threads.map_files(prepare, batch)
        usable = [each for each in prepared if isinstance(each, np.ndarray)]
        tables = iter(())
        if usable:
            outputs = inference.predict(network, np.stack(usable), views=note.test_time_views)
            as_trained = note.calibration.apply(outputs)
            converted = as_trained, priors.change_prior(as_trained, note.training_prior, equal)
            tables = (_table(*each, classes, names) for each in zip(*converted, strict=True))
        for file, each in zip(batch, prepared, strict=True):
            yield file, next(tables) if isinstance(each, np.ndarray) else each


def chosen(answer: pd.DataFrame) -> dict[str, str]:
    """Return the class that each rule chooses: of equal probabilities, the first."""
    return {rule: answer[rule].idxmax() for rule in priors.RULES}


def list_images(path: Path) -> tuple[list[Path], int]:
    """Return the images that a path names: itself, or all below a folder, masks left out.

    Returns
    -------
    files : list of Path
        A path that is no folder is returned whether it is there or not, and whatever it is.
    left_out : int
        How many other files the folder holds.

    Raises
    ------
    FileNotFoundError
        A folder without an image.
    """
    if not path.is_dir():
        return [path], 0
    found = sorted(each for each in path.rglob("*") if each.is_file())
    images = [each for each in found if _is_image(each)]
    if not images:
        raise FileNotFoundError(
            f"{path.name}: a folder without an image; expected files that end in "
            f"{', '.join(datasets.IMAGE_SUFFIXES)}"
        )
    return images, len(found) - len(images)


def open_network(
    run: str, model: str, own: bool = False
) -> tuple[keras.Model, published_networks.Note]:
    """Return a network and its note: from one's own run if asked for and there, else a published.

    Parameters
    ----------
    run : str
        The run's name, or the path of its configuration.
    own : bool
        Whether to look under runs/<run> first.
    """
    name = Path(run).stem if run.endswith(".yaml") else run
    if own:
        config = load_config(run if run.endswith(".yaml") else f"configs/{run}.yaml")
        if published_networks.run_file(config, model).is_file():
            return published_networks.read_run(config, model)
    return published_networks.load(name, model)


def as_text(file: Path, answer: pd.DataFrame) -> str:
    """Return an answer as a person reads it."""
    wide = max(len("diagnosis"), *answer["diagnosis"].str.len())
    code = max(len("class"), *answer.index.str.len())
    lines = [f"{'class':{code}}  {'diagnosis':{wide}}  as in training  equally frequent"]
    lines += [
        f"{row.Index:{code}}  {row.diagnosis:{wide}}  {row.training_prior:14.3f}  "
        f"{row.equal_priors:16.3f}"
        for row in answer.itertuples()
    ]
    first, second = chosen(answer).values()
    said = "the same" if first == second else f"{second} ({answer.loc[second, 'diagnosis']})"
    return "\n".join(
        [
            str(file),
            *lines,
            f"most probable, with classes as frequent as in training: {first} "
            f"({answer.loc[first, 'diagnosis']})",
            f"most probable, with classes equally frequent: {said}",
            DISCLAIMER,
            "",
        ]
    )


def as_json(file: Path, answer: pd.DataFrame, run: str, model: str, source: str) -> str:
    """Return an answer as one line of JSON."""
    rules = {
        rule: {"predicted": name, "probabilities": answer[rule].to_dict()}
        for rule, name in chosen(answer).items()
    }
    same = len(set(chosen(answer).values())) == 1
    values = {"image": str(file), "run": run, "model": model, "source": source, **rules}
    values |= {"same_answer": same, "diagnoses": answer["diagnosis"].to_dict(), "note": DISCLAIMER}
    return json.dumps(values, ensure_ascii=False)


def _prepare(file: Path, settings: Preprocessing) -> np.ndarray | Exception:
    try:
        return pipeline.prepare(file, settings)
    except IMAGE_ERRORS as error:
        return error


def _table(training_prior, equal_priors, classes, names) -> pd.DataFrame:
    columns = {"training_prior": training_prior, "equal_priors": equal_priors}
    return pd.DataFrame({"diagnosis": names, **columns}, index=classes)


def _is_image(file: Path) -> bool:
    is_mask = file.stem.endswith(datasets.MASK_SUFFIX)
    return file.suffix.lower() in datasets.IMAGE_SUFFIXES and file.name[0] != "." and not is_mask


def main(arguments: list[str] | None = None) -> int:
    """Classify images; return 1 if anything was wrong with one of them, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.predict", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a file or a folder")
    parser.add_argument(
        "--config",
        default=DEFAULT_RUN,
        metavar="RUN",
        help="the run, or its configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        choices=published_networks.SOURCES,
        help="default: %(default)s",
    )
    parser.add_argument(
        "--run", action="store_true", help="take the network of runs/<run>, if it is there"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON for each image")
    asked = parser.parse_args(arguments)
    try:
        network, note = open_network(asked.config, asked.model, asked.run)
    except (OSError, ValueError) as error:
        _say_error(str(error))
        return 1
    # where the line does not spoil the JSON
    print(
        f"{model_names.titles(note.config)[asked.model]}, "
        f"run {note.config.name}, from {note.source}\n",
        file=sys.stderr if asked.json else sys.stdout,
        flush=True,
    )
    files, faults = _list_all(asked.images)
    for file, answer in predict_files(files, network, note):
        if isinstance(answer, Exception):
            faults += 1
            _say_error(_said(file, answer))
        elif asked.json:
            print(as_json(file, answer, note.config.name, asked.model, note.source), flush=True)
        else:
            print(as_text(file, answer), flush=True)
    return 1 if faults else 0


def _list_all(given: Sequence[Path]) -> tuple[list[Path], int]:
    """Return the images of all paths, and how many are folders without one; say what is left."""
    files, faults = [], 0
    for path in given:
        try:
            images, left_out = list_images(path)
        except FileNotFoundError as error:
            faults += 1
            _say_error(str(error))
            continue
        files += images
        if left_out:
            print(f"{path.name}: {left_out} other files left out", file=sys.stderr, flush=True)
    return files, faults


def _say_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def _said(file: Path, error: Exception) -> str:
    """Return an error's message, which names the file even if the system's does not."""
    said = " ".join(str(error).split())
    return said if file.name in said else f"{file.name}: {said}"


if __name__ == "__main__":
    sys.exit(main())
