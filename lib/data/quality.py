"""Check that every image is there and usable, and report those that are not."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import Config
from lib.data import datasets
from lib.preprocessing import decode, threads

#: grey levels that some channel must span; in HAM10000, decoded small, the flattest image spans 39
SMALLEST_SPAN = 8
#: the images of a data set of at most so many are all listed
LISTED = 50

#: Possible problems of an image.
PROBLEMS = {
    "missing": "no JPEG or PNG file; make data FROM=... CONVERT=1 converts other formats",
    **decode.FAULTS,
    "blank": "one colour all over, such as a lens cap",
}

#: What happened to an image.
TREATMENTS = ("read", "converted", "matched", "refused")


def inspect(folder: Path, metadata: pd.DataFrame) -> pd.DataFrame:
    """Open every image of the metadata once.

    Returns
    -------
    DataFrame
        One row an image, in the order of `metadata`: `image_id`, `dx`, `path` (relative to the
        folder; empty when missing), `width` and `height` (pixels, after the EXIF orientation is
        applied; NaN where the header cannot be read), `problem` (empty, or a key of `PROBLEMS`)
        and `found`, its description.
    """
    files = datasets.find_images(folder, metadata["image_id"])
    files = files.reindex(metadata["image_id"], fill_value="")
    spare = datasets.unlisted_files(folder, metadata["image_id"]) if (files == "").any() else []
    names = f"; files without a row: {', '.join(spare[:3])}" if spare else ""
    missing = (None, None, "missing", "no file" + names)
    results = threads.map_files(lambda p: inspect_image(folder / p) if p else missing, files)
    sizes_and_problems = pd.DataFrame(results, columns=["width", "height", "problem", "found"])
    table = metadata[["image_id", "dx"]].reset_index(drop=True).assign(path=files.to_numpy())
    return table.join(sizes_and_problems.astype({"width": float, "height": float}))


def inspect_image(file: Path) -> tuple[int | None, int | None, str, str]:
    """Open one image; return width and height in pixels, the problem (or "") and its description.

    Whatever `decode.read_image` refuses has the same problem here.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:  # a link to nowhere
        return None, None, "missing", "a link to a file that is not there"
    except OSError as error:
        return None, None, "unreadable", decode.one_line(error)
    pixels, size, problem, detail = decode.decode(data, reduced=True)
    span = 255 if problem else np.ptp(pixels, axis=(0, 1)).max()
    if span < SMALLEST_SPAN:
        problem, detail = "blank", f"a span of {span} grey levels"
    return *(size or (None, None)), problem, detail


def treatments(inspected: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return what happened to each image.

    Returns
    -------
    DataFrame
        `image_id`, `path`, `treatment` (one of `TREATMENTS`) and `why`: what `make data` converted
        it from, that its name is not exactly that of the file, or why it cannot be used.
    """
    note, path = folder / datasets.SOURCE_NOTE, inspected["path"]
    origin = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    kinds = origin.get("converted", {})
    is_matched = (path != "") & (path.map(datasets.image_id) != inspected["image_id"])
    reasons = {
        "converted": path.map(lambda file: f"from {kinds[file]}" if file in kinds else ""),
        "matched": np.where(is_matched, "a file of nearly this name", ""),
        "refused": (inspected["problem"] + ": " + inspected["found"]).str.removeprefix(": "),
    }
    table = inspected[["image_id", "path"]].assign(treatment="read", why="")
    for treatment, reason in reasons.items():
        table.loc[reason != "", "treatment"] = treatment
        table["why"] = (table["why"] + "; " + reason).str.strip("; ")
    return table


def report(
    inspected: pd.DataFrame, treated: pd.DataFrame, unlisted: Iterable[str], config: Config
) -> dict:
    """Count images by what happened to them: the contents of `data_quality.json`.

    `images` says what happened to each image, a line each, refused ones first. Of a data set of
    more than `LISTED` images, those that were simply read are only counted, and at most `LISTED`
    others are listed.

    Parameters
    ----------
    treated : DataFrame
        From `treatments`.
    unlisted : iterable of str
        Image files without a row, from `datasets.unlisted_files`.
    """
    unlisted, bad = list(unlisted), inspected[inspected["problem"] != ""]
    order = treated["treatment"].map({"refused": 0, "read": 2}).fillna(1)
    listed = treated.loc[order.sort_values(kind="stable").index]
    listed = listed[(listed["treatment"] != "read") | (len(treated) <= LISTED)]
    return {
        "folder": config.data.folder,
        "images_listed": len(inspected),
        **treated["treatment"].value_counts().reindex(TREATMENTS, fill_value=0).to_dict(),
        "max_dropped": config.data.max_dropped,
        "problems": {
            name: rows.value_counts().to_dict() for name, rows in bad.groupby("problem")["dx"]
        },
        "images": listed[:LISTED].to_dict("records"),
        "files_without_a_row": len(unlisted),
        "examples_without_a_row": unlisted[:LISTED],
    }


def usable(metadata: pd.DataFrame, inspected: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Return the metadata of the usable images.

    Raises
    ------
    ValueError
        More images are unusable than `data.max_dropped` allows; the message counts them by
        problem and names the first of each.
    """
    bad = inspected[inspected["problem"] != ""]
    if len(bad) > config.data.max_dropped * len(inspected):
        raise ValueError(
            f"{config.data.folder}: {len(bad)} of {len(inspected)} images cannot be used, more "
            f"than data.max_dropped = {config.data.max_dropped:g} allows\n{describe(bad)}"
        )
    return metadata[~metadata["image_id"].isin(bad["image_id"])]


def describe(bad: pd.DataFrame) -> str:
    """Return one line for each problem: the number of images, and the first of them."""
    names = bad["path"].where(bad["path"] != "", bad["image_id"])
    return "\n".join(
        f"  {problem} ({PROBLEMS[problem]}): {len(rows)}, the first: {names[rows.index[0]]}, "
        f"{rows['found'].iloc[0]}"
        for problem, rows in bad.groupby("problem", sort=False)
    )
