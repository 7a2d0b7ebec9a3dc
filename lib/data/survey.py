"""Survey of images: size, light, colour, skin tone, and possible shortcuts such as rulers or ink.

Simple measurements for counting and comparing. The thresholds were set by eye on one half of
HAM10000, blind to the diagnoses.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from lib.preprocessing import decode, pipeline, threads
from lib.preprocessing.hair import hair_mask

#: Shorter side, in pixels, to which images are shrunk before detection.
WORKING_SIZE = 224
#: An image has hair, a ruler, dark corners or ink if its score is at least this.
THRESHOLDS = {"hair": 0.015, "ruler": 6, "dark_corners": 0.6, "ink": 0.003}
#: Classes of the individual typology angle, and the limits between them in degrees (Chardon 1991).
SKIN_TONES = ("dark", "brown", "tan", "intermediate", "light", "very light")
TONE_LIMITS = (-30, 10, 28, 41, 55)
COLOR_CAST = "colour cast"  # beyond +-85 degrees: b* near zero or negative, as no skin has it
#: Smallest fraction of the image that must be visible outside the lesion.
LEAST_SKIN = 0.05

_in_range = pa.Check.in_range
#: One row an image; missing where too little is visible outside the lesion.
SURVEY_SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, unique=True),
        "width": pa.Column(int, pa.Check.ge(1)),  # pixels, of the file
        "height": pa.Column(int, pa.Check.ge(1)),
        "brightness": pa.Column(float, _in_range(0, 255)),  # mean grey level
        "sharpness": pa.Column(float, pa.Check.ge(0)),  # variance of the Laplacian
        "lightness": pa.Column(float, _in_range(0, 100.1)),  # mean CIE L*
        "green_red": pa.Column(float, _in_range(-128, 128)),  # mean CIE a*, red is positive
        "blue_yellow": pa.Column(float, _in_range(-128, 128)),  # mean CIE b*, yellow is positive
        "ita": pa.Column(float, _in_range(-180, 180), nullable=True),  # degrees
        "skin_tone": pa.Column(str, pa.Check.isin([*SKIN_TONES, COLOR_CAST]), nullable=True),
        "hair_score": pa.Column(float, _in_range(0, 1), nullable=True),  # fraction of the outside
        "ruler_score": pa.Column(int, pa.Check.ge(0)),  # ticks in the longest row
        "dark_corners_score": pa.Column(float, _in_range(0, 1)),  # light missing in corners
        "ink_score": pa.Column(float, _in_range(0, 1), nullable=True),  # fraction of the outside
        **{name: pa.Column("boolean", nullable=True, coerce=True) for name in THRESHOLDS},
    },
    strict=True,
)


def measure_all(folder: Path, files: pd.Series, masks: pd.Series) -> pd.DataFrame:
    """Measure every image, on all cores: `SURVEY_SCHEMA`, in the order of `files`.

    Parameters
    ----------
    files, masks : Series of str
        Paths relative to `folder`, indexed by image_id; not every image needs a mask.
    """

    def measure_file(image_id: str) -> dict:
        image = decode.read_image(folder / files[image_id])
        mask = masks.get(image_id)
        lesion = None if mask is None else decode.read_mask(folder / mask, image.shape[:2])
        return {"image_id": image_id, **measure(image, lesion)}

    rows = threads.map_files(measure_file, files.index)
    return SURVEY_SCHEMA.validate(pd.DataFrame(rows, columns=list(SURVEY_SCHEMA.columns)))


def measure(image: np.ndarray, lesion_mask: np.ndarray | None = None) -> dict:
    """Measure one image: the columns of `SURVEY_SCHEMA` except image_id.

    Each name of `THRESHOLDS` has a `<name>_score` and a decision `<name>`, None where the score is
    NaN.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    lesion_mask : ndarray of bool, shape (height, width), optional
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small, lesion = shrink(image), None if lesion_mask is None else shrink(lesion_mask * 1.0) > 0.5
    small_gray, lab = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), to_lab(small)
    hair, outside = hair_mask(small), outside_lesion(small_gray, lesion)
    skin = bare_skin(small_gray, outside & ~hair, lesion)
    ita = skin_angle(lab, skin)
    scores = {
        "hair": fraction(hair, outside),
        "ruler": count_ticks(small_gray),
        "dark_corners": corner_darkness(small_gray),
        "ink": np.nan if lesion is None else fraction(ink_mask(lab, skin), outside),
    }
    return {
        "width": image.shape[1],
        "height": image.shape[0],
        "brightness": float(gray.mean()),
        "sharpness": sharpness(gray),
        **dict(zip(("lightness", "green_red", "blue_yellow"), cv2.mean(lab), strict=False)),
        "ita": ita,
        "skin_tone": name_skin_tone(ita),
        **{f"{name}_score": score for name, score in scores.items()},
        **{n: None if np.isnan(score) else score >= THRESHOLDS[n] for n, score in scores.items()},
    }


