"""Scores of preprocessed images, worked by hand."""

import numpy as np
import pytest

from lib.preprocessing import quality_scores
from studies.preprocessing import restoration

NAN = np.nan


def square(left, size=40, side=20):
    """A mask with a square of `side` pixels."""
    mask = np.zeros((size, size), bool)
    mask[10 : 10 + side, left : left + side] = True
    return mask


def similarity(clean, image, where):
    """The scores of one region."""
    return restoration.image_similarity(clean, image, {"here": where})["here"]


# ---------------------------------------------------------------------------------- mask scores


def test_squares_that_overlap_by_half_score_one_half():
    assert quality_scores.mask_scores(square(0), square(10)) == {
        "dice": 0.5,
        "precision": 0.5,
        "recall": 0.5,
    }


def test_precision_is_of_what_was_found_and_recall_of_what_is_true():
    scores = quality_scores.mask_scores(square(0, side=10), square(0, side=20))
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
    scores = quality_scores.mask_scores(np.full((4, 4), found), np.full((4, 4), truth))
    assert scores == pytest.approx(expected, nan_ok=True)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match="mask: an array of uint8, .*; expected a mask of bool"):
        quality_scores.mask_scores(square(0).astype(np.uint8), square(0))


# ----------------------------------------------------------------------------------- similarity


def test_the_psnr_of_a_constant_offset():
    clean = np.full((32, 32, 3), 100, np.uint8)
    scores = similarity(clean, clean + 10, np.ones((32, 32), bool))
    # the mean squared error is 100: 10 log10(255^2 / 100)
    assert scores["psnr"] == pytest.approx(28.1308, abs=1e-4)


def test_the_ssim_of_a_constant_offset():
    clean = np.full((32, 32, 3), 100, np.uint8)
    scores = similarity(clean, clean + 50, np.ones((32, 32), bool))
    # no variance: only the luminance term (2 ab + C1) / (a^2 + b^2 + C1), C1 = (0.01 * 255)^2
    c1 = 2.55**2
    assert scores["ssim"] == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-4)


def test_identical_pixels_score_what_rounding_allows():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    scores = similarity(image, image, np.ones((32, 32), bool))
    assert scores["psnr"] == pytest.approx(10 * np.log10(12 * 255**2))
    assert scores["ssim"] == pytest.approx(1)


def test_only_the_pixels_asked_for_count():
    clean = np.full((40, 80, 3), 100, np.uint8)
    image = clean.copy()
    image[:, 40:] = 200
    left = np.zeros((40, 80), bool)
    left[:, :34] = True  # the window of the SSIM reaches 5 pixels
    assert similarity(clean, image, left) == pytest.approx(
        {"psnr": 10 * np.log10(12 * 255**2), "ssim": 1}
    )
    assert similarity(clean, image, ~left)["psnr"] < 10


def test_no_pixels_have_no_similarity():
    image = np.zeros((16, 16, 3), np.uint8)
    scores = similarity(image, image, np.zeros((16, 16), bool))
    assert scores == pytest.approx({"psnr": NAN, "ssim": NAN}, nan_ok=True)


IMAGE = np.zeros((24, 24, 3), np.uint8)
SMALL = np.zeros((24, 20), bool)


@pytest.mark.parametrize(
    "compare",
    [
        lambda: similarity(IMAGE, IMAGE[:, :20], SMALL),
        lambda: similarity(IMAGE, IMAGE, SMALL),
    ],
)
def test_shapes_that_differ_are_refused(compare):
    with pytest.raises(ValueError, match=r"^truth: an array of bool, shape \(24, 20\); expected"):
        quality_scores.mask_scores(square(0), SMALL)
    with pytest.raises(ValueError, match=r"shapes differ: found \(.*expected one shape"):
        compare()


# --------------------------------------------------------------------------------------- colour


def test_angles_between_colours():
    assert quality_scores.angular_error((1, 0, 0), (0, 1, 0)) == pytest.approx(90)
    assert quality_scores.angular_error((1, 1, 0), (1, 0, 0)) == pytest.approx(45)
    assert quality_scores.angular_error((0.2, 0.3, 0.4), (2, 3, 4)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("color", [(0, 0, 0), (1, 2), (NAN, 1, 1), np.ones((3, 3))])
def test_what_is_no_colour_is_refused(color):
    with pytest.raises(ValueError, match="not a colour; expected three numbers"):
        quality_scores.angular_error(color, (1, 1, 1))


def test_casts_come_from_the_seed_and_never_clip():
    casts = quality_scores.draw_color_casts(4, seed=1)
    np.testing.assert_array_equal(casts, quality_scores.draw_color_casts(4, seed=1))
    assert (casts != quality_scores.draw_color_casts(4, seed=2)).any()
    np.testing.assert_array_equal(casts.max(axis=1), 1)
    white = np.full((2, 2, 3), 255, np.uint8)
    assert quality_scores.apply_gains(white, casts[0]).min() > 100


def test_gains_are_applied_by_channel():
    image = np.full((1, 1, 3), 200, np.uint8)
    assert quality_scores.apply_gains(image, (0.5, 1, 2)).tolist() == [[[100, 200, 255]]]


def test_channels_have_a_mean_and_a_variance():
    image = np.array([[[0, 10, 20], [2, 10, 40]]], np.uint8)
    statistics = quality_scores.channel_statistics(image)
    assert statistics["mean"].to_dict() == {"red": 1, "green": 10, "blue": 30}
    assert statistics["variance"].to_dict() == {"red": 1, "green": 0, "blue": 100}


def test_channels_have_a_histogram_of_shares():
    image = np.array([[[0, 10, 20], [2, 10, 40]]], np.uint8)
    shares = quality_scores.channel_histograms(image, bins=64)  # four grey levels a bin
    assert shares[shares > 0].to_dict() == {
        ("red", 0): 1,
        ("green", 8): 1,
        ("blue", 20): 0.5,
        ("blue", 40): 0.5,
    }


def test_removal_is_scored_under_the_artefact_and_elsewhere():
    """40 x 40 pixels: the artefact is 16 off by 10 grey levels, and half of it is detected."""
    truth, mask, nothing = (np.zeros((40, 40), bool) for _ in range(3))
    truth[10:14, 10:14] = mask[10:14, 10:12] = True
    clean = np.full((40, 40, 3), 100, np.uint8)
    restored = np.where((truth & ~mask)[..., None], np.uint8(110), clean)
    scores = quality_scores.removal_scores(restored, mask, clean, truth, nothing)
    assert scores["precision"] == 1
    assert scores["recall"] == 0.5
    assert scores["psnr_inside"] == pytest.approx(10 * np.log10(255**2 / 50))  # 100 on half of it
    assert scores["psnr_outside"] == pytest.approx(10 * np.log10(255**2 * 12))  # rounding
    ignored = quality_scores.removal_scores(restored, mask, clean, truth, truth)
    assert np.isnan(ignored["recall"])
    assert np.isnan(ignored["psnr_inside"])
