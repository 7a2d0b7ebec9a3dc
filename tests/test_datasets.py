"""Data sets: no lesion crosses a split, and what is wrong with a folder is said by name."""

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import config, datasets
from lib.config import Split

SETTINGS = Split(validation=0.15, test=0.15, seed=5)


def lesions(**counts):
    """Return labels of lesions named a class and a number."""
    names = [f"{dx}{i}" for dx, n in counts.items() for i in range(n)]
    return pd.Series(
        [name[: -len(name.lstrip("abcdefghijklmnopqrstuvwxyz"))] for name in names], names
    )


@pytest.fixture
def index(run, data_folder):
    metadata = datasets.read_metadata(data_folder)
    return datasets.build_index(
        metadata, datasets.find_images(data_folder, metadata["image_id"]), run
    )


# --------------------------------------------------------------------------------------- splits


def test_no_lesion_crosses_a_split(index):
    assert (index.groupby("lesion_id")["split"].nunique() == 1).all()
    assert index["lesion_id"].duplicated().any(), "some lesions must have several images"


def test_every_class_is_in_every_split_in_the_same_shares():
    split = datasets.split_lesions(lesions(bcc=40, mel=100, nv=400), SETTINGS)
    table = pd.crosstab(split.index.str.extract(r"([a-z]+)", expand=False), split)
    assert table.loc["bcc"].to_dict() == {"train": 28, "validation": 6, "test": 6}
    assert table.loc["mel"].to_dict() == {"train": 70, "validation": 15, "test": 15}
    assert table.loc["nv"].to_dict() == {"train": 280, "validation": 60, "test": 60}


def test_a_split_depends_on_its_seed_and_not_on_the_order_of_the_rows():
    labels = lesions(bcc=20, nv=30)
    split = datasets.split_lesions(labels, SETTINGS)
    assert split.sort_index().equals(
        datasets.split_lesions(labels.sample(frac=1, random_state=1), SETTINGS).sort_index()
    )
    other = datasets.split_lesions(labels, SETTINGS.model_copy(update={"seed": 6}))
    assert not split.sort_index().equals(other.sort_index())


def test_a_class_with_too_few_lesions_is_named():
    with pytest.raises(ValueError, match="class bcc has 2 lesions; .* at least 7"):
        datasets.split_lesions(lesions(bcc=2, nv=30), SETTINGS)


def test_the_digest_of_a_split_names_the_split_and_not_the_file(index):
    digest = datasets.split_digest(index)
    assert digest == datasets.split_digest(index.sample(frac=1, random_state=1))
    moved = index.copy()
    moved.loc[0, "split"] = "test" if moved.loc[0, "split"] == "train" else "train"
    assert digest != datasets.split_digest(moved)


def test_a_sample_takes_whole_lesions_up_to_the_limit(data_folder):
    metadata = datasets.read_metadata(data_folder)
    sample = datasets.sample_lesions(metadata, 10, seed=1)
    assert sample["dx"].value_counts().between(8, 10).all()
    whole = metadata[metadata["lesion_id"].isin(sample["lesion_id"])]
    assert set(whole["image_id"]) == set(sample["image_id"])


# ---------------------------------------------------------------------------------------- index


def test_the_index_is_read_back_as_it_was_written(run, index):
    datasets.write_index(index, run)
    pd.testing.assert_frame_equal(datasets.read_index(run), index)


def test_an_index_with_a_lesion_on_two_sides_is_refused(run, index):
    lesion = index.loc[index["lesion_id"].duplicated(), "lesion_id"].iloc[0]
    first = index.index[index["lesion_id"] == lesion][0]
    index.loc[first, "split"] = "test" if index.loc[first, "split"] != "test" else "train"
    datasets.write_index(index, run)
    with pytest.raises(ValueError, match=f"lesion {lesion} is in 2 splits"):
        datasets.read_index(run)


def test_an_index_without_a_class_in_a_split_is_refused(run, index):
    kept = index[(index["label"] != "bcc") | (index["split"] != "test")]
    datasets.write_index(kept, run)
    with pytest.raises(ValueError, match="no image of class bcc in the test split"):
        datasets.read_index(run)


