"""Download a data set or import a copy of it: `make data`.

The folder appears in `data/` only when it is complete and checked. Whatever the layout of the
source (Dataverse, Kaggle, ISIC), the result is a folder in HAM10000's layout with a note of its
origin.
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
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pooch
import requests

from lib import paths, tables
from lib.config import CLASS_NAMES
from lib.data import datasets, quality
from lib.preprocessing import decode, threads
from tools import convert as formats
from tools import download, registry, source_tables
from tools.command_line import given_path, run_command
from tools.registry import Dataset, File, Source

DATA = paths.ROOT / "data"
NOTE = datasets.SOURCE_NOTE
SAMPLE_SEED = 1

EXPECTED = """\
expected one of
  HAM10000's layout  HAM10000_metadata.csv and <image_id>.jpg anywhere below
  Dataverse          HAM10000_metadata (or .tab), HAM10000_images_part_1.zip and _2.zip, or unpacked
  Kaggle             its zip, or HAM10000_metadata.csv, HAM10000_images_part_1/ and _part_2/
  ISIC 2018          ISIC2018_Task3_Training_GroundTruth.csv, _LesionGroupings.csv and _Input/
  ISIC 2019          ISIC_2019_Training_GroundTruth.csv and _Metadata.csv, and the images
  ISIC 2020          ISIC_2020_Training_GroundTruth.csv (or _v2), and the images
  ISIC Archive       metadata.csv of an export (isic_id, diagnosis_1, ...), and the images"""


CONVERT = "make data FROM=... CONVERT=1 converts them to 8-bit RGB PNG"
FAULTY = (
    "make data FROM=... FAULTY=1 imports the others; notebook 01 names those that it leaves out"
)


class BadSample(ValueError):
    """A sample that cannot be drawn from any source."""


# ---------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Download HAM10000, or import a copy of it, as data/ham10000."""
    parser = argparse.ArgumentParser(prog="make data", description=main.__doc__)
    parser.add_argument(
        "--from", dest="source", type=given_path, help="a folder or zip file you have"
    )
    parser.add_argument("--sample", type=int, help="download only this number of images")
    parser.add_argument("--convert", action="store_true", help="convert images to 8-bit RGB PNG")
    parser.add_argument("--faulty", action="store_true", help="accept images that cannot be used")
    parser.add_argument("--dataset", default="ham10000", help="a name in data/registry.yaml")
    options = parser.parse_args(arguments)
    try:
        options.name = vars(options).pop("dataset")
        return run_command(lambda: get_dataset(**vars(options)))
    except KeyboardInterrupt:
        print("\nstopped; repeat the command to resume", file=sys.stderr)
        return 130


def get_dataset(
    name: str,
    source: Path | None = None,
    sample: int | None = None,
    convert: bool = False,
    faulty: bool = False,
) -> None:
    """Import a data set from `source`, or download it or a sample of it, and print what it has."""
    known = registry.load_registry()
    if name not in known:
        raise ValueError(f"no data set {name!r}; there are: {', '.join(known)}")
    if sample is not None and sample < 1:
        raise BadSample(f"a sample of {sample} images; expected at least 1")
    if (convert or faulty) and not source:
        raise ValueError(
            "only a copy may be converted or have faults: CONVERT and FAULTY need FROM"
        )
    if source and sample:
        raise ValueError("a sample is downloaded, not taken from a copy: FROM or SAMPLE")
    target, dataset = DATA / name, known[name]
    if source:
        counts = import_copy(source, target, dataset, convert, faulty)
    else:
        counts = fetch(target, dataset, sample)
    if counts is not None:
        print(f"{_describe(target)}\n{counts.drop(columns='unusable')}")
        unusable = counts["unusable"].sum()
        usable = f"{unusable} of them cannot be used" if unusable else "all readable"
        print(f"{counts['images'].sum()} images, {usable}")


# --------------------------------------------------------------------------------- from a server


