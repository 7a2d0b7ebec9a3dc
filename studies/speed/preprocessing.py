"""How fast is preprocessing? Every step, and all against the textbook: `make bench-preprocessing`.

The images are those of a folder, brought to HAM10000's 600 x 450 pixels and written as JPEG files
to a temporary folder. Enlarged images are smoother than originals, so their files are smaller and
decode a little faster, and less of them is taken for hair; that is the same for everything compared
here, but originals may take longer.

What runs on all cores goes the pipeline's way: `preprocess_image` on the threads of
`datasets.map_files`, but files are not hashed and no array is written. It is compared with what
public notebooks do: one Python loop that reads an image, removes hair at full resolution by the
textbook recipe, crops, resizes and filters. The loop has a process of its own,
where it is faster. All is measured several times, one thing after the other, round by round, so
that a busy moment of the machine falls on one round and not on one method.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numba
import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import config, paths, tables
from lib.data import datasets
from lib.evaluation import bootstrap
from lib.networks.backend import processor
from lib.preprocessing import decode, pipeline, threads
from studies.preprocessing import restoration

WIDTH, HEIGHT = 600, 450  # pixels, as HAM10000's originals
QUALITY = 95  # of the JPEG files
CONFIGURATION = "configs/ham10000.yaml"
BATCH = 100  # images whose pixels are held at once where single steps are timed
GOAL = 6  # times the images a second of the textbook loop

#: Where the published result lies, and the README's part on it.
PUBLISHED = paths.ROOT / "reports" / "studies" / "speed"
MARKS = "<!-- benchmark: make bench-preprocessing writes this -->", "<!-- end of benchmark -->"

DECODING, READING = "JPEG decoding alone", "reading and checking"
CONFIGURED, REMOVALS = f"all steps of {CONFIGURATION}", "crop, hair, bubbles, median"
TEXTBOOK = "textbook recipe, plain loop"
ONE, ALL, PLAIN = "one core", "all cores", "plain loop"

#: `preprocessing.csv`: one row a measurement and round. Single steps start from pixels in
#: memory, the others from files.
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
    They are taken at even distances from the list ordered by image_id.
    """
    names = datasets.read_metadata(source)["image_id"].sort_values()
    files = datasets.find_images(source, names)
    if files.empty:
        raise FileNotFoundError(f"{source.name}: no images there; expected at least one")
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
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    large = cv2.resize(image, size, interpolation=way)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return large[top : top + height, left : left + width]


def textbook_loop(files: list[Path], size: int, kernel: int) -> None:
    """Preprocess the images one by one, as public notebooks do, with OpenCV's own threads.

    The result is what `restoration` scores as the textbook recipe, and a median filter.
    """
    for file in files:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        image = pipeline.crop_square(restoration.textbook_hair_removal(image))
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        cv2.medianBlur(image, kernel)


def measure(files: list[Path], rounds: int) -> pd.DataFrame:
    """Time everything, round by round; rows of `SCHEMA`."""
    settings = config.load_config(paths.resolve(CONFIGURATION)).preprocessing
    switched_off = {"color_constancy": False, "equalize_contrast": False}
    switched_on = {"remove_hair": True, "remove_bubbles": True}
    kernel = settings.median_kernel or 3
    removals = settings.model_copy(update=switched_off | switched_on | {"median_kernel": kernel})
    everything = removals.model_copy(
        update=dict.fromkeys(switched_off, True) | {"mean_kernel": kernel}
    )

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
        alone.submit(_time_loop, files[:3], settings.image_size, kernel).result()
        threads.map_files(preprocess(everything), files[:3])
        for number in range(1, rounds + 1):
            seconds = {(what, ONE): _time_one(way, files) for what, way in ways.items()}
            seconds |= {(what, ALL): _time_all(way, files) for what, way in ways.items()}
            loop = alone.submit(_time_loop, files, settings.image_size, kernel)
            seconds[TEXTBOOK, PLAIN] = loop.result()
            seconds |= _time_steps(files, pipeline.enabled_steps(everything))
            for (what, cores), value in seconds.items():
                rows.append((what, cores, number, len(files), value, len(files) / value))
    return pd.DataFrame(rows, columns=list(SCHEMA.columns))


def summarise(table: pd.DataFrame) -> dict:
    """Return what `preprocessing.json` says: medians over the rounds, their spread, and the ratio.

    Each value is a median with the lowest and the highest round. The ratio divides images a second
    of our removals on all cores by those of the textbook loop in the same round.
    """
    speed = table.pivot(index="round", columns=["what", "cores"], values="images_per_second")
    loop = speed[TEXTBOOK, PLAIN]
    shares = speed[REMOVALS, ONE] / speed[DECODING, ONE]
    return {
        "decoding_share": round(float(shares.median()), 3),
        "images_per_second": [
            {"what": what, "cores": cores} | _spread(speed[what, cores])
            for what, cores in dict.fromkeys(zip(table["what"], table["cores"], strict=True))
        ],
        "times_the_textbook_loop": {
            "all cores": _spread(speed[REMOVALS, ALL] / loop),
            "one core": _spread(speed[REMOVALS, ONE] / loop),
            "goal": GOAL,
        },
    }


def speed_table(said: dict) -> pd.DataFrame:
    """Return images a second in words: one row a measurement, one column a way to run."""
    rows = pd.DataFrame(said["images_per_second"])
    rows["text"] = [bootstrap.format_interval(row, 1) for row in said["images_per_second"]]
    table = rows.pivot(index="what", columns="cores", values="text")
    return table.loc[rows["what"].drop_duplicates(), [ONE, ALL, PLAIN]].fillna("–")


