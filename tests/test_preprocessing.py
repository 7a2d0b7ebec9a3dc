"""Preprocessing: small pure steps, and hair removal that is scored."""

from types import SimpleNamespace

import cv2
import nbformat
import numpy as np
import pytest

from lib import figures, paths
from lib.config import Preprocessing
from lib.data import datasets
from lib.preprocessing import bubbles, color_correction, decode, hair, inpainting, pipeline


def skin(size=256, seed=0):
    """A smooth pink image with a round brown lesion."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    lesion = 1 / (1 + np.exp((np.hypot(x, y) - size / 5) / 6))[..., None]
    image = (1 - lesion) * (220, 160, 150) + lesion * (130, 80, 60)
    return np.clip(image + random.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def with_hairs(image, color=(60, 45, 40)):
    """The image with three hairs, two pixels wide, and their mask."""
    hairy, mask = image.copy(), np.zeros(image.shape[:2], np.uint8)
    for start, end in (((10, 20), (240, 90)), ((30, 230), (220, 120)), ((140, 5), (90, 250))):
        cv2.line(hairy, start, end, color, 2, cv2.LINE_AA)
        cv2.line(mask, start, end, 255, 2)
    return hairy, mask > 0


# ---------------------------------------------------------------------------------- crop, resize


def test_the_central_square_is_kept():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 7
    assert (pipeline.crop_square(image) == 7).all()
    assert pipeline.crop_square(image.transpose(1, 0, 2)).shape == (4, 4, 3)


def test_shrinking_averages_over_areas():
    board = np.indices((8, 8)).sum(axis=0) % 2 * 200
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    assert (pipeline.resize(image, 4) == 100).all()


def test_a_mask_stays_a_mask_of_the_same_place():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    small = pipeline.preprocess_mask(mask, 30)
    assert small.dtype == bool
    assert small[10:20, 10:20].all()
    assert small.sum() == 100


@pytest.mark.parametrize("shape", [(1, 1, 3), (300, 20, 3), (450, 600, 3)])
def test_any_size_becomes_the_size_of_the_run(run, shape):
    image = np.full(shape, 90, np.uint8)
    assert pipeline.preprocess_image(image, run.preprocessing).shape == (256, 256, 3)


# ------------------------------------------------------------------------------------------ hair


@pytest.mark.parametrize("color", [(60, 45, 40), (250, 245, 235)], ids=["dark", "light"])
def test_hairs_are_found_and_filled(color):
    clean = skin()
    hairy, truth = with_hairs(clean, color)
    found = hair.hair_mask(hairy)
    assert (found & truth).sum() / truth.sum() > 0.8
    assert (found & ~cv2.dilate(truth.astype(np.uint8), np.ones((5, 5))).astype(bool)).mean() < 0.01
    after = hair.remove_hair(hairy)
    error_before = np.abs(hairy[truth].astype(int) - clean[truth]).mean()
    assert np.abs(after[truth].astype(int) - clean[truth]).mean() < error_before / 4


def test_an_image_without_hair_is_left_as_it_is():
    assert not hair.hair_mask(skin()).any()
    np.testing.assert_array_equal(hair.remove_hair(skin()), skin())


def test_the_border_of_a_lesion_is_no_hair():
    image = np.full((256, 256, 3), 220, np.uint8)
    cv2.circle(image, (128, 128), 60, (90, 60, 40), -1, cv2.LINE_AA)
    assert hair.hair_mask(image).mean() < 0.002


def test_hair_is_found_in_larger_images_too():
    hairy, truth = with_hairs(skin())
    large = [cv2.resize(each.astype(np.uint8), (640, 640)) for each in (hairy, truth)]
    found = hair.hair_mask(large[0])
    assert found.shape == (640, 640)
    assert (found & (large[1] > 0)).sum() / large[1].sum() > 0.8
    assert found.mean() < 2 * large[1].mean()


@pytest.mark.parametrize("radius", [150, 165, 175])
def test_dark_corners_are_no_hair(radius):
    """The rim would be a strand in the mirror; a hair that crosses the frame still is one."""
    y, x = np.mgrid[:256, :256] - 127.5
    dark = 1 / (1 + np.exp((np.hypot(x, y) - radius) / 3))[..., None]
    image = (skin() * dark).astype(np.uint8)
    assert not hair.hair_mask(image).any()
    crossed = image.copy()
    cv2.line(crossed, (0, 90), (60, 110), (50, 40, 40), 2, cv2.LINE_AA)
    assert hair.hair_mask(crossed)[:, :20].any()


def test_a_red_vessel_is_no_hair():
    """It is a thin dark strand too, but more colourful than the skin."""
    vessels, where = with_hairs(skin(), color=(180, 60, 60))
    assert hair.hair_mask(vessels)[where].mean() < 0.05
    gray_hairs, where = with_hairs(skin(), color=(110, 100, 100))
    assert hair.hair_mask(gray_hairs)[where].mean() > 0.5


def test_a_pigment_network_is_no_hair():
    """A honeycomb is made of short lines in all directions; a hair across it is still found."""
    y, x = np.mgrid[:256, :256]
    waves = [np.cos((x * np.cos(a) + y * np.sin(a)) * 2 * np.pi / 9) for a in (0.3, 1.35, 2.4)]
    network = skin().astype(float) - 14 * np.maximum(sum(waves), 0)[..., None]
    network = np.clip(network, 0, 255).astype(np.uint8)
    assert hair.hair_mask(network).mean() < 0.005
    crossed = network.copy()
    cv2.line(crossed, (10, 40), (245, 200), (45, 35, 35), 3, cv2.LINE_AA)
    truth = np.zeros((256, 256), np.uint8)
    cv2.line(truth, (10, 40), (245, 200), 1, 3)
    found = hair.hair_mask(crossed)
    assert (found & (truth > 0)).sum() / truth.sum() > 0.7


def test_filling_touches_no_pixel_outside_the_mask():
    hairy, truth = with_hairs(skin())
    after = inpainting.fill(hairy, truth)
    np.testing.assert_array_equal(after[~truth], hairy[~truth])
    assert (after[truth] != hairy[truth]).mean() > 0.9


def test_only_the_surroundings_of_the_mask_are_given_to_opencv_and_the_result_is_the_same():
    """A mask in the middle, at each edge and corner, and nearly everywhere."""
    image = skin()
    for rows, columns in (
        (slice(100, 104), slice(50, 120)),
        (slice(0, 3), slice(0, 256)),
        (slice(254, 256), slice(250, 256)),
        (slice(0, 1), slice(0, 1)),
        (slice(1, 255), slice(1, 255)),
    ):
        mask = np.zeros((256, 256), bool)
        mask[rows, columns] = True
        mask &= np.random.default_rng(0).random(mask.shape) < 0.7
        expected = cv2.inpaint(image, mask.astype(np.uint8), 1, cv2.INPAINT_NS)
        np.testing.assert_array_equal(inpainting.fill(image, mask), expected)


def test_a_mask_of_another_size_is_refused_and_one_of_numbers_is_not():
    image, mask = skin(), np.zeros((256, 256), np.int64)
    with pytest.raises(ValueError, match=r"\(512, 512\); expected \(256, 256\)"):
        inpainting.fill(image, np.ones((512, 512), bool))
    mask[100:110, 20:40] = 256
    expected = inpainting.fill(image, mask > 0)
    np.testing.assert_array_equal(inpainting.fill(image, mask), expected)
    assert (expected[mask > 0] != image[mask > 0]).any()


def test_thick_hair_is_removed_where_the_configuration_asks_for_it(run):
    image = skin()
    cv2.line(image, (10, 40), (250, 70), (60, 45, 40), 9, cv2.LINE_AA)
    line = cv2.line(np.zeros((256, 256), np.uint8), (10, 40), (250, 70), 1, 9) > 0
    off = {"color_constancy": False, "equalize_contrast": False}
    usual = run.preprocessing.model_copy(update=off)
    thick = usual.model_copy(update={"thick_hair": True})
    left = [
        (pipeline.preprocess_image(image, each)[line, 0] < 100).mean() for each in (usual, thick)
    ]
    assert left[0] > 0.5 > 0.2 > left[1]  # the ends of the line stay
    without = thick.model_copy(update={"remove_hair": False})
    assert "hair removal" not in pipeline.enabled_steps(without)


def test_hair_removal_beats_a_median_filter_on_synthetic_hair(data_folder):
    truths = sorted((data_folder / "truth").glob("*_hair.png"))
    errors = {"nothing": [], "median": [], "removed": []}
    for file in truths:
        name = file.stem.removesuffix("_hair")
        images = [f"images/{name}.jpg", f"truth/{name}_clean.jpg"]
        before, clean = (
            pipeline.resize(pipeline.crop_square(decode.read_image(data_folder / image)), 256)
            for image in images
        )
        true_hair = pipeline.preprocess_mask(decode.read_mask(file), 256)
        if true_hair.mean() < 0.01:
            continue
        after = {
            "nothing": before,
            "median": cv2.medianBlur(before, 5),
            "removed": hair.remove_hair(before),
        }
        for key, image in after.items():
            errors[key].append(np.mean((image[true_hair].astype(float) - clean[true_hair]) ** 2))
    assert len(errors["nothing"]) > 5
    nothing, median, removed = (np.median(errors[key]) for key in ("nothing", "median", "removed"))
    assert removed < median < nothing


# -------------------------------------------------------------------------------- other steps


def test_glare_is_found_and_pale_skin_is_not():
    image = np.full((256, 256, 3), 200, np.uint8)
    cv2.circle(image, (100, 100), 4, (255, 255, 255), -1)
    found = bubbles.bubble_mask(image)
    assert found[100, 100]
    assert found.sum() < 150
    assert not bubbles.bubble_mask(np.full((256, 256, 3), 240, np.uint8)).any()


def test_a_bright_lesion_or_a_white_patch_is_no_glare():
    image = np.full((256, 256, 3), 150, np.uint8)
    cv2.circle(image, (128, 128), 60, (250, 250, 250), -1)
    assert bubbles.bubble_mask(image).mean() < 0.005  # the tips of a drawn circle


@pytest.mark.parametrize("norm", [1, 6])
def test_the_illuminant_of_one_colour_is_that_colour(norm):
    image = np.full((8, 8, 3), (200, 150, 100), np.uint8)
    np.testing.assert_allclose(color_correction.estimate_illuminant(image, norm), (200, 150, 100))


def test_the_illuminant_is_the_minkowski_mean_worked_out_by_hand():
    image = np.array([[[1, 0, 4], [7, 0, 4]]], np.uint8)
    np.testing.assert_allclose(color_correction.estimate_illuminant(image, 2), (5, 0, 4))


def test_shades_of_gray_takes_a_cast_off():
    gray = np.random.default_rng(1).integers(60, 180, (64, 64, 1)).repeat(3, axis=2)
    cast = np.clip(gray * (1.2, 1.0, 0.8), 0, 255).astype(np.uint8)
    mean = color_correction.shades_of_gray(cast).mean(axis=(0, 1))
    assert np.ptp(cast.mean(axis=(0, 1))) > 30
    assert np.ptp(mean) < 2


def test_contrast_changes_lightness_and_keeps_hue():
    image = skin()
    after = color_correction.equalize_contrast(image)
    assert after.std() > image.std()
    hue = [
        cv2.cvtColor(each, cv2.COLOR_RGB2LAB)[..., 1:].mean(axis=(0, 1)) for each in (image, after)
    ]
    np.testing.assert_allclose(*hue, atol=3)


def test_steps_that_are_off_are_not_done(run):
    off = run.preprocessing.model_copy(
        update={
            "remove_hair": False,
            "remove_bubbles": False,
            "median_kernel": 0,
            "color_constancy": False,
            "equalize_contrast": False,
        }
    )
    assert list(pipeline.enabled_steps(off)) == ["crop and resize"]
    assert len(pipeline.enabled_steps(run.preprocessing)) == 6
    smoothed = off.model_copy(update={"mean_kernel": 3})
    assert list(pipeline.enabled_steps(smoothed)) == ["crop and resize", "mean filter"]
    image = skin()
    np.testing.assert_array_equal(pipeline.preprocess_image(image, off), image)


# ------------------------------------------------------------------------------- the list of steps


def test_each_step_is_switched_by_a_setting_and_shown_with_a_valid_example(run):
    for name, step in pipeline.STEPS.items():
        value = getattr(run.preprocessing, step.setting) or step.example
        values = run.preprocessing.model_dump() | {step.setting: value}
        shown = Preprocessing.model_validate(values)
        assert name in pipeline.enabled_steps(shown)


def test_a_step_that_is_on_is_shown_with_the_settings_of_the_run(run):
    image = skin()
    strong = run.preprocessing.model_copy(update={"median_kernel": 5})
    shown = pipeline.all_steps(strong)
    assert list(shown) == list(pipeline.STEPS)
    np.testing.assert_array_equal(shown["median filter"](image), cv2.medianBlur(image, 5))
    np.testing.assert_array_equal(shown["mean filter"](image), cv2.blur(image, (3, 3)))


def unsharp_mask(image, amount):
    """Add to an image what a blur removes from it."""
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 2), -amount, 0)


class WithUnsharpMask(Preprocessing):
    unsharp_mask: float = 0.0


def add_unsharp_mask(settings, monkeypatch):
    """Add a step of a user's own (function, entry, setting); return the settings, with it off."""
    step = pipeline.Step("unsharp_mask", lambda image, s: unsharp_mask(image, s.unsharp_mask), 1.0)
    monkeypatch.setitem(pipeline.STEPS, "unsharp mask", step)
    return WithUnsharpMask(**settings.model_dump())