def fetch(target: Path, dataset: Dataset, sample: int | None = None) -> pd.DataFrame | None:
    """Download a data set, or a sample of it, from the first source that has all of it.

    Returns
    -------
    DataFrame or None
        Numbers of images, lesions and masks of each class; None if there was nothing to do.

    Raises
    ------
    OSError
        No source has it, or the disk is full. Files downloaded so far stay in `.downloads/`
        beside `target`, and the next call resumes from them.
    """
    if _exists(target, sample):
        return None
    session, errors = download.open_session(), []
    for source in dataset.sources:
        folder = target.parent / ".downloads" / target.name / source.name
        try:
            with _new_folder(target) as partial:
                metadata, note = _from_source(source, folder, partial, dataset, sample, session)
                note |= {"source": source.name, "sample": sample}
                counts = _finish(partial, target, metadata, note)
        except (download.DiskFull, BadSample):
            raise
        except (OSError, ValueError) as error:
            errors.append(f"  {source.name}: {error}")
            if source is not dataset.sources[-1]:
                print(f"{source.name}: {error}; trying the next source", file=sys.stderr)
            continue
        shutil.rmtree(target.parent / ".downloads" / target.name)
        return counts
    raise OSError(_manual_instructions(target.name, dataset, sample, errors))


def draw_sample(metadata: pd.DataFrame, size: int, seed: int = SAMPLE_SEED) -> pd.DataFrame:
    """Draw at most `size` images: whole lesions, classes in proportion, at least one of each."""
    exact = metadata["dx"].value_counts().sort_index() * size / len(metadata)
    quotas = np.floor(exact).astype(int)
    quotas[(exact - quotas).nlargest(size - quotas.sum()).index] += 1
    images = metadata.groupby(["dx", "lesion_id"]).size()  # sorted, so row order does not matter
    quotas = quotas.clip(lower=images.groupby("dx").min())
    quotas[quotas.idxmax()] -= quotas.sum() - size
    if not 0 < size < len(metadata) or quotas.min() < 1:
        raise BadSample(
            f"a sample of {size} images; expected at least one lesion per class ({len(quotas)} "
            f"classes) and fewer images than the data set has ({len(metadata)})"
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
    present = sum(file.stat().st_size for file in folder.glob("*")) if folder.exists() else 0
    needed = 2 * sum(file.about_bytes for file in wanted) - present  # packed and unpacked
    download.require_space(folder, needed, f"download {source.name}'s files and unpack them")
    notes = [_fetch_file(file, folder, listing, session) for file in wanted]
    try:
        metadata, note = _assemble(folder, partial, dataset)
    except ValueError as error:  # fetch faulty files, and tables without a checksum, once more
        for file, note in zip(wanted, notes, strict=True):
            unverified = note and not note["published"] and file.role in source_tables.KINDS
            if unverified or str(error).startswith(f"{file.name}:"):
                (folder / file.name).unlink(missing_ok=True)
        raise
    if sample:
        metadata = draw_sample(metadata, sample)
        ids, rest = set(metadata["image_id"]), [file for file in source.files if file not in wanted]
        notes += [_extract_sample(file, ids, partial, session) for file in rest]
    return metadata, note | {"files": [entry for entry in notes if entry]}


def _fetch_file(file: File, folder: Path, listing: dict, session) -> dict | None:
    """Download one file; return a note of its origin."""

    def attempt(url: str) -> dict:
        checksum, size = listing.get(url, (file.urls[url], None))
        path = download.fetch(url, folder / file.name, session, checksum, size)
        try:
            checked = _check_kind(path, file.role)
        except ValueError as error:  # an error page instead of the file, for example
            path.unlink()
            raise download.Unavailable(f"{url}: {error}") from None
        sha256 = pooch.file_hash(str(path))
        if not checksum:
            checked += ", and its size if the server sent one"
            print(f"no published checksum for {file.name}; checked: {checked}; ", end="")
            print(f"its SHA-256 is {sha256}")
        note = {"name": file.name, "url": url, "bytes": path.stat().st_size}
        return note | {"sha256": sha256, "published": checksum}

    return _at_first_address(file, attempt)


def _check_kind(path: Path, role: str) -> str:
    """Check that a file is an archive or a table of its role; return in words what was checked."""
    if path.suffix == ".zip" or role not in source_tables.KINDS:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive")
        return "the CRC-32 of each member as it is unpacked"
    missing = source_tables.KINDS[role] - set(source_tables.read_table(path).columns)
    if missing:
        raise ValueError(f"not a table of {role}: no column {', '.join(sorted(missing))}")
    return "its columns"


def _at_first_address(file: File, attempt: Callable[[str], dict]) -> dict | None:
    """Return the result of the first address that works; None for an optional file."""
    errors = []
    for url in file.urls:
        try:
            return attempt(url)
        except download.Unavailable as error:
            errors.append(str(error))
    if not file.optional:
        raise download.Unavailable("; ".join(errors))
    print(f"continuing without {file.name}: {'; '.join(errors)}", file=sys.stderr)
    return None


def _read_listing(source: Source, session) -> dict:
    """Return checksum and size of addresses without a checksum, from the source's listing."""
    urls = [url for file in source.files for url, checksum in file.urls.items() if not checksum]
    if not (source.listing and urls):
        return {}
    try:
        listing = session.get(source.listing, timeout=download.TIMEOUT).json()
        entries = [file["dataFile"] for file in listing["data"]["latestVersion"]["files"]]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        print(f"{source.name}: the list of checksums is not available", file=sys.stderr)
        return {}
    checksums = {}
    for url in urls:
        for entry in entries:
            if re.search(rf"/datafile/{entry.get('id')}\b", url) and entry.get("md5"):
                original = "format=original" in url
                # the MD5 of a table belongs to the file as it was deposited
                if original or not str(entry.get("filename")).endswith(".tab"):
                    size = entry.get("originalFileSize" if original else "filesize")
                    checksums[url] = (f"md5:{entry['md5']}", size)
    return checksums


def _extract_sample(file: File, image_ids: set[str], partial: Path, session) -> dict | None:
    """Fetch the members of a remote archive that belong to the images."""

    def attempt(url: str) -> dict:
        names = [
            name
            for name in download.list_remote(url, session)
            if datasets.image_id(name) in image_ids
        ]
        download.extract_remote(url, file.name, partial, names, session)
        return {"name": file.name, "url": url, "members": len(names)}

    return _at_first_address(file, attempt)


def _manual_instructions(name: str, dataset: Dataset, sample: int | None, errors: list[str]) -> str:
    lines = [f"{dataset.title} could not be downloaded:", *errors]
    if sample:
        size = sum(file.about_bytes for file in dataset.sources[0].files) / 1e9
        lines.append(
            "A sample needs a server that sends parts of a file. Without one, the complete "
            f"archives are needed ({size:.1f} GB): make data without SAMPLE."
        )
    for source in dataset.sources:
        lines.append(f"Download by hand from {source.page}:")
        lines += [f"  {file.name}  {next(iter(file.urls))}" for file in source.files]
    lines.append("Put the files of one source into a folder, packed or unpacked, and run")
    return "\n".join([*lines, f"  {_make_from(name)}"])


def _make_from(name: str) -> str:
    return "make data FROM=<that folder>" + ("" if name == "ham10000" else f" DATASET={name}")


# ----------------------------------------------------------------------------------- from a copy


def import_copy(
    source: Path, target: Path, dataset: Dataset, convert: bool = False, faulty: bool = False
) -> pd.DataFrame:
    """Check an existing copy; link it, or convert it if its layout is another one.

    The copy is only read. A folder in HAM10000's layout becomes a link; from other layouts, or if
    images are to be converted, the images are linked one by one and zip archives are extracted.
    With `faulty`, images that cannot be used are accepted; notebook 01 leaves them out.

    Returns
    -------
    DataFrame
        Numbers of images, lesions and masks of each class.
    """
    source = source.resolve()
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such folder or zip file")
    if target.exists() and not target.is_symlink():
        raise FileExistsError(f"{paths.relative(target)} is a folder, not a link; move it away")
    files = [file for file in _walk(source) if _is_wanted(file, dataset)]
    _refuse_synthetic(files, source)
    has_archives = any(file.suffix.lower() == ".zip" for file in files)
    has_archives |= not any(map(_is_picture, files))
    table = source / datasets.METADATA
    is_simple = table.is_file() and source_tables.is_plain(table) and not (has_archives or convert)
    if is_simple and not _needs_other_formats(table, files):
        return link(source, target, faulty)
    with _new_folder(target) as partial:
        metadata, note = _assemble(source, partial, dataset, convert)
        note |= {"source": str(source), "sample": None}
        return _finish(partial, target, metadata, note, faulty)


def _needs_other_formats(table: Path, files: list[Path]) -> bool:
    """Say whether an image of the table has no JPEG or PNG file, but one of another format."""
    listed = source_tables.read_table(table).get("image_id", pd.Series())
    matched = _match(listed, list(filter(_is_picture, files)))
    return any(formats.is_picture(file) for part in matched.values() for file in part)


def link(source: Path, target: Path, faulty: bool = False) -> pd.DataFrame:
    """Check a folder in HAM10000's layout and link it as `target`; return counts of each class."""
    metadata = datasets.read_metadata(source, _diagnoses())
    pictures = list(filter(_is_known, _walk(source)))
    _describe_matches(_match(metadata["image_id"], pictures), pictures)
    counts = _verify(source, metadata, faulty)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.link")
    new.unlink(missing_ok=True)
    new.symlink_to(source, target_is_directory=True)
    new.replace(target)
    return counts


def _assemble(
    source: Path, partial: Path, dataset: Dataset, convert: bool = False
) -> tuple[pd.DataFrame, dict]:
    """Extract and link the files of a folder or archive into `partial`.

    Returns
    -------
    metadata : DataFrame
        HAM10000's columns.
    note : dict
        `converted`: for each image that was converted, what it was.
    """
    files, differing = _unpack(source, partial, dataset)
    _refuse_synthetic(files, source)
    metadata = source_tables.find_metadata(files, dataset)
    if metadata is None:
        suffixes = Counter(file.suffix.lower() or file.name for file in _walk(source) or [source])
        listed = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
        columns = "".join(
            f"; {file.name} has the columns {', '.join(source_tables.columns_of(file)[:20])}"
            for file in filter(source_tables.is_table, files)
        )
        raise ValueError(
            f"{source}: not a layout of {dataset.title}; found: {listed}{columns}; {EXPECTED}"
        )
    tables.write_table(metadata, partial / datasets.METADATA)
    datasets.read_metadata(partial, _diagnoses())  # before images are converted, which takes long
    pictures = [file for file in files if _is_picture(file)]
    matched = _match(metadata["image_id"], pictures)
    wanted = {file for part in matched.values() for file in part}
    names = {_base(file) for file in wanted}
    for first, other in differing:
        if _base(first) in names:
            raise ValueError(f"{_base(first)} exists twice, and the two differ: {first}, {other}")
    _describe_matches(matched, pictures)
    _refuse_formats([file for file in pictures if file in wanted], convert)
    for file in files:
        if file in wanted:
            _place(file, partial)
        elif partial in file.parents:
            file.unlink()
    return metadata, {"converted": _convert(partial) if convert else {}}


def _match(image_ids: pd.Series, pictures: list[Path]) -> dict[str, list[Path]]:
    """Return the files of each image, masks included; other formats only without JPEG or PNG."""
    matched = datasets.match(image_ids, filter(datasets.is_image_file, pictures))
    without = [name for name, files in matched.items() if not files]
    matched |= datasets.match(without, filter(formats.is_picture, pictures))
    masks = datasets.match(image_ids, filter(datasets.is_mask_file, pictures))
    return {name: [*files, *masks[name]] for name, files in matched.items()}


def _place(file: Path, partial: Path) -> None:
    """Link a file into the new folder, unless it was extracted there."""
    if partial not in file.parents:
        folder = partial / ("masks" if datasets.is_mask_file(file) else "images")
        folder.mkdir(exist_ok=True)
        (folder / file.name).symlink_to(file)


def _describe_matches(matched: dict[str, list[Path]], pictures: list[Path]) -> None:
    """Print how many names differed, and what is left over on both sides."""
    other = {
        name: file
        for name, files in matched.items()
        for file in files
        if not datasets.is_mask_file(file) and datasets.image_id(file) != name
    }
    if other:
        name, file = next(iter(other.items()))
        print(f"{len(other)} images were matched although names differ: {name!r} is {file.name}")
    used = {file for files in matched.values() for file in files}
    stray = [file.name for file in pictures if file not in used]
    missing = [n for n, files in matched.items() if all(map(datasets.is_mask_file, files))]
    if missing and stray:
        print(
            f"{len(missing)} images have no file, such as {missing[0]!r}; {len(stray)} files have "
            f"no row: {', '.join(stray[:5])}",
            file=sys.stderr,
        )


def _refuse_formats(files: list[Path], convert: bool) -> None:
    """Raise ValueError if listed images have formats that are not, or only, to be converted."""
    listed = list(filter(formats.is_picture, files))
    kinds = Counter(formats.OTHERS.get(file.suffix.lower(), "") for file in listed)
    del kinds[""]
    for file in listed:
        if kind := formats.OTHERS.get(file.suffix.lower()):
            raise ValueError(
                f"{kinds[kind]} images are {kind}, which is not read here, the first: {file.name}; "
                "save them as PNG with the program that they come from"
            )
    if listed and not convert:
        suffixes = ", ".join(f"{n} {s}" for s, n in Counter(f.suffix for f in listed).items())
        raise ValueError(
            f"images in formats other than JPEG and PNG: {suffixes}, the first: {listed[0].name}; "
            f"{CONVERT}"
        )


def _convert(folder: Path) -> dict[str, str]:
    """Replace the images of a folder that are not 8-bit RGB in JPEG or PNG, and say how many.

    Returns
    -------
    dict of str to str
        What each was, by its new path relative to the folder.
    """

    def convert(file: Path) -> tuple[str, str]:
        data, new = file.read_bytes(), file.with_suffix(formats.PNG_SUFFIX)
        if datasets.is_image_file(file) and decode.decode(data, reduced=True)[2] != "wrong mode":
            return "", ""  # can be used, or has a fault that stays
        try:
            png, kind = formats.to_rgb(data)
        except ValueError as error:
            if formats.is_picture(file):  # of a JPEG or PNG file the check says it
                print(f"not converted: {file.name}: {error}", file=sys.stderr)
            return "", ""
        file.unlink()
        new.write_bytes(png)
        return new.relative_to(folder).as_posix(), kind

    pictures = filter(_is_picture, _walk(folder))
    files = [file for file in pictures if not datasets.is_mask_file(file)]
    kinds = dict(filter(any, threads.map_files(convert, files)))
    counts = Counter(kinds.values()).most_common()
    listed = ", ".join(f"{count} {kind}" for kind, count in counts)
    print(f"converted to 8-bit RGB PNG: {listed or 'nothing'}")
    return kinds


def _refuse_synthetic(files: list[Path], source: Path) -> None:
    if any(file.name == datasets.SYNTHETIC_NOTE for file in files):
        raise ValueError(
            f"{source}: synthetic images (it has a {datasets.SYNTHETIC_NOTE}), not HAM10000"
        )


def _unpack(source: Path, partial: Path, dataset: Dataset) -> tuple[list[Path], list[tuple]]:
    """Extract the archives; return all files, one of each name, and pairs of pictures that differ.

    Only if a row of the metadata names such a picture is the pair a fault.
    """
    files, differing = _walk(source) if source.is_dir() else _parts(source), []
    files = [file for file in files if _is_wanted(file, dataset) or _is_archive(file, source)]
    files = _unique(files, lambda one, other: filecmp.cmp(one, other, shallow=False), differing)
    archives = [file for file in files if _is_archive(file, source)]
    for i, archive in enumerate(archives):
        present = [file for file in files if file != archive]
        folder = partial / f"from_{i}_{archive.stem}"  # hides no file or folder of a layout
        try:
            with zipfile.ZipFile(archive) as opened:
                names = _members(opened, present, dataset, differing)
                download.extract(opened, archive.name, folder, names)
        except zipfile.BadZipFile:
            reason = download.kind_of_archive(archive)
            raise download.BadArchive(f"{archive.name}: {reason}") from None
        new = _walk(folder)
        archives += [file for file in new if file.suffix.lower() == ".zip"]  # archives in archives
        files += new
    return files, differing


def _is_archive(file: Path, source: Path) -> bool:
    return file.suffix.lower() == ".zip" or file == source


def _parts(source: Path) -> list[Path]:
    """Return the parts of a download that a server has divided, such as ham-00001.zip.

    Each part is an archive by itself.
    """
    stem = re.fullmatch(r"(.+-)\d{3,5}\.zip", source.name, re.IGNORECASE)
    return sorted(source.parent.glob(f"{stem[1]}*.zip")) if stem else [source]


def _members(
    archive: zipfile.ZipFile, present: list[Path], dataset: Dataset, differing: list[tuple]
) -> list[str]:
    """Return the members to extract: known files and images that are not present yet."""
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}

    def content(file: Path | str) -> tuple[int, int]:
        if isinstance(file, str):
            return infos[file].CRC, infos[file].file_size
        data = file.read_bytes()
        return zlib.crc32(data), len(data)

    def same(one: Path | str, other: str) -> bool:
        return content(one) == content(other)

    wanted = [name for name in infos if _is_wanted(name, dataset)]
    files = _unique([*present, *wanted], same, differing)
    return [name for name in files if isinstance(name, str)]