def sharpness(gray: np.ndarray) -> float:
    """Variance of the Laplacian of the central square, resized to 256 pixels for comparability."""
    small = pipeline.crop_and_resize(gray, 256)
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


def to_lab(image: np.ndarray) -> np.ndarray:
    """Convert to CIE L*a*b* (sRGB, white D65): float32, L* in [0, 100], a* and b* about +-100."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def shrink(image: np.ndarray) -> np.ndarray:
    """Shrink the shorter side to `WORKING_SIZE`, by area; smaller images do not change."""
    scale = WORKING_SIZE / min(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


#: Inputs of `predict_class`: all measurements, or those outside the lesion. Ink is left out
#: because it needs a lesion mask.
_OUTSIDE = ["ita", "hair_score", "ruler_score", "dark_corners_score"]
_WHOLE = ["brightness", "sharpness", "lightness", "green_red", "blue_yellow"]
MEASUREMENTS = {"all measurements": _WHOLE + _OUTSIDE, "outside the lesion only": _OUTSIDE}


def predict_class(
    measured: pd.DataFrame, labels: pd.Series, folds: np.ndarray, classes: list[str]
) -> np.ndarray:
    """Predict the class of each image from its measurements, by cross-validation.

    Parameters
    ----------
    measured : DataFrame of float, shape (n, measurements)
    folds : ndarray of int, shape (n,)

    Returns
    -------
    ndarray of float, shape (n, classes)
        Probabilities, in the order of `classes`.
    """
    model = RandomForestClassifier(200, class_weight="balanced", min_samples_leaf=5, random_state=0)
    inputs = measured.fillna(-999).to_numpy(float)  # missing is a value of its own
    targets = labels.map(classes.index).to_numpy()
    cv = PredefinedSplit(folds)
    return cross_val_predict(model, inputs, targets, cv=cv, method="predict_proba")


# ----------------------------------------------------------------------------------- skin tone


def skin_angle(lab: np.ndarray, skin: np.ndarray) -> float:
    """Median individual typology angle of the skin, ITA = arctan((L* - 50) / b*), in degrees.

    Chardon, Cretois and Hourseau, Int. J. Cosmet. Sci. 13:191 (1991), measured it with a
    calibrated colorimeter. In a dermatoscope, illumination, polarisation and white balance shift it
    by tens of degrees, unknown for a single image. Kinyanjui et al. (MICCAI 2020) estimated it from
    dermoscopic images in this way; Groh et al. (CVPR Workshops 2021, arXiv:2104.09957) found poor
    agreement with the Fitzpatrick types assigned to clinical photographs. It can compare groups of
    images taken alike; it does not give a person's skin type or ethnicity.

    In [-180, 180], beyond 90 where b* is negative; NaN if less than `LEAST_SKIN` of the image is
    skin.
    """
    if skin.mean() < LEAST_SKIN:
        return np.nan
    lightness, _, blue_yellow = lab[skin].T
    return float(np.median(np.degrees(np.arctan2(lightness - 50, blue_yellow))))


def name_skin_tone(ita: float) -> str | None:
    """Return the class of an angle; `COLOR_CAST` beyond 85 degrees, which no skin has.

    >>> name_skin_tone(35.0)
    'intermediate'
    """
    if np.isnan(ita):
        return None
    return SKIN_TONES[np.digitize(ita, TONE_LIMITS, right=True)] if abs(ita) <= 85 else COLOR_CAST


def outside_lesion(gray: np.ndarray, lesion: np.ndarray | None) -> np.ndarray:
    """Return the pixels that are certainly not lesion, bool.

    With a mask: those farther from it than 7 % of the shorter side. Without one: those outside 0.8
    of the ellipse that fits the image, because lesions are photographed in the middle.
    """
    if lesion is None:
        y, x = (np.linspace(-1, 1, side) for side in gray.shape)
        return np.hypot(x, y[:, None]) > 0.8
    distance = cv2.distanceTransform((~lesion).astype(np.uint8), cv2.DIST_L2, 3)
    return distance > 0.07 * min(gray.shape)


def bare_skin(gray: np.ndarray, clear: np.ndarray, lesion: np.ndarray | None) -> np.ndarray:
    """Return the pixels of the clear region that are skin, neither dark corner nor glare; bool.

    Without a mask the lesion may reach into the region, so only pixels above Otsu's threshold
    count.
    """
    darkest = 0.5 * np.percentile(gray, 75)
    if lesion is None:
        darkest = max(darkest, cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)[0])
    return clear & (gray > darkest) & (gray < 245)


def fraction(mask: np.ndarray, region: np.ndarray) -> float:
    """Fraction of the region in the mask; NaN for a region under `LEAST_SKIN` of the image."""
    return float(mask[region].mean()) if region.mean() >= LEAST_SKIN else np.nan


# ----------------------------------------------------------------------------------- shortcuts


def corner_darkness(gray: np.ndarray) -> float:
    """Return how much darker the third darkest corner is than the image's 75th percentile, 0 to 1.

    Three dark corners make a round field of view; a lesion that covers one or two does not.
    Cropping to a square removes much of a dark corner.
    """
    side = max(min(gray.shape) // 20, 1)
    ends = slice(None, side), slice(-side, None)
    corners = sorted(np.median(gray[rows, columns]) for rows in ends for columns in ends)
    field = np.percentile(gray, 75)
    return float(max(1 - corners[2] / field, 0)) if field else 0.0


def ink_mask(lab: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Find blue or violet marker: b* below -25, and 25 below that of bluish skin; bool.

    Needs a lesion mask, because lesions can be as blue. Pale, grey and black ink is not found.
    """
    usual = np.median(lab[..., 2][skin]) if skin.any() else 0
    return lab[..., 2] < min(usual, 0) - 25