def test_an_index_made_with_another_seed_is_refused(run, index):
    datasets.write_index(index, run)
    split = run.split.model_copy(update={"seed": 77})
    with pytest.raises(ValueError, match=r"index\.csv was made with other split: .*'seed': 77"):
        datasets.read_index(run.model_copy(update={"split": split}))


def test_numeric_ids_stay_text(run, index):
    numbered = index.assign(image_id=[f"{i:04d}" for i in range(len(index))])
    datasets.write_index(numbered, run)
    assert datasets.read_index(run)["image_id"].iloc[0] == "0000"


def test_a_missing_index_says_what_to_do(run):
    with pytest.raises(FileNotFoundError, match=r"index\.csv: no such file; run notebook 01"):
        datasets.read_index(run)


def test_an_empty_class_is_named_with_those_there_are(run, write_folder):
    folder = write_folder([(f"I{i}", f"L{i}", "nv") for i in range(10)])
    metadata = datasets.read_metadata(folder)
    files = datasets.find_images(folder, metadata["image_id"])
    with pytest.raises(ValueError, match="no image of class bcc, mel; it has: nv"):
        datasets.build_index(metadata, files, run)


# --------------------------------------------------------------------------------- bad metadata


def test_metadata_without_dx_names_the_column_and_those_there_are(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    file = folder / datasets.METADATA
    pd.read_csv(file).drop(columns="dx").to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"HAM10000_metadata\.csv: no column dx; it has: image_id"):
        datasets.read_metadata(folder)


def test_an_unknown_class_is_named_with_its_row(write_folder):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L2", "mole")])
    with pytest.raises(ValueError, match=r"column dx, .*isin.*: 'mole' in row 3"):
        datasets.read_metadata(folder)


def test_an_image_listed_twice_is_refused(write_folder):
    folder = write_folder([("I1", "L1", "nv"), ("I1", "L1", "nv")])
    with pytest.raises(ValueError, match="column image_id, .*I1"):
        datasets.read_metadata(folder)


def test_a_lesion_with_two_diagnoses_is_refused(write_folder):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L1", "mel")])
    with pytest.raises(ValueError, match="lesion L1 has 2 diagnoses"):
        datasets.read_metadata(folder)


