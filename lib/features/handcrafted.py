"""Colour, texture and shape features of images, and the classifiers that learn from them.

What dermoscopic images were classified with before networks, to compare with: the numbers that
`describe_columns` lists, and a support vector machine or a random forest on them. The lesion's
shape, and its colour against the skin's, come from a lesion mask: **with masks the classifiers are
told where the lesion is, which the networks are not**. So everything can be computed without them.
No feature comes from the metadata.

Texture: local binary patterns (Ojala, Pietikäinen and Mäenpää, IEEE Trans. Pattern Anal. 24:971,
2002) and co-occurrence of grey levels (Haralick, Shanmugam and Dinstein, IEEE Trans. Syst. Man
Cybern. 3:610, 1973). Shape: asymmetry and border of the ABCD rule (Stolz et al., Eur. J. Dermatol.
4, 1994).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.measure import regionprops
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lib.data import splits
from lib.preprocessing import threads


class Channel(NamedTuple):
    """A colour channel, and the bins of its histogram; values beyond them count in the last one."""

    meaning: str
    unit: str
    low: float
    width: float
    bins: int


#: Of HSV and CIELAB. Hue runs from -180 to 180 and is cut finely around red, where skin lies.
CHANNELS = {
    "hue": Channel("hue of HSV, red is 0, yellow 60", "degrees", -70, 10, 14),
    "saturation": Channel("saturation of HSV", "0 to 1", 0, 1 / 8, 8),
    "value": Channel("value of HSV, the largest of red, green and blue", "0 to 1", 0, 1 / 8, 8),
    "lightness": Channel("CIE L*", "0 to 100", 0, 10, 10),
    "green_red": Channel("CIE a*, red is positive", "CIELAB units", 0, 5, 10),
    "blue_yellow": Channel("CIE b*, yellow is positive", "CIELAB units", -15, 5, 10),
}


#: Those that have a mean; that of hue, which is a circle, says nothing that a* and b* do not.
LINEAR = [name for name in CHANNELS if name != "hue"]

#: Local binary patterns: eight neighbours on circles of these radii, in pixels.
LBP_RADII = (1, 3)

LBP_POINTS = 8

#: Co-occurrence of grey levels: distances in pixels (in the diagonals, too, these come out as
#: different offsets), angles in radians, and the number of levels that lightness is cut into.
GLCM_DISTANCES = (1, 3, 7)

GLCM_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)

GLCM_LEVELS = 32

GLCM_PROPERTIES = {
    "contrast": "mean squared difference of two levels",
    "correlation": "correlation of two levels, 1 if there is only one",
    "energy": "root of the sum of squared frequencies, 1 if there is only one level",
    "homogeneity": "mean of 1 / (1 + squared difference)",
}


SHAPES = {
    "shape_area": ("share of the image", "area of the lesion"),
    "shape_asymmetry_major": (
        "0 to 1",
        "share of the lesion that, mirrored at its long axis, falls outside of it",
    ),
    "shape_asymmetry_minor": ("0 to 1", "the same, mirrored at its short axis"),
    "shape_irregularity": ("at least about 1", "perimeter^2 / (4 pi area); a disk has 1"),
    "shape_eccentricity": ("0 to 1", "of the ellipse with the same moments; a disk has 0"),
    "shape_solidity": ("0 to 1", "share of its convex hull that the lesion fills"),
    "shape_center_distance": (
        "share of the image's longer side",
        "from the centre of the image to that of the lesion",
    ),
}


#: The hyperparameters that are tried.
GRIDS = {
    "color_texture_svm": {
        "svc__C": [1.0, 3.0, 10.0, 30.0],
        "svc__gamma": [0.0003, 0.001, 0.003, 0.01],
    },
    "color_texture_forest": {"forest__min_samples_leaf": [1, 3, 10]},
}


TREES = 500

#: Inverse strength of the calibration's penalty: hardly any. With scikit-learn's default of 1 the
#: posteriors are pulled to the prior (in a simulation, a log loss of 0.316 against 0.286).
CALIBRATION_C = 100.0


def describe_columns(use_masks: bool = True) -> pd.DataFrame:
    """List the features, in the order of `feature_table`.

    Parameters
    ----------
    use_masks : bool
        Whether the columns that need a lesion mask are listed, too: groups `mask` and `shape`.

    Returns
    -------
    DataFrame
        Indexed by column; `group` (color, texture, shape, or mask: the lesion's colour against
        the skin's), `unit` and `meaning`.
    """
    rows = [*_describe_color(), *_describe_texture(), *(_describe_lesion() if use_masks else [])]
    return pd.DataFrame(rows, columns=["column", "group", "unit", "meaning"]).set_index("column")


def feature_table(
    images: np.ndarray,
    masks: Sequence[np.ndarray | None] | Callable[[int], np.ndarray | None] | None = None,
    use_masks: bool = True,
) -> pd.DataFrame:
    """Compute the features of every image, on all cores; one image a core is in memory.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3), RGB
        It may be memory-mapped.
    masks : sequence, or function of the row, optional
        The lesion mask of each image, ndarray of bool, shape (height, width), or None where an
        image has none: all images must have one, or none of them. A function reads each mask only
        when it is needed.
    use_masks : bool
        False: masks are not looked at, and the columns that need one are left out.

    Returns
    -------
    DataFrame of float
        Row i is image i; the columns are those of `describe_columns(use_masks)`.

    Raises
    ------
    ValueError
        An image or a mask of another type or size, or masks of some images only: who has a mask
        tells which images somebody cared to segment. The message names the row.
    """
    if masks is None or not use_masks:
        mask_of = _no_mask
    elif callable(masks):
        mask_of = masks
    elif len(masks) != len(images):
        raise ValueError(f"{len(masks)} masks; expected one for each of the {len(images)} images")
    else:
        mask_of = masks.__getitem__
    first_has = len(images) > 0 and mask_of(0) is not None

    def measure(row: int) -> dict[str, float]:
        try:
            mask = mask_of(row)
            if (mask is not None) != first_has:
                found = "a lesion mask, and row 0 has none"
                if first_has:
                    found = "no lesion mask, and row 0 has one"
                raise ValueError(f"{found}; expected either all images or none; use_masks=False")
            return features(images[row], mask)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None

    with threads.one_opencv_thread():
        rows = threads.map_files(measure, range(len(images)))
    return pd.DataFrame(rows, columns=describe_columns(use_masks).index.to_list(), dtype=float)


def features(image: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Compute the features of one image; none of them changes when it is turned by 90 degrees.

    Lengths in the texture's features are pixels, so images must have the same size to compare.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    mask : ndarray of bool, shape (height, width), optional
        True inside the lesion. Without one, or with one that is empty, the features that need it
        are NaN.

    Returns
    -------
    dict of float
        The columns of `describe_columns`.

    Raises
    ------
    ValueError
        An image or a mask of another type or size.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"an image of {image.dtype}, shape {image.shape}; expected uint8 of shape "
            "(height, width, 3)"
        )
    if mask is not None and (mask.shape != image.shape[:2] or mask.dtype != bool):
        raise ValueError(
            f"a lesion mask of {mask.dtype}, shape {mask.shape}; expected bool of the image's "
            f"shape {image.shape[:2]}"
        )
    channels = split_channels(image)
    values = _color(channels) | _texture(channels["lightness"])
    if mask is None or not mask.any():
        return values | dict.fromkeys((column for column, *_ in _describe_lesion()), np.nan)
    return values | _shape(mask) | _inside(channels, mask)


def split_channels(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the channels of `CHANNELS`: ndarrays of float32, shape (height, width)."""
    image = image.astype(np.float32) / 255
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    lightness, green_red, blue_yellow = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    hue[hue > 180] -= 360
    return dict(
        zip(CHANNELS, (hue, saturation, value, lightness, green_red, blue_yellow), strict=True)
    )


