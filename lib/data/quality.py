"""Is every image there and fit for use? One look at each file, and a report of what is not."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
from PIL import ExifTags, Image

from lib import paths
from lib.data import datasets
from lib.preprocessing import decode, threads
from lib.config import Config

#: grey levels that some channel must span; of HAM10000's images, seen small, the flattest spans 39
SMALLEST_SPAN = 8

#: What may be wrong with an image, and what it means.
PROBLEMS = {
    "missing": "a row of the metadata without a file",
    **decode.FAULTS,
    "blank": "one colour all over: a lens cap, not skin",
}

#: One row an image of the metadata; sizes in pixels, after a turn that EXIF asks for; empty where
#: the header could not be read.
INSPECTION_SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, unique=True),
        "dx": pa.Column(str),
        "path": pa.Column(str),  # relative to the data folder; empty when missing
        "width": pa.Column(float, nullable=True),
        "height": pa.Column(float, nullable=True),
        "problem": pa.Column(str, pa.Check.isin(["", *PROBLEMS])),
        "found": pa.Column(str),  # what was found instead, in words
    },
    strict=True,
)


def inspect(folder: Path, metadata: pd.DataFrame) -> pd.DataFrame:
    """Open every image of the metadata once.

    Returns
    -------
    DataFrame
        `INSPECTION_SCHEMA`, in the order of `metadata`; `problem` is empty where all is well.
    """
    files = datasets.find_images(folder, metadata["image_id"])
    files = files.reindex(metadata["image_id"], fill_value="")
    looks = threads.map_files(
        lambda path: inspect_image(folder / path) if path else MISSING, files
    )
    table = pd.DataFrame(looks, columns=["width", "height", "problem", "found"])
    table.insert(0, "image_id", metadata["image_id"].to_numpy())
    table.insert(1, "dx", metadata["dx"].to_numpy())
    table.insert(2, "path", files.to_numpy())
    return INSPECTION_SCHEMA.validate(table.astype({"width": float, "height": float}))


MISSING = (None, None, "missing", "no file")


def inspect_image(file: Path) -> tuple[int | None, int | None, str, str]:
    """Open one image; return width and height in pixels, the problem (or "") and what was found.

    The header is read first, as `datasets.read_image` does: what that refuses has a problem here.
    Then all of the file is decoded, a JPEG at an eighth of its size.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:  # a link to nowhere
        return *MISSING[:3], "a link to a file that is not there"
    except OSError as error:
        return None, None, "unreadable", decode.in_words(error)
    image, problem, found = decode.read_header(data)
    if image is None:
        return None, None, problem, found
    width, height = image.size
    if not problem:
        problem, found = _look_inside(image)
    turned = not problem and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width, "", "") if turned else (width, height, problem, found)


def _look_inside(image: Image.Image) -> tuple[str, str]:
    """Decode an image; return the problem (or "") and what was found."""
    try:
        image.draft("RGB", (1, 1))
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        words = decode.in_words(error)
        return "truncated" if "truncated" in words else "unreadable", words
    span = max(high - low for low, high in image.getextrema())
    return ("blank", f"a span of {span} grey levels") if span < SMALLEST_SPAN else ("", "")


def report(inspected: pd.DataFrame, unlisted: Iterable[str], config: Config) -> dict:
    """Count what was found, by reason and class, as `data_quality.json` holds it.

    Parameters
    ----------
    unlisted : iterable of str
        Image files without a row, from `datasets.unlisted_files`.
    """
    unlisted, bad = list(unlisted), inspected[inspected["problem"] != ""]
    by_class = bad.groupby(["problem", "dx"]).size()
    return {
        "folder": config.data.folder,
        "images_listed": len(inspected),
        "images_usable": len(inspected) - len(bad),
        "dropped_share": len(bad) / len(inspected),
        "dropped_share_allowed": config.data.max_dropped,
        "dropped": {
            problem: {dx: int(n) for dx, n in by_class[problem].items()}
            for problem in PROBLEMS
            if problem in by_class
        },
        "files_without_a_row": len(unlisted),
        "examples": {
            "dropped": bad[["image_id", "dx", "path", "problem", "found"]]
            .head(50)
            .to_dict("records"),
            "files_without_a_row": unlisted[:50],
        },
    }


def write_report(found: dict, config: Config) -> Path:
    """Write the run's `data_quality.json`."""
    file = paths.run_folder(config.name) / "data_quality.json"
    return paths.write_text(file, json.dumps(found, indent=1) + "\n")


def usable(metadata: pd.DataFrame, inspected: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Return the metadata of the images that can be used.

    Raises
    ------
    ValueError
        More images are lost than `data.max_dropped` allows; the message counts them by reason
        and names the first of each.
    """
    bad = inspected[inspected["problem"] != ""]
    if len(bad) > config.data.max_dropped * len(inspected):
        raise ValueError(
            f"{config.data.folder}: {len(bad)} of {len(inspected)} images cannot be used, more "
            f"than data.max_dropped = {config.data.max_dropped:g} allows\n{describe(bad)}"
        )
    return metadata[~metadata["image_id"].isin(bad["image_id"])]


def describe(bad: pd.DataFrame) -> str:
    """Return one line for each reason: how many images, and the first of them."""
    lines = []
    for problem, rows in bad.groupby("problem", sort=False):
        first = rows.iloc[0]
        name = first["path"] or first["image_id"]
        lines.append(
            f"  {problem} ({PROBLEMS[problem]}): {len(rows)}, the first: {name}, {first['found']}"
        )
    return "\n".join(lines)
