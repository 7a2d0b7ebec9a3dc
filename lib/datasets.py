"""Data sets in HAM10000's layout: reading, checking, splitting, and the index of a run.

The layout (Tschandl et al., Sci. Data 5:180161, 2018): `HAM10000_metadata.csv`, JPEG images named
by `image_id` anywhere below it, and optionally lesion masks `<image_id>_segmentation.png`.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.model_selection import train_test_split

from lib import paths, synthetic, tables
from lib.config import CLASS_NAMES, Config, Split, Synthetic

METADATA = "HAM10000_metadata.csv"
MASK_SUFFIX = "_segmentation"
SYNTHETIC_NOTE = "synthetic.json"
SPLITS = ("train", "validation", "test")

#: One row an image of HAM10000; `dx_type` (how the diagnosis was made) is never a feature.
METADATA_SCHEMA = pa.DataFrameSchema(
    {
        "lesion_id": pa.Column(str),
        "image_id": pa.Column(str, unique=True),
        "dx": pa.Column(str, pa.Check.isin(CLASS_NAMES)),
        "dx_type": pa.Column(str, nullable=True),
        "age": pa.Column(float, pa.Check.in_range(0, 120), nullable=True, coerce=True),  # years
        "sex": pa.Column(str, nullable=True),
        "localization": pa.Column(str, nullable=True),
    }
)

#: `index.csv`: one row an image of the run; row i is row i of `images.npy`.
INDEX_SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, unique=True),
        "lesion_id": pa.Column(str),
        "label": pa.Column(str, pa.Check.isin(CLASS_NAMES)),
        "split": pa.Column(str, pa.Check.isin(SPLITS)),
        "path": pa.Column(str, unique=True),  # relative to the data folder
    },
    strict=True,
)


# ------------------------------------------------------------------------------------ reading


def open_folder(config: Config) -> Path:
    """Return the folder of the run's images; synthetic ones are generated if they are not there.

    Raises
    ------
    FileNotFoundError
        Real images that are not there; the message says how to bring them.
    ValueError
        Synthetic images that were drawn with other settings, or would be taken for real ones.
    """
    folder = paths.resolve(config.data.folder)
    if config.data.synthetic is not None:
        _draw_if_missing(folder, config.data.synthetic)
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(
            f"{config.data.folder}: no {METADATA} there; bring a local copy of HAM10000 with "
            "`make data FROM=<folder>` (data/README.md says where to get it)"
        )
    if config.data.synthetic is None and (folder / SYNTHETIC_NOTE).is_file():
        raise ValueError(
            f"{config.data.folder}: synthetic images ({SYNTHETIC_NOTE} is there); expected the key "
            "data.synthetic, or a folder of real images"
        )
    return folder


def read_metadata(folder: Path) -> pd.DataFrame:
    """Read and check `HAM10000_metadata.csv`.

    Returns
    -------
    DataFrame
        `METADATA_SCHEMA`, in the file's order.

    Raises
    ------
    ValueError
        A column that is missing, a class that is unknown, an image listed twice, or a lesion with
        two diagnoses; the message names the file and the first rows at fault.
    """
    file = folder / METADATA
    metadata = tables.read_table(file, METADATA_SCHEMA)
    labels = metadata.groupby("lesion_id")["dx"].nunique()
    if (labels > 1).any():
        raise ValueError(
            f"{paths.relative(file)}: lesion {labels.idxmax()} has {labels.max()} diagnoses; "
            "expected one a lesion"
        )
    return metadata


def find_images(folder: Path, image_ids: Iterable[str]) -> pd.Series:
    """Find the JPEG file of each image anywhere below `folder`.

    Returns
    -------
    Series of str
        Paths relative to `folder`, indexed by image_id.

    Raises
    ------
    FileNotFoundError
        Images without a file; the message counts them and names the first.
    ValueError
        An image with two files.
    """
    wanted = list(image_ids)
    found: dict[str, str] = {}
    for file in sorted(_walk(folder)):
        if file.suffix.lower() not in (".jpg", ".jpeg"):
            continue
        path = file.relative_to(folder).as_posix()
        if file.stem in found:
            raise ValueError(
                f"{folder.name}: image {file.stem} is there twice: {found[file.stem]}, {path}"
            )
        found[file.stem] = path
    missing = [image_id for image_id in wanted if image_id not in found]
    if missing:
        raise FileNotFoundError(
            f"{folder.name}: {len(missing)} of {len(wanted)} images of {METADATA} have no JPEG "
            f"file, the first: {missing[0]}.jpg"
        )
    return pd.Series({image_id: found[image_id] for image_id in wanted}, name="path", dtype=str)


def find_masks(folder: Path, image_ids: Iterable[str]) -> pd.Series:
    """Find lesion masks `<image_id>_segmentation.png`; images without one are left out.

    Returns
    -------
    Series of str
        Paths relative to `folder`, indexed by image_id.
    """
    found = {
        file.stem.removesuffix(MASK_SUFFIX): file.relative_to(folder).as_posix()
        for file in _walk(folder)
        if file.suffix == ".png" and file.stem.endswith(MASK_SUFFIX)
    }
    there = {each: found[each] for each in image_ids if each in found}
    return pd.Series(there, name="mask", dtype=str)


def read_image(file: Path) -> np.ndarray:
    """Decode an image: the one way for training, evaluation and prediction.

    OpenCV applies a JPEG's EXIF orientation.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), RGB

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or not an image.
    """
    return _decode(file, cv2.IMREAD_COLOR_RGB)


def read_mask(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a mask of 0 and 255.

    Parameters
    ----------
    size : tuple of int, optional
        Height and width that it must have.

    Returns
    -------
    ndarray of bool, shape (height, width), true inside

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, not an image, of another size, or stored as 0 and 1.
    """
    mask = _decode(file, cv2.IMREAD_GRAYSCALE)
    if 0 < mask.max() <= 127:
        raise ValueError(
            f"{paths.relative(file)}: the largest value is {mask.max()}; expected 0 outside "
            "and 255 inside"
        )
    if size is not None and mask.shape != size:
        raise ValueError(
            f"{paths.relative(file)}: {mask.shape[1]} x {mask.shape[0]} pixels; expected the "
            f"image's {size[1]} x {size[0]}"
        )
    return mask > 127


