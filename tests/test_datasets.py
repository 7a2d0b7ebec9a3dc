"""Data sets: no lesion crosses a split, and what is wrong with a folder is said by name."""

import itertools
import json
import os
import signal
import threading
import time

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest

from lib import config, paths, tables
from lib.data import datasets, duplicates, quality
from lib.preprocessing import decode, threads


def build(folder, run, pairs=()):
    """Return the index of a folder in which these pairs of lesions share an image."""
    metadata = datasets.read_metadata(folder)
    files = datasets.find_images(folder, metadata["image_id"])
    joined = pd.DataFrame(pairs, columns=["lesion_id_1", "lesion_id_2"])
    return datasets.build_index(metadata, files, duplicates.join(metadata, joined), run)


@pytest.fixture
def index(run, data_folder):
    return build(data_folder, run)


# --------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("side", ["split", "fold"])
def test_no_lesion_crosses_a_split(index, side):
    assert (index.groupby("lesion_id")[side].nunique() == 1).all()
    assert index["lesion_id"].duplicated().any(), "some lesions must have several images"


def test_lesions_that_share_an_image_stay_together(run, data_folder, index):
    """Join each nevus with the next, in a chain: all of them must end on one side."""
    nevi = index.loc[index["label"] == "nv", "lesion_id"].unique()[:6]
    joined = build(data_folder, run, list(itertools.pairwise(nevi)))
    together = joined[joined["lesion_id"].isin(nevi)]
    assert together["group_id"].unique().tolist() == [min(nevi)]
    assert together["split"].nunique() == together["fold"].nunique() == 1
    assert index[index["lesion_id"].isin(nevi)]["split"].nunique() > 1


def test_too_few_groups_are_explained_by_the_lesions_that_were_joined(run, data_folder, index):
    lesions = index.loc[index["label"] == "bcc", "lesion_id"].unique().tolist()
    chain = list(itertools.pairwise(lesions))
    expected = (
        rf"(?s)class bcc has 1 groups of images; .*joined lesions to groups: bcc {len(lesions)} "
        rf"to 1, mel 10 to 10, nv 20 to 20. The largest group has {len(lesions)} lesions, for "
        r"example SYN_L\d+ and SYN_L\d+. If .*, set `duplicates: false` under `split`"
    )
    with pytest.raises(ValueError, match=expected):
        build(data_folder, run, chain)


def test_too_few_lesions_without_joins_are_not_explained_by_joins(run, data_folder):
    split = run.split.model_copy(update={"folds": 30})
    with pytest.raises(ValueError, match=r"folds = 30 needs at least 30 [^\n]*$"):
        build(data_folder, run.model_copy(update={"split": split}))


def test_an_index_made_before_a_setting_existed_stays_valid(run, index):
    """Without `split.duplicates`, which is on by default."""
    datasets.write_index(index, run)
    note = json.loads((paths.run_folder(run.name) / "index.json").read_text(encoding="utf-8"))
    assert note["split"].keys() == {"validation", "test", "folds", "seed"}
    apart = run.split.model_copy(update={"duplicates": False})
    with pytest.raises(ValueError, match="split"):
        datasets.read_index(run.model_copy(update={"split": apart}))


