"""Hand-crafted colour, texture and shape features, and the classifiers that learn from them.

Dermoscopic images were classified this way before networks: a fixed list of numbers for each
image, and a support vector machine or a random forest on them. The shape of the lesion and its
contrast with the skin need a lesion mask. **With masks these classifiers know where the lesion is;
the networks do not.** Without masks only colour and texture of the whole image are used. No
feature comes from the metadata.

Texture: local binary patterns (Ojala, Pietikäinen and Mäenpää, IEEE Trans. Pattern Anal. 24:971,
2002) and grey-level co-occurrence (Haralick, Shanmugam and Dinstein, IEEE Trans. Syst. Man Cybern.
3:610, 1973). Shape: asymmetry and border of the ABCD rule (Stolz et al., Eur. J. Dermatol. 4,
1994).
"""

from collections.abc import Callable, Sequence

import cv2
import joblib
import numpy as np
import pandas as pd
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.measure import regionprops
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lib.data import splits
from lib.preprocessing import decode, threads

#: Colour channels of HSV and CIELAB, and their histograms: lower end, bin width, number of bins.
#: Values beyond the ends count in the outer bins. Hue is in degrees from -180 to 180 and cut finely
#: around red, where skin lies; saturation and value are in [0, 1], lightness in [0, 100].
CHANNELS = {
    "hue": (-70, 10, 14),
    "saturation": (0, 1 / 8, 8),
    "value": (0, 1 / 8, 8),
    "lightness": (0, 10, 10),
    "green_red": (0, 5, 10),
    "blue_yellow": (-15, 5, 10),
}
LINEAR = [name for name in CHANNELS if name != "hue"]  # hue is a circle: no mean

#: Local binary patterns: 8 neighbours on circles of these radii, in pixels.
LBP_RADII = (1, 3)
LBP_POINTS = 8

#: Co-occurrence: distances in pixels, angles in radians, and grey levels of lightness.
GLCM_DISTANCES = (1, 3, 7)
GLCM_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
GLCM_LEVELS = 32
GLCM_PROPERTIES = ("contrast", "correlation", "energy", "homogeneity")

#: Hyperparameters to choose from.
GRIDS = {
    "svm": {"svc__C": [1.0, 3.0, 10.0, 30.0], "svc__gamma": [0.0003, 0.001, 0.003, 0.01]},
    "random_forest": {"forest__min_samples_leaf": [1, 3, 10]},
}
#: Trees of the random forest, and of the smaller ones that compare hyperparameters.
TREES, SEARCH_TREES = 500, 100

#: Inverse regularisation strength of the calibration: almost none. scikit-learn's default of 1
#: pulls the posteriors to the prior (in a simulation, a log loss of 0.316 instead of 0.286).
CALIBRATION_C = 100.0


def feature_table(
    images: np.ndarray, masks: Callable[[int], np.ndarray | None] | None = None
) -> pd.DataFrame:
    """Compute the features of all images on all cores; each core holds one image in memory.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, 3), RGB
        May be memory-mapped.
    masks : function of the row, optional
        Reads the lesion mask of an image, ndarray of bool, shape (height, width). Without it, or
        if every mask is None, the columns of the lesion are left out.

    Returns
    -------
    DataFrame of float
        Row i is image i; `feature_group` tells the group of a column.

    Raises
    ------
    ValueError
        An image or a mask has the wrong type or size, or only some images have a mask: which ones
        were segmented could reveal the diagnosis. The message names the row.

    Examples
    --------
    >>> feature_table(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 107)
    """
    read_mask = masks or (lambda row: None)
    first_has_mask = len(images) > 0 and read_mask(0) is not None

    def measure(row: int) -> dict[str, float]:
        try:
            mask = read_mask(row)
            if (mask is not None) != first_has_mask:
                raise ValueError(
                    f"found {'no lesion mask' if first_has_mask else 'a lesion mask'}, unlike row "
                    "0; expected masks for all images or for none"
                )
            return features(images[row], mask)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None

    with threads.one_opencv_thread():
        return pd.DataFrame(threads.map_files(measure, range(len(images))), dtype=float)


#: Groups of features that need a mask of the lesion.
MASK_GROUPS = ("shape", "contrast")


def feature_group(column: str) -> str:
    """Return the group of a feature: color, texture, shape, or contrast of lesion and skin.

    Examples
    --------
    >>> [feature_group(name) for name in ("hue_hist_07", "lbp_r1_08", "value_inside_mean")]
    ['color', 'texture', 'contrast']
    """
    if column.startswith(("lbp_", "glcm_")):
        return "texture"
    if column.startswith("shape_"):
        return "shape"
    return "contrast" if "_inside_" in column else "color"


