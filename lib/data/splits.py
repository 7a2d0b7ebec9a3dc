"""The lesion-grouped split: whole groups, stratified by class, reproducible.

A group is all images of a lesion, and of lesions that share an image (lib/data/duplicates.py); it
is never divided between splits or folds.
"""

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, train_test_split

from lib.config import Split

SPLITS = ("train", "validation", "test")
#: The columns that identify a split.
COLUMNS = ["image_id", "lesion_id", "group_id", "split", "fold"]
#: Folds of a cross-validation within the training images; fewer if a class has fewer groups.
INNER_FOLDS = 5


def group_labels(images: pd.DataFrame) -> pd.Series:
    """Return one class a group, for stratification: the rarest of its images' classes.

    Parameters
    ----------
    images : DataFrame
        `group_id` and `label`, one row an image.

    Returns
    -------
    Series of str
        Indexed by group_id and sorted, so that no result depends on the order of the rows.
    """
    counts = images["label"].value_counts()
    by_rarity = images.assign(n=images["label"].map(counts)).sort_values(["n", "label"])
    return by_rarity.drop_duplicates("group_id").set_index("group_id")["label"].sort_index()


def sample_groups(images: pd.DataFrame, images_per_class: int, seed: int) -> pd.DataFrame:
    """Draw whole groups at random, skipping those that exceed `images_per_class` of a class."""
    sizes = pd.crosstab(images["group_id"], images["label"])  # sorted by group_id
    room = pd.Series(images_per_class, index=sizes.columns)
    chosen = []
    for group_id, size in sizes.sample(frac=1, random_state=seed).iterrows():
        if (size <= room).all():
            room -= size
            chosen.append(group_id)
    return images[images["group_id"].isin(chosen)]


def split_groups(labels: pd.Series, settings: Split) -> pd.Series:
    """Assign groups to train, validation and test at random, stratified by class.

    Parameters
    ----------
    labels : Series of str
        One class a group, indexed by group_id.

    Returns
    -------
    Series of str
        The split of each group, indexed by group_id.

    Raises
    ------
    ValueError
        A class has too few groups to be in every split.
    """
    labels = labels.sort_index()
    smallest = min(settings.validation, settings.test, 1 - settings.validation - settings.test)
    _require(labels, max(3, int(np.ceil(1 / smallest))), f"a proportion of {smallest:g}", "split")
    validation_of_rest = settings.validation / (1 - settings.test)
    try:
        rest, test = train_test_split(
            labels, test_size=settings.test, stratify=labels, random_state=settings.seed
        )
        train, validation = train_test_split(
            rest, test_size=validation_of_rest, stratify=rest, random_state=settings.seed
        )
    except ValueError as error:
        counts = labels.value_counts().to_dict()
        raise ValueError(f"too few groups of images to split, {counts}: {error}") from None
    parts = dict(zip(SPLITS, (train, validation, test), strict=True))
    return pd.concat([pd.Series(name, index=part.index) for name, part in parts.items()])


def fold_groups(labels: pd.Series, settings: Split) -> pd.Series:
    """Assign groups to `settings.folds` folds at random, stratified by class.

    The folds hold every group, including those of the test split: cross-validation is an
    experiment separate from the single split.

    Returns
    -------
    Series of int
        The fold of each group, from 0, indexed by group_id.

    Raises
    ------
    ValueError
        A class has fewer groups than there are folds.
    """
    _require(labels, settings.folds, f"split.folds = {settings.folds}", "fold")
    labels = labels.sort_index()
    splitter = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    folds = pd.Series(0, index=labels.index)
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels)):
        folds.iloc[held_out] = fold
    return folds