def run(source: Path, count: int = 500, rounds: int = 5) -> Path:
    """Run the benchmark; write its CSV, its JSON and the README's part on it.

    Parameters
    ----------
    source : Path
        A folder in HAM10000's layout.
    count : int
        Images; fewer where the folder has fewer.
    rounds : int
        How often everything is measured.

    Returns
    -------
    Path
        The CSV file.
    """
    if count < 1 or rounds < 1:
        raise ValueError(f"found {count} images and {rounds} rounds; expected at least one of each")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        files = write_images(source, Path(folder), count)
        sizes = [file.stat().st_size for file in files]
        table = SCHEMA.validate(measure(files, rounds))
    said = {
        "folder": source.name,
        "images": len(files),
        "image": f"{WIDTH} x {HEIGHT} pixels, JPEG quality {QUALITY}",
        "mean_kilobytes": round(float(np.mean(sizes)) / 1000, 1),
        "rounds": rounds,
        "cores": os.cpu_count(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "opencv_threads": cv2.getNumThreads(),
        "numba": numba.__version__,
    } | summarise(table)
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    target = PUBLISHED / "preprocessing.csv"
    tables.write_table(table.round({"seconds": 4, "images_per_second": 2}), target)
    tables.write_json(said, target.with_suffix(".json"))
    paths.write_part(PUBLISHED / "README.md", MARKS, describe(said))
    return target


def describe(said: dict) -> str:
    """Return the README's part on the result, in Markdown.

    Parameters
    ----------
    said : dict
        The contents of `preprocessing.json`.
    """
    table = speed_table(said)
    ratio, alone = (said["times_the_textbook_loop"][cores] for cores in (ALL, ONE))
    verdict = "met" if ratio["value"] >= GOAL else "missed"
    lines = [
        f"{said['images']} images of {said['folder']}, enlarged to {said['image']}; originals hold "
        f"more detail and may take longer. {said['cores']} cores ({said['processor']}), "
        f"OpenCV {said['opencv']}, Numba {said['numba']}. Images a second: median of "
        f"{said['rounds']} rounds, and the lowest and highest.",
        "",
        f"| | {ONE} | {ALL} | {PLAIN} |",
        "|---|---|---|---|",
        *(f"| {row.Index} | {' | '.join(row[1:])} |" for row in table.itertuples()),
        "",
        f"On all cores, the row `{REMOVALS}` is {bootstrap.format_interval(ratio, 2)} times as "
        f"fast as the plain loop; the goal was {GOAL} times: {verdict}. On one core, it is "
        f"{bootstrap.format_interval(alone, 2)} times as fast, and bare "
        f"decoding is {said['decoding_share']:.0%} of its time. Single steps start from pixels in "
        "memory, the rows above them from files.",
        "",
    ]
    return "\n".join(lines)


def _decode(file: Path) -> np.ndarray:
    with file.open("rb", buffering=0) as opened:
        data = opened.readall()
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _time_loop(files: list[Path], size: int, kernel: int) -> float:
    started = time.perf_counter()
    textbook_loop(files, size, kernel)
    return time.perf_counter() - started


def _time_one(function: Callable, items: list) -> float:
    """Return the seconds that one core takes; results are dropped at once."""
    with threads.one_opencv_thread():
        started = time.perf_counter()
        for item in items:
            function(item)
        return time.perf_counter() - started


def _time_all(function: Callable, items: list) -> float:
    """Return the seconds that all cores take, the pipeline's way; results are dropped at once."""

    def drop(item) -> None:
        function(item)

    with threads.one_opencv_thread():  # each, as in lib/preprocessing/threads.py
        started = time.perf_counter()
        threads.map_files(drop, items)
        return time.perf_counter() - started


def _time_steps(files: list[Path], steps: dict[str, Callable]) -> dict[tuple[str, str], float]:
    """Return the seconds of each step alone, each on what the one before it made.

    Hair removal at two scales comes before the usual one, and what it makes is dropped.
    """
    first, *others = steps.items()
    two_scales = (pipeline.TWO_SCALES, pipeline.remove_thick_hair)
    steps = dict([first, two_scales, *others])
    seconds = dict.fromkeys(((name, cores) for name in steps for cores in (ONE, ALL)), 0.0)
    for start in range(0, len(files), BATCH):
        images = threads.map_files(decode.read_image, files[start : start + BATCH])
        for name, step in steps.items():
            seconds[name, ONE] += _time_one(step, images)
            seconds[name, ALL] += _time_all(step, images)
            if name != pipeline.TWO_SCALES:
                images = threads.map_files(step, images)
    return seconds


def _spread(values: pd.Series) -> dict[str, float]:
    middle, low, high = values.median(), values.min(), values.max()
    return {"value": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def main(arguments: list[str] | None = None) -> int:
    """Time the preprocessing and print a table of images a second."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a folder in HAM10000's layout")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    try:
        file = run(chosen.folder.resolve(), chosen.images, chosen.rounds)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    said = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    print(
        f"{said['images']} images, {said['image']}; {said['cores']} cores, OpenCV {said['opencv']} "
        f"with {said['opencv_threads']} threads\nimages a second, median of {said['rounds']} rounds"
        " (lowest to highest)\n"
    )
    print(speed_table(said).rename_axis(index=None, columns=None).to_string())
    for cores in (ALL, ONE):
        ratio = bootstrap.format_interval(said["times_the_textbook_loop"][cores], 2)
        print(f"\nours on {cores}, times the textbook loop: {ratio}", end="")
    print(f"; the goal on all cores is {GOAL}\n{paths.relative(file)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
