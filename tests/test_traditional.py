"""Features are what their names say; classifiers keep groups together and know the prior."""

import warnings

import cv2
import numpy as np
import pandas as pd
import pytest

from lib.data import datasets
from lib.evaluation import priors
from lib.features import handcrafted
from lib.preprocessing import decode, pipeline

SIZE = 256
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
NAMES = ["svm", "random_forest"]


def feature_table(images, masks=None):
    """Compute features with masks from a list."""
    return handcrafted.feature_table(images, masks and masks.__getitem__)


def uniform(color):
    return np.full((SIZE, SIZE, 3), color, np.uint8)


def disk(radius, row=127.5, column=127.5):
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2


@pytest.fixture(scope="session")
def settings():
    """Nothing but cropping and resizing."""
    return pipeline.Preprocessing(
        image_size=SIZE,
        remove_hair=False,
        remove_bubbles=False,
        median_kernel=0,
        color_constancy=False,
        equalize_contrast=False,
    )


@pytest.fixture(scope="session")
def pictures(data_folder, settings):
    """The first six images of the tiny data set, prepared, and their masks."""
    image_ids = datasets.read_metadata(data_folder)["image_id"][:6]
    files = datasets.find_images(data_folder, image_ids)
    masks = datasets.find_masks(data_folder, image_ids)
    assert len(masks) == 6
    return (
        np.stack([pipeline.prepare(data_folder / file, settings) for file in files]),
        [pipeline.preprocess_mask(decode.read_mask(data_folder / mask), SIZE) for mask in masks],
    )


@pytest.fixture
def small(monkeypatch):
    """Few trees and few hyperparameters: minutes become seconds."""
    monkeypatch.setattr(handcrafted, "TREES", 15)
    monkeypatch.setattr(handcrafted, "SEARCH_TREES", 15)
    grids = {
        "svm": {"svc__C": [1.0], "svc__gamma": [0.1, 0.3]},
        "random_forest": {"forest__min_samples_leaf": [1, 5]},
    }
    monkeypatch.setattr(handcrafted, "GRIDS", grids)


def toy(counts, seed, distance=3.0, images_per_group=2):
    """Draw so many groups of each class, each class around a corner of its own."""
    random = np.random.default_rng(seed)
    labels = np.repeat(list(counts), list(counts.values()))
    corners = distance * np.eye(len(counts))[np.searchsorted(sorted(counts), labels)]
    groups = np.array([f"g{seed}_{i}" for i in range(len(labels))])
    points = np.repeat(corners, images_per_group, axis=0)
    points = points + random.normal(size=points.shape)
    table = pd.DataFrame(points, columns=[f"x{i}" for i in range(points.shape[1])])
    return table, np.repeat(labels, images_per_group), np.repeat(groups, images_per_group)


# -------------------------------------------------------------------------------------- columns


def test_every_column_belongs_to_a_group(pictures):
    images, masks = pictures
    table = feature_table(images, masks)
    assert list(handcrafted.features(images[0], masks[0])) == list(table.columns)
    assert table.columns.is_unique
    groups = table.columns.map(handcrafted.feature_group).value_counts()
    assert groups.to_dict() == {"color": 75, "texture": 32, "shape": 7, "contrast": 15}
    assert table.notna().all(axis=None)


def test_without_masks_the_columns_that_need_one_are_left_out(pictures):
    images, masks = pictures
    table = feature_table(images)
    assert set(table.columns.map(handcrafted.feature_group)) == {"color", "texture"}
    expected = feature_table(images, masks)[table.columns.to_list()]
    pd.testing.assert_frame_equal(table, expected)
    pd.testing.assert_frame_equal(table, handcrafted.feature_table(images, lambda row: None))


def test_the_features_of_an_empty_mask_are_nan(pictures):
    images, masks = pictures
    table = feature_table(images[:2], [masks[0], np.zeros((SIZE, SIZE), bool)])
    needs_mask = table.columns.map(handcrafted.feature_group).isin(["shape", "contrast"])
    assert table.iloc[0].notna().all()
    assert table.loc[1, needs_mask].isna().all()
    assert table.loc[1, ~needs_mask].notna().all()