def classifiers(seed: int) -> dict[str, Pipeline]:
    """Return the untrained classifiers, both weighting every class alike.

    Parameters
    ----------
    seed : int
        Of the random forest; the support vector machine draws nothing.

    Returns
    -------
    dict of Pipeline
        From the columns of `feature_table`, missing values included: these become the median of
        the training images.
    """
    svm = SVC(class_weight="balanced", decision_function_shape="ovo", cache_size=500)
    forest = RandomForestClassifier(
        TREES, class_weight="balanced_subsample", n_jobs=-1, random_state=seed
    )
    return {
        "color_texture_svm": Pipeline(
            [("impute", _imputer()), ("standardize", StandardScaler()), ("svc", svm)]
        ),
        "color_texture_forest": Pipeline([("impute", _imputer()), ("forest", forest)]),
    }


def fit_predict(
    name: str,
    features_train: pd.DataFrame,
    labels_train: Sequence[str],
    groups_train: Sequence[str],
    features_other: pd.DataFrame,
    classes: list[str],
    seed: int,
) -> np.ndarray:
    """Train a classifier and return what it makes of other images.

    Parameters
    ----------
    name : str
        Of `classifiers`.
    features_train, features_other : DataFrame
        From `feature_table`, with the same columns.
    labels_train, groups_train : sequence of str
        The class and the group_id of each training image.
    classes : list of str
        The classes, in the order of the result's columns.

    Returns
    -------
    ndarray of float, shape (n, classes)
        Posterior probabilities under the classes' shares among the training images.

    Raises
    ------
    ValueError
        Tables with other columns, a class without training images or an unknown one, or what
        `fit` raises.
    """
    if list(features_train.columns) != list(features_other.columns):
        differ = sorted(set(features_train.columns) ^ set(features_other.columns))
        raise ValueError(
            "training images and other images have different features: "
            f"{', '.join(differ) or 'the same in another order'}"
        )
    found = set(labels_train)
    if found != set(classes):
        raise ValueError(
            f"the training images are of classes {', '.join(sorted(found))}; expected "
            f"{', '.join(sorted(classes))}"
        )
    # a column that never changes says nothing; those of the lesion, where no image has a mask
    used = features_train.columns[features_train.nunique() > 1]
    model = fit(name, features_train[used], labels_train, groups_train, seed)
    order = [list(model.classes_).index(each) for each in classes]
    return model.predict_proba(features_other[used])[:, order]


