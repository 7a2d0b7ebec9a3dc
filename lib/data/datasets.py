"""Data sets in HAM10000's layout: reading, checking, splitting, and the index of a run.

The layout (Tschandl et al., Sci. Data 5:180161, 2018): `HAM10000_metadata.csv`, JPEG images named
by `image_id` anywhere below it, and optionally lesion masks `<image_id>_segmentation.png`.
"""

import filecmp
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa
from PIL import Image, JpegImagePlugin, PngImagePlugin
from lib import paths, tables
from lib.data import splits
from lib.config import CLASS_NAMES, Config, Synthetic
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
import cv2
import numpy as np
import pandas as pd
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.measure import regionprops
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from lib.preprocessing import decode, pipeline


METADATA = "HAM10000_metadata.csv"

MASK_SUFFIX = "_segmentation"

SYNTHETIC_NOTE = "synthetic.json"
#: Counts up when the same seed draws other images; images of another version are not used.
SYNTHETIC_VERSION = 1

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

#: of the synthetic images: what a test of the preprocessing needs, no images of the data set
TRUTH = "truth"

#: What may be left out of the metadata; it is empty then. `dataset` is a column of later editions.
OPTIONAL = ("dx_type", "age", "sex", "localization", "dataset")


def metadata_schema(names: Iterable[str] = CLASS_NAMES) -> pa.DataFrameSchema:
    """Return the schema of the metadata, one row an image; `names` are the diagnoses it may have.

    `dx_type` (how the diagnosis was made) is never a feature.
    """
    return pa.DataFrameSchema(
        {
            "lesion_id": pa.Column(str),
            "image_id": pa.Column(str, unique=True),
            "dx": pa.Column(str, pa.Check.isin(list(names))),
            "dx_type": pa.Column(str, nullable=True, required=False),
            "age": pa.Column(  # years
                float, pa.Check.in_range(0, 120), nullable=True, coerce=True, required=False
            ),
            "sex": pa.Column(str, nullable=True, required=False),
            "localization": pa.Column(str, nullable=True, required=False),
            "dataset": pa.Column(str, nullable=True, required=False),
        },
        checks=pa.Check(_one_diagnosis, name="one diagnosis a lesion"),
        strict=True,
    )


def index_schema(config: Config) -> pa.DataFrameSchema:
    """Return the schema of `index.csv`: one row an image; row i is row i of `images.npy`."""
    return pa.DataFrameSchema(
        {
            "image_id": pa.Column(str, unique=True),
            "lesion_id": pa.Column(str),
            "group_id": pa.Column(str),  # images that must not be torn apart
            "label": pa.Column(str, pa.Check.isin(config.classes)),
            "split": pa.Column(str, pa.Check.isin(splits.SPLITS)),
            "fold": pa.Column(int, pa.Check.in_range(0, config.split.folds - 1)),
            "path": pa.Column(str, unique=True),  # relative to the data folder
        },
        strict=True,
    )


def open_folder(config: Config) -> Path:
    """Return the folder of the run's images, checked to be the ones that the run names.

    Raises
    ------
    FileNotFoundError
        The images are not there; the message says which command draws or brings them.
    ValueError
        Synthetic images that were drawn with other settings, or would be taken for real ones.
    """
    folder, synthetic = paths.resolve(config.data.folder), config.data.synthetic
    if not (folder / METADATA).is_file():
        command = (
            "bring HAM10000 with `make data`, or a copy you have with `make data FROM=<folder>` "
            "(data/README.md)"
            if synthetic is None
            else f"draw the synthetic images with `make images CONFIG={config.name}`"
        )
        raise FileNotFoundError(f"{config.data.folder}: no {METADATA} there; {command}")
    if synthetic is not None:
        check_synthetic(folder, synthetic)
    elif (folder / SYNTHETIC_NOTE).is_file():
        raise ValueError(
            f"{config.data.folder}: synthetic images ({SYNTHETIC_NOTE} is there); expected the key "
            "data.synthetic, or a folder of real images"
        )
    return folder