def test_masks_of_some_images_only_are_refused(pictures):
    images, masks = pictures
    some = [masks[0], masks[1], None]
    for incomplete, message in (
        (some, "row 2: found no lesion mask, unlike row 0"),
        (some[::-1], "row 1: found a lesion mask, unlike row 0"),
    ):
        with pytest.raises(ValueError, match=f"{message}; expected masks for all images or for no"):
            feature_table(images[:3], incomplete)


def test_masks_are_read_by_the_row_of_the_index(data_folder, pictures, settings, tmp_path):
    image_ids = datasets.read_metadata(data_folder)["image_id"][:6]
    files = datasets.find_images(data_folder, image_ids)
    index = files.rename_axis("image_id").reset_index()
    read = datasets.lesion_mask_reader(data_folder, index, settings)
    for row, mask in enumerate(pictures[1]):
        np.testing.assert_array_equal(read(row), mask)
    for row in (0, 2):
        name = f"{image_ids[row]}.jpg"
        cv2.imwrite(str(tmp_path / name), uniform(100))
        index.loc[row, "path"] = name
    cv2.imwrite(str(tmp_path / f"{image_ids[2]}_segmentation.png"), uniform(255)[1:])
    read = datasets.lesion_mask_reader(tmp_path, index, settings)
    assert read(0) is None
    with pytest.raises(ValueError, match="256 x 255 pixels; expected the image's 256 x 256"):
        read(2)


def test_a_mask_of_another_size_is_refused(pictures):
    images, masks = pictures
    masks = [*masks[:3], masks[3][:, :-1], *masks[4:]]
    with pytest.raises(ValueError, match=r"row 3: .*\(256, 255\); expected .*\(256, 256\)"):
        feature_table(images, masks)
    with pytest.raises(ValueError, match="uint8"):
        handcrafted.features(images[0], disk(9).astype(np.uint8))
    with pytest.raises(ValueError, match="float64 of shape"):
        handcrafted.features(images[0] / 255)


def test_a_quarter_turn_changes_nothing(pictures):
    images, masks = pictures
    before = feature_table(images, masks)
    after = feature_table(np.rot90(images, axes=(1, 2)), [np.rot90(mask) for mask in masks])
    np.testing.assert_allclose(after, before, atol=2e-3)
    assert (before.std() > 4e-3).sum() > 80  # images differ by more than that


# --------------------------------------------------------------------------- color and texture


def test_pure_red_has_the_colors_of_red():
    values = handcrafted.features(uniform((255, 0, 0)))
    assert values["hue_hist_07"] == 1  # from 0 to 10 degrees
    assert values["saturation_mean"] == pytest.approx(1)
    assert values["value_mean"] == pytest.approx(1)
    assert values["saturation_hist_07"] == values["value_hist_07"] == 1
    # of sRGB's red under D65, as colour textbooks have it
    assert values["lightness_mean"] == pytest.approx(53.24, abs=0.05)
    assert values["green_red_mean"] == pytest.approx(80.09, abs=0.05)
    assert values["blue_yellow_mean"] == pytest.approx(67.20, abs=0.05)


def test_hue_goes_on_below_red():
    slightly_blue = handcrafted.features(uniform((255, 0, 64)))  # 345 degrees
    assert slightly_blue["hue_hist_05"] == 1  # from -20 to -10


def test_every_histogram_adds_up_to_one(pictures):
    table = feature_table(pictures[0])
    names = [f"{name}_hist" for name in handcrafted.CHANNELS] + ["lbp_r1", "lbp_r3"]
    for name in names:
        columns = [column for column in table if column.startswith(f"{name}_")]
        assert len(columns) >= 8
        np.testing.assert_allclose(table[columns].sum(axis=1), 1)


