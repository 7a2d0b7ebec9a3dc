"""How fast preprocessing is: every step alone, and the pipeline against the textbook loop.

The images of a folder are brought to HAM10000's 600 x 450 pixels and written as JPEG files to a
temporary folder. Enlarged images are smoother than originals: their files are smaller and decode a
little faster, and less of them is taken for hair. That is the same for everything compared here,
but originals may take longer.

On all cores, `preprocess_image` runs on the threads of `threads.map_files` as in the pipeline, but
files are not hashed and no array is written. The comparison is what public notebooks do: one
Python loop that reads an image, removes hair at full resolution by the textbook recipe, crops,
resizes and filters. The loop has a process of its own, where it is faster. Everything is measured
round by round, so that a busy moment of the machine affects one round and not one method.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa
from PIL import Image

from lib import config, paths, tables
from lib.data import datasets
from lib.preprocessing import decode, hair, pipeline, threads
from studies import command
from studies.preprocessing import ablation, restoration

WIDTH, HEIGHT = 600, 450  # pixels, as HAM10000's originals
QUALITY = 95  # of the JPEG files
CONFIGURATION = "configs/ham10000.yaml"
IMAGES, ROUNDS = 500, 5
BATCH = 100  # images in memory at once while single steps are timed
RESULTS = command.results_folder("speed")

DECODING, READING = "JPEG decoding alone", "reading and checking"
CONFIGURED, REMOVALS = f"all steps of {CONFIGURATION}", "crop, hair, bubbles, median"
TEXTBOOK = "textbook recipe, plain loop"
ONE, ALL, PLAIN = "one core", "all cores", "plain loop"

#: `preprocessing.csv`: one row per measurement and round. Single steps start from pixels in memory,
#: the others from files.
SCHEMA = pa.DataFrameSchema(
    {
        "what": pa.Column(str),
        "cores": pa.Column(str, pa.Check.isin([ONE, ALL, PLAIN])),
        "round": pa.Column(int, pa.Check.ge(1)),
        "images": pa.Column(int, pa.Check.ge(1)),
        "seconds": pa.Column(float, pa.Check.gt(0)),
        "images_per_second": pa.Column(float, pa.Check.gt(0)),
    },
    unique=["what", "cores", "round"],
    strict=True,
)


def write_images(source: Path, target: Path, count: int) -> list[Path]:
    """Write up to `count` images of a folder in HAM10000's layout as 600 x 450 JPEG files.

    Images are enlarged until they cover the frame (cubic interpolation) and cropped to its shape.
    They are spread evenly over the list ordered by image_id.
    """
    names = datasets.read_metadata(source)["image_id"].sort_values()
    files = datasets.find_images(source, names)
    if files.empty:
        raise FileNotFoundError(f"{source.name}: found no images; expected at least one")
    picked = files.iloc[np.unique(np.linspace(0, len(files) - 1, count).astype(int))]

    def write(path: str) -> Path:
        image = cover(decode.read_image(source / path))
        file = target / f"{Path(path).stem}.jpg"
        _, data = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        )
        data.tofile(file)
        return file

    return threads.map_files(write, picked)


def cover(image: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Scale an image until it covers the frame, keeping its shape, and cut out the middle."""
    scale = max(width / image.shape[1], height / image.shape[0])
    needed = (width, height)
    size = [max(round(scale * image.shape[1 - i]), needed[i]) for i in (0, 1)]
    large = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return large[top : top + height, left : left + width]


def time_everything(files: list[Path], rounds: int) -> pd.DataFrame:
    """Time everything, round by round: rows of `SCHEMA`."""
    settings = config.load_config(paths.resolve(CONFIGURATION)).preprocessing
    kernel = settings.median_kernel or 3
    switched_on = {"remove_hair": True, "remove_bubbles": True, "median_kernel": kernel}
    removals = ablation.NOTHING.model_copy(update=switched_on | {"image_size": settings.image_size})
    everything = pipeline.all_steps(removals)

    def preprocess(chosen) -> Callable:
        return lambda file: pipeline.preprocess_image(decode.read_image(file), chosen)

    ways = {
        DECODING: _decode,
        READING: decode.read_image,
        CONFIGURED: preprocess(settings),
        REMOVALS: preprocess(removals),
    }
    rows = []
    # the loop in a process of its own: memory that other measurements used slows it
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        # warm up: first calls load libraries, and compile
        alone.submit(_time_textbook_loop, files[:3], settings.image_size, kernel).result()
        _time_steps(files[:3], everything)
        for number in range(1, rounds + 1):
            seconds = {(what, ONE): _time_one(way, files) for what, way in ways.items()}
            seconds |= {(what, ALL): _time_all(way, files) for what, way in ways.items()}
            loop = alone.submit(_time_textbook_loop, files, settings.image_size, kernel)
            seconds[TEXTBOOK, PLAIN] = loop.result()
            seconds |= _time_steps(files, everything)
            for (what, cores), value in seconds.items():
                rows.append((what, cores, number, len(files), value, len(files) / value))
    return SCHEMA.validate(pd.DataFrame(rows, columns=list(SCHEMA.columns)))