def map_files(function: Callable, files: Iterable) -> list:
    """Apply `function` to every file on all cores, in order; OpenCV lets go of Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, files))


# ---------------------------------------------------------------------------------- the index


def build_index(metadata: pd.DataFrame, files: pd.Series, config: Config) -> pd.DataFrame:
    """Choose the run's images and split them by lesion.

    Parameters
    ----------
    metadata : DataFrame
        From `read_metadata`.
    files : Series
        From `find_images`.

    Returns
    -------
    DataFrame
        `INDEX_SCHEMA`, ordered by image_id.
    """
    chosen = metadata[metadata["dx"].isin(config.classes)]
    empty = set(config.classes) - set(chosen["dx"])
    if empty:
        raise ValueError(
            f"{METADATA} has no image of class {', '.join(sorted(empty))}; "
            f"it has: {', '.join(sorted(metadata['dx'].unique()))}"
        )
    if config.data.images_per_class:
        chosen = sample_lesions(chosen, config.data.images_per_class, config.seed)
    split = split_lesions(
        chosen.drop_duplicates("lesion_id").set_index("lesion_id")["dx"], config.split
    )
    index = pd.DataFrame(
        {
            "image_id": chosen["image_id"],
            "lesion_id": chosen["lesion_id"],
            "label": chosen["dx"],
            "split": chosen["lesion_id"].map(split),
            "path": chosen["image_id"].map(files),
        }
    )
    return INDEX_SCHEMA.validate(index.sort_values("image_id", ignore_index=True))


def sample_lesions(metadata: pd.DataFrame, images_per_class: int, seed: int) -> pd.DataFrame:
    """Draw whole lesions at random until each class has at most `images_per_class` images."""
    lesions = metadata["lesion_id"].drop_duplicates().sample(frac=1, random_state=seed)
    rank = pd.Series(np.arange(len(lesions)), index=lesions)
    shuffled = metadata.iloc[np.argsort(metadata["lesion_id"].map(rank), kind="stable")]
    images_up_to_lesion = shuffled.groupby("dx").cumcount() + 1
    last_image = images_up_to_lesion.groupby(shuffled["lesion_id"]).transform("max")
    return shuffled[last_image <= images_per_class].sort_index()


def split_lesions(labels: pd.Series, settings: Split) -> pd.Series:
    """Assign lesions to train, validation and test at random, each class in the same shares.

    Parameters
    ----------
    labels : Series of str
        One class a lesion, indexed by lesion_id.

    Returns
    -------
    Series of str
        The split of each lesion, indexed by lesion_id.

    Raises
    ------
    ValueError
        A class with too few lesions to be in every split.
    """
    labels = labels.sort_index()
    smallest = labels.value_counts()
    share = min(settings.validation, settings.test)
    if smallest.min() * share < 1 or smallest.min() < 3:
        raise ValueError(
            f"class {smallest.idxmin()} has {smallest.min()} lesions; a share of {share} needs at "
            f"least {max(3, int(np.ceil(1 / share)))} to put one into every split"
        )
    rest, test = train_test_split(
        labels, test_size=settings.test, stratify=labels, random_state=settings.seed
    )
    train, validation = train_test_split(
        rest,
        test_size=settings.validation / (1 - settings.test),
        stratify=rest,
        random_state=settings.seed,
    )
    parts = dict(zip(SPLITS, (train, validation, test), strict=True))
    return pd.concat([pd.Series(name, index=part.index) for name, part in parts.items()])


def write_index(index: pd.DataFrame, config: Config) -> Path:
    """Write the run's `index.csv`, and say in `index.json` what it was made from."""
    note = paths.run_folder(config.name) / "index.json"
    note.unlink(missing_ok=True)
    file = tables.write_table(index, note.with_suffix(".csv"))
    paths.write_text(note, json.dumps(_origin(config), indent=1) + "\n")
    return file