def test_a_new_step_is_off_until_its_setting_is_on(run, monkeypatch):
    image = skin()
    before = pipeline.preprocess_image(image, run.preprocessing)
    sharpened = add_unsharp_mask(run.preprocessing, monkeypatch)
    assert "unsharp mask" not in pipeline.enabled_steps(sharpened)
    np.testing.assert_array_equal(pipeline.preprocess_image(image, sharpened), before)
    on = sharpened.model_copy(update={"unsharp_mask": 0.5})
    assert list(pipeline.enabled_steps(on))[-1] == "unsharp mask"
    np.testing.assert_array_equal(pipeline.preprocess_image(image, on), unsharp_mask(before, 0.5))


def test_notebook_02_shows_a_new_step_in_both_figures(run, data_folder, monkeypatch):
    """Sections 1 and 2 of the notebook, executed with a run that has one more step, off."""
    cells = nbformat.read(paths.ROOT / "notebooks/02_preprocessing.ipynb", as_version=4).cells
    heads = [i for i, cell in enumerate(cells) if cell.source.startswith("## ")]
    code = [cell.source for cell in cells[: heads[2]] if cell.cell_type == "code"]
    settings = add_unsharp_mask(run.preprocessing, monkeypatch)
    metadata = datasets.read_metadata(data_folder).head(4)
    index = metadata.assign(
        split="train", path=datasets.find_images(data_folder, metadata["image_id"]).to_numpy()
    )
    changed = run.model_copy(update={"preprocessing": settings})
    opened = SimpleNamespace(config=changed, data_folder=data_folder, index=index)
    monkeypatch.setattr("lib.run.open_run", lambda _: opened)
    shown = []
    monkeypatch.setattr(figures, "show", lambda figure, *_, **__: shown.append(figure))
    exec("\n".join(code), {})
    steps, histograms = shown
    titles = [axis.get_title() for axis in steps.axes if axis.images]
    assert titles == [axis.get_title() for axis in histograms.axes if axis.lines]
    assert titles == [*list(pipeline.STEPS)[:-1], "unsharp mask"]