def test_whole_ages_without_a_gap_are_no_fault(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    file = folder / datasets.METADATA
    pd.read_csv(file).assign(age=50).to_csv(file, index=False)
    assert datasets.read_metadata(folder)["age"].tolist() == [50.0]


def test_missing_ages_are_no_fault(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    file = folder / datasets.METADATA
    pd.read_csv(file).assign(age=np.nan).to_csv(file, index=False)
    assert datasets.read_metadata(folder)["age"].isna().all()


# ---------------------------------------------------------------------------------- image files


def test_images_are_found_in_any_subfolder_and_clean_ones_are_not_taken_for_them(data_folder):
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"])
    assert files.str.startswith("images/").all()
    assert len(datasets.find_masks(data_folder, metadata["image_id"])) == len(metadata)


def test_missing_images_are_counted_and_the_first_is_named(write_folder):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L2", "nv"), ("I3", "L3", "nv")])
    (folder / "images" / "I2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images .* the first: I2\.jpg"):
        datasets.find_images(folder, ["I1", "I2", "I3"])


def test_an_image_in_two_places_is_refused(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    (folder / "I1.jpg").write_bytes((folder / "images" / "I1.jpg").read_bytes())
    with pytest.raises(ValueError, match="image I1 is there twice"):
        datasets.find_images(folder, ["I1"])


def test_colours_are_red_green_blue(tmp_path):
    blue_first = np.zeros((8, 8, 3), np.uint8)
    blue_first[..., 2] = 255
    cv2.imwrite(str(tmp_path / "red.png"), blue_first)
    assert datasets.read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_an_image_that_is_not_an_image_is_named(tmp_path, content):
    (tmp_path / "I1.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"I1\.jpg: not an image .*expected a JPEG or PNG"):
        datasets.read_image(tmp_path / "I1.jpg")


def test_a_mask_of_zeros_and_ones_or_of_another_size_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "ones.png"), np.eye(8, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"ones\.png: the largest value is 1; expected 0 .* 255"):
        datasets.read_mask(tmp_path / "ones.png")
    cv2.imwrite(str(tmp_path / "small.png"), np.full((8, 6), 255, np.uint8))
    with pytest.raises(ValueError, match=r"small\.png: 6 x 8 pixels; expected the image's 9 x 8"):
        datasets.read_mask(tmp_path / "small.png", (8, 9))


# ---------------------------------------------------------------------------------- data folders


def test_synthetic_images_are_never_taken_for_real_ones(run, data_folder, tmp_path):
    data = run.data.model_copy(update={"synthetic": None})
    with pytest.raises(ValueError, match=r"synthetic images \(synthetic\.json is there\)"):
        datasets.open_folder(run.model_copy(update={"data": data}))
    with pytest.raises(ValueError, match="synthetic images .* not HAM10000"):
        datasets.link(data_folder, tmp_path / "linked")


def test_missing_real_data_says_how_to_bring_them(run):
    data = run.data.model_copy(update={"folder": "data/nowhere", "synthetic": None})
    with pytest.raises(
        FileNotFoundError, match="data/nowhere: no HAM10000_metadata.csv .*make data"
    ):
        datasets.open_folder(run.model_copy(update={"data": data}))


def test_synthetic_images_drawn_with_other_settings_are_not_taken(run):
    drawn = run.data.synthetic.model_copy(update={"seed": 99})
    data = run.data.model_copy(update={"synthetic": drawn})
    with pytest.raises(
        ValueError, match=r"drawn with other settings: found .*'seed': 3.* 'seed': 99"
    ):
        datasets.open_folder(run.model_copy(update={"data": data}))


def test_a_checked_copy_is_linked(write_folder, tmp_path):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L1", "nv"), ("I3", "L2", "mel")])
    counts = datasets.link(folder, tmp_path / "linked")
    assert counts.loc["nv"].to_dict() == {"images": 2, "lesions": 1, "masks": 0}
    assert (tmp_path / "linked").resolve() == folder
    datasets.link(folder, tmp_path / "linked")  # again, in place of the old link


def test_nothing_is_linked_when_an_image_is_broken(write_folder, tmp_path):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L2", "nv")])
    (folder / "images" / "I2.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"I2\.jpg: not an image"):
        datasets.link(folder, tmp_path / "linked")
    assert sorted(p.name for p in tmp_path.iterdir() if "linked" in p.name) == []


def test_a_folder_in_the_way_of_the_link_is_left_alone(write_folder, tmp_path):
    folder = write_folder([("I1", "L1", "nv")])
    (tmp_path / "linked").mkdir()
    with pytest.raises(FileExistsError, match="not a link"):
        datasets.link(folder, tmp_path / "linked")


def test_make_data_without_from_says_where_to_get_the_images(capsys):
    assert datasets.main([]) == 1
    assert "10.7910/DVN/DBW86T" in capsys.readouterr().err


def test_make_data_from_a_missing_folder_is_one_clear_line(capsys, tmp_path):
    assert datasets.main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/nowhere: no such folder")


# ----------------------------------------------------------------------------------- real images


def test_real_metadata_and_images_are_read(ham10000):
    metadata = datasets.read_metadata(ham10000)
    files = datasets.find_images(ham10000, metadata["image_id"])
    assert set(metadata["dx"]) == set(config.CLASS_NAMES)
    assert datasets.read_image(ham10000 / files.iloc[0]).shape[2] == 3


def test_the_lite_run_takes_at_most_300_real_images_of_each_class(ham10000):
    run = config.load_config("configs/ham10000_lite.yaml")
    metadata = datasets.read_metadata(ham10000)
    files = datasets.find_images(ham10000, metadata["image_id"])
    counts = datasets.build_index(metadata, files, run)["label"].value_counts()
    for name in run.classes:
        assert 0 <= min(300, (metadata["dx"] == name).sum()) - counts[name] < 10