def _unique(files: Iterable, same: Callable, differing: list[tuple]) -> list:
    """Return one file of each name, ignoring case; two tables or archives that differ are an error.

    Pictures that differ are added to `differing`.
    """
    unique = {}
    for file in files:
        first = unique.setdefault(_base(file), file)
        if first is not file and not same(first, file):
            if not _is_picture(file):
                raise ValueError(f"{_base(file)} exists twice, and the two differ: {first}, {file}")
            differing.append((first, file))
    return list(unique.values())


def _base(file: Path | str) -> str:
    return PurePosixPath(download.slashes(str(file))).name.casefold()


def _is_picture(name: str | Path) -> bool:
    return _is_known(name) or formats.is_picture(name)


def _is_known(name: str | Path) -> bool:
    return datasets.is_image_file(name) or datasets.is_mask_file(name)


def _is_wanted(name: str | Path, dataset: Dataset) -> bool:
    stem, _, suffix = _base(name).partition(".")
    known = stem in dataset.stems and suffix in ("", "csv", "tab", "zip")
    return (
        known
        or _is_picture(name)
        or source_tables.is_table(name)
        or _base(name) == datasets.SYNTHETIC_NOTE
    )


def _walk(folder: Path) -> list[Path]:
    tops = os.walk(folder, followlinks=True)
    return sorted(Path(top) / name for top, _, names in tops for name in names)