def count_ticks(gray: np.ndarray) -> int:
    """Count the ticks in the longest row of a ruler near the border; bold ones count twice.

    Six faint ticks make a ruler, or three bold ones, as a dermatoscope's scale in a corner has no
    more. More than twelve bold marks are hair.
    """
    faint, bold = find_ticks(gray, contrast=8), find_ticks(gray, contrast=35)
    return max(_longest_row(*faint), 2 * _longest_row(*bold) if len(bold[0]) <= 12 else 0)


def find_ticks(gray: np.ndarray, contrast: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find short straight dark marks in the outer fifth: centres, angles, lengths.

    They describe the rectangle with a mark's second moments, in radians and in fractions of the
    shorter side.
    """
    size = min(gray.shape)
    around = np.ones((max(5, size // 28 | 1),) * 2, np.uint8)
    marks = (cv2.morphologyEx(gray, cv2.MORPH_BLACKHAT, around) > contrast).astype(np.uint8)
    count, labels, _, centers = cv2.connectedComponentsWithStats(marks, connectivity=4)
    rows, columns = np.nonzero(labels)
    label = labels[rows, columns]
    x, y = columns - centers[label, 0], rows - centers[label, 1]
    area = np.maximum(np.bincount(label, minlength=count), 1)
    xx, yy, xy = (np.bincount(label, moment, count) / area for moment in (x * x, y * y, x * y))
    spread = np.hypot((xx - yy) / 2, xy)
    length, width = (np.sqrt(12 * ((xx + yy) / 2 + sign * spread) + 1) for sign in (1, -1))
    border = np.minimum(centers, np.array(gray.shape[::-1]) - 1 - centers).min(axis=1)
    keep = (length > max(2.5, size / 55)) & (length < 0.15 * size) & (length > 2 * width)
    keep &= (border < size / 5) & (np.arange(count) > 0)  # 0 is the background
    return centers[keep] / size, np.arctan2(2 * xy, xx - yy)[keep] / 2, length[keep] / size


def _longest_row(centers: np.ndarray, angles: np.ndarray, lengths: np.ndarray) -> int:
    """Count the ticks of the longest row that starts at two similar, parallel, adjacent marks."""
    step = centers[None] - centers[:, None]
    distance = np.hypot(step[..., 0], step[..., 1])
    along = np.abs(step[..., 0] * np.cos(angles[:, None]) + step[..., 1] * np.sin(angles[:, None]))
    turn = np.abs((angles[None] - angles[:, None] + np.pi / 2) % np.pi - np.pi / 2)
    pairs = (distance > 0.012) & (distance < 0.2) & (along < 0.35 * distance)
    pairs &= (turn < np.radians(15)) & (np.abs(np.log(lengths[None] / lengths[:, None])) < 0.9)
    parallel = turn < np.radians(20)
    return max((_row(centers, parallel[i], i, j) for i, j in np.argwhere(pairs)), default=0)


def _row(centers: np.ndarray, parallel: np.ndarray, first: int, second: int) -> int:
    """Count ticks at equal steps from the first two on; single ticks may be missing."""
    last, step = centers[second], centers[second] - centers[first]
    tolerance = max(0.005, 0.15 * np.hypot(*step))
    place, count, missing = 1, 2, 0
    while missing < 2:
        off = np.hypot(*(centers - last - step * (missing + 1)).T)
        nearest = off.argmin()
        if off[nearest] > tolerance or not parallel[nearest]:
            missing += 1
            continue
        last, place, count, missing = centers[nearest], place + missing + 1, count + 1, 0
        step = (last - centers[first]) / place
    return count
