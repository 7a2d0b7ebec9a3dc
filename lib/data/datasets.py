"""Data sets in HAM10000's layout: read and check the metadata, find files, build a run's index.

The layout (Tschandl et al., Sci. Data 5:180161, 2018): `HAM10000_metadata.csv`, JPEG images named
by `image_id` anywhere below it, and optionally lesion masks `<image_id>_segmentation.png`.
"""

import filecmp
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import paths, tables
from lib.config import CLASS_NAMES, Config, Preprocessing, Synthetic
from lib.data import splits
from lib.preprocessing import decode, pipeline

METADATA = "HAM10000_metadata.csv"
MASK_SUFFIX = "_segmentation"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png")
#: Ends of names that are no part of an id; the ISIC Archive adds the first to reduced images.
ENDS = re.compile(r"(_downsampled)?(\.(jpe?g|jfif|png|webp|tiff?|bmp))?$")
#: What `make data` writes beside the metadata about the origin of images.
SOURCE_NOTE = "source.json"

SYNTHETIC_NOTE = "synthetic.json"
#: Increases when the same seed draws other images; images of another version are not used.
SYNTHETIC_VERSION = 2
#: folder of the synthetic images' ground truth, which holds no images of the data set
TRUTH = "truth"

#: Optional columns of the metadata; empty where absent. Only later editions have `dataset`.
OPTIONAL = ("dx_type", "age", "sex", "localization", "dataset", "patient_id")

# -------------------------------------------------------------------------------------- schemas


def metadata_schema(names: Iterable[str] = CLASS_NAMES) -> pa.DataFrameSchema:
    """Return the schema of the metadata, one row an image, with `names` as possible diagnoses.

    `dx_type` (how the diagnosis was made) leaks the label and is never a feature.
    """
    optional = {"nullable": True, "required": False}
    columns = {
        "lesion_id": pa.Column(str),
        "image_id": pa.Column(str, unique=True),
        "dx": pa.Column(str, pa.Check.isin(list(names))),
        **{name: pa.Column(str, **optional) for name in OPTIONAL},
        "age": pa.Column(float, pa.Check.in_range(0, 120), coerce=True, **optional),  # years
    }
    checks = pa.Check(_one_diagnosis, name="one diagnosis a lesion")
    return pa.DataFrameSchema(columns, checks=checks, strict=True)


def _one_diagnosis(metadata: pd.DataFrame) -> pd.Series:
    if not {"lesion_id", "dx"} <= set(metadata):
        return pd.Series(True, index=metadata.index)  # the missing column is reported anyway
    return metadata.groupby("lesion_id")["dx"].transform("nunique") <= 1


def index_schema(config: Config) -> pa.DataFrameSchema:
    """Return the schema of `index.csv`: one row an image; row i is row i of `images.npy`."""
    columns = {
        "image_id": pa.Column(str, unique=True),
        "lesion_id": pa.Column(str),
        "group_id": pa.Column(str),  # lesions that share an image
        "label": pa.Column(str, pa.Check.isin(config.classes)),
        "split": pa.Column(str, pa.Check.isin(splits.SPLITS)),
        "fold": pa.Column(int, pa.Check.in_range(0, config.split.folds - 1)),
        "path": pa.Column(str, unique=True),  # relative to the data folder
    }
    return pa.DataFrameSchema(columns, strict=True)


# ------------------------------------------------------------------------------ folder and files


def open_folder(config: Config) -> Path:
    """Return the folder of the run's images and check that it holds what the configuration names.

    Raises
    ------
    FileNotFoundError
        There are no images; the message names the command that draws or brings them.
    ValueError
        Synthetic images drawn with other settings, or where real ones are expected.
    """
    name, synthetic = config.data.folder, config.data.synthetic
    folder = paths.resolve(name)
    if not (folder / METADATA).is_file():
        bring = "bring HAM10000 with `make data`, or `make data FROM=<your copy>` (data/README.md)"
        draw = f"draw the synthetic images with `make images CONFIG={config.name}`"
        raise FileNotFoundError(f"{name}: no {METADATA} there; {draw if synthetic else bring}")
    if synthetic is not None:
        check_synthetic(folder, synthetic)
    elif (folder / SYNTHETIC_NOTE).is_file():
        raise ValueError(
            f"{name}: synthetic images ({SYNTHETIC_NOTE} is there); expected the key "
            "data.synthetic, or a folder of real images"
        )
    return folder


def check_synthetic(folder: Path, settings: Synthetic) -> None:
    """Raise ValueError if a folder's synthetic images were drawn with other settings."""
    note, expected = folder / SYNTHETIC_NOTE, settings.model_dump() | {"version": SYNTHETIC_VERSION}
    drawn = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else f"no {note.name}"
    if drawn != expected:
        raise ValueError(
            f"{paths.relative(folder)} was drawn with other settings: found {drawn}, expected "
            f"{expected}; delete the folder or name another one under data.folder"
        )