def summarise(table: pd.DataFrame) -> dict:
    """Return the medians over the rounds, with the lowest and the highest round.

    Returns
    -------
    dict
        `images_per_second` of every measurement; `times_the_textbook_loop`, the speed of our
        removals divided by that of the loop in the same round; `decoding_share`, the proportion of
        our time on one core that bare JPEG decoding takes.
    """
    speed = table.pivot(index="round", columns=["what", "cores"], values="images_per_second")
    loop = speed[TEXTBOOK, PLAIN]
    decoding = speed[REMOVALS, ONE] / speed[DECODING, ONE]
    return {
        "decoding_share": round(float(decoding.median()), 3),
        "images_per_second": [
            {"what": what, "cores": cores} | _spread(speed[what, cores])
            for what, cores in dict.fromkeys(zip(table["what"], table["cores"], strict=True))
        ],
        "times_the_textbook_loop": {
            cores: _spread(speed[REMOVALS, cores] / loop) for cores in (ALL, ONE)
        },
    }


def measure(folder: Path) -> list[Path]:
    """Run the benchmark on the images of a folder; return the files written."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        files = write_images(folder, Path(temporary), IMAGES)
        sizes = [file.stat().st_size for file in files]
        table = time_everything(files, ROUNDS)
    summary = {
        "folder": folder.name,
        "images": len(files),
        "image": f"{WIDTH} x {HEIGHT} pixels, JPEG quality {QUALITY}",
        "mean_kilobytes": round(float(np.mean(sizes)) / 1000, 1),
        "rounds": ROUNDS,
        "opencv_threads": cv2.getNumThreads(),
        **command.describe_machine(),
        **summarise(table),
    }
    table = table.round({"seconds": 4, "images_per_second": 2})
    return [
        tables.write_table(table, RESULTS / "preprocessing.csv"),
        tables.write_json(summary, RESULTS / "preprocessing.json"),
    ]


def _decode(file: Path) -> np.ndarray:
    return np.array(Image.open(file))


def _time_textbook_loop(files: list[Path], size: int, kernel: int) -> float:
    """Return the seconds of preprocessing the images one by one, with OpenCV's own threads.

    The textbook recipe that `restoration` scores, and a median filter.
    """
    started = time.perf_counter()
    for file in files:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        image = pipeline.crop_square(restoration.textbook_hair_removal(image))
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        cv2.medianBlur(image, kernel)
    return time.perf_counter() - started


def _time_one(function: Callable, items: list) -> float:
    """Return the seconds on one core; results are dropped at once."""
    with threads.one_opencv_thread():
        started = time.perf_counter()
        for item in items:
            function(item)
        return time.perf_counter() - started


def _time_all(function: Callable, items: list) -> float:
    """Return the seconds on all cores, as in the pipeline; results are dropped at once."""

    def drop(item) -> None:
        function(item)

    with threads.one_opencv_thread():
        started = time.perf_counter()
        threads.map_files(drop, items)
        return time.perf_counter() - started


def _time_steps(files: list[Path], steps: dict[str, Callable]) -> dict[tuple[str, str], float]:
    """Return the seconds of each step alone, each on the output of the one before it.

    Hair removal at two scales comes before the usual one, and its output is dropped.
    """
    first, *others = steps.items()
    two_scales = (ablation.TWO_SCALES, partial(hair.remove_hair, thick=True))
    steps = dict([first, two_scales, *others])
    seconds = dict.fromkeys(((name, cores) for name in steps for cores in (ONE, ALL)), 0.0)
    for start in range(0, len(files), BATCH):
        images = threads.map_files(decode.read_image, files[start : start + BATCH])
        for name, step in steps.items():
            seconds[name, ONE] += _time_one(step, images)
            seconds[name, ALL] += _time_all(step, images)
            if name != ablation.TWO_SCALES:
                images = threads.map_files(step, images)
    return seconds


def _spread(values: pd.Series) -> dict[str, float]:
    middle, low, high = values.median(), values.min(), values.max()
    return {"value": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


if __name__ == "__main__":
    sys.exit(command.main("Time preprocessing and the textbook loop.", measure))
