"""Splits and folds: whole groups, every class on every side, the same for a seed."""

import numpy as np
import pandas as pd
import pytest

from lib.config import Split
from lib.data import splits

SETTINGS = Split(validation=0.15, test=0.15, folds=5, seed=5)


def groups(**counts):
    """Return the class of groups named a class and a number."""
    return pd.Series({f"{dx}{i}": dx for dx, n in counts.items() for i in range(n)})


def training_images(images_per_group=3, **counts):
    """Return the class and the group of each image, as arrays."""
    labels = groups(**counts)
    repeated = labels.repeat(images_per_group)
    return repeated.to_numpy(), repeated.index.to_numpy()


def images_of(rows):
    table = pd.DataFrame(rows, columns=["image_id", "lesion_id", "group_id", "label"])
    return table.assign(split="train", fold=0)


@pytest.fixture
def index():
    """Ten groups of each of two classes, two images each, dealt to splits and folds."""
    labels = groups(mel=10, nv=10)
    table = pd.DataFrame([(g, dx) for g, dx in labels.items() for _ in range(2)])
    table.columns = ["group_id", "label"]
    settings = SETTINGS.model_copy(update={"folds": 2})
    return table.assign(
        image_id=[f"I{i}" for i in range(len(table))],
        lesion_id=table["group_id"],
        split=table["group_id"].map(splits.split_groups(labels, settings)),
        fold=table["group_id"].map(splits.fold_groups(labels, settings)),
    )


def test_every_class_is_in_every_split_in_the_same_shares():
    labels = groups(bcc=40, mel=100, nv=400)
    split = splits.split_groups(labels, SETTINGS)
    table = pd.crosstab(labels, split.reindex(labels.index))
    assert table.loc["bcc"].to_dict() == {"train": 28, "validation": 6, "test": 6}
    assert table.loc["mel"].to_dict() == {"train": 70, "validation": 15, "test": 15}
    assert table.loc["nv"].to_dict() == {"train": 280, "validation": 60, "test": 60}


def test_every_class_is_in_every_fold_in_the_same_shares():
    labels = groups(bcc=40, mel=100, nv=400)
    folds = splits.fold_groups(labels, SETTINGS)
    table = pd.crosstab(labels, folds)
    assert (table.loc["bcc"] == 8).all()
    assert (table.loc["mel"] == 20).all()
    assert (table.loc["nv"] == 80).all()


@pytest.mark.parametrize("deal", [splits.split_groups, splits.fold_groups])
def test_a_deal_depends_on_its_seed_and_not_on_the_order_of_the_rows(deal):
    labels = groups(bcc=20, nv=30)
    dealt = deal(labels, SETTINGS).sort_index()
    assert dealt.equals(deal(labels.sample(frac=1, random_state=1), SETTINGS).sort_index())
    other = deal(labels, SETTINGS.model_copy(update={"seed": 6})).sort_index()
    assert not dealt.equals(other)


def test_a_class_with_too_few_groups_is_named_with_their_number():
    with pytest.raises(ValueError, match="class bcc has 2 groups of images; .* at least 7"):
        splits.split_groups(groups(bcc=2, nv=30), SETTINGS)
    with pytest.raises(ValueError, match=r"class bcc has 4 groups .*folds = 5 needs at least 5"):
        splits.fold_groups(groups(bcc=4, nv=30), SETTINGS)


def test_shares_that_leave_nothing_to_train_on_are_refused_by_class():
    settings = SETTINGS.model_copy(update={"validation": 0.25, "test": 0.6})
    with pytest.raises(ValueError, match=r"class bcc has 5 groups .* a proportion of 0.15 needs"):
        splits.split_groups(groups(bcc=5, nv=30), settings)
    with pytest.raises(ValueError, match=r"too few groups of images to split, {'bcc': 7"):
        splits.split_groups(groups(bcc=7, nv=7), settings)


def test_no_group_crosses_an_inner_fold():
    labels, ids = training_images(bcc=9, mel=13, nv=31)
    order = np.random.default_rng(0).permutation(len(labels))
    labels, ids = labels[order], ids[order]
    folds = splits.inner_folds(labels, ids, seed=1)
    assert len(folds) == splits.INNER_FOLDS == 5
    for train, held_out in folds:
        assert not set(ids[train]) & set(ids[held_out])
        assert set(labels[train]) == set(labels[held_out]) == {"bcc", "mel", "nv"}
    held_out = np.concatenate([held_out for _, held_out in folds])
    assert sorted(held_out) == list(range(len(labels)))


def test_inner_folds_depend_on_their_seed_and_not_on_the_order_of_the_rows():
    labels, ids = training_images(bcc=9, nv=31)
    order = np.random.default_rng(0).permutation(len(labels))

    def held_out(labels, ids, seed):
        return [set(ids[part]) for _, part in splits.inner_folds(labels, ids, seed)]

    assert held_out(labels, ids, 1) == held_out(labels[order], ids[order], 1)
    assert held_out(labels, ids, 1) != held_out(labels, ids, 2)