def read_metadata(folder: Path, names: Iterable[str] = CLASS_NAMES) -> pd.DataFrame:
    """Read and check `HAM10000_metadata.csv`.

    Parameters
    ----------
    names : iterable of str
        The diagnoses that it may have; by default HAM10000's seven.

    Returns
    -------
    DataFrame
        `metadata_schema`, in the file's order; absent columns of `OPTIONAL` are added empty.

    Raises
    ------
    ValueError
        A missing or unknown column, an unknown class, an image listed twice, or a lesion with two
        diagnoses; the message names the file and the rows at fault.
    """
    file = folder / METADATA
    metadata = tables.read_table(file, metadata_schema(names))
    if metadata.empty:
        raise ValueError(f"{paths.relative(file)}: no rows; expected one an image")
    return metadata.reindex(columns=["lesion_id", "image_id", "dx", *OPTIONAL])


def is_mask_file(path: str | Path) -> bool:
    """Decide by its name whether a file is a lesion mask.

    >>> is_mask_file("masks/ISIC_0024306_segmentation.png")
    True
    """
    name = Path(path).name.lower()
    return name.endswith(f"{MASK_SUFFIX}.png") and not name.startswith(".")


def is_image_file(path: str | Path) -> bool:
    """Decide by its name whether a file is a JPEG or PNG image, and no lesion mask.

    >>> is_image_file("ISIC_0024306.JPG"), is_image_file(".hidden.jpg")
    (True, False)
    """
    name = Path(path).name.lower()
    return name.endswith(IMAGE_SUFFIXES) and not name.startswith(".") and not is_mask_file(name)


def find_images(folder: Path, image_ids: Iterable[str]) -> pd.Series:
    """Find the JPEG or PNG file of each image anywhere below `folder`; some may have none.

    Returns
    -------
    Series of str
        Paths relative to `folder`, indexed by image_id.

    Raises
    ------
    ValueError
        An image with two files that differ.
    """
    return _find(folder, is_image_file, image_ids).rename("path")


def find_masks(folder: Path, image_ids: Iterable[str]) -> pd.Series:
    """Find the lesion mask of each image, like `find_images`; the Series is named `mask`."""
    return _find(folder, is_mask_file, image_ids).rename("mask")


def unlisted_files(folder: Path, image_ids: Iterable[str]) -> list[str]:
    """Return the images and then the masks, relative to `folder`, without a row of the metadata."""
    unlisted, files = [], _list_files(folder)
    for is_wanted in (is_image_file, is_mask_file):
        candidates = list(filter(is_wanted, files))
        listed = {file for files in match(image_ids, candidates).values() for file in files}
        unlisted += [file for file in candidates if file not in listed]
    return unlisted


def image_id(path: str | Path) -> str:
    """Return the image_id that the name of an image or a mask holds.

    >>> image_id("masks/ISIC_0024306_Segmentation.PNG")
    'ISIC_0024306'
    """
    stem = Path(path).stem
    return stem[: -len(MASK_SUFFIX)] if is_mask_file(path) else stem


def match(image_ids: Iterable[str], files: Iterable[str | Path]) -> dict[str, list]:
    """Return the files of each image, out of either images or masks.

    They have exactly its name. If there are none, it is the one file of nearly its name: without
    case, folder, spaces around it, ending, and `_downsampled`, in Unicode's composed form.
    """
    named, near, listed = defaultdict(list), defaultdict(list), dict.fromkeys(image_ids)
    for file in files:
        named[image_id(file)].append(file)
    for name in named:
        if name not in listed:
            near[_key(name)] += named[name]
    keys = {name: _key(name) for name in listed if name not in named}
    wanted = Counter(keys.values())
    for name, key in keys.items():
        named[name] = near[key] if len(near[key]) == wanted[key] == 1 else []
    return {name: named[name] for name in listed}


def _key(name: str) -> str:
    name = unicodedata.normalize("NFC", name).strip().replace("\\", "/").rpartition("/")[2]
    return ENDS.sub("", name.casefold())


def _find(folder: Path, is_wanted: Callable[[str], bool], image_ids: Iterable[str]) -> pd.Series:
    """Return the file of each image; copies of one file count once, files without a row never."""
    chosen = {}
    for name, files in match(image_ids, filter(is_wanted, _list_files(folder))).items():
        if files:
            chosen[name] = first = files[0]
        for other in files[1:]:
            if not filecmp.cmp(folder / first, folder / other, shallow=False):
                raise ValueError(f"{folder.name}: two files of {name} differ: {first}, {other}")
    return pd.Series(chosen, dtype=str)


def _list_files(folder: Path) -> list[str]:
    """List every file below `folder`, in order and relative to it, but neither hidden nor truth."""
    files = []
    # unlike Path.rglob, os.walk follows links such as data/ham10000 in every version of Python
    for top, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name != TRUTH and name[0] != ".")
        files += [(Path(top) / name).relative_to(folder).as_posix() for name in sorted(names)]
    return files


