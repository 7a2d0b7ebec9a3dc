"""Restoration: scores worked by hand, the textbook recipe, and tables on synthetic images."""

import cv2
import numpy as np
import pandas as pd
import pytest

from lib.data import datasets
from lib.preprocessing import decode, pipeline
from studies.preprocessing import restoration
from tools import synthetic

NAN = np.nan


def square(left, size=40, side=20):
    """A mask with a square of `side` pixels."""
    mask = np.zeros((size, size), bool)
    mask[10 : 10 + side, left : left + side] = True
    return mask


def skin_with_lesion(noise=0.0, size=256, radius=50):
    """A flat picture with a dark disc, noise of a known deviation alike in all channels; a mask."""
    y, x = np.mgrid[:size, :size] - size // 2
    lesion = np.hypot(x, y) <= radius
    gray = np.where(lesion, 80.0, 180.0)
    gray = gray + np.random.default_rng(4).normal(0, noise, gray.shape)
    return np.rint(gray)[..., None].repeat(3, axis=2).astype(np.uint8), lesion


def likeness(clean, image, where):
    """The scores of one region."""
    return restoration.likeness(clean, image, {"here": where})["here"]


@pytest.fixture(scope="module")
def images(data_folder):
    return restoration.list_images(data_folder)


@pytest.fixture(scope="module")
def hair_rows(data_folder, images):
    return restoration.hair_scores(data_folder, images.head(24))


# ---------------------------------------------------------------------------------- mask scores


def test_squares_that_overlap_by_half_score_one_half():
    assert restoration.mask_scores(square(0), square(10)) == {
        "dice": 0.5,
        "precision": 0.5,
        "recall": 0.5,
    }


def test_precision_is_of_what_was_found_and_recall_of_what_is_true():
    scores = restoration.mask_scores(square(0, side=10), square(0, side=20))
    # 100 of 100 found pixels are true, 100 of 400 true ones are found; Dice is 200 / 500
    assert scores == {"dice": 0.4, "precision": 1.0, "recall": 0.25}


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        (False, False, {"dice": 1.0, "precision": NAN, "recall": NAN}),
        (False, True, {"dice": 0.0, "precision": NAN, "recall": 0.0}),
        (True, False, {"dice": 0.0, "precision": 0.0, "recall": NAN}),
    ],
)
def test_scores_of_empty_masks(found, truth, expected):
    scores = restoration.mask_scores(np.full((4, 4), found), np.full((4, 4), truth))
    assert scores == pytest.approx(expected, nan_ok=True)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match="found: an array of uint8; expected a mask of bool"):
        restoration.mask_scores(square(0).astype(np.uint8), square(0))


# ------------------------------------------------------------------------------------- likeness


def test_the_psnr_of_a_constant_offset():
    clean = np.full((32, 32, 3), 100, np.uint8)
    scores = likeness(clean, clean + 10, np.ones((32, 32), bool))
    # the mean squared error is 100: 10 log10(255^2 / 100)
    assert scores["psnr"] == pytest.approx(28.1308, abs=1e-4)


def test_the_ssim_of_a_constant_offset():
    clean = np.full((32, 32, 3), 100, np.uint8)
    scores = likeness(clean, clean + 50, np.ones((32, 32), bool))
    # no variance: only the luminance term (2 ab + C1) / (a^2 + b^2 + C1), C1 = (0.01 * 255)^2
    c1 = 2.55**2
    assert scores["ssim"] == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-4)


def test_identical_pixels_score_what_rounding_allows():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    scores = likeness(image, image, np.ones((32, 32), bool))
    assert scores["psnr"] == pytest.approx(10 * np.log10(12 * 255**2))
    assert scores["ssim"] == pytest.approx(1)