def check_synthetic(folder: Path, settings: Synthetic) -> None:
    """Raise ValueError if a folder's synthetic images were drawn with other settings."""
    note, expected = folder / SYNTHETIC_NOTE, settings.model_dump() | {"version": SYNTHETIC_VERSION}
    found = (
        json.loads(note.read_text(encoding="utf-8")) if note.is_file() else f"no {SYNTHETIC_NOTE}"
    )
    if found != expected:
        raise ValueError(
            f"{paths.relative(folder)} was drawn with other settings: found {found}, expected "
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
        `metadata_schema`, in the file's order, the columns of `OPTIONAL` empty where it has none.

    Raises
    ------
    ValueError
        A column that is missing or unknown, a class that is unknown, an image listed twice, or a
        lesion with two diagnoses; the message names the file and the rows at fault.
    """
    file = folder / METADATA
    metadata = tables.read_table(file, metadata_schema(names))
    if metadata.empty:
        raise ValueError(f"{paths.relative(file)}: no rows; expected one an image")
    return metadata.reindex(columns=["lesion_id", "image_id", "dx", *OPTIONAL])


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
    return _find(folder, _image_paths(folder), image_ids).rename("path")


def unlisted_files(folder: Path, image_ids: Iterable[str]) -> list[str]:
    """Return image files and masks, relative to `folder`, that belong to no row of the metadata."""
    listed = set(image_ids)
    return [
        path
        for path in [*_image_paths(folder), *_mask_paths(folder)]
        if Path(path).stem.removesuffix(MASK_SUFFIX) not in listed
    ]


def find_masks(folder: Path, image_ids: Iterable[str]) -> pd.Series:
    """Find lesion masks `<image_id>_segmentation.png`; images without one are left out.

    Returns
    -------
    Series of str
        Paths relative to `folder`, indexed by image_id.

    Raises
    ------
    ValueError
        An image with two masks that differ.
    """
    return _find(folder, _mask_paths(folder), image_ids).rename("mask")


def build_index(
    metadata: pd.DataFrame, files: pd.Series, groups: pd.Series, config: Config
) -> pd.DataFrame:
    """Choose the run's images, split their groups and deal them to folds.

    Parameters
    ----------
    metadata : DataFrame
        From `read_metadata`, the images that can be used.
    files : Series of str
        From `find_images`.
    groups : Series of str
        The group of each image, from `duplicates.join`, indexed by image_id.

    Returns
    -------
    DataFrame
        `index_schema`, ordered by image_id.
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
    if config.data.images_per_class:
        chosen = splits.sample_groups(chosen, config.data.images_per_class, config.seed)
    labels = splits.group_labels(chosen)
    index = chosen.assign(
        split=chosen["group_id"].map(splits.split_groups(labels, config.split)),
        fold=chosen["group_id"].map(splits.fold_groups(labels, config.split)),
        path=chosen["image_id"].map(files),
    )
    schema = index_schema(config)
    index = schema.validate(index.sort_values("image_id", ignore_index=True)[list(schema.columns)])
    splits.check(index, config.classes, "this split")
    return index


def write_index(index: pd.DataFrame, config: Config) -> Path:
    """Write the run's `index.csv`, and say in `index.json` what it was made from."""
    note = paths.run_folder(config.name) / "index.json"
    note.unlink(missing_ok=True)
    file = tables.write_table(index, note.with_suffix(".csv"))
    said = _origin(config) | {"split_sha256": splits.digest(index)}
    paths.write_text(note, json.dumps(said, indent=1) + "\n")
    return file


def read_index(config: Config) -> pd.DataFrame:
    """Read the run's `index.csv` and check what every notebook relies on.

    Raises
    ------
    FileNotFoundError
        Notebook 01 has not written it.
    ValueError
        Made with other settings, changed since, not as `index_schema` has it, a group on two
        sides of the split, or a class that is missing from a side.
    """
    file = paths.run_folder(config.name) / "index.csv"
    paths.check_note(file, _origin(config), "notebook 01")
    index = tables.read_table(file, index_schema(config))
    splits.check(index, config.classes, paths.relative(file))
    paths.check_note(file, {"split_sha256": splits.digest(index)}, "notebook 01")
    return index


def _origin(config: Config) -> dict:
    return {
        "classes": config.classes,
        "data": config.data.model_dump(exclude={"attribution"}),
        "split": config.split.model_dump(),
        "seed": config.seed,
    }


def _one_diagnosis(metadata: pd.DataFrame) -> pd.Series:
    if not {"lesion_id", "dx"} <= set(metadata):
        return pd.Series(True, index=metadata.index)  # that they are missing is said anyway
    return metadata.groupby("lesion_id")["dx"].transform("nunique") <= 1


def _find(folder: Path, candidates: Iterable[str], image_ids: Iterable[str]) -> pd.Series:
    """Return the file of each image; the same file in two places counts once."""
    found: dict[str, str] = {}
    for path in candidates:
        name = Path(path).stem.removesuffix(MASK_SUFFIX)
        if name in found and not filecmp.cmp(folder / found[name], folder / path, shallow=False):
            raise ValueError(
                f"{folder.name}: image {name} is there twice, and differs: {found[name]}, {path}"
            )
        found.setdefault(name, path)
    return pd.Series({each: found[each] for each in image_ids if each in found}, dtype=str)


def _image_paths(folder: Path) -> Iterator[str]:
    for path in _walk(folder):
        if Path(path).suffix.lower() in IMAGE_SUFFIXES and not _is_mask(path):
            yield path


def _mask_paths(folder: Path) -> Iterator[str]:
    return filter(_is_mask, _walk(folder))


def _is_mask(path: str) -> bool:
    return path.endswith(f"{MASK_SUFFIX}.png")


def _walk(folder: Path) -> Iterator[str]:
    """Yield every file below `folder`, in order, relative to it."""
    # os.walk follows the link that data/ham10000 is, which Path.rglob would not on every version
    for top, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name != TRUTH and name[0] != ".")
        for name in sorted(names):
            if name[0] != ".":
                yield (Path(top) / name).relative_to(folder).as_posix()



def mask_reader(folder: Path, index: pd.DataFrame, size: int) -> Callable[[int], np.ndarray | None]:
    """Return the function from a row of the index to that image's lesion mask, for `feature_table`.

    Parameters
    ----------
    folder : Path
        What the paths of the index are relative to.
    index : DataFrame
        `image_id` and `path`, one row an image.
    size : int
        Side of the preprocessed images, in pixels.

    Returns
    -------
    function
        It reads, crops and resizes a mask: ndarray of bool, shape (size, size), or None where the
        image has none. It raises a ValueError for a mask that has not its image's size.
    """
    masks = find_masks(folder, index["image_id"])

    def read(row: int) -> np.ndarray | None:
        image_id, path = index.iloc[row][["image_id", "path"]]
        if image_id not in masks:
            return None
        shape = decode.read_image(folder / path).shape[:2]
        return pipeline.preprocess_mask(
            decode.read_mask(folder / masks[image_id], shape), size
        )

    return read