def lesion_mask_reader(
    folder: Path, index: pd.DataFrame, settings: Preprocessing
) -> Callable[[int], np.ndarray | None]:
    """Return a function that reads the preprocessed lesion mask of a row of the index.

    Parameters
    ----------
    folder : Path
        The data folder, which the paths of the index are relative to.
    index : DataFrame
        `image_id` and `path`, one row an image.
    settings : Preprocessing
        Of the images.

    Returns
    -------
    function
        From a row number to the cropped and resized mask, ndarray of bool, as large as the images,
        or None where the image has no mask. Raises ValueError for a mask of another size than its
        image.
    """
    masks = find_masks(folder, index["image_id"])

    def read(row: int) -> np.ndarray | None:
        image_id, path = index.iloc[row][["image_id", "path"]]
        if image_id not in masks:
            return None
        shape = decode.read_image(folder / path).shape[:2]
        mask = decode.read_mask(folder / masks[image_id], shape)
        return pipeline.preprocess_mask(mask, settings.image_size, settings.stored_size)

    return read


# ---------------------------------------------------------------------------------------- index


def build_index(
    metadata: pd.DataFrame, files: pd.Series, groups: pd.Series, config: Config
) -> pd.DataFrame:
    """Choose the run's images and assign their groups to splits and folds, or read both.

    Parameters
    ----------
    metadata : DataFrame
        From `read_metadata`, the usable images.
    files : Series of str
        From `find_images`.
    groups : Series of str
        The group of each image, from `duplicates.join`, indexed by image_id.

    Returns
    -------
    DataFrame
        `index_schema`, ordered by image_id.

    Raises
    ------
    ValueError
        A class without images or with too few groups; the message tells how many lesions were
        joined. Or an image in `split.file` that is not there.
    """
    chosen = metadata.loc[metadata["dx"].isin(config.classes), ["image_id", "lesion_id", "dx"]]
    chosen = chosen.rename(columns={"dx": "label"})
    empty = set(config.classes) - set(chosen["label"])
    if empty:
        raise ValueError(
            f"{METADATA} has no image of class {', '.join(sorted(empty))}; "
            f"it has: {', '.join(sorted(metadata['dx'].unique()))}"
        )
    chosen = chosen.assign(group_id=chosen["image_id"].map(groups))
    index, schema = chosen.assign(path=chosen["image_id"].map(files)), index_schema(config)
    if config.split.file:
        file = paths.resolve(config.split.file)
        listed = tables.read_table(file, schema.select_columns(splits.COLUMNS))
        index = splits.take_listed(index, listed, config.split.folds, paths.relative(file))
        splits.check(index, config.classes, paths.relative(file))
    else:
        index = _draw(index, config)
    return schema.validate(index.sort_values("image_id", ignore_index=True)[list(schema.columns)])


def _draw(images: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Draw the images to use, if not all, and the splits and folds of their groups."""
    index = images
    if config.data.images_per_class:
        index = splits.sample_groups(index, config.data.images_per_class, config.seed)
    labels = splits.group_labels(index)
    try:
        split = splits.split_groups(labels, config.split)
        fold = splits.fold_groups(labels, config.split)
        index = index.assign(split=index["group_id"].map(split), fold=index["group_id"].map(fold))
        splits.check(index, config.classes, "this split")
    except ValueError as error:
        raise ValueError(f"{error}{_describe_joins(images)}") from None
    return index


def _describe_joins(images: pd.DataFrame) -> str:
    """Describe the groups of several lesions, for a message; nothing where there are none."""
    members = images.groupby("group_id")["lesion_id"].unique()
    largest = max(members, key=len)
    if len(largest) == 1:
        return ""
    counts = images.groupby("label")[["lesion_id", "group_id"]].nunique().itertuples()
    joined = ", ".join(f"{name} {lesions} to {groups}" for name, lesions, groups in counts)
    return (
        f"\nNear-duplicate images joined lesions to groups: {joined}. The largest group has "
        f"{len(largest)} lesions, for example {largest[0]} and {largest[1]}. If the pairs in "
        "duplicates.csv are different lesions, set `duplicates: false` under `split`"
    )


def write_index(index: pd.DataFrame, config: Config) -> Path:
    """Write the run's `index.csv`, and to `index.json` the settings it was built from."""
    note = paths.run_folder(config.name) / "index.json"
    note.unlink(missing_ok=True)
    file = tables.write_table(index, note.with_suffix(".csv"))
    tables.write_json(config.index_settings() | {"split_sha256": splits.digest(index)}, note)
    return file


def read_index(config: Config) -> pd.DataFrame:
    """Read the run's `index.csv` and check what every notebook relies on.

    Raises
    ------
    FileNotFoundError
        Notebook 01 has not written it.
    ValueError
        It was built with other settings, changed since, or does not fit `index_schema`; a group
        is in two splits, or a split lacks a class.
    """
    file = paths.run_folder(config.name) / "index.csv"
    paths.check_note(file, config.index_settings(), "notebook 01")
    index = tables.read_table(file, index_schema(config))
    splits.check(index, config.classes, paths.relative(file))
    paths.check_note(file, {"split_sha256": splits.digest(index)}, "notebook 01")
    return index