def test_moments_are_those_of_a_quarter_of_white():
    image = uniform(0)
    image[:128, :128] = 255
    values = handcrafted.features(image)
    assert values["value_mean"] == pytest.approx(0.25)
    assert values["value_std"] == pytest.approx(np.sqrt(3) / 4)
    assert values["value_skewness"] == pytest.approx(2 / np.sqrt(3))  # (1 - 2p) / sqrt(p (1 - p))


def test_a_constant_image_has_no_texture():
    values = handcrafted.features(uniform((180, 120, 90)))
    for distance in handcrafted.GLCM_DISTANCES:
        assert values[f"glcm_contrast_d{distance}"] == 0
        assert values[f"glcm_energy_d{distance}"] == pytest.approx(1)
        assert values[f"glcm_homogeneity_d{distance}"] == pytest.approx(1)
    assert values["lbp_r1_08"] == values["lbp_r3_08"] == 1  # no neighbour is darker
    assert values["lightness_std"] == pytest.approx(0, abs=1e-4)
    assert values["lightness_skewness"] == 0


def test_stripes_have_the_contrast_worked_out_by_hand():
    image = uniform(0)
    image[:, ::2] = 255
    values = handcrafted.features(image)
    # 31^2 where an odd number of columns lies between two pixels, in 3 of 4 angles at distances 1
    # and 7 (whose diagonal is 5 columns), in 1 of 4 at distance 3 (2 columns)
    assert values["glcm_contrast_d1"] == pytest.approx(31**2 * 3 / 4)
    assert values["glcm_contrast_d3"] == pytest.approx(31**2 / 4)
    assert values["glcm_contrast_d7"] == pytest.approx(31**2 * 3 / 4)


def test_dots_are_lighter_than_all_their_neighbours():
    image = uniform(0)
    image[4:-4:8, 4:-4:8] = 255
    dots = (image[..., 0] > 0).sum()
    values = handcrafted.features(image)
    assert values["lbp_r1_00"] == pytest.approx(dots / 254**2)


# ------------------------------------------------------------------------------------ the lesion


def test_a_disk_is_round_symmetric_and_compact():
    values = handcrafted.features(uniform(100), disk(80))
    assert values["shape_area"] == pytest.approx(np.pi * 80**2 / SIZE**2, rel=0.01)
    assert values["shape_irregularity"] == pytest.approx(1, abs=0.02)
    assert values["shape_asymmetry_major"] < 0.01
    assert values["shape_asymmetry_minor"] < 0.01
    assert values["shape_eccentricity"] < 0.05
    assert values["shape_solidity"] > 0.98
    assert values["shape_center_distance"] == pytest.approx(0)


def test_a_disk_off_the_centre_is_as_far_as_it_was_moved():
    values = handcrafted.features(uniform(100), disk(40, row=127.5 - 32, column=127.5 + 24))
    assert values["shape_center_distance"] == pytest.approx(40 / 256)


@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_a_half_moon_is_asymmetric_at_its_long_axis_only(degrees):
    away = np.cos(np.deg2rad(degrees)) * (ROWS - 128) + np.sin(np.deg2rad(degrees)) * (
        COLUMNS - 128
    )
    values = handcrafted.features(uniform(100), disk(100, 128, 128) & (away >= 0))
    # Of a half disk of radius 1 the centre of mass lies c = 4 / (3 pi) off the diameter. Mirrored
    # at the line through it, a column of height h overlaps by 2c where h > 2c, else by 2h - 2c.
    across = np.linspace(-1, 1, 100_001)
    height, mirrored = np.sqrt(1 - across**2), 8 / (3 * np.pi)
    overlap = np.clip(np.where(height > mirrored, mirrored, 2 * height - mirrored), 0, None)
    expected = 1 - np.trapezoid(overlap, across) / (np.pi / 2)
    assert expected == pytest.approx(0.185, abs=0.001)
    assert values["shape_asymmetry_major"] == pytest.approx(expected, abs=0.01)
    assert values["shape_asymmetry_minor"] < 0.01