def test_only_the_pixels_asked_for_count():
    clean = np.full((40, 80, 3), 100, np.uint8)
    image = clean.copy()
    image[:, 40:] = 200
    left = np.zeros((40, 80), bool)
    left[:, :34] = True  # the window of the SSIM reaches 5 pixels
    assert likeness(clean, image, left) == pytest.approx(
        {"psnr": 10 * np.log10(12 * 255**2), "ssim": 1}
    )
    assert likeness(clean, image, ~left)["psnr"] < 10


def test_no_pixels_have_no_likeness():
    image = np.zeros((16, 16, 3), np.uint8)
    scores = likeness(image, image, np.zeros((16, 16), bool))
    assert scores == pytest.approx({"psnr": NAN, "ssim": NAN}, nan_ok=True)


IMAGE = np.zeros((24, 24, 3), np.uint8)
SMALL = np.zeros((24, 20), bool)


@pytest.mark.parametrize(
    "compare",
    [
        lambda: restoration.mask_scores(square(0), SMALL),
        lambda: likeness(IMAGE, IMAGE[:, :20], SMALL),
        lambda: likeness(IMAGE, IMAGE, SMALL),
        lambda: restoration.flat_skin_noise(IMAGE, SMALL),
        lambda: restoration.flat_skin_noise(IMAGE, SMALL, original=IMAGE[:, :20]),
        lambda: restoration.border_strength(IMAGE, SMALL),
    ],
)
def test_shapes_that_differ_are_refused(compare):
    with pytest.raises(ValueError, match=r"shapes differ: found \(.*expected one shape"):
        compare()


# --------------------------------------------------------------------------------------- colour


def test_angles_between_colours():
    assert restoration.angular_error((1, 0, 0), (0, 1, 0)) == pytest.approx(90)
    assert restoration.angular_error((1, 1, 0), (1, 0, 0)) == pytest.approx(45)
    assert restoration.angular_error((0.2, 0.3, 0.4), (2, 3, 4)) == pytest.approx(0, abs=1e-6)


def test_the_reproduction_error_is_that_of_the_corrected_white():
    assert restoration.reproduction_error((2, 1, 1), (2, 1, 1)) == pytest.approx(0, abs=1e-6)
    # not corrected, white has the light's colour: cos = 4 / sqrt(3 * 6)
    expected = np.degrees(np.arccos(4 / np.sqrt(18)))
    assert restoration.reproduction_error((2, 1, 1), (1, 1, 1)) == pytest.approx(expected)


@pytest.mark.parametrize("color", [(0, 0, 0), (1, 2), (NAN, 1, 1), np.ones((3, 3))])
def test_what_is_no_colour_is_refused(color):
    with pytest.raises(ValueError, match="not a colour; expected three numbers"):
        restoration.angular_error(color, (1, 1, 1))


def test_an_estimate_with_a_dark_channel_is_refused():
    with pytest.raises(ValueError, match="expected three numbers above 0"):
        restoration.reproduction_error((1, 1, 1), (1, 0, 1))


def test_casts_come_from_the_seed_and_never_clip():
    casts = restoration.draw_casts(4, seed=1)
    np.testing.assert_array_equal(casts, restoration.draw_casts(4, seed=1))
    assert (casts != restoration.draw_casts(4, seed=2)).any()
    np.testing.assert_array_equal(casts.max(axis=1), 1)
    white = np.full((2, 2, 3), 255, np.uint8)
    assert restoration.apply_gains(white, casts[0]).min() > 100


def test_gains_are_applied_by_channel():
    image = np.full((1, 1, 3), 200, np.uint8)
    assert restoration.apply_gains(image, (0.5, 1, 2)).tolist() == [[[100, 200, 255]]]


# ------------------------------------------------------------------------------ noise and border


def test_the_noise_of_a_known_gaussian_is_found():
    image, lesion = skin_with_lesion(noise=4)
    # a Gaussian of width 2 keeps a little: sqrt(1 - 2 / (2 pi 4) + 1 / (4 pi 4)) = 0.97
    assert restoration.flat_skin_noise(image, lesion) == pytest.approx(0.97 * 4, rel=0.03)


