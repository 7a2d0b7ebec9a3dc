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

from lib import paths, splits, synthetic, tables
from lib.config import CLASS_NAMES, Config, Synthetic

METADATA = "HAM10000_metadata.csv"
MASK_SUFFIX = "_segmentation"
SYNTHETIC_NOTE = "synthetic.json"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

#: pixels; VGG16 takes no image with a side below 32
SMALLEST_SIDE = 32
#: pixels; a file with more is refused from its header, before it is decoded
LARGEST_AREA = 100_000_000
#: Pillow's names of 8-bit RGB, and of what a mask may be: black and white, grey, palette or RGB
IMAGE_MODES = ("RGB",)
MASK_MODES = ("1", "L", "P", "RGB")

#: What may be wrong with a file, and what it means.
FAULTS = {
    "unreadable": "not an image in JPEG or PNG format, or damaged",
    "truncated": "the file ends before the image does",
    "wrong mode": "not 8-bit RGB",
    "too small": f"a side below {SMALLEST_SIDE} pixels",
    "too large": f"more than {LARGEST_AREA // 10**6} million pixels",
}

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
            f"{config.data.folder}: no {METADATA} there; bring HAM10000 with "
            "`make data`, or a copy you have with `make data FROM=<folder>` (data/README.md)"
        )
    if config.data.synthetic is None and (folder / SYNTHETIC_NOTE).is_file():
        raise ValueError(
            f"{config.data.folder}: synthetic images ({SYNTHETIC_NOTE} is there); expected the key "
            "data.synthetic, or a folder of real images"
        )
    return folder


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


def read_image(file: Path) -> np.ndarray:
    """Decode an image: the one way for training, evaluation and prediction.

    An image that EXIF says is turned comes out upright. Nothing is converted: colour is diagnostic,
    and grey-scale, CMYK, 16-bit or transparent pixels would become RGB by a guess.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), RGB

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or one of `FAULTS`. Damage in the middle of a JPEG is not noticed.
    """
    return _decode(
        file,
        cv2.IMREAD_COLOR_RGB,
        IMAGE_MODES,
        SMALLEST_SIDE,
        f"8-bit RGB, sides of at least {SMALLEST_SIDE} pixels",
    )


def read_mask(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a mask of 0 and 255.

    Parameters
    ----------
    size : tuple of int, optional
        Height and width that it must have: those of the image as `read_image` returns it, which
        is upright.

    Returns
    -------
    ndarray of bool, shape (height, width), true inside

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, not an image, with transparency, of 16 bits, of another size, or stored as 0
        and 1.
    """
    expected = "8-bit grey, black and white, palette or RGB, without transparency"
    mask = _decode(file, cv2.IMREAD_GRAYSCALE, MASK_MODES, 1, expected)
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


def read_header(
    data: bytes, modes: Iterable[str] = IMAGE_MODES, smallest_side: int = SMALLEST_SIDE
) -> tuple[Image.Image | None, str, str]:
    """Look at the header and the end of a file, and decode nothing.

    Parameters
    ----------
    data : bytes
        The whole file.
    modes : iterable of str
        Pillow's names of the kinds of pixels that may be in it.
    smallest_side : int
        Pixels.

    Returns
    -------
    image : Image or None
        Not decoded; None where the header cannot be read.
    fault : str
        A key of `FAULTS`, or "" if there is none.
    found : str
        What was found instead, in words, or "".
    """
    kind = _kind(data)
    if kind is None:
        return None, "unreadable", f"not an image in JPEG or PNG format, {len(data)} bytes"
    try:
        image = kind(io.BytesIO(data))  # unlike Image.open, does not warn about large ones
    except (OSError, ValueError, SyntaxError) as error:
        return None, "unreadable", f"a damaged header, {len(data)} bytes, {in_words(error)}"
    width, height = image.size
    mode = _mode(image, data)
    if width * height > LARGEST_AREA:
        return image, "too large", f"{width} x {height} pixels"
    if min(width, height) < smallest_side:
        return image, "too small", f"{width} x {height} pixels"
    if mode not in modes:
        return image, "wrong mode", f"mode {mode}"
    if _is_cut(image, data):
        return image, "truncated", f"{len(data)} bytes without the mark that ends an image"
    return image, "", ""


def in_words(error: Exception) -> str:
    """Return an error's message in one line, without the addresses that Pillow adds."""
    return " ".join(str(error).split()).split(" <")[0][:120]


def map_files(function: Callable, files: Iterable) -> list:
    """Apply `function` to every file, on a thread for each core.

    OpenCV and what is compiled let go of Python's lock, so the threads do run side by side.

    Parameters
    ----------
    function : callable
        Of one file.
    files : iterable
        Files, or whatever `function` takes.

    Returns
    -------
    list
        What `function` returned, in the order of the files.

    Raises
    ------
    BaseException
        What `function` raised for the first file, in order, for which it did; files after it may
        have been left out.
    """
    files = list(files)
    results, errors = [None] * len(files), {}
    waiting = iter(range(len(files)))  # threads help themselves: none has to be woken for a file

    def begin_no_more() -> None:
        for _ in waiting:
            pass

    def work(_) -> None:
        for i in waiting:
            try:
                results[i] = function(files[i])
            except BaseException as error:
                errors[i] = error
                begin_no_more()

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(work, range(threads)))
        finally:  # interrupted
            begin_no_more()
    if errors:
        raise errors[min(errors)]
    return results


# ---------------------------------------------------------------------------------- the index


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


def _decode(
    file: Path, way: int, modes: Iterable[str], smallest_side: int, expected: str
) -> np.ndarray:
    try:
        with open(file, "rb", buffering=0) as opened:  # threads wait for each call less
            data = opened.readall()
    except FileNotFoundError:
        raise FileNotFoundError(f"{paths.relative(file)}: no such image") from None
    _, fault, found = read_header(data, modes, smallest_side)
    image = None if fault else cv2.imdecode(np.frombuffer(data, np.uint8), way)
    if image is None:
        raise ValueError(
            f"{paths.relative(file)}: {found or 'pixels that OpenCV cannot decode'} "
            f"({fault or 'unreadable'}); expected a JPEG or PNG file, {expected}, at most "
            f"{LARGEST_AREA // 10**6} million pixels"
        )
    return image


def _kind(data: bytes) -> Callable | None:
    """Return what reads this file's header, by its first bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    return None


def _mode(image: Image.Image, data: bytes) -> str:
    """Return Pillow's mode, and what it does not tell: 16-bit RGB, and a transparent colour."""
    if image.format == "PNG" and data[24] == 16 and image.mode == "RGB":  # IHDR's bit depth
        return "RGB of 16 bits"
    if "transparency" in image.info:
        return f"{image.mode} with transparency"
    return image.mode


def _is_cut(image: Image.Image, data: bytes) -> bool:
    """Tell whether a file has no mark that ends the image; more bytes may follow the mark.

    The end of a JPEG is looked for after its header, which may hold a smaller JPEG; among the
    pixels the mark cannot occur (ITU-T T.81, B.1.1.2).
    """
    if image.format == "PNG":
        return data.rfind(b"IEND") < 0
    end, start = b"\xff\xd9", image.fp.tell()
    # nearly always the last bytes; to look from the start takes longer than to read the header
    return data.find(end, max(start, len(data) - 2)) < 0 and data.find(end, start) < 0