def test_a_star_has_a_more_irregular_border_than_an_ellipse():
    around = np.arctan2(ROWS - 127.5, COLUMNS - 127.5)
    star = np.hypot(ROWS - 127.5, COLUMNS - 127.5) < 60 + 25 * np.cos(12 * around)
    ellipse = (ROWS - 127.5) ** 2 / 40**2 + (COLUMNS - 127.5) ** 2 / 80**2 <= 1
    of_star, of_ellipse = (handcrafted.features(uniform(0), each) for each in (star, ellipse))
    assert of_star["shape_irregularity"] > 3 > 1.5 > of_ellipse["shape_irregularity"]
    assert of_star["shape_solidity"] < 0.8 < of_ellipse["shape_solidity"]
    assert of_ellipse["shape_eccentricity"] == pytest.approx(np.sqrt(3) / 2, abs=0.01)


def test_the_color_of_the_lesion_is_set_against_the_skin():
    image = uniform(204)
    image[disk(50)] = 51
    values = handcrafted.features(image, disk(50))
    assert values["value_inside_mean"] == pytest.approx(0.2)
    assert values["value_inside_std"] == pytest.approx(0, abs=1e-6)
    assert values["value_inside_less_outside"] == pytest.approx(-0.6)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (5, 5, 1, 9), (255, 250, 1, 6), (0, 0, SIZE, SIZE)])
def test_the_smallest_and_the_largest_lesion_have_a_shape(box):
    row, column, height, width = box
    mask = np.zeros((SIZE, SIZE), bool)
    mask[row : row + height, column : column + width] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = handcrafted.features(uniform(100), mask)
    assert np.isfinite([values[name] for name in values if name.startswith("shape_")]).all()
    assert np.isnan(values["value_inside_less_outside"]) == mask.all()