def test_a_class_of_few_groups_gets_fewer_inner_folds_and_it_is_said():
    labels, ids = training_images(bcc=2, nv=31)
    with pytest.warns(UserWarning, match="class bcc has 2 groups of training images: 2 folds"):
        folds = splits.inner_folds(labels, ids, seed=1)
    assert len(folds) == 2
    for train, held_out in folds:
        assert set(labels[train]) == set(labels[held_out]) == {"bcc", "nv"}


def test_inner_folds_of_a_class_of_one_group_are_refused():
    labels, ids = training_images(bcc=1, nv=31)
    with pytest.raises(ValueError, match="class bcc has 1 group of training images"):
        splits.inner_folds(labels, ids, seed=1)


def test_a_group_with_two_classes_counts_for_the_rarer_one():
    rows = [("I1", "L1", "L1", "nv"), ("I2", "L2", "L1", "mel"), ("I3", "L3", "L3", "nv")]
    assert splits.group_labels(images_of(rows)).to_dict() == {"L1": "mel", "L3": "nv"}


def test_a_sample_takes_whole_groups_up_to_the_limit():
    random = np.random.default_rng(0)
    sizes = random.integers(1, 4, size=60)
    rows = [
        (f"I{g}_{i}", f"L{g}", f"L{g}", "mel" if g % 3 else "nv")
        for g, n in enumerate(sizes)
        for i in range(n)
    ]
    images = images_of(rows)
    sample = splits.sample_groups(images, 20, seed=1)
    assert sample["label"].value_counts().between(18, 20).all()
    whole = images[images["group_id"].isin(sample["group_id"])]
    assert set(whole["image_id"]) == set(sample["image_id"])


def test_a_sample_takes_a_group_of_two_classes_if_both_have_room():
    """Twenty groups of a mel and a nv, and eighty more nv: all of the mel fit, so all are taken."""
    rows = [(f"M{i}", f"M{i}", f"G{i:03d}", "mel") for i in range(20)]
    rows += [(f"N{i}", f"N{i}", f"G{i:03d}", "nv") for i in range(100)]
    sample = splits.sample_groups(images_of(rows), 100, seed=1)
    assert sample["label"].value_counts().to_dict() == {"nv": 100, "mel": 20}


def test_a_sample_passes_over_groups_that_are_too_large():
    rows = [(f"I{i}", f"L{i // 12}", f"L{i // 12}", "nv") for i in range(48)]
    rows += [(f"J{i}", f"M{i}", f"M{i}", "nv") for i in range(9)]
    assert len(splits.sample_groups(images_of(rows), 10, seed=1)) == 9


def test_a_sample_does_not_depend_on_the_order_of_the_rows():
    images = images_of([(f"I{i}", f"L{i}", f"L{i}", "nv") for i in range(50)])
    one = splits.sample_groups(images, 20, seed=1)
    other = splits.sample_groups(images.sample(frac=1, random_state=3), 20, seed=1)
    assert set(one["image_id"]) == set(other["image_id"])


def test_a_good_index_passes(index):
    splits.check(index, ["mel", "nv"], "index.csv")


@pytest.mark.parametrize("side", ["split", "fold"])
def test_a_group_on_two_sides_is_refused(index, side):
    index.loc[0, side] = next(value for value in index[side].unique() if value != index[side][0])
    with pytest.raises(ValueError, match=rf"index\.csv: group mel0 is in 2 {side}s"):
        splits.check(index, ["mel", "nv"], "index.csv")


def test_a_lesion_in_two_groups_on_two_sides_is_refused(index):
    index["lesion_id"] = "L"
    with pytest.raises(ValueError, match="lesion L is in 3 splits"):
        splits.check(index, ["mel", "nv"], "index.csv")


def test_a_class_missing_from_a_side_is_named_with_its_number_of_groups(index):
    kept = index[(index["label"] != "mel") | (index["split"] != "test")]
    groups_left = kept.loc[kept["label"] == "mel", "group_id"].nunique()
    said = f"no image of class mel in split test; the class has {groups_left} groups"
    with pytest.raises(ValueError, match=said):
        splits.check(kept, ["mel", "nv"], "index.csv")


def test_the_digest_names_the_split_and_not_the_file(index):
    digest = splits.digest(index)
    assert digest == splits.digest(index.sample(frac=1, random_state=1).assign(path="x"))
    for column, other in (("split", "elsewhere"), ("fold", 7), ("group_id", "G")):
        moved = index.copy()
        moved.loc[0, column] = other
        assert digest != splits.digest(moved)