def fit(
    name: str, features: pd.DataFrame, labels: Sequence[str], groups: Sequence[str], seed: int
) -> StackingClassifier:
    """Choose a classifier's hyperparameters, train it, and calibrate its probabilities.

    In a cross-validation over groups of the training images, the hyperparameters of `GRIDS` with
    the highest balanced accuracy are chosen. The same folds give scores of images that were not
    trained on: for the support vector machine the margins of every pair of classes; for the random
    forest the shares of the classes in the leaf that an image reaches, averaged over the trees (not
    the trees' votes). From these a multinomial logistic regression learns probabilities: like
    Platt's scaling (Advances in Large Margin Classifiers, 1999), but for several classes. It does
    not weight the classes, so that these are posteriors under the classes' shares among the
    training images, though the classifier itself weights every class alike. At last the classifier
    is trained on all of them.

    Returns
    -------
    StackingClassifier
        With one classifier, `estimators_[0]`; `predict_proba` takes the same columns.

    Raises
    ------
    ValueError
        An unknown name, or what `splits.inner_folds` raises.
    """
    every = classifiers(seed)
    if name not in every:
        raise ValueError(f"{name}: no such classifier; there are {', '.join(every)}")
    labels = np.asarray(labels)
    folds = splits.inner_folds(labels, groups, seed)

    def score(chosen: dict) -> float:
        candidate = clone(every[name]).set_params(**chosen)
        return cross_val_score(
            candidate, features, labels, scoring="balanced_accuracy", cv=folds
        ).mean()

    grid = list(ParameterGrid(GRIDS[name]))
    if "forest" in every[name].named_steps:  # takes all cores by itself
        scores = [score(chosen) for chosen in grid]
    else:
        scores = threads.map_files(score, grid)
    best = every[name].set_params(**grid[int(np.argmax(scores))])
    calibrator = LogisticRegression(C=CALIBRATION_C, max_iter=1000)
    return StackingClassifier([(name, best)], calibrator, cv=folds).fit(features, labels)


def _imputer() -> SimpleImputer:
    return SimpleImputer(strategy="median", keep_empty_features=True)


def _no_mask(row: int) -> None:
    return None


def _color(channels: dict[str, np.ndarray]) -> dict[str, float]:
    values = {}
    for name, channel in CHANNELS.items():
        at = np.clip((channels[name] - channel.low) / channel.width, 0, channel.bins - 1)
        counts = np.bincount(at.astype(np.uint8).ravel(), minlength=channel.bins)
        values |= _numbered(f"{name}_hist", counts / at.size)
    for name in LINEAR:
        values |= _moments(name, channels[name])
    return values


def _moments(name: str, channel: np.ndarray) -> dict[str, float]:
    """Return mean, standard deviation and skewness; the skewness of one value is 0."""
    channel = channel.astype(float)
    mean = channel.mean()
    deviation = channel - mean
    squared = deviation * deviation
    std = np.sqrt(squared.mean())
    skewness = (squared * deviation).mean() / std**3 if std > 1e-6 else 0.0
    return {f"{name}_mean": mean, f"{name}_std": std, f"{name}_skewness": skewness}


def _texture(lightness: np.ndarray) -> dict[str, float]:
    gray = np.rint(lightness * 2.55).astype(np.uint8)
    values = {}
    for radius in LBP_RADII:
        patterns = local_binary_pattern(gray, LBP_POINTS, radius, "uniform")
        inner = patterns[radius:-radius, radius:-radius]  # whose neighbours are all in the image
        counts = np.bincount(inner.astype(np.uint8).ravel(), minlength=LBP_POINTS + 2)
        values |= _numbered(f"lbp_r{radius}", counts / inner.size)
    levels = np.minimum(lightness * (GLCM_LEVELS / 100), GLCM_LEVELS - 1).astype(np.uint8)
    pairs = graycomatrix(
        levels, GLCM_DISTANCES, GLCM_ANGLES, GLCM_LEVELS, symmetric=True, normed=True
    )
    for name in GLCM_PROPERTIES:
        means = graycoprops(pairs, name).mean(axis=1)
        values |= {f"glcm_{name}_d{d}": each for d, each in zip(GLCM_DISTANCES, means, strict=True)}
    return values