def test_flat_skin_without_noise_has_none():
    assert restoration.flat_skin_noise(*skin_with_lesion()) == pytest.approx(0, abs=1e-4)


def test_the_lesion_and_textured_skin_are_not_flat_skin():
    image, lesion = skin_with_lesion(noise=2)
    before = restoration.flat_skin_noise(image, lesion)
    worse = image.copy()
    worse[lesion] = np.random.default_rng(0).integers(0, 256, (lesion.sum(), 3))
    worse[:64, :, :] = 40 * (np.indices((64, 256)).sum(axis=0) // 12 % 2)[..., None] + 150
    after = restoration.flat_skin_noise(worse, lesion)
    assert after == pytest.approx(before, rel=0.05)


def test_a_filter_is_measured_where_the_original_is_flat():
    image, lesion = skin_with_lesion(noise=4)
    image[:, :128] = cv2.blur(image[:, :128], (5, 5))
    image[:, 128:] += np.linspace(0, 30, 128).astype(np.uint8)[None, :, None]
    shaded = image[:, ::-1].copy()  # its flat half is the other one
    assert restoration.flat_skin_noise(image, lesion) < 1.5
    assert restoration.flat_skin_noise(image, lesion, original=shaded) > 3


def test_no_skin_has_no_noise_and_no_contour_no_strength():
    image, _ = skin_with_lesion()
    everything = np.ones((256, 256), bool)
    assert np.isnan(restoration.flat_skin_noise(image, everything))
    assert np.isnan(restoration.border_strength(image, everything))
    assert np.isnan(restoration.border_strength(image, ~everything))


def test_the_gradient_of_a_ramp_is_its_slope():
    ramp = np.repeat(3 * np.arange(60)[None, :, None], 40, axis=0).repeat(3, axis=2)
    mask = np.zeros((40, 60), bool)
    mask[:, 30:] = True
    assert restoration.border_strength(ramp.astype(np.uint8), mask) == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize("size", [3, 5])
def test_a_median_keeps_an_ideal_edge_and_a_mean_does_not(size):
    image = np.full((40, 40, 3), 50, np.uint8)
    image[:, 20:] = 150
    mask = np.zeros((40, 40), bool)
    mask[:, 20:] = True
    sharp = restoration.border_strength(image, mask, width=1)
    median = restoration.border_strength(cv2.medianBlur(image, size), mask, width=1)
    mean = restoration.border_strength(cv2.blur(image, (size, size)), mask, width=1)
    assert sharp == pytest.approx(50, rel=1e-4)  # 100 grey levels over two pixels
    assert median == pytest.approx(sharp)
    assert mean < 0.8 * sharp


def test_channels_have_a_mean_and_a_variance():
    image = np.array([[[0, 10, 20], [2, 10, 40]]], np.uint8)
    statistics = restoration.channel_statistics(image)
    assert statistics["mean"].to_dict() == {"red": 1, "green": 10, "blue": 30}
    assert statistics["variance"].to_dict() == {"red": 1, "green": 0, "blue": 100}


def test_channels_have_a_histogram_of_shares():
    image = np.array([[[0, 10, 20], [2, 10, 40]]], np.uint8)
    shares = restoration.channel_histograms(image, bins=64)  # four grey levels a bin
    assert shares[shares > 0].to_dict() == {
        ("red", 0): 1,
        ("green", 8): 1,
        ("blue", 20): 0.5,
        ("blue", 40): 0.5,
    }


# --------------------------------------------------------------------------- the textbook recipe


def test_the_textbook_recipe_finds_a_dark_hair_and_no_light_one():
    image = np.full((100, 100, 3), 180, np.uint8)
    image[:, 30:33], image[:, 60:63] = 120, 240
    found = restoration.textbook_hair_mask(image)
    assert found[:, 30:33].all()
    assert found.sum() == 300
    removed = restoration.textbook_hair_removal(image)
    assert abs(removed[:, :50].astype(int) - 180).max() <= 1
    np.testing.assert_array_equal(removed[:, 50:], image[:, 50:])


def test_the_textbook_threshold_is_ten_grey_levels():
    image = np.full((60, 60, 3), 100, np.uint8)
    image[:, 20:22], image[:, 40:42] = 90, 89
    found = restoration.textbook_hair_mask(image)
    assert not found[:, 20:22].any()
    assert found[:, 40:42].all()


def test_the_textbook_recipe_for_glare_is_a_fixed_threshold():
    image = np.full((60, 60, 3), 150, np.uint8)
    image[20:24, 20:24], image[40:44, 40:44] = 255, 195
    found = restoration.textbook_glare_mask(image)
    assert found[19:25, 19:25].all()
    assert found.sum() == 36
    removed, _ = restoration.glare_methods()["textbook recipe"](image, 60)
    assert abs(removed[:36].astype(int) - 150).max() <= 3
    assert (removed[40:44, 40:44] == 195).all()


# ------------------------------------------------------------------------------------- the tables


def test_every_image_with_enough_hair_has_a_row_of_each_method(data_folder, images, hair_rows):
    first = images["image_id"].head(24)
    hairy = {name for name in first if truth_of(data_folder, name, "hair").mean() >= 0.01}
    assert len(hairy) > 5
    methods = list(restoration.hair_methods())
    assert len(methods) == 7
    for method in methods:
        assert set(hair_rows.loc[hair_rows["method"] == method, "image_id"]) == hairy
    assert len(hair_rows) == len(hairy) * len(methods)
    assert hair_rows["method"].head(7).tolist() == methods


@pytest.fixture(scope="module")
def fresh_rows(tmp_path_factory):
    """Scores on images that no constant of the detector was set on."""
    folder = synthetic.generate(tmp_path_factory.mktemp("data") / "fresh", lesions=130, seed=11)
    methods = restoration.hair_methods()
    wanted = {name: methods[name] for name in ("textbook recipe", "ours")}
    return restoration.hair_scores(folder, restoration.list_images(folder), wanted)


@pytest.mark.parametrize("score", ["dice", "psnr_inside", "psnr_outside"])
def test_hair_removal_is_better_than_the_textbook_recipe(fresh_rows, score):
    """In the mask, under the hair and beside it, each with the whole of its interval."""
    difference = restoration.paired(fresh_rows).loc[score]
    assert difference["images"] > 50
    assert difference["low"] > 0


def test_a_recipe_at_more_rows_is_another_recipe(data_folder, images):
    """At the originals' 450 rows it finds less that is no hair; a rim changes the picture only."""
    rows = restoration.hair_scores(data_folder, images.head(24))
    mean = restoration.summary(rows)
    enlarged, rimmed = mean.loc["textbook, 450 rows"], mean.loc["textbook, 450 rows, rim"]
    assert mean.loc["textbook recipe", "precision"] < enlarged["precision"]
    assert rimmed["dice"] == enlarged["dice"]
    assert rimmed["psnr_inside"] > enlarged["psnr_inside"]


def test_hair_removal_restores_more_than_a_median_filter_and_the_textbook_recipe(hair_rows):
    mean = restoration.summary(hair_rows)
    inside = mean["psnr_inside"]
    assert inside["ours"] > inside["textbook recipe"] > inside["nothing"]
    assert inside["ours"] > inside["median filter"] > inside["nothing"]
    assert mean.loc["ours", "dice"] > mean.loc["textbook recipe", "dice"]
    of_masks = mean.loc[["nothing", "median filter"], ["dice", "precision", "recall"]]
    assert of_masks.isna().to_numpy().all()


def truth_of(folder, image_id, kind):
    mask = decode.read_mask(folder / "truth" / f"{image_id}_{kind}.png")
    return pipeline.preprocess_mask(mask, 256)


def small(image, size=256):
    return pipeline.crop_and_resize(image, size)


def hairy_with_bubbles(folder, images):
    """The first image with much hair and some bubbles, as a table of one row."""
    for i, image_id in enumerate(images["image_id"]):
        hair, bubbles = (truth_of(folder, image_id, kind) for kind in ("hair", "bubbles"))
        if hair.mean() > 0.03 and bubbles.mean() > 0.001:
            return images.iloc[i : i + 1], image_id
    raise LookupError("no image with hair and bubbles")


def test_a_perfect_method_has_perfect_scores(data_folder, images):
    image, image_id = hairy_with_bubbles(data_folder, images)
    clean = small(decode.read_image(data_folder / "truth" / f"{image_id}_clean.jpg"))
    answer = clean, truth_of(data_folder, image_id, "hair")
    rows = restoration.hair_scores(data_folder, image, {"perfect": lambda *_: answer})
    scores = rows.iloc[0].drop([*restoration.KEYS, "method"]).astype(float)
    best = 10 * np.log10(12 * 255**2)
    np.testing.assert_allclose(scores, [1, 1, 1, best, best, 1, 1], rtol=1e-5)


def test_what_bubbles_hide_does_not_count_for_hair(data_folder, images):
    """A method that spoils the pixels under bubbles, and those only, scores like nothing."""
    image, image_id = hairy_with_bubbles(data_folder, images)
    bubbles = truth_of(data_folder, image_id, "bubbles")

    def spoil(image, size):
        return np.where(bubbles[..., None], 0, small(image, size)).astype(np.uint8), bubbles

    def nothing(image, size):
        return small(image, size), np.zeros((size, size), bool)

    rows = restoration.hair_scores(data_folder, image, {"nothing": nothing, "spoil": spoil})
    one, other = rows.drop(columns=[*restoration.KEYS, "method"]).to_numpy(float)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert one[0] == 0  # Dice: neither finds any hair


def test_glare_has_the_same_table(data_folder, images, hair_rows):
    rows = restoration.glare_scores(data_folder, images)
    assert list(rows.columns) == list(hair_rows.columns)
    assert rows["image_id"].nunique() > 3
    mean = restoration.summary(rows)
    assert mean.loc["ours", "psnr_inside"] > mean.loc["nothing", "psnr_inside"]


def test_images_without_anything_to_remove_cannot_be_scored(data_folder, images):
    with pytest.raises(ValueError, match=f"none of {len(images)} images can be scored"):
        restoration.hair_scores(data_folder, images, {}, least=1.0)


def test_a_folder_without_truth_is_refused(write_folder):
    folder = write_folder([("a", "l", "nv")])
    images = restoration.list_images(folder)
    with pytest.raises(FileNotFoundError, match=r"truth/a_hair.png: no such image|a_hair.png"):
        restoration.hair_scores(folder, images)
    with pytest.raises(FileNotFoundError, match=r"no truth/truth.csv; expected a synthetic"):
        restoration.color_scores(folder, images)
    with pytest.raises(ValueError, match="1 images have no lesion mask, the first a"):
        restoration.noise_scores(folder, images)


def test_a_row_without_an_image_is_named(data_folder, tmp_path):
    metadata = (data_folder / datasets.METADATA).read_text().splitlines()[:2]
    (tmp_path / datasets.METADATA).write_text("\n".join(metadata) + "\n")
    with pytest.raises(ValueError, match="1 of 1 images have no file, the first SYN_"):
        restoration.list_images(tmp_path)


def test_larger_filters_take_more_noise_and_more_of_the_border(data_folder, images):
    rows = restoration.noise_scores(data_folder, images)
    mean = restoration.summary(rows)
    assert len(rows) == 5 * len(images)
    for score in ("noise", "border_strength"):
        for kind in ("median", "mean"):
            three, five = mean.loc[f"{kind} 3", score], mean.loc[f"{kind} 5", score]
            assert five < three < mean.loc["nothing", score]


def test_colour_constancy_takes_casts_off_and_takes_skin_for_light(data_folder, images):
    rows = restoration.color_scores(data_folder, images.head(12), casts=2)
    mean = restoration.summary(rows)
    assert mean.loc["shades of gray", "cast_left"] < 0.1 < 1 < mean.loc["nothing", "cast_left"]
    assert mean.loc["shades of gray", "recovery_error"] > mean.loc["nothing", "recovery_error"]
    # with nothing done, the error is that of a grey guess
    gains = pd.read_csv(data_folder / "truth" / "truth.csv", index_col="image_id")
    first = rows.iloc[0]
    light = gains.loc[first["image_id"], ["gain_r", "gain_g", "gain_b"]].to_numpy(float)
    assert first["recovery_error"] == pytest.approx(restoration.angular_error(light, np.ones(3)))


def test_an_image_without_known_gains_is_named(data_folder, images):
    other = images.head(1).assign(image_id="unknown")
    with pytest.raises(ValueError, match=r"no row for 1 images, the first unknown"):
        restoration.color_scores(data_folder, other)


# -------------------------------------------------------------------------- summary and intervals


def score_rows(ours, recipe, groups=None):
    """Two methods' dice on images a, b, c ...; each image a lesion of its own unless said."""
    names = [chr(ord("a") + i) for i in range(len(ours))]
    groups = groups or names
    return pd.DataFrame(
        [
            {"image_id": n, "lesion_id": g, "group_id": g, "method": method, "dice": value}
            for method, values in {"textbook recipe": recipe, "ours": ours}.items()
            for n, g, value in zip(names, groups, values, strict=True)
        ]
    )


def test_the_summary_is_the_mean_over_the_images_that_have_a_score():
    found = restoration.summary(score_rows([0.5, 0.7, NAN], [0.1, 0.2, 0.3]))
    assert found.index.tolist() == ["textbook recipe", "ours"]
    assert found["images"].tolist() == [3, 3]
    assert found["dice"].tolist() == pytest.approx([0.2, 0.6])


def test_a_constant_difference_has_no_spread():
    found = restoration.paired(score_rows([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])).loc["dice"]
    assert found[["value", "low", "high"]].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert (found["images"], found["groups"]) == (3, 3)
    assert found["difference"] == "0.100 (0.100 to 0.100)"


def test_images_are_paired_whatever_their_order():
    rows = score_rows([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    shuffled = rows.sample(frac=1, random_state=3)
    assert restoration.paired(shuffled).loc["dice", "low"] == pytest.approx(0.1)


def test_images_of_one_lesion_widen_the_interval():
    random = np.random.default_rng(1)
    per_lesion = random.normal(0.1, 0.1, 20).repeat(3)
    alone = restoration.paired(score_rows(per_lesion, 0 * per_lesion)).loc["dice"]
    lesions = [f"lesion {i // 3}" for i in range(60)]
    together = restoration.paired(score_rows(per_lesion, 0 * per_lesion, lesions)).loc["dice"]
    assert together["groups"] == 20
    assert together["value"] == pytest.approx(alone["value"]) == pytest.approx(per_lesion.mean())
    assert together["high"] - together["low"] > 1.4 * (alone["high"] - alone["low"])


def test_only_images_where_both_have_the_score_are_compared():
    found = restoration.paired(score_rows([0.5, NAN, 0.9], [0.4, 0.6, 0.8])).loc["dice"]
    assert found["images"] == 2
    assert found["value"] == pytest.approx(0.1)
    none = restoration.paired(score_rows([NAN, NAN], [0.4, 0.6])).loc["dice"]
    assert none["images"] == 0
    assert np.isnan(none["value"])


def test_methods_that_are_not_there_or_on_other_images_are_refused():
    rows = score_rows([0.5, 0.7], [0.4, 0.6])
    with pytest.raises(ValueError, match="method 'theirs' is not in the table; it has: textbook"):
        restoration.paired(rows, than="theirs")
    with pytest.raises(ValueError, match="expected both on the same images"):
        restoration.paired(rows.iloc[1:])
