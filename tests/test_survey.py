"""Survey: measurements worked by hand, and detectors on drawn images."""

import cv2
import numpy as np
import pandas as pd
import pandera.errors
import pytest

from lib.data import datasets, survey

BEIGE = (200, 170, 150)
LAB = (71.71, 7.84, 14.37)  # of it: sRGB (IEC 61966-2-1) to XYZ, D65 white, to CIE L*a*b*
ITA = 56.5  # arctan((71.71 - 50) / 14.37) in degrees
LESION = (90, 60, 50)


def plain(size=(224, 224), color=BEIGE):
    return np.full((*size, 3), color, np.uint8)


def disk(size=(224, 224), radius=50):
    """A mask of a round lesion in the middle."""
    mask = np.zeros(size, np.uint8)
    cv2.circle(mask, (size[1] // 2, size[0] // 2), radius, 1, -1)
    return mask > 0


def vignette(size, radius):
    image = np.zeros((*size, 3), np.uint8)
    cv2.circle(image, (size[1] // 2, size[0] // 2), radius, BEIGE, -1, cv2.LINE_AA)
    return image


def with_ticks(image, ticks, first=(20, 190), step=(8, 0), tick=(0, 9), color=(60, 55, 55)):
    """Draw ticks, each two pixels wide, from `first` on."""
    for number in range(ticks):
        start = np.add(first, np.multiply(step, number))
        end = np.add(start, tick)
        cv2.line(image, tuple(map(int, start)), tuple(map(int, end)), color, 2, cv2.LINE_AA)
    return image


# ----------------------------------------------------------------------------- light and colour


def test_brightness_is_the_mean_gray_level():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = 200  # two of four pixels
    assert survey.measure(image)["brightness"] == 100


def test_size_is_that_of_the_file_not_of_the_working_copy():
    measured = survey.measure(plain((450, 600)))
    assert (measured["width"], measured["height"]) == (600, 450)


def test_a_plain_image_has_no_sharpness_and_a_board_has():
    board = np.indices((256, 256)).sum(axis=0).astype(np.uint8) % 2 * 10
    assert survey.sharpness(np.full((256, 256), 90, np.uint8)) == 0
    assert survey.sharpness(board) == pytest.approx(40**2, rel=0.02)  # four neighbours 10 off


def test_color_is_cie_lab():
    measured = survey.measure(plain())
    found = [measured[name] for name in ("lightness", "green_red", "blue_yellow")]
    assert found == pytest.approx(LAB, abs=0.1)


# ------------------------------------------------------------------------------------ skin tone


def test_typology_angle_by_hand():
    assert survey.measure(plain())["ita"] == pytest.approx(ITA, abs=0.3)


def test_limits_between_skin_tones():
    named = {a: survey.name_skin_tone(a) for a in (56, 50, 30, 20, 0, -50, 86, 120, -90)}
    assert list(named.values()) == [
        "very light",
        "light",
        "intermediate",
        "tan",
        "brown",
        "dark",
        *["colour cast"] * 3,
    ]
    assert survey.name_skin_tone(np.nan) is None


@pytest.mark.parametrize("masked", [True, False])
def test_lesion_hair_glare_and_dark_corners_do_not_change_the_angle(masked):
    image = vignette((225, 300), 165)
    image[disk((225, 300), 60)] = LESION
    cv2.line(image, (5, 100), (295, 20), (50, 40, 40), 2, cv2.LINE_AA)
    cv2.circle(image, (60, 190), 3, (255, 255, 255), -1)
    mask = disk((225, 300), 60) if masked else None
    assert survey.measure(image, mask)["ita"] == pytest.approx(ITA, abs=0.5)


def test_no_angle_where_the_lesion_covers_everything():
    measured = survey.measure(plain(), np.ones((224, 224), bool))
    assert np.isnan([measured[name] for name in ("ita", "hair_score", "ink_score")]).all()
    assert measured["skin_tone"] is measured["hair"] is measured["ink"] is None


def test_gray_has_no_skin_tone_but_a_color_cast():
    for mask in (None, disk()):
        assert survey.measure(plain(color=(150, 150, 150)), mask)["skin_tone"] == "colour cast"


# ------------------------------------------------------------------------------------ shortcuts


def test_a_round_field_of_view_is_found():
    assert survey.measure(vignette((300, 400), 220))["dark_corners"]
    assert survey.measure(vignette((224, 224), 130))["dark_corners"]


def test_a_dark_lesion_is_not_a_dark_corner():
    image = plain()
    image[disk(radius=90)] = LESION
    image[:80, :80] = LESION  # and one that runs over a corner
    measured = survey.measure(image)
    assert not measured["dark_corners"] and measured["dark_corners_score"] == 0


@pytest.mark.parametrize("step", [(8, 0), (7.7, 2.1)])
def test_a_ruler_of_faint_ticks_is_found(step):
    image = with_ticks(plain(), 12, step=step, tick=(-step[1], step[0]), color=(180, 150, 132))
    measured = survey.measure(image)
    assert measured["ruler"] and 10 <= measured["ruler_score"] <= 12


def test_three_bold_ticks_in_a_corner_are_a_ruler_and_three_faint_ones_are_not():
    bold = with_ticks(plain(), 3, (170, 15), (12, 12), (7, -7))
    faint = with_ticks(plain(), 3, (170, 15), (12, 12), (7, -7), (180, 150, 132))
    assert survey.measure(bold)["ruler"]
    assert not survey.measure(faint)["ruler"]


def test_hair_is_hair_and_no_ruler():
    image, random = plain(), np.random.default_rng(0)
    for start in random.integers(0, 224, (14, 2)):
        end = start + random.normal(0, 80, 2)
        cv2.line(image, start.tolist(), end.astype(int).tolist(), (60, 45, 40), 2, cv2.LINE_AA)
    measured = survey.measure(image)
    assert measured["hair"] and not measured["ruler"]
    assert not survey.measure(plain())["hair"]


def test_ink_is_found_outside_the_lesion_and_blue_is_not_ink_inside():
    inked, veiled = plain(), plain()
    cv2.line(inked, (5, 20), (60, 5), (50, 60, 190), 6)
    veiled[disk(radius=40)] = (80, 90, 170)
    assert survey.measure(inked, disk())["ink"]
    assert not survey.measure(veiled, disk())["ink"]
    assert survey.measure(inked)["ink"] is None  # a blue lesion would look the same


# --------------------------------------------------------------------------------- whole tables


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (224, 224), (300, 400)])
@pytest.mark.parametrize("masked", [True, False])
def test_black_images_of_any_size_are_measured_without_a_skin_tone(size, masked):
    mask = np.zeros(size, bool) if masked else None
    measured = survey.measure(plain(size, (0, 0, 0)), mask)
    assert measured["brightness"] == 0 and np.isnan(measured["ita"])
    assert not measured["dark_corners"] and not measured["ruler"]


@pytest.fixture(scope="module")
def surveyed(data_folder):
    """What was measured on the synthetic images, and what was drawn."""
    truth = pd.read_csv(data_folder / "truth" / "truth.csv")
    files = datasets.find_images(data_folder, truth["image_id"])
    masks = datasets.find_masks(data_folder, truth["image_id"][1:])  # the first has none
    return survey.measure_all(data_folder, files, masks), truth


def test_one_row_an_image_in_order(surveyed):
    table, truth = surveyed
    assert table["image_id"].tolist() == truth["image_id"].tolist()
    assert list(table) == list(survey.SURVEY_SCHEMA.columns)
    assert table["ink"].isna().tolist() == [True] + [False] * (len(table) - 1)


def test_another_column_is_refused(surveyed):
    with pytest.raises(pandera.errors.SchemaErrors, match="dx"):
        survey.SURVEY_SCHEMA.validate(surveyed[0].assign(dx="nv"), lazy=True)


@pytest.mark.parametrize(
    ("name", "least_sensitivity"), [("ruler", 0.7), ("dark_corners", 0.8), ("hairs", 0.8)]
)
def test_what_was_drawn_is_found_and_nothing_else(surveyed, name, least_sensitivity):
    table, truth = surveyed
    drawn = truth[name].to_numpy() > (8 if name == "hairs" else 0)  # many hairs: hairy
    absent = truth[name].to_numpy() == 0
    found = table[name.removesuffix("s") if name == "hairs" else name].to_numpy(bool)
    assert found[drawn].mean() >= least_sensitivity
    assert found[absent].mean() <= 0.05


def test_lighter_skin_has_a_larger_angle(surveyed):
    table, truth = surveyed
    assert table["ita"].corr(truth["skin_tone"], method="spearman") < -0.3


# ------------------------------------------------------------------- what they give away together


def predicted(brightness, dx, folds):
    measured = pd.DataFrame({"brightness": brightness, "ita": np.nan})
    probabilities = survey.predict_class(measured, pd.Series(dx), folds, ["nv", "mel"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    return np.array(["nv", "mel"])[probabilities.argmax(axis=1)]


def test_a_class_that_is_brighter_is_predicted_from_the_measurements():
    dx = np.array(["mel", "nv"] * 60)
    assert (predicted(np.where(dx == "mel", 100.0, 150.0), dx, np.arange(120) % 3) == dx).all()


def test_a_fold_is_predicted_from_the_others_only():
    """Brightness tells the class within each fold, and the opposite in the other fold."""
    dx, folds = np.array(["mel", "nv"] * 60), np.repeat([0, 1], 60)
    bright = (dx == "mel") == (folds == 0)
    assert (predicted(np.where(bright, 150.0, 100.0), dx, folds) != dx).all()