def _numbered(name: str, values: np.ndarray) -> dict[str, float]:
    return {f"{name}_{i:02d}": value for i, value in enumerate(values)}


def _shape(mask: np.ndarray) -> dict[str, float]:
    """Measure the lesion; what its mask has of holes and separate parts belongs to it."""
    region = regionprops(mask.astype(np.uint8))[0]
    center = np.array(region.centroid)
    away = center - (np.array(mask.shape) - 1) / 2
    at_long_axis, at_short_axis = _asymmetries(mask)
    measured = (
        region.area / mask.size,
        at_long_axis,
        at_short_axis,
        region.perimeter_crofton**2 / (4 * np.pi * region.area),
        region.eccentricity,
        region.solidity,
        np.hypot(*away) / max(mask.shape),
    )
    return {name: float(value) for name, value in zip(SHAPES, measured, strict=True)}


def _asymmetries(mask: np.ndarray) -> tuple[float, float]:
    """Return the share of the lesion whose mirror image falls outside, at the long and short axis.

    The axes are those of the second moments, through the centre of mass (asymmetry of the ABCD
    rule; Stoecker, Li and Moss, Comput. Med. Imaging Graph. 16:191, 1992).
    """
    points = np.argwhere(mask)
    center = points.mean(axis=0)
    around = points - center
    _, axes = np.linalg.eigh(around.T @ around)  # columns; the short axis first
    shares = []
    for across in axes.T:  # at right angles to the axis that it is mirrored at
        mirrored = np.rint(points - 2 * np.outer(around @ across, across)).astype(int)
        inside = ((mirrored >= 0) & (mirrored < mask.shape)).all(axis=1)
        overlap = mask[tuple(mirrored[inside].T)].sum()
        shares.append(1 - overlap / len(points))
    return shares[0], shares[1]


def _inside(channels: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, float]:
    values = {}
    for name in LINEAR:
        inside, outside = channels[name][mask].astype(float), channels[name][~mask].astype(float)
        mean = inside.mean()
        values[f"{name}_inside_mean"] = mean
        values[f"{name}_inside_std"] = inside.std()
        values[f"{name}_inside_less_outside"] = mean - outside.mean() if outside.size else np.nan
    return values


def _describe_color() -> Iterable[tuple[str, str, str, str]]:
    for name, (meaning, _, low, width, bins) in CHANNELS.items():
        for i in range(bins):
            start, end = f"from {low + i * width:g}", f" to {low + (i + 1) * width:g}"
            if i == 0:
                start, end = "", f"below {low + width:g}"
            elif i == bins - 1:
                end = ""
            yield f"{name}_hist_{i:02d}", "color", "share of pixels", f"{meaning}: {start}{end}"
    for name in LINEAR:
        meaning, unit = CHANNELS[name][:2]
        yield f"{name}_mean", "color", unit, f"mean of {meaning}"
        yield f"{name}_std", "color", unit, f"standard deviation of {meaning}"
        yield f"{name}_skewness", "color", "none", f"skewness of {meaning}"


def _describe_texture() -> Iterable[tuple[str, str, str, str]]:
    for radius in LBP_RADII:
        for i in range(LBP_POINTS + 2):
            pattern = f"{i} of {LBP_POINTS} neighbours, side by side, are at least as light"
            if i == LBP_POINTS + 1:
                pattern = "the lighter neighbours do not lie side by side"
            yield (
                f"lbp_r{radius}_{i:02d}",
                "texture",
                "share of pixels",
                f"{pattern}, {radius} pixels away",
            )
    for name, meaning in GLCM_PROPERTIES.items():
        for d in GLCM_DISTANCES:
            unit = f"{GLCM_LEVELS} levels, squared" if name == "contrast" else "none"
            yield f"glcm_{name}_d{d}", "texture", unit, f"{meaning}, {d} pixels apart"


def _describe_lesion() -> Iterable[tuple[str, str, str, str]]:
    for name, (unit, meaning) in SHAPES.items():
        yield name, "shape", unit, meaning
    for name in LINEAR:
        meaning, unit = CHANNELS[name][:2]
        yield f"{name}_inside_mean", "mask", unit, f"mean of {meaning} in the lesion"
        yield f"{name}_inside_std", "mask", unit, f"standard deviation of {meaning} in the lesion"
        yield (
            f"{name}_inside_less_outside",
            "mask",
            unit,
            f"mean of {meaning} in the lesion, less that around it",
        )