# --------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_posteriors_under_the_training_prior(name, small):
    counts = {"bcc": 20, "mel": 40, "nv": 140}
    table, labels, groups = toy(counts, seed=1, distance=1.5)
    other, actual, _ = toy(counts, seed=2, distance=1.5)
    classes = ["nv", "bcc", "mel"]
    found = handcrafted.fit_predict(name, table, labels, groups, other, classes, seed=5)
    assert found.shape == (len(other), 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    shares = [0.7, 0.1, 0.2]
    np.testing.assert_allclose(found.mean(axis=0), shares, atol=0.04)
    right = np.array(classes)[found.argmax(axis=1)] == actual
    assert right.mean() > 0.75
    equal = priors.change_prior(found, np.array(shares), np.full(3, 1 / 3))
    assert equal.mean(axis=0)[1] > found.mean(axis=0)[1] + 0.05


@pytest.mark.parametrize("name", NAMES)
def test_a_group_that_is_known_by_heart_earns_no_confidence(name, small):
    """Labels are drawn by lot; only images of one group are alike."""
    random = np.random.default_rng(7)

    def draw(groups):
        centers = random.normal(size=(groups, 6)).repeat(5, axis=0)
        points = pd.DataFrame(centers + 0.01 * random.normal(size=centers.shape)).add_prefix("x")
        return points, random.choice(["mel", "nv"], groups).repeat(5), np.arange(groups).repeat(5)

    table, labels, groups = draw(60)
    other, actual, _ = draw(200)
    classes, order = ["mel", "nv"], {"mel": 0, "nv": 1}
    found = handcrafted.fit_predict(name, table, labels, groups, other, classes, seed=1)
    right = found.argmax(axis=1) == [order[label] for label in actual]
    assert right.mean() == pytest.approx(0.5, abs=0.1)
    assert found.max(axis=1).mean() < 0.65
    images = np.arange(len(table))  # with each image a group of its own it would be confident
    torn = handcrafted.fit_predict(name, table, labels, images, other, classes, seed=1)
    assert torn.max(axis=1).mean() > found.max(axis=1).mean() + 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_numbers(name, small):
    table, labels, groups = toy({"mel": 12, "nv": 20}, seed=1)
    again = [
        handcrafted.fit_predict(name, table, labels, groups, table, ["mel", "nv"], seed=seed)
        for seed in (3, 3, 4)
    ]
    np.testing.assert_allclose(again[0], again[1], rtol=0, atol=1e-12)
    assert np.abs(again[0] - again[2]).max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_seven_classes_of_few_lesions_are_told_apart(name, small):
    counts = {"akiec": 6, "bcc": 7, "bkl": 9, "df": 5, "mel": 8, "nv": 30, "vasc": 5}
    table, labels, groups = toy(counts, seed=1, distance=8)
    other, actual, _ = toy(counts, seed=2, distance=8)
    found = handcrafted.fit_predict(name, table, labels, groups, other, list(counts), seed=1)
    assert (np.array(list(counts))[found.argmax(axis=1)] == actual).mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_that_never_varies_in_training_is_not_used(name, small):
    table, labels, groups = toy({"mel": 12, "nv": 20}, seed=1)
    probabilities = []
    for constant in (np.full(len(table), np.nan), np.arange(len(table))):
        train, other = table.assign(x2=np.nan), table.assign(x2=constant)
        probabilities.append(
            handcrafted.fit_predict(name, train, labels, groups, other, ["mel", "nv"], seed=1)
        )
    np.testing.assert_allclose(*probabilities)


@pytest.mark.parametrize("name", NAMES)
def test_empty_masks_go_together_with_others(name, small, pictures):
    images, masks = pictures
    table = feature_table(images, [*masks[:3], *[np.zeros((SIZE, SIZE), bool)] * 3])
    assert table.isna().any(axis=None)
    with pytest.warns(UserWarning, match="3 groups"):
        found = handcrafted.fit_predict(
            name, table, ["nv", "mel"] * 3, list("abcdef"), table, ["mel", "nv"], seed=1
        )
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_calibration_comes_near_the_best_log_loss_that_is_possible(small, monkeypatch):
    """Two normal distributions: the true posterior is known, and with it Bayes's log loss.

    With scikit-learn's usual penalty, C = 1, the posteriors would be pulled to the prior.
    """
    grid = {"random_forest": {"forest__min_samples_leaf": [3]}}
    monkeypatch.setattr(handcrafted, "GRIDS", grid)
    table, labels, groups = toy({"mel": 20, "nv": 80}, seed=1, images_per_group=1)
    other, actual, _ = toy({"mel": 400, "nv": 1600}, seed=99, images_per_group=1)
    log_odds = np.log(4) + 3.0 * (other["x1"] - other["x0"])
    bayes = np.logaddexp(0, np.where(actual == "nv", -log_odds, log_odds)).mean()
    losses = {}
    for strength in (handcrafted.CALIBRATION_C, 1.0):
        monkeypatch.setattr(handcrafted, "CALIBRATION_C", strength)
        found = handcrafted.fit_predict(
            "random_forest", table, labels, groups, other, ["mel", "nv"], seed=1
        )
        right = found[np.arange(len(actual)), (actual == "nv").astype(int)]
        losses[strength] = -np.log(right).mean()
    assert bayes < losses[100.0] < bayes + 0.06
    assert losses[1.0] > losses[100.0] + 0.03


def test_the_hyperparameters_with_the_best_balanced_accuracy_are_taken(small, monkeypatch):
    grids = {"svm": {"svc__C": [1.0], "svc__gamma": [1e4, 0.3, 1e5]}}
    monkeypatch.setattr(handcrafted, "GRIDS", grids)
    table, labels, groups = toy({"mel": 12, "nv": 40}, seed=1)
    model = handcrafted.fit("svm", table, labels, groups, seed=1)
    assert model.estimators_[0].get_params()["svc__gamma"] == 0.3


def test_what_does_not_fit_together_is_refused(small):
    table, labels, groups = toy({"mel": 12, "nv": 20}, seed=1)
    arguments = table, labels, groups
    with pytest.raises(ValueError, match="tree: no such classifier; expected one of svm, random_f"):
        handcrafted.fit_predict("tree", *arguments, table, ["mel", "nv"], 1)