def read_index(config: Config) -> pd.DataFrame:
    """Read the run's `index.csv` and check what every notebook relies on.

    Raises
    ------
    FileNotFoundError
        Notebook 01 has not written it.
    ValueError
        Made with other settings, not as `INDEX_SCHEMA` has it, a lesion on two sides of the
        split, or a class that is missing from a split.
    """
    file = paths.run_folder(config.name) / "index.csv"
    paths.check_note(file, _origin(config), "notebook 01")
    index = tables.read_table(file, INDEX_SCHEMA)
    sides = index.groupby("lesion_id")["split"].nunique()
    if (sides > 1).any():
        raise ValueError(
            f"{paths.relative(file)}: lesion {sides.idxmax()} is in {sides.max()} splits"
        )
    counts = pd.crosstab(index["label"], index["split"])
    counts = counts.reindex(index=config.classes, columns=SPLITS, fill_value=0)
    if (counts == 0).any(axis=None):
        label, split = counts.stack().idxmin()
        raise ValueError(f"{paths.relative(file)}: no image of class {label} in the {split} split")
    return index


def split_digest(index: pd.DataFrame) -> str:
    """Return a SHA-256 of which image is in which split, whatever the order of the rows."""
    rows = sorted(f"{row.image_id},{row.lesion_id},{row.split}\n" for row in index.itertuples())
    return hashlib.sha256("".join(rows).encode()).hexdigest()


# --------------------------------------------------------------------------------- a local copy


