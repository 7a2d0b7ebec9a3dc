"""The synthetic data set: layout, determinism, truth, and distractors that ignore the class."""

import inspect
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import paths
from lib.config import load_config
from lib.data import datasets
from tools import synthetic, synthetic_images

LESIONS, SEED = 40, 3  # of `data_folder`
DISTRACTORS = ["hairs", "bubbles", "reflections", "ruler", "dark_corners"]


@pytest.fixture(scope="module")
def folder(data_folder):
    """The images that the other tests use, too."""
    return data_folder


@pytest.fixture(scope="module")
def metadata(folder):
    return pd.read_csv(folder / "HAM10000_metadata.csv")


@pytest.fixture(scope="module")
def truth(folder):
    return pd.read_csv(folder / "truth" / "truth.csv", index_col="image_id")


@pytest.fixture(scope="module")
def large_plan():
    return synthetic.image_plan(4000, seed=SEED)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def largest_difference(folder: Path, image_id: str) -> np.ndarray:
    image = read(folder / "images" / f"{image_id}.jpg")
    clean = read(folder / "truth" / f"{image_id}_clean.jpg")
    return cv2.absdiff(image, clean).max(axis=2)


def dilated(mask: np.ndarray, reach: int) -> np.ndarray:
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return cv2.dilate(mask, kernel) > 0


def test_the_files_do_not_depend_on_the_number_of_workers(folder, tmp_path, monkeypatch):
    plan = synthetic.image_plan(LESIONS, SEED).head(6)
    monkeypatch.setattr(synthetic, "image_plan", lambda *_: plan)
    drawn = [
        contents(synthetic.generate(tmp_path / f"{workers}", seed=SEED, workers=workers))
        for workers in (1, 2)
    ]
    assert drawn[0] == drawn[1]
    images = [name for name in drawn[0] if name.startswith(("images", "masks"))]
    assert len(images) == 12
    assert all(drawn[0][name] == (folder / name).read_bytes() for name in images)


def test_another_seed_gives_other_lesions_and_images():
    plans = [synthetic.image_plan(LESIONS, seed) for seed in (SEED, SEED + 1)]
    assert not plans[0]["gain_r"].head(20).equals(plans[1]["gain_r"].head(20))
    view = plans[0].to_dict("records")[0]
    images = [synthetic_images.draw_view_images(view, seed)["image"] for seed in (SEED, SEED + 1)]
    assert np.abs(images[0].astype(int) - images[1]).mean() > 3


def test_layout_is_that_of_ham10000(folder, metadata):
    assert list(metadata) == (
        ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    )
    names = {f"images/{name}.jpg" for name in metadata["image_id"]}
    names |= {f"masks/{name}_segmentation.png" for name in metadata["image_id"]}
    for suffix in ("hair.png", "bubbles.png", "clean.jpg"):
        names |= {f"truth/{name}_{suffix}" for name in metadata["image_id"]}
    names |= {"HAM10000_metadata.csv", "README.md", "synthetic.json", "truth/truth.csv"}
    assert set(contents(folder)) == names
    assert metadata["image_id"].str.fullmatch(r"SYN_\d{7}").all()
    assert metadata["lesion_id"].str.fullmatch(r"SYN_L\d{6}").all()


def test_images_are_colour_and_masks_are_black_and_white(folder, metadata):
    for name in metadata["image_id"]:
        assert read(folder / "images" / f"{name}.jpg").shape == (300, 400, 3)
        for mask in (f"masks/{name}_segmentation", f"truth/{name}_hair", f"truth/{name}_bubbles"):
            pixels = read(folder / f"{mask}.png")
            assert pixels.shape == (300, 400) and pixels.dtype == np.uint8
            assert set(np.unique(pixels)) <= {0, 255}


def test_truth_has_one_row_per_image(truth, metadata):
    assert list(truth.index) == list(metadata["image_id"])
    assert truth[["gain_r", "gain_g", "gain_b"]].to_numpy().min() > 0.5
    assert set(DISTRACTORS) <= set(truth)


def test_every_class_has_at_least_ten_lesions_and_none_has_two_classes(metadata):
    lesions = metadata.drop_duplicates(["lesion_id", "dx"])
    assert lesions["lesion_id"].is_unique
    assert lesions["dx"].value_counts().to_dict() == {"nv": 20, "mel": 10, "bcc": 10}
    assert metadata.groupby("lesion_id").size().between(1, 3).all()


def test_large_sets_have_the_intended_class_frequencies(large_plan):
    lesions = large_plan.drop_duplicates("lesion_id")
    frequencies = lesions["dx"].value_counts(normalize=True)
    assert frequencies.to_dict() == pytest.approx({"nv": 0.64, "mel": 0.22, "bcc": 0.14})
    images = large_plan.groupby("dx").size() / lesions.groupby("dx").size()
    assert images.to_dict() == pytest.approx({"nv": 1.25, "mel": 1.8, "bcc": 1.6}, abs=0.1)
    assert 0.002 < lesions["age"].isna().mean() < 0.03


def test_lesions_cover_3_to_90_percent_of_the_image(folder, metadata):
    cover = [
        (read(folder / "masks" / f"{name}_segmentation.png") > 0).mean()
        for name in metadata["image_id"]
    ]
    assert min(cover) > 0.03 and max(cover) < 0.90


def test_lesion_stands_out_from_the_skin_around_it(folder, metadata):
    darker = []
    for name in metadata["image_id"]:
        clean = read(folder / "truth" / f"{name}_clean.jpg").astype(float).mean(axis=2)
        lesion = read(folder / "masks" / f"{name}_segmentation.png")
        around = dilated(lesion, 15) & ~dilated(lesion, 3)
        darker.append(clean[around].mean() - clean[lesion > 0].mean())
    assert np.mean(np.array(darker) > 5) > 0.9


