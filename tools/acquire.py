"""Images for `data/`: downloaded, or brought from a copy, and there only when checked and whole.

Addresses and checksums stand in `data/registry.yaml`. Whatever the source looks like (Dataverse,
Kaggle, ISIC), what comes of it is a folder in HAM10000's layout, with a note of where it is from.
"""

import argparse
import datetime
import filecmp
import json
import os
import re
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import pooch
import requests
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib import paths, tables
from lib.data import datasets, quality
from lib.preprocessing import decode, threads
from tools import download

DATA = paths.ROOT / "data"
REGISTRY = DATA / "registry.yaml"
NOTE = "source.json"
SAMPLE_SEED = 1

#: ISIC's one-hot columns and what HAM10000 calls them.
ISIC_CLASSES = {name.upper(): name for name in ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")}

#: ISIC's `diagnosis_confirm_type` and what HAM10000's `dx_type` calls it.
ISIC_DX_TYPES = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}

#: Tables, by the columns that tell them apart.
KINDS = {
    "metadata": {"image_id", "dx"},
    "ground_truth": {"image", *ISIC_CLASSES},
    "groupings": {"image", "lesion_id", "diagnosis_confirm_type"},
}

EXPECTED = """\
expected one of
  HAM10000's layout  HAM10000_metadata.csv and <image_id>.jpg anywhere below
  Dataverse          HAM10000_metadata (or .tab), HAM10000_images_part_1.zip and _2.zip, or unpacked
  Kaggle             its zip, or HAM10000_metadata.csv, HAM10000_images_part_1/ and _part_2/
  ISIC               ISIC2018_Task3_Training_GroundTruth.csv, _LesionGroupings.csv and _Input/"""


class BadSample(ValueError):
    """A sample that no source can give."""


# -------------------------------------------------------------------------------------- registry


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Url = Annotated[str, Field(pattern=r"^https?://\S+$")]
Checksum = Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class File(_Section):
    """A file of a source; its addresses, tried in order, each with a checksum or None."""

    name: Name
    role: Literal["images", "metadata", "ground_truth", "groupings", "masks"]
    about_bytes: Annotated[int, Field(ge=1)]
    urls: Annotated[dict[Url, Checksum | None], Field(min_length=1)]
    optional: bool = False


class Source(_Section):
    """Where a data set can be had."""

    name: Name
    page: Url
    listing: Url | None = None
    files: Annotated[list[File], Field(min_length=1)]


class Dataset(_Section):
    """A data set and its sources, tried in order."""

    title: str
    sources: Annotated[list[Source], Field(min_length=1)]
    #: where lesion ids are missing, each image counts as a lesion of its own
    image_is_lesion: bool = False
    #: images whose rows are dropped
    left_out: list[str] = []

    @property
    def stems(self) -> set[str]:
        return {Path(file.name).stem.casefold() for each in self.sources for file in each.files}


class _Registry(_Section):
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]


def load_registry(file: Path | None = None) -> dict[str, Dataset]:
    """Read the data sets of `data/registry.yaml`; an error names the file and the key."""
    file = file or REGISTRY
    try:
        return _Registry.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).datasets
    except yaml.YAMLError as error:
        raise ValueError(f"{paths.relative(file)}: not a YAML file: {error}") from None
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()]
        raise ValueError("\n".join([f"{paths.relative(file)}: not valid", *faults])) from None