def inner_folds(
    labels: Sequence[str], groups: Sequence[str], seed: int, folds: int = INNER_FOLDS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Assign whole groups to folds at random, stratified by class; fewer folds if groups are few.

    For choices made within the training images: hyperparameters and calibration.

    Parameters
    ----------
    labels, groups : sequence of str
        The class and the group_id of each training image.

    Returns
    -------
    list of tuple of ndarray of int
        For each fold the training rows and the held-out rows.

    Raises
    ------
    ValueError
        A class has a single group.
    """
    images = pd.DataFrame({"label": np.asarray(labels), "group_id": np.asarray(groups)})
    group_label = group_labels(images)
    counts = group_label.value_counts().reindex(images["label"].unique(), fill_value=0)
    rarest, count = counts.idxmin(), int(counts.min())
    if count < 2:
        raise ValueError(
            f"class {rarest} has {count} group of training images; cross-validation needs at least "
            "2 of each class"
        )
    if count < folds:
        warnings.warn(
            f"class {rarest} has {count} groups of training images: {count} folds instead of "
            f"{folds} to choose hyperparameters and to calibrate",
            stacklevel=2,
        )
    splitter = StratifiedKFold(min(folds, count), shuffle=True, random_state=seed)
    return [
        tuple(np.flatnonzero(images["group_id"].isin(group_label.index[part])) for part in parts)
        for parts in splitter.split(group_label, group_label)
    ]


def check(index: pd.DataFrame, classes: list[str], name: str) -> None:
    """Check that no group or lesion is divided and that no class is missing anywhere.

    Parameters
    ----------
    index : DataFrame
        `group_id`, `lesion_id`, `label`, `split` and `fold`, one row an image.
    name : str
        The file's name, for the message.

    Raises
    ------
    ValueError
        A group or lesion is in two splits or folds, or a class is missing from one; the message
        names it.
    """
    for unit in ("group_id", "lesion_id"):
        for side, plural in (("split", "splits"), ("fold", "folds")):
            sides = index.groupby(unit)[side].nunique()
            if (sides > 1).any():
                kind = unit.removesuffix("_id")
                raise ValueError(f"{name}: {kind} {sides.idxmax()} is in {sides.max()} {plural}")
    for side, sides in (("split", SPLITS), ("fold", sorted(index["fold"].unique()))):
        counts = pd.crosstab(index["label"], index[side])
        counts = counts.reindex(index=classes, columns=sides, fill_value=0)
        if (counts == 0).any(axis=None):
            label, empty = counts.stack().idxmin()
            groups = index.loc[index["label"] == label, "group_id"].nunique()
            raise ValueError(
                f"{name}: no image of class {label} in {side} {empty}; the class has {groups} "
                "groups of images"
            )


def take_listed(images: pd.DataFrame, listed: pd.DataFrame, folds: int, name: str) -> pd.DataFrame:
    """Take images, groups, splits and folds from a table, instead of drawing them.

    Parameters
    ----------
    images : DataFrame
        `image_id`, `lesion_id`, `label` and `path` of the images that can be used.
    listed : DataFrame
        `COLUMNS`.
    folds : int
        `split.folds`, the number of folds that are listed.
    name : str
        The table's name, for the message.

    Returns
    -------
    DataFrame
        The rows of `listed`, with `label` and `path`.

    Raises
    ------
    ValueError
        A listed image is not among the images, or there are other folds; the message names them.
    """
    numbers = sorted(set(listed["fold"]))
    if numbers != list(range(folds)):
        raise ValueError(f"{name}: found folds {numbers}; expected 0 to {folds - 1} (split.folds)")
    keys = ["image_id", "lesion_id"]
    index = listed.merge(images[[*keys, "label", "path"]], on=keys, how="left")
    missing = index.loc[index["path"].isna(), "image_id"]
    if len(missing):
        raise ValueError(
            f"{name} lists {len(index):,} images; {len(missing):,} of them cannot be used here or "
            f"have another lesion_id, for example {missing.iloc[0]}; expected the data set that it "
            "was made from, or no `file` under `split`"
        )
    return index


def digest(index: pd.DataFrame) -> str:
    """Return the SHA-256 of each image's group, split and fold, whatever the order of the rows."""
    rows = sorted(",".join(map(str, row)) + "\n" for row in index[COLUMNS].itertuples(index=False))
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def _require(labels: pd.Series, needed: int, reason: str, part: str) -> None:
    counts = labels.value_counts()
    if counts.min() < needed:
        raise ValueError(
            f"class {counts.idxmin()} has {counts.min()} groups of images; {reason} needs at "
            f"least {needed} to put one into every {part}"
        )