@pytest.fixture
def similar(tmp_path):
    """Two classes of 40 lesions each, photographed on five backgrounds, and a configuration."""
    random, rows = np.random.default_rng(0), []
    folder = tmp_path / "own"
    folder.mkdir()
    light = random.integers(60, 220, (5, 6, 6, 3)).astype(np.uint8)
    backgrounds = [cv2.resize(small, (120, 120)) // 2 for small in light]
    backgrounds = [each + random.integers(0, 60, each.shape, np.uint8) for each in backgrounds]
    for i in range(80):
        image, radius = backgrounds[i % 5].copy(), int(random.integers(3, 6))
        center = random.integers(45, 75, 2).tolist()
        cv2.circle(image, center, radius, (60 + i, 40, 40), -1)
        rows.append((f"own{i:02d}", f"own{i:02d}", ("corn", "wart")[i // 5 % 2]))
        cv2.imwrite(str(folder / f"own{i:02d}.png"), image)
    table = pd.DataFrame(rows, columns=["image_id", "lesion_id", "dx"])
    table.to_csv(folder / "HAM10000_metadata.csv", index=False)
    values = config.read_yaml(paths.ROOT / "configs/ham10000_lite.yaml", "") | {
        "classes": ["corn", "wart"]
    }
    values["class_names"] = {"corn": "corn", "wart": "common wart"}
    values["data"] = {"folder": str(folder), "attribution": "Our own."}
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


def survey_notebook(configuration, monkeypatch):
    """Run notebook 01 up to the split; return its variables."""
    cells = nbformat.read(paths.ROOT / "notebooks/01_data_survey.ipynb", as_version=4).cells
    end = next(i for i, cell in enumerate(cells) if cell.source.startswith("## 5. "))
    code = "\n".join(cell.source for cell in cells[:end] if cell.cell_type == "code")
    variables = {"display": lambda *_: None}
    monkeypatch.setattr("lib.figures.show", lambda *_, **__: None)
    exec(code.replace("configs/demo.yaml", str(configuration)), variables)
    return variables


def test_similar_backgrounds_join_lesions_and_the_error_names_the_way_out(similar, monkeypatch):
    expected = (
        r"(?s)class (corn|wart) has \d groups of images.*needs at least 7.*"
        r"joined lesions to groups: corn 40 to \d, wart 40 to \d. The largest group has \d\d "
        r"lesions, for example own\d\d and own\d\d. .*`duplicates: false`"
    )
    with pytest.raises(ValueError, match=expected):
        survey_notebook(similar, monkeypatch)


def test_with_duplicates_off_the_lesion_alone_decides_the_split(similar, monkeypatch):
    text = similar.read_text().replace('"split": {', '"split": {"duplicates": false, ')
    similar.write_text(text, encoding="utf-8")
    notebook = survey_notebook(similar, monkeypatch)
    index = notebook["index"]
    assert (index["group_id"] == index["lesion_id"]).all()
    assert pd.crosstab(index["label"], index["split"]).loc["corn"].tolist() == [6, 28, 6]
    assert len(notebook["pairs"]) > notebook["apart"] > 0
    pd.testing.assert_frame_equal(datasets.read_index(notebook["run"]), index)


# ---------------------------------------------------------------------------------------- index


def test_the_index_is_read_back_as_it_was_written(run, index):
    datasets.write_index(index, run)
    pd.testing.assert_frame_equal(datasets.read_index(run), index)


def test_an_index_with_a_lesion_on_two_sides_is_refused(run, index):
    lesion = index.loc[index["lesion_id"].duplicated(), "lesion_id"].iloc[0]
    first = index.index[index["lesion_id"] == lesion][0]
    index.loc[first, "split"] = "test" if index.loc[first, "split"] != "test" else "train"
    datasets.write_index(index, run)
    with pytest.raises(ValueError, match=r"index\.csv: group .* is in 2 splits"):
        datasets.read_index(run)


def test_an_index_without_a_class_in_a_split_is_refused(run, index):
    kept = index[(index["label"] != "bcc") | (index["split"] != "test")]
    datasets.write_index(kept, run)
    with pytest.raises(ValueError, match="no image of class bcc in split test; the class has"):
        datasets.read_index(run)


def test_an_index_that_was_changed_by_hand_is_refused(run, index):
    datasets.write_index(index, run)
    lesion = index["lesion_id"].iloc[0]
    others = index["lesion_id"] != lesion
    moved = index.assign(split=index["split"].where(others, "train").mask(~others, "validation"))
    assert not moved.equals(index)
    tables.write_table(moved, paths.run_folder(run.name) / "index.csv")
    with pytest.raises(ValueError, match="was made with other split_sha256"):
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
    with pytest.raises(ValueError, match="no image of class bcc, mel; it has: nv"):
        build(folder, run)


# --------------------------------------------------------------------------------- bad metadata


def test_metadata_without_dx_names_the_column_and_those_there_are(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    file = folder / datasets.METADATA
    pd.read_csv(file).drop(columns="dx").to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"(?s)HAM10000_metadata\.csv: .*no column dx.*expected:"):
        datasets.read_metadata(folder)


def test_all_faults_of_a_table_are_said_at_once_with_their_rows(write_folder):
    rows = [("I1", "L1", "nv"), ("I2", "L2", "mole"), ("I2", "L3", "nevus"), ("I4", "L4", "nv")]
    folder = write_folder(rows)
    file = folder / datasets.METADATA
    ages = pd.read_csv(file).assign(age=[50, 400, 50, -1]).rename(columns={"sex": "sexe"})
    ages.to_csv(file, index=False)
    with pytest.raises(ValueError, match="not as expected") as error:
        datasets.read_metadata(folder)
    said = str(error.value)
    for fault in (
        "unknown column sexe",
        "column image_id, field_uniqueness: 'I2' in row 3, 'I2' in row 4",
        "'mole' in row 3, 'nevus' in row 4",
        "column age, in_range(0, 120): 400.0 in row 3, -1.0 in row 5",
    ):
        assert fault in said


def test_an_age_that_is_no_number_is_named_with_its_row(write_folder):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L2", "nv")])
    file = folder / datasets.METADATA
    pd.read_csv(file).assign(age=["50", "old"]).to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"column age, coerce_dtype.*: 'old' in row 3$"):
        datasets.read_metadata(folder)


def write_line(folder, line):
    header = "image_id,lesion_id,dx,dx_type,age,sex,localization"
    (folder / datasets.METADATA).write_text(f"{header}\n{line}\n", encoding="utf-8")


def test_a_field_too_many_is_said_with_the_file(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    write_line(folder, "I3,L3,nv,histo,50,male,back,9")
    with pytest.raises(ValueError, match=r"HAM10000_metadata\.csv: not a readable CSV table"):
        datasets.read_metadata(folder)


def test_a_comma_at_the_end_of_a_row_shifts_nothing(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    write_line(folder, "I3,L3,nv,histo,50,male,back,")
    assert datasets.read_metadata(folder)[["image_id", "age"]].to_numpy().tolist() == [["I3", 50.0]]


def test_a_table_without_rows_is_refused(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    file = folder / datasets.METADATA
    file.write_text(file.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"HAM10000_metadata\.csv: no rows"):
        datasets.read_metadata(folder)


def test_a_table_may_lack_what_is_not_needed(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    file = folder / datasets.METADATA
    pd.read_csv(file)[["image_id", "lesion_id", "dx"]].to_csv(file, index=False)
    metadata = datasets.read_metadata(folder)
    assert metadata[list(datasets.OPTIONAL)].isna().all(axis=None)


def test_diagnoses_of_your_own_are_taken_when_they_are_named(write_folder):
    folder = write_folder([("I1", "L1", "wart"), ("I2", "L2", "corn")])
    assert set(datasets.read_metadata(folder, ["wart", "corn"])["dx"]) == {"wart", "corn"}
    with pytest.raises(ValueError, match="'corn' in row 3"):
        datasets.read_metadata(folder, ["wart"])


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
    with pytest.raises(ValueError, match="one diagnosis a lesion: not so in row 2, 3"):
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


def test_an_image_without_a_file_is_left_out(write_folder):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L2", "nv"), ("I3", "L3", "nv")])
    (folder / "images" / "I2.jpg").unlink()
    assert list(datasets.find_images(folder, ["I1", "I2", "I3"]).index) == ["I1", "I3"]


def test_two_different_files_of_one_image_are_refused(write_folder):
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L2", "nv")])
    (folder / "I1.jpg").write_bytes((folder / "images" / "I2.jpg").read_bytes())
    with pytest.raises(ValueError, match="two files of I1 differ: I1.jpg, images/"):
        datasets.find_images(folder, ["I1"])


def test_files_without_a_row_decide_nothing(write_folder):
    """Such as the thumbnails of a network drive, or previews of an image viewer."""
    folder = write_folder([("I1", "L1", "nv"), ("I2", "L2", "nv")])
    for name, content in (("I1", b"1"), ("I2", b"2")):
        drive = folder / "images" / "@eaDir" / f"{name}.jpg"
        drive.mkdir(parents=True)
        (drive / "SYNOFILE_THUMB_M.jpg").write_bytes(content)
    assert list(datasets.find_images(folder, ["I1", "I2"])) == ["images/I1.jpg", "images/I2.jpg"]


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "N/A"])
def test_words_for_nothing_are_ids_and_classes(write_folder, word):
    folder = write_folder([("I1", "L1", word), ("I2", word, "nv")])
    file = folder / datasets.METADATA
    file.write_text(file.read_text().replace("I1,", f"{word},"))
    metadata = datasets.read_metadata(folder, ["nv", word])
    assert metadata.loc[0, ["image_id", "dx"]].tolist() == [word, word]
    assert metadata.loc[1, "lesion_id"] == word


def test_an_empty_cell_is_missing(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    file = folder / datasets.METADATA
    pd.read_csv(file).assign(age="", sex="").to_csv(file, index=False)
    metadata = datasets.read_metadata(folder)
    assert metadata[["age", "sex"]].isna().all(axis=None)
    file.write_text(file.read_text().replace("I1,", ","))
    with pytest.raises(ValueError, match="column image_id, not_nullable"):
        datasets.read_metadata(folder)


def test_two_different_masks_of_one_image_are_refused(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    for name, content in (("a", b"1"), ("b", b"2")):
        (folder / name).mkdir()
        (folder / name / "I1_segmentation.png").write_bytes(content)
    with pytest.raises(ValueError, match="two files of I1 differ: a/I1_segmentation"):
        datasets.find_masks(folder, ["I1"])


def test_the_same_file_twice_is_one_image(write_folder):
    """As in copies from a file system that does not tell part_1 from PART_1."""
    folder = write_folder([("I1", "L1", "nv")])
    (folder / "again").mkdir()
    (folder / "again" / "I1.jpg").write_bytes((folder / "images" / "I1.jpg").read_bytes())
    assert datasets.find_images(folder, ["I1"]).to_dict() == {"I1": "again/I1.jpg"}


def test_png_files_are_images_and_masks_are_not(write_folder):
    folder = write_folder([("I1", "L1", "nv")])
    image = cv2.imread(str(folder / "images" / "I1.jpg"))
    (folder / "images" / "I1.jpg").unlink()
    for name in ("I1.png", "I1_segmentation.png"):
        cv2.imwrite(str(folder / name), image)
    assert datasets.find_images(folder, ["I1"]).to_dict() == {"I1": "I1.png"}
    assert datasets.find_masks(folder, ["I1"]).to_dict() == {"I1": "I1_segmentation.png"}


def test_colours_are_red_green_blue(tmp_path):
    blue_first = np.zeros((32, 32, 3), np.uint8)
    blue_first[..., 2] = 255
    cv2.imwrite(str(tmp_path / "red.png"), blue_first)
    assert decode.read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_an_image_that_is_not_an_image_is_named(tmp_path, content):
    (tmp_path / "I1.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"I1\.jpg: not an image .*expected a JPEG or PNG"):
        decode.read_image(tmp_path / "I1.jpg")


def test_a_mask_of_zeros_and_ones_or_of_another_size_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "ones.png"), np.eye(8, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"ones\.png: the largest value is 1; expected 0 .* 255"):
        decode.read_mask(tmp_path / "ones.png")
    cv2.imwrite(str(tmp_path / "small.png"), np.full((8, 6), 255, np.uint8))
    with pytest.raises(ValueError, match=r"small\.png: 6 x 8 pixels; expected the image's 9 x 8"):
        decode.read_mask(tmp_path / "small.png", (8, 9))


# ---------------------------------------------------------------------------------- data folders


def test_synthetic_images_are_never_taken_for_real_ones(run, data_folder):
    data = run.data.model_copy(update={"synthetic": None})
    with pytest.raises(ValueError, match=r"synthetic images \(synthetic\.json is there\)"):
        datasets.open_folder(run.model_copy(update={"data": data}))


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


# ----------------------------------------------------------------------------------- real images


def test_real_metadata_and_images_are_read(ham10000):
    metadata = datasets.read_metadata(ham10000)
    assert set(metadata["dx"]) == set(config.CLASS_NAMES)
    assert (quality.inspect(ham10000, metadata.iloc[:200])["problem"] == "").all()


def test_the_lite_run_takes_at_most_300_real_images_of_each_class(ham10000):
    run = config.load_config("configs/ham10000_lite.yaml")
    metadata = datasets.read_metadata(ham10000)
    counts = build(ham10000, run)["label"].value_counts()
    for name in run.classes:
        assert 0 <= min(300, (metadata["dx"] == name).sum()) - counts[name] < 10


# ----------------------------------------------------------------------------- on all cores


def test_results_come_in_the_order_of_the_files():
    def slow_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert threads.map_files(slow_first, iter(range(50))) == [i * i for i in range(50)]
    assert threads.map_files(slow_first, []) == []


def test_the_first_error_in_order_is_raised_and_ends_the_work():
    begun = []

    def work(i):
        begun.append(i)
        if i == 3:
            time.sleep(0.05)
            raise ValueError("the first")
        if i == 4:
            raise ValueError("the quickest")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="the first"):
        threads.map_files(work, range(10_000))
    assert len(begun) < 10_000


def test_what_ends_a_program_ends_the_work_too():
    begun = []

    def work(i):
        begun.append(i)
        time.sleep(0.001)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        threads.map_files(work, range(1000))
    assert len(begun) < 1000


def test_an_unknown_number_of_cores_is_one(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.map_files(str, range(3)) == ["0", "1", "2"]


def test_an_interrupt_ends_the_work_soon():
    begun = []

    def work(i):
        begun.append(i)
        if i == 20:  # by then, the main thread waits
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.005)

    # a job that a shell started in the background ignores SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.map_files(work, range(10_000))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) < 1000