def link(source: Path, target: Path) -> pd.DataFrame:
    """Check a local copy of HAM10000 and link it as `target`.

    Every image that the metadata lists is decoded once, and its mask if it has one; nothing is
    linked unless all is well.

    Returns
    -------
    DataFrame
        Images, lesions and masks for each class.
    """
    source = source.expanduser().resolve()
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; expected one with {METADATA}")
    if (source / SYNTHETIC_NOTE).is_file():
        raise ValueError(f"{source}: synthetic images ({SYNTHETIC_NOTE} is there), not HAM10000")
    if target.exists() and not target.is_symlink():
        raise FileExistsError(
            f"{paths.relative(target)} is a folder of its own, not a link; move it away"
        )
    metadata = read_metadata(source)
    files = find_images(source, metadata["image_id"])
    masks = find_masks(source, metadata["image_id"])

    def check(image_id: str) -> None:  # decoded and let go
        size = read_image(source / files[image_id]).shape[:2]
        if image_id in masks.index:
            read_mask(source / masks[image_id], size)

    map_files(check, metadata["image_id"])
    partial = paths.temporary(target)
    partial.unlink(missing_ok=True)
    partial.symlink_to(source, target_is_directory=True)
    os.replace(partial, target)
    metadata["mask"] = metadata["image_id"].isin(masks.index)
    return metadata.groupby("dx").agg(
        images=("image_id", "size"), lesions=("lesion_id", "nunique"), masks=("mask", "sum")
    )


WHERE = f"""\
The images of HAM10000 are not part of this repository (licence CC BY-NC 4.0).
Get them from Harvard Dataverse, doi 10.7910/DVN/DBW86T: HAM10000_images_part_1.zip,
HAM10000_images_part_2.zip, {METADATA} and the lesion masks; unpack them into one folder and say
  make data FROM=<that folder>
data/README.md tells more. The demonstration, `make reproduce`, needs no download."""


def main(arguments: list[str] | None = None) -> int:
    """Check a local copy of HAM10000 and link it as data/ham10000."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", type=Path, nargs="?", help="a folder in HAM10000's layout")
    source = parser.parse_args(arguments).source
    if source is None:
        print(WHERE, file=sys.stderr)
        return 1
    try:
        counts = link(source, paths.ROOT / "data" / "ham10000")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"data/ham10000 -> {source}\n{counts}")
    print(f"{counts['images'].sum()} images, all of them readable")
    return 0


# ------------------------------------------------------------------------------------- details


def _draw_if_missing(folder: Path, settings: Synthetic) -> None:
    note, expected = folder / SYNTHETIC_NOTE, settings.model_dump() | {"version": synthetic.VERSION}
    if not folder.exists():
        synthetic.generate(folder, **settings.model_dump())
    found = (
        json.loads(note.read_text(encoding="utf-8")) if note.is_file() else f"no {SYNTHETIC_NOTE}"
    )
    if found != expected:
        raise ValueError(
            f"{paths.relative(folder)} was drawn with other settings: found {found}, expected "
            f"{expected}; delete the folder or name another one under data.folder"
        )


def _origin(config: Config) -> dict:
    return {
        "classes": config.classes,
        "data": config.data.model_dump(exclude={"attribution"}),
        "split": config.split.model_dump(),
        "seed": config.seed,
    }


def _walk(folder: Path) -> list[Path]:
    # os.walk follows the link that data/ham10000 is, which Path.rglob would not on every version
    return [
        Path(top) / name for top, _, names in os.walk(folder, followlinks=True) for name in names
    ]


def _decode(file: Path, mode: int) -> np.ndarray:
    try:
        data = np.fromfile(file, np.uint8)
    except FileNotFoundError:
        raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None
    image = cv2.imdecode(data, mode) if data.size else None
    if image is None:
        raise ValueError(
            f"{paths.relative(file)}: not an image that OpenCV can decode ({data.size} bytes); "
            "expected a JPEG or PNG file"
        )
    return image


if __name__ == "__main__":
    sys.exit(main())