# ---------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Download HAM10000, or bring a copy of it, as data/ham10000."""
    parser = argparse.ArgumentParser(prog="make data", description=main.__doc__)
    parser.add_argument("--from", dest="source", type=Path, help="a folder or zip file you have")
    parser.add_argument("--sample", type=int, help="download so many images only")
    parser.add_argument("--dataset", default="ham10000", help="a name in data/registry.yaml")
    options = parser.parse_args(arguments)
    try:
        known = load_registry()
        if options.dataset not in known:
            raise ValueError(f"no data set {options.dataset!r}; there are: {', '.join(known)}")
        if options.sample is not None and options.sample < 1:
            raise BadSample(f"a sample of {options.sample} images; expected at least 1")
        if options.source and options.sample:
            raise ValueError("a sample is downloaded, not taken from a copy: FROM or SAMPLE")
        target, dataset = DATA / options.dataset, known[options.dataset]
        if options.source:
            counts = bring(options.source, target, dataset)
        else:
            counts = fetch(target, dataset, options.sample)
    except KeyboardInterrupt:
        print("\nstopped; say the same again to go on from what has come", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if counts is not None:
        print(f"{_said(target)}\n{counts}")
        print(f"{counts['images'].sum()} images, all of them readable")
    return 0


# --------------------------------------------------------------------------------- from a server


def fetch(target: Path, dataset: Dataset, sample: int | None = None) -> pd.DataFrame | None:
    """Download a data set, or a sample of it, from the first source that has all of it.

    Returns
    -------
    DataFrame or None
        Images, lesions and masks of each class; None if there was nothing to do.

    Raises
    ------
    OSError
        No source had it, or the disk is full; what has come is kept in `.downloads/` beside
        `target`, to go on from.
    """
    if _is_there(target, sample):
        return None
    session, said = download.open_session(), []
    for source in dataset.sources:
        folder = target.parent / ".downloads" / target.name / source.name
        try:
            with _built(target) as partial:
                metadata, files = _from_source(source, folder, partial, dataset, sample, session)
                note = {"source": source.name, "sample": sample, "files": files}
                counts = _finish(partial, target, metadata, note)
        except (download.DiskFull, BadSample):
            raise
        except (OSError, ValueError) as error:
            said.append(f"  {source.name}: {error}")
            if source is not dataset.sources[-1]:
                print(f"{said[-1].strip()}; trying the next source", file=sys.stderr)
            continue
        shutil.rmtree(target.parent / ".downloads" / target.name)
        return counts
    raise OSError(_by_hand(target.name, dataset, sample, said))


def draw_sample(metadata: pd.DataFrame, size: int, seed: int = SAMPLE_SEED) -> pd.DataFrame:
    """Draw `size` images or just fewer: whole lesions, classes in proportion, at least one each."""
    shares = metadata["dx"].value_counts().sort_index() * size / len(metadata)
    quotas = np.floor(shares).astype(int)
    quotas[(shares - quotas).nlargest(size - quotas.sum()).index] += 1
    images = metadata.groupby(["dx", "lesion_id"]).size()  # sorted: the file's order has no say
    quotas = quotas.clip(lower=images.groupby("dx").min())
    quotas[quotas.idxmax()] -= quotas.sum() - size
    if not 0 < size < len(metadata) or quotas.min() < 1:
        raise BadSample(
            f"a sample of {size} images; expected at least one lesion a class ({len(quotas)} "
            f"classes) and fewer than the {len(metadata)} images there are"
        )
    chosen = []
    for dx, quota in quotas.items():
        for lesion_id, count in images[dx].sample(frac=1, random_state=seed).items():
            if count <= quota:
                quota -= count
                chosen.append(lesion_id)
    return metadata[metadata["lesion_id"].isin(chosen)]


def _from_source(source, folder, partial, dataset, sample, session):
    """Build the folder `partial` from one source; return the metadata and a note of each file."""
    listing = _read_listing(source, session)
    wanted = [file for file in source.files if not sample or file.role not in ("images", "masks")]
    have = sum(each.stat().st_size for each in folder.glob("*")) if folder.exists() else 0
    needed = 2 * sum(file.about_bytes for file in wanted) - have  # as it comes, and unpacked
    download.require_space(folder, needed, f"download {source.name}'s files and unpack them")
    notes = [_fetch_file(file, folder, listing, session) for file in wanted]
    try:
        metadata = _assemble(folder, partial, dataset)
    except ValueError as error:  # what it names, and tables that nobody vouches for, come anew
        for file, note in zip(wanted, notes, strict=True):
            unsure = note and not note["published"] and file.role in KINDS
            if unsure or str(error).startswith(f"{file.name}:"):
                (folder / file.name).unlink(missing_ok=True)
        raise
    if sample:
        metadata = draw_sample(metadata, sample)
        ids, rest = set(metadata["image_id"]), [each for each in source.files if each not in wanted]
        notes += [_extract_sample(file, ids, partial, session) for file in rest]
    return metadata, [note for note in notes if note]


def _fetch_file(file: File, folder: Path, listing: dict, session) -> dict | None:
    """Download one file; return what to note of it."""

    def attempt(url: str) -> dict:
        checksum, size = listing.get(url, (file.urls[url], None))
        path = download.fetch(url, folder / file.name, session, checksum, size)
        try:
            checked = _check_kind(path, file.role)
        except ValueError as error:  # a page in its place, say
            path.unlink()
            raise download.Unavailable(f"{url}: {error}") from None
        sha256 = pooch.file_hash(str(path))
        if not checksum:
            checked += ", and its size if the server gave one"
            print(f"no published checksum for {file.name}; checked: {checked}; ", end="")
            print(f"its SHA-256 is {sha256}")
        note = {"name": file.name, "url": url, "bytes": path.stat().st_size}
        return note | {"sha256": sha256, "published": checksum}

    return _at_first_address(file, attempt)


def _check_kind(path: Path, role: str) -> str:
    """Check that a file is an archive or a table of its role; return what is checked in words."""
    if path.suffix == ".zip" or role not in KINDS:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive")
        return "the CRC-32 of each member as it is unpacked"
    missing = KINDS[role] - set(_read_text(path).columns)
    if missing:
        raise ValueError(f"not a table of {role}: no column {', '.join(sorted(missing))}")
    return "its columns"


def _at_first_address(file: File, attempt: Callable[[str], dict]) -> dict | None:
    said = []
    for url in file.urls:
        try:
            return attempt(url)
        except download.Unavailable as error:
            said.append(str(error))
    if not file.optional:
        raise download.Unavailable("; ".join(said))
    print(f"goes on without {file.name}: {'; '.join(said)}", file=sys.stderr)
    return None


def _read_listing(source: Source, session) -> dict:
    """Return checksum and size of each address without one, from the source's own listing."""
    urls = [url for file in source.files for url, checksum in file.urls.items() if not checksum]
    if not (source.listing and urls):
        return {}
    try:
        answer = session.get(source.listing, timeout=download.TIMEOUT).json()
        entries = [each["dataFile"] for each in answer["data"]["latestVersion"]["files"]]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        print(f"{source.name}: its list of checksums cannot be had", file=sys.stderr)
        return {}
    found = {}
    for url in urls:
        for entry in entries:
            if re.search(rf"/datafile/{entry.get('id')}\b", url) and entry.get("md5"):
                original = "format=original" in url
                # the MD5 of a table belongs to the file as it was deposited
                if original or not str(entry.get("filename")).endswith(".tab"):
                    size = entry.get("originalFileSize" if original else "filesize")
                    found[url] = (f"md5:{entry['md5']}", size)
    return found


def _extract_sample(file: File, image_ids: set[str], partial: Path, session) -> dict | None:
    """Fetch those members of a remote archive that belong to the images."""

    def attempt(url: str) -> dict:
        names = [
            name
            for name in download.list_remote(url, session)
            if PurePosixPath(name).stem.removesuffix(datasets.MASK_SUFFIX) in image_ids
        ]
        download.extract_remote(url, file.name, partial, names, session)
        return {"name": file.name, "url": url, "members": len(names)}

    return _at_first_address(file, attempt)


def _by_hand(name: str, dataset: Dataset, sample: int | None, said: list[str]) -> str:
    lines = [f"{dataset.title} could not be downloaded:", *said]
    if sample:
        size = sum(file.about_bytes for file in dataset.sources[0].files) / 1e9
        lines.append(
            "A sample needs a server that sends parts of a file; without one, the whole archives "
            f"are needed ({size:.1f} GB): make data without SAMPLE."
        )
    for source in dataset.sources:
        lines.append(f"By hand, from {source.page}:")
        lines += [f"  {file.name}  {next(iter(file.urls))}" for file in source.files]
    return "\n".join(
        [*lines, "Put the files of one of them into a folder, as they are or unpacked, and say"]
        + [f"  {_make_from(name)}"]
    )


def _make_from(name: str) -> str:
    return "make data FROM=<that folder>" + ("" if name == "ham10000" else f" DATASET={name}")


# ----------------------------------------------------------------------------------- from a copy


def bring(source: Path, target: Path, dataset: Dataset) -> pd.DataFrame:
    """Check a copy that is there already; link it, or convert it where its layout is another.

    The copy is only read. A folder in HAM10000's layout becomes a link; of another one the images
    are linked one by one, zip archives are extracted.

    Returns
    -------
    DataFrame
        Images, lesions and masks of each class.
    """
    source = source.expanduser().resolve()
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such folder or zip file")
    if target.exists() and not target.is_symlink():
        raise FileExistsError(
            f"{paths.relative(target)} is a folder of its own, not a link; move it away"
        )
    files = [file for file in _walk(source) if _is_wanted(file, dataset)]
    _refuse_synthetic(files, source)
    has_archives = any(file.suffix.lower() == ".zip" for file in files)
    if (source / datasets.METADATA).is_file() and not has_archives:
        return link(source, target)
    with _built(target) as partial:
        metadata = _assemble(source, partial, dataset)
        return _finish(partial, target, metadata, {"source": str(source), "sample": None})


def link(source: Path, target: Path) -> pd.DataFrame:
    """Check a folder in HAM10000's layout and link it as `target`; return counts of each class."""
    counts = _verify(source, datasets.read_metadata(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.link")
    new.unlink(missing_ok=True)
    new.symlink_to(source, target_is_directory=True)
    new.replace(target)
    (target.parent / ".linked").touch()  # tells make that the data are others now
    return counts


def _assemble(source: Path, partial: Path, dataset: Dataset) -> pd.DataFrame:
    """Extract and link into `partial` what a folder or archive holds; return the metadata."""
    files = _unpack(source, partial, dataset)
    _refuse_synthetic(files, source)
    metadata = _read_metadata(files, source, dataset)
    wanted = set(metadata["image_id"])
    for file in files:
        image_id = file.stem.removesuffix(datasets.MASK_SUFFIX)
        if partial in file.parents:
            if not _is_picture(file):
                file.unlink()
        elif _is_picture(file) and image_id in wanted:
            folder = partial / ("images" if image_id == file.stem else "masks")
            folder.mkdir(exist_ok=True)
            (folder / file.name).symlink_to(file)
    return metadata


def _refuse_synthetic(files: list[Path], source: Path) -> None:
    if any(file.name == datasets.SYNTHETIC_NOTE for file in files):
        raise ValueError(
            f"{source}: synthetic images ({datasets.SYNTHETIC_NOTE} is there), not HAM10000"
        )


def _unpack(source: Path, partial: Path, dataset: Dataset) -> list[Path]:
    """Extract the archives; return the files there are then, one of each name."""
    files = _walk(source) if source.is_dir() else [source]
    files = [file for file in files if _is_wanted(file, dataset) or file == source]
    files = _one_each(files, lambda one, other: filecmp.cmp(one, other, shallow=False))
    archives = [file for file in files if file.suffix.lower() == ".zip" or file == source]
    for archive in archives:
        there = {file.name.casefold() for file in files}
        try:
            with zipfile.ZipFile(archive) as opened:
                names = _members(opened, there, dataset)
                download.extract(opened, archive.name, partial / archive.stem, names)
        except zipfile.BadZipFile as error:
            raise download.BadArchive(f"{archive.name}: not a zip archive: {error}") from None
        new = _walk(partial / archive.stem)
        archives += [file for file in new if file.suffix.lower() == ".zip"]  # archives in archives
        files += new
    return files


def _members(archive: zipfile.ZipFile, there: set[str], dataset: Dataset) -> list[str]:
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}

    def same(one: str, other: str) -> bool:
        return len({(infos[name].CRC, infos[name].file_size) for name in (one, other)}) == 1

    wanted = [name for name in infos if _is_wanted(name, dataset)]
    return [name for name in _one_each(wanted, same) if _base(name) not in there]


def _one_each(files: Iterable, same: Callable) -> list:
    """Keep one file of each name, whatever its case; two that differ are an error."""
    kept = {}
    for file in files:
        first = kept.setdefault(_base(file), file)
        if first is not file and not same(first, file):
            raise ValueError(f"{_base(file)} is there twice, and the two differ: {first}, {file}")
    return list(kept.values())


def _base(file: Path | str) -> str:
    return PurePosixPath(file).name.casefold()


def _is_picture(name: str | Path) -> bool:
    name = _base(name)
    return name.endswith(datasets.IMAGE_SUFFIXES) and name[0] != "."


def _is_wanted(name: str | Path, dataset: Dataset) -> bool:
    stem, _, suffix = _base(name).partition(".")
    known = stem in dataset.stems and suffix in ("", "csv", "tab", "zip")
    return known or _is_picture(name) or _base(name) == datasets.SYNTHETIC_NOTE


def _walk(folder: Path) -> list[Path]:
    tops = os.walk(folder, followlinks=True)
    return sorted(Path(top) / name for top, _, names in tops for name in names)


# -------------------------------------------------------------------------------------- metadata


def _read_metadata(files: list[Path], source: Path, dataset: Dataset) -> pd.DataFrame:
    """Return HAM10000's columns, as text, from whichever tables there are."""
    found = {}
    texts = [file for file in files if file.suffix.lower() in ("", ".csv", ".tab")]
    for file in sorted(texts, key=lambda file: file.suffix.lower() != ".csv"):
        table = _read_text(file)
        left_out = table.isin(dataset.left_out).any(axis=1)
        if left_out.any():
            print(f"{file.name}: without {', '.join(dataset.left_out)}, as data/registry.yaml says")
        table = table[~left_out]
        for kind, columns in KINDS.items():
            if columns <= set(table.columns):
                found.setdefault(kind, (file.name, table))
    if "metadata" in found:
        table = found["metadata"][1]
        if "lesion_id" not in table and dataset.image_is_lesion:
            table = table.assign(lesion_id=table["image_id"])
        return table
    if "ground_truth" in found:
        return _from_isic(*found["ground_truth"], found.get("groupings"), dataset)
    held = Counter(file.suffix.lower() or file.name for file in _walk(source) or [source])
    held = ", ".join(f"{count} {suffix}" for suffix, count in held.most_common(5))
    raise ValueError(f"{source}: not a layout of {dataset.title}; found: {held}; {EXPECTED}")


def _read_text(file: Path) -> pd.DataFrame:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            separator = "\t" if "\t" in lines.readline() else ","
        return pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except ValueError as error:
        raise ValueError(f"{file.name}: not a table: {error}") from None


def _from_isic(name, truth, groupings, dataset) -> pd.DataFrame:
    """Convert ISIC's one-hot ground truth and its lesion ids."""
    values = truth[list(ISIC_CLASSES)].apply(pd.to_numeric, errors="coerce")
    wrong = ~values.isin([0, 1]).all(axis=1) | (values.sum(axis=1) != 1)
    if wrong.any():
        row = wrong.idxmax()
        raise ValueError(
            f"{name}: row {row + 2}, {truth.loc[row, 'image']}: expected one 1 and zeros, found "
            f"{', '.join(truth.loc[row, list(ISIC_CLASSES)])}"
        )
    table = pd.DataFrame({"image_id": truth["image"], "dx": values.idxmax(axis=1)})
    table["dx"] = table["dx"].map(ISIC_CLASSES)
    if groupings:
        table = table.assign(**_lesions(table["image_id"], *groupings))
    elif dataset.image_is_lesion:
        table = table.assign(lesion_id=table["image_id"], dx_type="")
    else:
        raise ValueError(
            f"{name} has no lesion ids, and without them images of one lesion would lie on both "
            "sides of a split: add ISIC2018_Task3_Training_LesionGroupings.csv to the folder "
            "(data/registry.yaml has its address)"
        )
    return table.assign(age="", sex="unknown", localization="unknown")


def _lesions(image_ids: pd.Series, name: str, groupings: pd.DataFrame) -> dict[str, pd.Series]:
    lesion_ids = groupings.groupby("image")["lesion_id"].unique()
    torn = lesion_ids[lesion_ids.str.len() > 1]
    if len(torn):
        raise ValueError(
            f"{name}: {torn.index[0]} has the lesion ids {', '.join(torn.iloc[0])}; expected one"
        )
    groupings = groupings.drop_duplicates("image").set_index("image")
    missing = image_ids[~image_ids.isin(groupings.index)]
    if len(missing):
        raise ValueError(f"{name}: {len(missing)} images have no row, the first: {missing.iloc[0]}")
    groupings = groupings.loc[image_ids].reset_index().set_index(image_ids.index)
    dx_types = groupings["diagnosis_confirm_type"]
    unknown = dx_types[~dx_types.isin(ISIC_DX_TYPES)]
    if len(unknown):
        raise ValueError(
            f"{name}: diagnosis_confirm_type {unknown.iloc[0]!r}; expected one of "
            f"{', '.join(ISIC_DX_TYPES)}"
        )
    return {"lesion_id": groupings["lesion_id"], "dx_type": dx_types.map(ISIC_DX_TYPES)}


# ------------------------------------------------------------------------------------ the finish


@contextmanager
def _built(target: Path) -> Iterator[Path]:
    """Give a new folder to build in; whatever is left of it afterwards is deleted."""
    partial = paths.temporary(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _finish(partial: Path, target: Path, metadata: pd.DataFrame, note: dict) -> pd.DataFrame:
    """Check what was built and rename it; return counts of each class."""
    tables.write_table(metadata, partial / datasets.METADATA)
    counts = _verify(partial, datasets.read_metadata(partial))
    note |= {"images": len(metadata), "made": datetime.date.today().isoformat()}
    paths.write_text(partial / NOTE, json.dumps(note, indent=1) + "\n")
    if target.is_symlink():
        target.unlink()
    partial.rename(target)
    return counts


def _verify(folder: Path, metadata: pd.DataFrame) -> pd.DataFrame:
    """Open every image and mask once; return counts of each class."""
    images = quality.inspect(folder, metadata)
    bad = images[images["problem"] != ""]
    if len(bad):
        raise ValueError(
            f"{folder}: {len(bad)} of {len(images)} images cannot be used\n{quality.describe(bad)}"
        )
    masks = datasets.find_masks(folder, metadata["image_id"])
    sizes = images.set_index("image_id")[["height", "width"]].astype(int)
    threads.map_files(
        lambda each: decode.read_mask(folder / masks[each], tuple(sizes.loc[each])), masks.index
    )
    metadata = metadata.assign(mask=metadata["image_id"].isin(masks.index))
    return metadata.groupby("dx").agg(
        images=("image_id", "size"), lesions=("lesion_id", "nunique"), masks=("mask", "sum")
    )


def _is_there(target: Path, sample: int | None) -> bool:
    """Say so if there is nothing to do; raise if something else is in the way."""
    name = paths.relative(target)
    if not (target.exists() or target.is_symlink()):
        return False
    if not target.exists():
        raise FileNotFoundError(
            f"{name} is a link to {target.readlink()}, and nothing is there any more; bring the "
            f"images from where they are now ({_make_from(target.name)}), or delete the link "
            f"(rm {name}) to download them"
        )
    gone = [file for file in _walk(target) if _is_picture(file) and not file.exists()]
    if gone:
        raise FileNotFoundError(
            f"{name}: {len(gone)} images are links to where nothing is any more, the first to "
            f"{gone[0].readlink()}; put them back, or delete {name} (rm -r {name}) and bring the "
            f"images from where they are now ({_make_from(target.name)})"
        )
    if not (target / datasets.METADATA).is_file():
        raise FileExistsError(f"{name} is in the way, and holds no images; move it away")
    if not target.is_symlink():
        if not (target / NOTE).is_file():
            raise FileExistsError(f"{name} is there, but not from make data; move it away")
        held = json.loads((target / NOTE).read_text(encoding="utf-8"))["sample"]
        if held and held != sample:
            raise FileExistsError(
                f"{name} holds a sample of {held} images; delete it (rm -r {name}) to have another"
            )
    print(f"{_said(target)}; nothing to do")
    return True


def _said(target: Path) -> str:
    name = paths.relative(target)
    if target.is_symlink():
        return f"{name} is there, a link to {target.resolve()}"
    note = json.loads((target / NOTE).read_text(encoding="utf-8"))
    sample = f", a sample of {note['sample']}" if note["sample"] else ""
    return f"{name} is there, {note['images']} images from {note['source']}{sample}"


if __name__ == "__main__":
    sys.exit(main())
