"""Restoration: the textbook recipe, tables on synthetic images, and intervals worked by hand."""

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import tables
from lib.data import datasets
from lib.preprocessing import decode, pipeline, quality_scores
from studies.preprocessing import restoration
from tools import synthetic

NAN = np.nan
images_of = restoration.list_images


def means(rows):
    """The mean of each score, one row per method."""
    long = restoration.mean_scores(rows)
    return long.pivot(index="method", columns="score", values="mean")


def difference(rows, method="ours", other="textbook recipe"):
    return restoration.paired_differences(rows, method, other).set_index("score")


@pytest.fixture(scope="module")
def images(data_folder):
    return restoration.list_images(data_folder)


@pytest.fixture(scope="module")
def hair_rows(data_folder, images):
    return restoration.hair_scores(data_folder, images.head(24))


# --------------------------------------------------------------------------- the textbook recipe


def test_the_textbook_recipe_finds_a_dark_hair_and_no_light_one():
    image = np.full((100, 100, 3), 180, np.uint8)
    image[:, 30:33], image[:, 60:63] = 120, 240
    mask = restoration.textbook_hair_mask(image)
    assert mask[:, 30:33].all()
    assert mask.sum() == 300
    removed = restoration.textbook_hair_removal(image)
    assert abs(removed[:, :50].astype(int) - 180).max() <= 1
    np.testing.assert_array_equal(removed[:, 50:], image[:, 50:])


def test_the_textbook_threshold_is_ten_grey_levels():
    image = np.full((60, 60, 3), 100, np.uint8)
    image[:, 20:22], image[:, 40:42] = 90, 89
    mask = restoration.textbook_hair_mask(image)
    assert not mask[:, 20:22].any()
    assert mask[:, 40:42].all()


def test_the_textbook_recipe_for_glare_is_a_fixed_threshold():
    image = np.full((60, 60, 3), 150, np.uint8)
    image[20:24, 20:24], image[40:44, 40:44] = 255, 195
    mask = restoration.textbook_glare_mask(image)
    assert mask[19:25, 19:25].all()
    assert mask.sum() == 36
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
    row = difference(fresh_rows).loc[score]
    assert row["images"] > 50
    assert row["low"] > 0


def test_a_recipe_at_more_rows_is_another_recipe(data_folder, images):
    """At the originals' 450 rows it finds less that is no hair; a rim changes the picture only."""
    rows = restoration.hair_scores(data_folder, images.head(24))
    mean = means(rows)
    enlarged, rimmed = mean.loc["textbook, 450 rows"], mean.loc["textbook, 450 rows, rim"]
    assert mean.loc["textbook recipe", "precision"] < enlarged["precision"]
    assert rimmed["dice"] == enlarged["dice"]
    assert rimmed["psnr_inside"] > enlarged["psnr_inside"]


def test_hair_removal_restores_more_than_a_median_filter_and_the_textbook_recipe(hair_rows):
    mean = means(hair_rows)
    inside = mean["psnr_inside"]
    assert inside["ours"] > inside["textbook recipe"] > inside["nothing"]
    assert inside["ours"] > inside["median filter"] > inside["nothing"]
    assert mean.loc["ours", "dice"] > mean.loc["textbook recipe", "dice"]
    without_mask = mean.loc[["nothing", "median filter"], ["dice", "precision", "recall"]]
    assert without_mask.isna().to_numpy().all()


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
    mean = means(rows)
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
    mean = means(rows)
    assert len(rows) == 5 * len(images)
    for score in ("noise", "border_strength"):
        for kind in ("median", "mean"):
            three, five = mean.loc[f"{kind} 3", score], mean.loc[f"{kind} 5", score]
            assert five < three < mean.loc["nothing", score]


def test_colour_constancy_takes_casts_off_and_takes_skin_for_light(data_folder, images):
    rows = restoration.color_scores(data_folder, images.head(12), casts=2)
    mean = means(rows)
    assert mean.loc["shades of gray", "cast_left"] < 0.1 < 1 < mean.loc["nothing", "cast_left"]
    assert mean.loc["shades of gray", "recovery_error"] > mean.loc["nothing", "recovery_error"]
    # with nothing done, the error is that of a grey guess
    gains = pd.read_csv(data_folder / "truth" / "truth.csv", index_col="image_id")
    first = rows.iloc[0]
    light = gains.loc[first["image_id"], ["gain_r", "gain_g", "gain_b"]].to_numpy(float)
    assert first["recovery_error"] == pytest.approx(quality_scores.angular_error(light, np.ones(3)))


def test_an_image_without_known_gains_is_named(data_folder, images):
    other = images.head(1).assign(image_id="unknown")
    with pytest.raises(ValueError, match=r"no row for 1 images, the first unknown"):
        restoration.color_scores(data_folder, other)


# -------------------------------------------------------------------------- summary and intervals


def score_rows(ours, recipe, groups=None):
    """Two methods' dice on images a, b, c ...; by default each image a lesion of its own."""
    names = [chr(ord("a") + i) for i in range(len(ours))]
    groups = groups or names
    return pd.DataFrame(
        [
            {"image_id": n, "lesion_id": g, "group_id": g, "method": method, "dice": value}
            for method, values in {"textbook recipe": recipe, "ours": ours}.items()
            for n, g, value in zip(names, groups, values, strict=True)
        ]
    )