def test_image_and_clean_image_differ_only_where_the_truth_says(folder, metadata):
    for name in metadata["image_id"]:
        difference = largest_difference(folder, name)
        masks = [read(folder / "truth" / f"{name}_{kind}.png") for kind in ("hair", "bubbles")]
        elsewhere = ~dilated(masks[0] | masks[1], 2)
        assert np.percentile(difference[elsewhere], 99.9) <= 16  # the two JPEG qualities


def test_hair_mask_marks_visible_hair(folder, truth):
    assert (truth["hairs"] > 0).sum() > 10
    for name, hairs in truth["hairs"].items():
        hair = read(folder / "truth" / f"{name}_hair.png") > 0
        assert hair.any() == (hairs > 0) or hairs <= 2  # one or two can miss the frame
        if hair.sum() > 50:
            assert (largest_difference(folder, name)[hair] > 5).mean() > 0.9


def test_images_of_one_lesion_share_the_lesion_not_the_view():
    plan = synthetic.image_plan(30, seed=SEED)
    lesion = plan[plan.duplicated("lesion_id", keep=False)]["lesion_id"].iloc[0]
    views = plan[plan["lesion_id"] == lesion].to_dict("records")[:2]
    areas = []
    for view in views:
        lesion_mask = synthetic_images.draw_view_images(view, SEED)["lesion"] > 0
        areas.append(lesion_mask.sum() / view["scale"] ** 2)
    assert areas[0] == pytest.approx(areas[1], rel=0.15)  # a little may lie outside the frame
    assert views[0]["rotation"] != views[1]["rotation"]
    assert views[0]["skin_tone"] == views[1]["skin_tone"]


def test_distractors_are_drawn_without_the_class(large_plan):
    for function in (synthetic.draw_view, synthetic.draw_skin):
        assert "dx" not in inspect.signature(function).parameters
    present = large_plan[DISTRACTORS].astype(bool).groupby(large_plan["dx"])
    rates, counts = present.mean(), present.size()
    for name in DISTRACTORS:
        overall = large_plan[name].astype(bool).mean()
        deviation = np.sqrt(overall * (1 - overall) / counts)
        assert ((rates[name] - overall).abs() < 4 * deviation).all(), name


def test_light_and_skin_do_not_depend_on_the_class(large_plan):
    lesions = large_plan.drop_duplicates("lesion_id")
    for name in ["gain_r", "gain_g", "gain_b", "skin_tone", "flush", "skin_texture"]:
        groups = lesions.groupby("dx")[name]
        error = lesions[name].std() / np.sqrt(groups.size())
        assert ((groups.mean() - lesions[name].mean()).abs() < 4 * error).all(), name


def test_readme_says_that_it_is_synthetic(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "Synthetic" in text and "no result" in text
    assert f"--lesions {LESIONS} --seed {SEED}" in text


def test_existing_content_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="expected no folder or an empty one"):
        synthetic.generate(tmp_path, lesions=30)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_a_run_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_write_images", broken)
    with pytest.raises(KeyboardInterrupt):
        synthetic.generate(tmp_path / "drawn", lesions=30)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lesions": 29}, "lesions: found 29, expected at least 30"),
        ({"seed": -1}, "seed: found -1"),
        ({"workers": 0}, "workers: found 0, expected at least 1"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic.generate(tmp_path / "drawn", **arguments)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------- configurations


@pytest.fixture
def small_config(tmp_path):
    """A configuration whose synthetic images are not drawn yet, and their folder."""
    folder = tmp_path / "images"
    text = (paths.ROOT / "tests" / "tiny.yaml").read_text(encoding="utf-8")
    text = text.replace("{folder}", folder.as_posix())
    file = tmp_path / "small.yaml"
    file.write_text(re.sub(r"lesions: \d+", "lesions: 30", text), encoding="utf-8")
    return file, folder


def test_the_command_draws_the_images_of_a_configuration_once(small_config, monkeypatch, capsys):
    file, folder = small_config
    monkeypatch.setattr(synthetic, "_write_images", lambda *_: None)  # tested above, and slow
    assert synthetic.main([str(file)]) == 0
    assert json.loads((folder / "synthetic.json").read_text()) == {
        "lesions": 30,
        "seed": load_config(file).data.synthetic.seed,
        "version": datasets.SYNTHETIC_VERSION,
    }
    assert pd.read_csv(folder / "HAM10000_metadata.csv")["lesion_id"].nunique() == 30
    assert datasets.open_folder(load_config(file)) == folder

    def draw_again(*_, **__):
        raise AssertionError("drawn twice")

    monkeypatch.setattr(synthetic, "generate", draw_again)
    assert synthetic.main([str(file)]) == 0


def test_a_folder_that_was_drawn_with_other_settings_is_refused(small_config, monkeypatch, capsys):
    file, folder = small_config
    folder.mkdir()
    note = {"lesions": 31, "seed": 3, "version": datasets.SYNTHETIC_VERSION}
    (folder / "synthetic.json").write_text(json.dumps(note))
    assert synthetic.main([str(file)]) == 1
    assert "31" in (error := capsys.readouterr().err) and error.startswith("error: ")
    assert [path.name for path in folder.iterdir()] == ["synthetic.json"]


def test_missing_synthetic_images_are_an_error_that_names_the_command(small_config):
    file, _ = small_config
    with pytest.raises(FileNotFoundError, match=r"make images CONFIG="):
        datasets.open_folder(load_config(file))


def test_a_configuration_without_synthetic_images_draws_nothing(capsys):
    assert synthetic.main(["configs/ham10000.yaml"]) == 1
    assert "no section data.synthetic" in capsys.readouterr().err