# -------------------------------------------------------------------------------------- the result


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to build in; whatever is left of it afterwards is deleted."""
    partial = paths.temporary(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _diagnoses() -> list[str]:
    """Return the diagnoses that imported images may have."""
    known = filter(None, source_tables.read_diagnoses().values())
    return list(dict.fromkeys([*CLASS_NAMES, *known]))


def _finish(
    partial: Path, target: Path, metadata: pd.DataFrame, note: dict, faulty: bool = False
) -> pd.DataFrame:
    """Check the new folder and rename it; return counts of each class."""
    tables.write_table(metadata, partial / datasets.METADATA)
    counts = _verify(partial, datasets.read_metadata(partial, _diagnoses()), faulty)
    note |= {"images": len(metadata), "made": datetime.date.today().isoformat()}
    paths.write_text(partial / NOTE, json.dumps(note, indent=1) + "\n")
    if target.is_symlink():
        target.unlink()
    partial.rename(target)
    return counts


def _verify(folder: Path, metadata: pd.DataFrame, faulty: bool = False) -> pd.DataFrame:
    """Open every image and mask; return counts of each class."""
    images = quality.inspect(folder, metadata)
    is_bad = images["problem"] != ""
    if is_bad.any():
        faults = quality.describe(images[is_bad])
        convert = f"\n{CONVERT}" if "wrong mode" in set(images["problem"]) else ""
        text = f"{is_bad.sum()} of {len(images)} images cannot be used\n{faults}{convert}"
        if not faulty or is_bad.all():
            raise ValueError(f"{folder}: {text}\n{FAULTY}")
        print(text, file=sys.stderr)
    sizes = images[~is_bad].set_index("image_id")[["height", "width"]].astype(int)
    masks = datasets.find_masks(folder, sizes.index)
    threads.map_files(
        lambda name: decode.read_mask(folder / masks[name], tuple(sizes.loc[name])), masks.index
    )
    metadata = metadata.assign(
        mask=metadata["image_id"].isin(masks.index), unusable=is_bad.to_numpy()
    )
    return metadata.groupby("dx").agg(
        images=("image_id", "size"),
        lesions=("lesion_id", "nunique"),
        masks=("mask", "sum"),
        unusable=("unusable", "sum"),
    )


def _exists(target: Path, sample: int | None) -> bool:
    """Return whether the data set is there already; raise if something else is in its place."""
    name = paths.relative(target)
    if not (target.exists() or target.is_symlink()):
        return False
    if not target.exists():
        raise FileNotFoundError(
            f"{name} is a link to {target.readlink()}, which no longer exists; import the images "
            f"from where they are now ({_make_from(target.name)}), or delete the link "
            f"(rm {name}) to download them"
        )
    broken = [file for file in _walk(target) if _is_picture(file) and not file.exists()]
    if broken:
        raise FileNotFoundError(
            f"{name}: {len(broken)} images are broken links, the first to "
            f"{broken[0].readlink()}; put them back, or delete {name} (rm -r {name}) and import "
            f"the images from where they are now ({_make_from(target.name)})"
        )
    if not (target / datasets.METADATA).is_file():
        raise FileExistsError(f"{name} exists but has no images; move it away")
    if not target.is_symlink():
        if not (target / NOTE).is_file():
            raise FileExistsError(f"{name} exists but is not from make data; move it away")
        size = json.loads((target / NOTE).read_text(encoding="utf-8"))["sample"]
        if size and size != sample:
            raise FileExistsError(
                f"{name} is a sample of {size} images; delete it (rm -r {name}) to get another"
            )
    print(f"{_describe(target)}; nothing to do")
    return True


def _describe(target: Path) -> str:
    name = paths.relative(target)
    if target.is_symlink():
        return f"{name} is a link to {target.resolve()}"
    note = json.loads((target / NOTE).read_text(encoding="utf-8"))
    sample = f", a sample of {note['sample']}" if note["sample"] else ""
    return f"{name} has {note['images']} images from {note['source']}{sample}"


if __name__ == "__main__":
    sys.exit(main())
