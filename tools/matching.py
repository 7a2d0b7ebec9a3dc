"""Match the ids of a table with the files of a folder where their names differ a little."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from lib.data import datasets

#: Ends of names that are no part of an id.
ENDS = re.compile(r"(\.(jpe?g|jfif|png|webp|tiff?|bmp))?$", re.IGNORECASE)
#: What the ISIC Archive adds to the names of reduced images.
DOWNSAMPLED = "_downsampled"


def clean(name: str) -> str:
    """Return an id without spaces around it, folder, and end of a file name.

    >>> clean("images/ISIC_0024306.JPG ")
    'ISIC_0024306'
    """
    name = unicodedata.normalize("NFC", name).strip().replace("\\", "/")
    return ENDS.sub("", PurePosixPath(name).name)


def id_of(file: Path | str) -> str:
    """Return the id that the name of an image or a mask holds, as it is written."""
    stem = PurePosixPath(file).stem
    if datasets.is_mask_file(file):
        return stem[: -len(datasets.MASK_SUFFIX)]
    return stem


def match(image_ids: pd.Series, files: Iterable[Path]) -> tuple[dict[str, str], dict[Path, str]]:
    """Match ids without a file of exactly their name, where only one file can be meant.

    Ids and names are compared without case, spaces around them, folders, ends of file names and
    `_downsampled`, and in Unicode's composed form.

    Parameters
    ----------
    files : iterable of Path
        Images and masks.

    Returns
    -------
    ids : dict of str to str
        A clean id for each id that was matched.
    names : dict of Path to str
        The clean id of each file that was matched, masks included.
    """
    listed, of_key = set(image_ids), defaultdict(list)
    for file in files:
        if id_of(file) not in listed:
            of_key[_key(id_of(file)), datasets.is_mask_file(file)].append(file)
    exact = {id_of(file) for file in files if not datasets.is_mask_file(file)}
    ids, names = {}, {}
    for image_id in listed - exact:
        images = of_key[_key(image_id), False]
        if len(images) == 1:
            ids[image_id] = clean(image_id)
            names[images[0]] = ids[image_id]
    for image_id in listed:
        masks = of_key[_key(image_id), True]
        if len(masks) == 1:
            names[masks[0]] = ids.get(image_id, image_id)
    doubtful = {name for name, count in Counter(ids.values()).items() if count > 1} | (
        listed & exact & set(ids.values())
    )
    ids = {old: new for old, new in ids.items() if new not in doubtful}
    return ids, {file: name for file, name in names.items() if name not in doubtful}


def _key(name: str) -> str:
    return clean(name).casefold().removesuffix(DOWNSAMPLED)