def test_a_mean_is_over_the_images_that_have_the_score():
    rows = restoration.mean_scores(score_rows([0.5, 0.7, NAN], [0.1, 0.2, 0.3]))
    assert rows["method"].tolist() == ["textbook recipe", "ours"]
    assert rows["images"].tolist() == [3, 2]
    assert rows["mean"].tolist() == pytest.approx([0.2, 0.6])


def test_a_constant_difference_has_no_spread():
    row = difference(score_rows([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])).loc["dice"]
    assert row[["value", "low", "high"]].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert (row["images"], row["lesions"]) == (3, 3)


def test_images_are_paired_whatever_their_order():
    rows = score_rows([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    shuffled = rows.sample(frac=1, random_state=3)
    assert difference(shuffled).loc["dice", "low"] == pytest.approx(0.1)


def test_images_of_one_lesion_widen_the_interval():
    random = np.random.default_rng(1)
    per_lesion = random.normal(0.1, 0.1, 20).repeat(3)
    alone = difference(score_rows(per_lesion, 0 * per_lesion)).loc["dice"]
    lesions = [f"lesion {i // 3}" for i in range(60)]
    together = difference(score_rows(per_lesion, 0 * per_lesion, lesions)).loc["dice"]
    assert together["lesions"] == 20
    assert together["value"] == alone["value"] == pytest.approx(per_lesion.mean(), abs=1e-6)
    assert together["high"] - together["low"] > 1.4 * (alone["high"] - alone["low"])


def test_only_images_where_both_have_the_score_are_compared():
    row = difference(score_rows([0.5, NAN, 0.9], [0.4, 0.6, 0.8])).loc["dice"]
    assert row["images"] == 2
    assert row["value"] == pytest.approx(0.1)
    rows = score_rows([NAN, NAN], [0.4, 0.6])
    assert restoration.paired_differences(rows, "ours", "textbook recipe").empty


def test_methods_that_are_not_there_or_on_other_images_are_refused():
    rows = score_rows([0.5, 0.7], [0.4, 0.6])
    with pytest.raises(ValueError, match="method 'theirs' is not in the table; it has: textbook"):
        difference(rows, other="theirs")
    with pytest.raises(ValueError, match="expected both on the same images"):
        difference(rows.iloc[1:])


# ------------------------------------------------------------------------------- what is published


@pytest.fixture(scope="module")
def published():
    return {
        name: tables.read_table(restoration.RESULTS / f"{name}.csv", schema)
        for name, schema in {
            "restoration": restoration.MEANS_SCHEMA,
            "restoration_differences": restoration.DIFFERENCES_SCHEMA,
        }.items()
    }


def test_the_published_differences_are_those_of_the_published_means(published):
    keys = ["kind", "score", "method"]
    table = published["restoration"].set_index(keys)
    mean, images = table["mean"], table["images"]
    for row in published["restoration_differences"].itertuples():
        ours, other = ((row.kind, row.score, name) for name in (row.method, row.other))
        # where a score is undefined for some images of one method, pairs are fewer than images
        if row.kind != "noise" and images[ours] == images[other]:
            assert row.value == pytest.approx(mean[ours] - mean[other], abs=2e-6)
        assert row.low <= row.value <= row.high


def test_a_small_run_writes_both_tables(data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(restoration, "RESULTS", tmp_path)
    monkeypatch.setattr(restoration, "list_images", lambda folder: images_of(folder).head(30))
    files = restoration.measure(data_folder)
    assert [file.name for file in files] == ["restoration.csv", "restoration_differences.csv"]
    table = tables.read_table(files[0], restoration.MEANS_SCHEMA)
    assert table["kind"].unique().tolist() == list(restoration.KINDS)


def skin_with_lesion(noise=0.0, size=256, radius=50):
    """A flat picture with a dark disc, noise of a known deviation alike in all channels; a mask."""
    y, x = np.mgrid[:size, :size] - size // 2
    lesion = np.hypot(x, y) <= radius
    gray = np.where(lesion, 80.0, 180.0)
    gray = gray + np.random.default_rng(4).normal(0, noise, gray.shape)
    return np.rint(gray)[..., None].repeat(3, axis=2).astype(np.uint8), lesion


IMAGE = np.zeros((24, 24, 3), np.uint8)
SMALL = np.zeros((24, 20), bool)


@pytest.mark.parametrize(
    "compare",
    [
        lambda: restoration.flat_skin_noise(IMAGE, SMALL),
        lambda: restoration.flat_skin_noise(IMAGE, SMALL, original=IMAGE[:, :20]),
        lambda: restoration.border_strength(IMAGE, SMALL),
    ],
)
def test_shapes_that_differ_are_refused(compare):
    with pytest.raises(ValueError, match=r"shapes differ: found \(.*expected one shape"):
        compare()


def test_the_reproduction_error_is_that_of_the_corrected_white():
    assert restoration.reproduction_error((2, 1, 1), (2, 1, 1)) == pytest.approx(0, abs=1e-6)
    # not corrected, white has the light's colour: cos = 4 / sqrt(3 * 6)
    expected = np.degrees(np.arccos(4 / np.sqrt(18)))
    assert restoration.reproduction_error((2, 1, 1), (1, 1, 1)) == pytest.approx(expected)


def test_an_estimate_with_a_dark_channel_is_refused():
    with pytest.raises(ValueError, match="expected three numbers above 0"):
        restoration.reproduction_error((1, 1, 1), (1, 0, 1))


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