def features(image: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Compute the features of one image; they do not change when it is rotated by 90 degrees.

    Texture features measure lengths in pixels, so compare images of the same size only.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB
    mask : ndarray of bool, shape (height, width), optional
        True inside the lesion. Without it, the features of the lesion are left out; if it is
        empty, they are NaN.

    Raises
    ------
    ValueError
        An image or a mask has the wrong type or size.
    """
    decode.check_rgb(image)
    if mask is not None and (mask.shape != image.shape[:2] or mask.dtype != bool):
        raise ValueError(
            f"found a lesion mask of {mask.dtype}, shape {mask.shape}; expected bool of the "
            f"image's shape {image.shape[:2]}"
        )
    channels = split_channels(image)
    values = _color(channels) | _texture(channels["lightness"])
    if mask is None:
        return values
    if not mask.any():  # the columns of any lesion
        mask = np.ones_like(mask)
        return values | dict.fromkeys(_shape(mask) | _contrast(channels, mask), np.nan)
    return values | _shape(mask) | _contrast(channels, mask)


def split_channels(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the channels of `CHANNELS`, each an ndarray of float32, shape (height, width)."""
    image = image.astype(np.float32) / 255
    hsv = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    lab = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    channels = dict(zip(CHANNELS, (*hsv, *lab), strict=True))
    channels["hue"][channels["hue"] > 180] -= 360
    return channels


def _color(channels: dict[str, np.ndarray]) -> dict[str, float]:
    values = {}
    for name, (low, width, bins) in CHANNELS.items():
        positions = np.clip((channels[name] - low) / width, 0, bins - 1).astype(np.uint8)
        counts = np.bincount(positions.ravel(), minlength=bins)
        values |= _numbered(f"{name}_hist", counts / positions.size)
    for name in LINEAR:
        values |= _moments(name, channels[name])
    return values


def _moments(name: str, channel: np.ndarray) -> dict[str, float]:
    """Return mean, standard deviation and skewness; the skewness of a constant is 0."""
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
        inner = patterns[radius:-radius, radius:-radius]  # all neighbours are in the image
        counts = np.bincount(inner.astype(np.uint8).ravel(), minlength=LBP_POINTS + 2)
        values |= _numbered(f"lbp_r{radius}", counts / inner.size)
    levels = np.minimum(lightness * (GLCM_LEVELS / 100), GLCM_LEVELS - 1).astype(np.uint8)
    pairs = graycomatrix(
        levels, GLCM_DISTANCES, GLCM_ANGLES, GLCM_LEVELS, symmetric=True, normed=True
    )
    for name in GLCM_PROPERTIES:
        means = graycoprops(pairs, name).mean(axis=1)
        values |= {f"glcm_{name}_d{d}": mean for d, mean in zip(GLCM_DISTANCES, means, strict=True)}
    return values


def _numbered(name: str, values: np.ndarray) -> dict[str, float]:
    return {f"{name}_{i:02d}": value for i, value in enumerate(values)}


def _shape(mask: np.ndarray) -> dict[str, float]:
    """Measure the lesion: all of its mask, with any separate parts.

    Area and distance from the image centre are relative to the image; the asymmetries are those of
    `_asymmetries`; irregularity is perimeter^2 / (4 pi area), 1 for a disk; eccentricity and
    solidity (proportion of the convex hull) are in [0, 1].
    """
    region = regionprops(mask.astype(np.uint8))[0]
    from_center = np.array(region.centroid) - (np.array(mask.shape) - 1) / 2
    major, minor = _asymmetries(mask)
    return {
        "shape_area": region.area / mask.size,
        "shape_asymmetry_major": major,
        "shape_asymmetry_minor": minor,
        "shape_irregularity": region.perimeter_crofton**2 / (4 * np.pi * region.area),
        "shape_eccentricity": region.eccentricity,
        "shape_solidity": region.solidity,
        "shape_center_distance": np.hypot(*from_center) / max(mask.shape),
    }


def _asymmetries(mask: np.ndarray) -> tuple[float, float]:
    """Return the proportion of the lesion outside its mirror image, at the long and short axis.

    The axes are those of the second moments, through the centre of mass (asymmetry of the ABCD
    rule; Stoecker, Li and Moss, Comput. Med. Imaging Graph. 16:191, 1992).
    """
    points = np.argwhere(mask)
    around = points - points.mean(axis=0)
    _, axes = np.linalg.eigh(around.T @ around)  # columns; the short axis first
    asymmetries = []
    for normal in axes.T:  # at right angles to the mirror
        mirrored = np.rint(points - 2 * np.outer(around @ normal, normal)).astype(int)
        inside = ((mirrored >= 0) & (mirrored < mask.shape)).all(axis=1)
        overlap = mask[tuple(mirrored[inside].T)].sum()
        asymmetries.append(1 - overlap / len(points))
    return asymmetries[0], asymmetries[1]


def _contrast(channels: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, float]:
    values = {}
    for name in LINEAR:
        inside, outside = channels[name][mask].astype(float), channels[name][~mask].astype(float)
        mean = inside.mean()
        values[f"{name}_inside_mean"] = mean
        values[f"{name}_inside_std"] = inside.std()
        values[f"{name}_inside_less_outside"] = mean - outside.mean() if outside.size else np.nan
    return values


def classifiers(seed: int) -> dict[str, Pipeline]:
    """Return the untrained classifiers, with balanced class weights.

    Missing features are replaced by the median of the training images.

    Parameters
    ----------
    seed : int
        For the random forest; the support vector machine is deterministic.
    """
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    svm = SVC(class_weight="balanced", decision_function_shape="ovo", cache_size=500)
    forest = RandomForestClassifier(
        TREES, class_weight="balanced_subsample", n_jobs=-1, random_state=seed
    )
    return {
        "svm": Pipeline([("impute", imputer), ("standardize", StandardScaler()), ("svc", svm)]),
        "random_forest": Pipeline([("impute", clone(imputer)), ("forest", forest)]),
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
    """Train a classifier and predict other images.

    Parameters
    ----------
    name : str
        A name of `classifiers`.
    features_train, features_other : DataFrame
        From `feature_table`, with the same columns.
    labels_train, groups_train : sequence of str
        `label` and `group_id` of each training image.
    classes : list of str
        The order of the columns of the result.

    Returns
    -------
    ndarray of float, shape (n, classes)
        Posteriors under the class frequencies of the training images.

    Raises
    ------
    ValueError
        `fit` raises.
    """
    varying = features_train.columns[features_train.nunique() > 1]
    model = fit(name, features_train[varying], labels_train, groups_train, seed)
    order = [list(model.classes_).index(label) for label in classes]
    return model.predict_proba(features_other[varying])[:, order]


def fit(
    name: str, features: pd.DataFrame, labels: Sequence[str], groups: Sequence[str], seed: int
) -> StackingClassifier:
    """Choose hyperparameters, train a classifier, and calibrate its probabilities.

    The hyperparameters of `GRIDS` with the highest balanced accuracy in a cross-validation over
    groups are chosen. The out-of-fold scores of the same folds (margins of each pair of classes
    for the support vector machine, mean leaf frequencies for the random forest) train a
    multinomial logistic regression, as in Platt scaling (Advances in Large Margin Classifiers,
    1999) but for several classes. It is not class-weighted, so its probabilities are posteriors
    under the class frequencies of the training images. Finally the classifier is trained on all
    training images.

    Returns
    -------
    StackingClassifier
        With one classifier, `estimators_[0]`; `predict_proba` takes the same columns.

    Raises
    ------
    ValueError
        An unknown name, or `splits.inner_folds` raises.
    """
    available = classifiers(seed)
    if name not in available:
        raise ValueError(f"{name}: no such classifier; expected one of {', '.join(available)}")
    labels = np.asarray(labels)
    folds = splits.inner_folds(labels, groups, seed)
    is_forest = "forest" in available[name].named_steps  # which uses all cores itself
    fewer_trees = {"forest__n_estimators": SEARCH_TREES} if is_forest else {}
    candidate = clone(available[name]).set_params(**fewer_trees)
    options = {"scoring": "balanced_accuracy", "cv": folds, "refit": False}
    search = GridSearchCV(candidate, GRIDS[name], n_jobs=1 if is_forest else -1, **options)
    with joblib.parallel_config("threading"):
        search.fit(features, labels)
    best = available[name].set_params(**search.best_params_)
    calibrator = LogisticRegression(C=CALIBRATION_C, max_iter=1000)
    return StackingClassifier([(name, best)], calibrator, cv=folds).fit(features, labels)
