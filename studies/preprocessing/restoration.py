"""How well preprocessing restores what was there: scores against the truth of synthetic images.

The synthetic images come with masks of their hair, bubbles and reflections, the picture without
them, and the gains of the illuminant. Each step is compared with doing nothing, with a median
filter and with the textbook recipe. The effect on noise and on the border of the lesion needs only
the lesion's mask, so it is measured on real images too.

Images are RGB, uint8, shape (height, width, 3). The tables have one row per image and method; only
scores are stored, so memory does not grow with the number of images.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa
from skimage.metrics import structural_similarity

from lib import tables
from lib.data import datasets
from lib.evaluation import bootstrap
from lib.preprocessing import (
    bubbles,
    color_correction,
    decode,
    hair,
    pipeline,
    quality_scores,
    threads,
)
from studies import command

#: The proportion of the pixels that hair, or bubbles and reflections, must cover for an image to
#: be scored.
LEAST_HAIR, LEAST_GLARE = 0.01, 0.002
KEYS = ["image_id", "lesion_id", "group_id"]
HAM10000_HEIGHT = 450  # pixels, of the original images
SIZE = 256  # pixels, of the preprocessed images
DRAWS, SEED, CONFIDENCE = 2000, 2023, 0.95
DIGITS = 6  # of the published numbers
RESULTS = command.results_folder("preprocessing")

KINDS = ("hair", "bubbles", "colour", "noise")
_IDENTITY = {"kind": pa.Column(str, pa.Check.isin(KINDS)), "score": pa.Column(str)}
#: `restoration.csv`: one row per kind of artefact, method and score; `mean` is over the `images`
#: that have the score.
MEANS_SCHEMA = pa.DataFrameSchema(
    _IDENTITY
    | {
        "method": pa.Column(str),
        "images": pa.Column(int, pa.Check.ge(1)),
        "mean": pa.Column(float),
    },
    unique=["kind", "method", "score"],
    strict=True,
)
#: `restoration_differences.csv`: mean paired differences, `method` minus `other`, with their 95 %
#: intervals over lesions.
DIFFERENCES_SCHEMA = pa.DataFrameSchema(
    _IDENTITY
    | {
        "method": pa.Column(str),
        "other": pa.Column(str),
        "images": pa.Column(int, pa.Check.ge(1)),
        "lesions": pa.Column(int, pa.Check.ge(1)),
        **{name: pa.Column(float) for name in ("value", "low", "high")},
    },
    unique=["kind", "score", "method", "other"],
    strict=True,
)


def image_similarity(
    clean: np.ndarray, image: np.ndarray, regions: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Compare an image with the clean one by PSNR and SSIM within regions.

    Parameters
    ----------
    clean, image : ndarray of uint8, at least 11 pixels a side
    regions : dict of str to mask

    Returns
    -------
    dict
        For each region `psnr`, the peak signal-to-noise ratio in dB over its pixels' three
        channels (`quality_scores.psnr`); and `ssim`,
        the mean structural similarity over its pixels and channels, at most 1 (Wang et al., IEEE
        Trans. Image Process. 13:600, 2004; Gaussian window of 11 x 11 pixels, which reaches 5
        pixels beyond the region). Both are NaN where the region is empty.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_same_shape(clean, image)
    clean, image = clean.astype(np.float32), image.astype(np.float32)
    squared_error = np.square(clean - image)
    similarity = structural_similarity(
        clean,
        image,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )[1]
    scores = {}
    for name, region in regions.items():
        _check_same_shape(clean[..., 0], region)
        ssim = float(similarity[region].mean(dtype=np.float64)) if region.any() else np.nan
        scores[name] = {"psnr": quality_scores.psnr(squared_error[region]), "ssim": ssim}
    return scores


def reproduction_error(illuminant: np.ndarray, estimate: np.ndarray) -> float:
    """Return the angle in degrees between grey and a white surface corrected by the estimate.

    The reproduction angular error of Finlayson and Zakizadeh (BMVC, 2014).

    Parameters
    ----------
    illuminant, estimate : array_like, shape (3,), RGB, above 0
    """
    if (np.asarray(estimate) <= 0).any():
        raise ValueError(f"estimate: {list(estimate)}; expected three numbers above 0")
    return quality_scores.angular_error(np.divide(illuminant, estimate), np.ones(3))


def flat_skin_noise(
    image: np.ndarray,
    lesion_mask: np.ndarray,
    original: np.ndarray | None = None,
    distance: int = 10,
    block: int = 16,
    sigma: float = 2,
) -> float:
    """Return the standard deviation of the noise on flat skin, in grey levels.

    Noise is the grey image (luma, ITU-R BT.601) minus its Gaussian. Skin is cut into blocks that
    lie wholly at least `distance` pixels from the lesion; the quarter of them whose Gaussian
    varies least is flat. White noise of standard deviation 1 scores 0.97, because the Gaussian
    keeps a little of it.

    Parameters
    ----------
    original : ndarray of uint8, optional
        The image on which flat blocks are chosen; by default `image`. Give it to measure filtered
        versions of one image in the same place.
    distance, block : int
        Pixels.
    sigma : float
        Width of the Gaussian, pixels.

    Returns
    -------
    float
        NaN where no block lies far enough from the lesion.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    original = image if original is None else original
    _check_same_shape(image, original)
    _check_same_shape(image[..., 0], lesion_mask)
    smooth = cv2.GaussianBlur(_gray(original), (0, 0), sigma)
    noise = _gray(image) - cv2.GaussianBlur(_gray(image), (0, 0), sigma)
    on_skin = _blocks(~quality_scores.grow_mask(lesion_mask, distance), block).all(axis=1)
    if not on_skin.any():
        return np.nan
    texture = _blocks(smooth, block)[on_skin].std(axis=1)
    flat = texture <= np.quantile(texture, 0.25)
    return float(np.sqrt(_blocks(noise, block)[on_skin][flat].var(axis=1).mean()))


def border_strength(image: np.ndarray, lesion_mask: np.ndarray, width: int = 2) -> float:
    """Return the mean gradient along the lesion's border, in grey levels a pixel.

    The magnitude of Scharr's gradient in grey (luma, ITU-R BT.601), over the pixels within `width`
    pixels of the mask's contour on either side.

    Returns
    -------
    float
        NaN where the mask has no contour: it is empty, or the whole image.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_same_shape(image[..., 0], lesion_mask)
    band = quality_scores.grow_mask(lesion_mask, width) & quality_scores.grow_mask(
        ~lesion_mask, width
    )
    if not band.any():
        return np.nan
    gray = _gray(image)
    across, down = (cv2.Scharr(gray, cv2.CV_32F, *d) / 32 for d in ((1, 0), (0, 1)))
    return float(np.hypot(across, down)[band].mean())


def _check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: found {a.shape} and {b.shape}, expected one shape")


def _blocks(array: np.ndarray, size: int) -> np.ndarray:
    """Cut an array into squares, shape (blocks, size * size); incomplete ones are left out."""
    down, across = (length // size for length in array.shape)
    cut = array[: down * size, : across * size].reshape(down, size, across, size)
    return cut.swapaxes(1, 2).reshape(down * across, size * size)


def _gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)


# ------------------------------------------------------------------------- the textbook recipe


def textbook_hair_mask(image: np.ndarray, kernel: int = 17, threshold: int = 10) -> np.ndarray:
    """Find dark strands as public skin-lesion code commonly does: black-hat and a fixed threshold.

    A simplification of DullRazor (Lee et al., Comput. Biol. Med. 27:533, 1997) that many public
    notebooks and repositories share to the number: grey image, morphological black-hat with a
    17 x 17 cross, threshold 10. The cross is what they write as `getStructuringElement(1, ...)`.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB, at its full resolution

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (kernel, kernel))
    return cv2.morphologyEx(gray, cv2.MORPH_BLACKHAT, cross) > threshold


def textbook_hair_removal(image: np.ndarray) -> np.ndarray:
    """Fill what `textbook_hair_mask` finds, by Telea's inpainting with a radius of one pixel."""
    return _inpaint(image, textbook_hair_mask(image), radius=1)


def textbook_glare_mask(image: np.ndarray, threshold: int = 200) -> np.ndarray:
    """Find glare as public code commonly does: grey above a fixed threshold, grown by a pixel.

    There is no one recipe as there is for hair. Grey against a fixed threshold, a 3 x 3 dilation
    and Telea's inpainting is what most have in common, with thresholds from 180 to 240. Of 180,
    200, 220 and 240, the one with the highest Dice score on the synthetic images is used, which
    favours the recipe.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3), RGB, at its full resolution
    threshold : int
        Grey level above which a pixel is glare.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    spots = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > threshold).astype(np.uint8)
    return cv2.dilate(spots, np.ones((3, 3), np.uint8)).astype(bool)


# ------------------------------------------------------------------------------ tables of scores

#: From the full image and the wanted size to the image of that size and the mask of what was
#: replaced (None for a method without a mask).
Method = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray | None]]


def hair_methods() -> dict[str, Method]:
    """Return the compared ways to remove hair: name to method.

    The textbook recipe is there three times: on the image as it is; on the image enlarged to the
    450 rows of HAM10000's originals, for which its kernel of 17 pixels is meant; and the latter
    with the rim of one pixel that ours has. Ours is there twice: with the default settings, and
    with a second scale for strands twice as wide.
    """
    recipe, full = textbook_hair_mask, HAM10000_HEIGHT
    return _simple_methods() | {
        "textbook recipe": _before_resizing(recipe, radius=1),
        f"textbook, {full} rows": _before_resizing(recipe, radius=1, height=full),
        f"textbook, {full} rows, rim": _before_resizing(recipe, radius=1, height=full, rim=1),
        "ours": _after_resizing(hair.hair_mask, hair.remove_hair),
        "ours, two scales": _after_resizing(
            partial(hair.hair_mask, thick=True), partial(hair.remove_hair, thick=True)
        ),
    }


def glare_methods() -> dict[str, Method]:
    """Return the compared ways to remove bubbles and reflections: name to method."""
    return _simple_methods() | {
        "textbook recipe": _before_resizing(textbook_glare_mask, radius=3),
        "ours": _after_resizing(bubbles.bubble_mask, bubbles.remove_bubbles),
    }


def list_images(folder: Path, classes: list[str] | None = None) -> pd.DataFrame:
    """List the images of a folder in HAM10000's layout.

    Parameters
    ----------
    classes : list of str, optional
        Only these diagnoses; by default all.

    Returns
    -------
    DataFrame
        `image_id`, `lesion_id`, `dx`, `group_id` (the lesion), `path` and `mask` (relative to the
        folder; missing where there is no mask), ordered by image_id.

    Raises
    ------
    ValueError
        An image has no file.
    """
    rows = datasets.read_metadata(folder)[["image_id", "lesion_id", "dx"]]
    rows = rows[rows["dx"].isin(classes or rows["dx"].unique())]
    files = datasets.find_images(folder, rows["image_id"])
    missing = rows.loc[~rows["image_id"].isin(files.index), "image_id"]
    if len(missing):
        raise ValueError(
            f"{folder.name}: {len(missing)} of {len(rows)} images have no file, the first "
            f"{missing.iloc[0]}; expected one each"
        )
    return rows.assign(
        group_id=rows["lesion_id"],
        path=rows["image_id"].map(files),
        mask=rows["image_id"].map(datasets.find_masks(folder, rows["image_id"])),
    ).sort_values("image_id", ignore_index=True)


def hair_scores(
    folder: Path,
    images: pd.DataFrame,
    methods: dict[str, Method] | None = None,
    least: float = LEAST_HAIR,
) -> pd.DataFrame:
    """Score every method of hair removal on every synthetic image with enough hair.

    There is no picture with the bubbles but without the hair. So pixels under bubbles and
    reflections are left out of every score, and those within 5 pixels of them, which the window
    of the structural similarity reaches.

    Parameters
    ----------
    folder : Path
        A synthetic data set, with its `truth/`.
    images : DataFrame
        From `list_images`.
    methods : dict, optional
        By default `hair_methods()`.
    least : float
        The proportion of the pixels that the hair must cover; images with less are left out.

    Returns
    -------
    DataFrame
        One row per image and method: `image_id`, `lesion_id`, `group_id`, `method`; `dice`,
        `precision`, `recall` of the mask (NaN for a method without one); `psnr_inside`,
        `psnr_outside`, `ssim_inside`, `ssim_outside` (`image_similarity` to the
        clean picture on the true hair, and everywhere else).
    """
    methods = hair_methods() if methods is None else methods
    return _removal_scores(folder, images, methods, ("hair", "bubbles"), least)


def glare_scores(
    folder: Path,
    images: pd.DataFrame,
    methods: dict[str, Method] | None = None,
    least: float = LEAST_GLARE,
) -> pd.DataFrame:
    """Score every method of bubble removal; as `hair_scores`, with hair left out instead.

    The truth is every pixel that bubbles and reflections changed visibly: the dark rims and the
    pale discs of the bubbles too, not only the glints that are near white.
    """
    methods = glare_methods() if methods is None else methods
    return _removal_scores(folder, images, methods, ("bubbles", "hair"), least)


def color_scores(folder: Path, images: pd.DataFrame, casts: int = 5) -> pd.DataFrame:
    """Score colour constancy on every synthetic image, in two ways.

    The first compares the estimated illuminant with the true one. It is hard on any method that
    takes the mean colour for the illuminant: the estimate is the illuminant times the colour of
    skin, which is not grey. Doing nothing means to take the illuminant for white.

    The second asks whether a colour cast still matters: the angle between the mean colours of the
    result with and without a known cast, the same casts for all images. Shades of gray reaches 0
    by construction, up to rounding and clipping, because a gain of a channel divides out; so would
    a method that removes every colour. The first score shows the price.

    Returns
    -------
    DataFrame
        One row per image and method: `image_id`, `lesion_id`, `group_id`, `method`;
        `recovery_error`, `reproduction_error` and `cast_left`, degrees, the last a mean over the
        casts.
    """
    gains = _known_gains(folder, images["image_id"])
    color_casts = quality_scores.draw_color_casts(casts, SEED)
    methods = {
        "nothing": (lambda image: np.ones(3), lambda image: image),
        "shades of gray": (color_correction.estimate_illuminant, color_correction.shades_of_gray),
    }

    def score(row) -> list[dict]:
        image = pipeline.crop_and_resize(decode.read_image(folder / row.path), SIZE)
        illuminant = gains[row.image_id]
        with_cast = [quality_scores.apply_gains(image, cast) for cast in color_casts]
        rows = []
        for name, (estimate, correct) in methods.items():
            light, color = estimate(image), _mean_color(correct(image))
            left = [
                quality_scores.angular_error(_mean_color(correct(other)), color)
                for other in with_cast
            ]
            scores = {
                "recovery_error": quality_scores.angular_error(light, illuminant),
                "reproduction_error": reproduction_error(illuminant, light),
                "cast_left": float(np.mean(left)),
            }
            rows.append(_identity(row, name) | scores)
        return rows

    return _table(score, images)


def noise_scores(folder: Path, images: pd.DataFrame, size: int = SIZE) -> pd.DataFrame:
    """Measure what small filters do to noise on flat skin and to the border of the lesion.

    Parameters
    ----------
    folder : Path
        A data set, synthetic or real.
    images : DataFrame
        From `list_images`.

    Returns
    -------
    DataFrame
        One row per image and filter: `image_id`, `lesion_id`, `group_id`, `method`; `noise`
        (`flat_skin_noise`, on the same blocks for every filter) and
        `border_strength`.

    Raises
    ------
    ValueError
        An image has no lesion mask.
    """
    missing = images.loc[images["mask"].isna(), "image_id"]
    if len(missing):
        raise ValueError(
            f"{folder.name}: {len(missing)} images have no lesion mask, the first "
            f"{missing.iloc[0]}; expected only images with one"
        )
    filters = {
        "nothing": lambda image: image,
        "median 3": lambda image: cv2.medianBlur(image, 3),
        "median 5": lambda image: cv2.medianBlur(image, 5),
        "mean 3": lambda image: cv2.blur(image, (3, 3)),
        "mean 5": lambda image: cv2.blur(image, (5, 5)),
    }

    def score(row) -> list[dict]:
        full = decode.read_image(folder / row.path)
        lesion = decode.read_mask(folder / row.mask, full.shape[:2])
        lesion = pipeline.preprocess_mask(lesion, size)
        image = pipeline.crop_and_resize(full, size)
        return [
            _identity(row, name)
            | {
                "noise": flat_skin_noise(filtered, lesion, original=image),
                "border_strength": border_strength(filtered, lesion),
            }
            for name, filtered in ((name, apply(image)) for name, apply in filters.items())
        ]

    return _table(score, images)


# ----------------------------------------------------------------------------------- summaries


def mean_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each score: `score`, `method`, `images` and `mean`, as `MEANS_SCHEMA`."""
    long = rows.melt(["image_id", "method"], _score_names(rows), "score").dropna()
    means = long.groupby(["score", "method"], sort=False)["value"].agg(["size", "mean"])
    return means.rename(columns={"size": "images"}).reset_index()


def paired_differences(rows: pd.DataFrame, method: str, other: str) -> pd.DataFrame:
    """Compare two methods on the same images: mean differences, with intervals over lesions.

    The interval is the percentile bootstrap of `bootstrap.lesion_weights`: images of one lesion
    are drawn together.

    Parameters
    ----------
    rows : DataFrame
        One of the tables above.
    method, other : str
        Two of its methods; the difference is the first minus the second.

    Returns
    -------
    DataFrame
        One row per score that both methods have: `DIFFERENCES_SCHEMA` without `kind`.

    Raises
    ------
    ValueError
        The table lacks a method, or the two are on different images.
    """
    known = rows["method"].unique().tolist()
    for name in (method, other):
        if name not in known:
            raise ValueError(f"method {name!r} is not in the table; it has: {', '.join(known)}")
    one, two = (
        rows[rows["method"] == name].set_index("image_id").sort_index() for name in (method, other)
    )
    if not one.index.equals(two.index):
        raise ValueError(f"{method} and {other}: expected both on the same images, each once")
    differences = one[_score_names(rows)] - two[_score_names(rows)]
    return pd.DataFrame(
        [
            {"score": score, "method": method, "other": other}
            | _mean_difference(column.dropna(), one["group_id"])
            for score, column in differences.items()
            if column.notna().any()
        ]
    )


def _mean_difference(values: pd.Series, groups: pd.Series) -> dict:
    # one stratum: the scores are of all images alike, whatever their class
    table = pd.DataFrame({"group_id": groups[values.index], "label": "any"})
    weights = bootstrap.lesion_weights(table, DRAWS, SEED)
    means = weights @ values.to_numpy() / weights.sum(axis=1)
    counts = {"images": len(values), "lesions": table["group_id"].nunique()}
    return counts | bootstrap.interval(means, CONFIDENCE)


# ------------------------------------------------------------------------------------- the run


def measure(folder: Path) -> list[Path]:
    """Score the steps on a synthetic data set; return the files written."""
    images = list_images(folder)
    rows = {
        "hair": hair_scores(folder, images),
        "bubbles": glare_scores(folder, images),
        "colour": color_scores(folder, images),
        "noise": noise_scores(folder, images.dropna(subset="mask")),
    }
    pairs = [("hair", "ours", other) for other in hair_methods() if other != "ours"]
    pairs += [("bubbles", "ours", other) for other in glare_methods() if other != "ours"]
    pairs += [("colour", "shades of gray", "nothing")]
    pairs += [("noise", f"median {size}", f"mean {size}") for size in (3, 5)]
    means = pd.concat([mean_scores(table).assign(kind=kind) for kind, table in rows.items()])
    differences = pd.concat(
        [paired_differences(rows[kind], *names).assign(kind=kind) for kind, *names in pairs]
    )
    return [
        tables.write_table(_checked(means, MEANS_SCHEMA), RESULTS / "restoration.csv"),
        tables.write_table(
            _checked(differences, DIFFERENCES_SCHEMA), RESULTS / "restoration_differences.csv"
        ),
    ]


def _checked(table: pd.DataFrame, schema: pa.DataFrameSchema) -> pd.DataFrame:
    return schema.validate(table[list(schema.columns)].round(DIGITS).reset_index(drop=True))


# -------------------------------------------------------------------------------------- details


def _simple_methods() -> dict[str, Method]:
    def resized(image: np.ndarray, size: int) -> tuple[np.ndarray, None]:
        return pipeline.crop_and_resize(image, size), None

    return {
        "nothing": resized,
        "median filter": lambda image, size: (cv2.medianBlur(resized(image, size)[0], 5), None),
    }


def _before_resizing(find: Callable, radius: int, height: int = 0, rim: int = 0) -> Method:
    """Return a recipe that works at full resolution, or enlarged to `height` rows."""

    def method(image: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        if height:
            scale = height / image.shape[0]
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        mask = find(image)
        filled = _inpaint(image, quality_scores.grow_mask(mask, rim), radius)
        restored = pipeline.crop_and_resize(filled, size)
        return restored, pipeline.preprocess_mask(mask, size)

    return method


def _after_resizing(find: Callable, remove: Callable) -> Method:
    def method(image: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        small = pipeline.crop_and_resize(image, size)
        return remove(small), find(small)

    return method


def _removal_scores(
    folder: Path,
    images: pd.DataFrame,
    methods: dict[str, Method],
    kinds: tuple[str, str],
    least: float,
) -> pd.DataFrame:
    """Score the removal of the first kind of artefact; pixels near the second are left out."""
    truth_folder = folder / datasets.TRUTH

    def score(row) -> list[dict]:
        truth, left_out = (
            pipeline.preprocess_mask(
                decode.read_mask(truth_folder / f"{row.image_id}_{kind}.png"), SIZE
            )
            for kind in kinds
        )
        if truth.mean() < least:
            return []
        image = decode.read_image(folder / row.path)
        clean = decode.read_image(truth_folder / f"{row.image_id}_clean.jpg")
        clean = pipeline.crop_and_resize(clean, SIZE)
        compared = ~quality_scores.grow_mask(left_out, quality_scores.SSIM_RADIUS)
        regions = {"inside": truth & compared, "outside": ~truth & compared}
        rows = []
        for name, method in methods.items():
            restored, mask = method(image, SIZE)
            scores = dict.fromkeys(("dice", "precision", "recall"), np.nan)
            if mask is not None:
                scores = quality_scores.mask_scores(mask & compared, truth & compared)
            similarity = image_similarity(clean, restored, regions)
            scores |= {f"{s}_{r}": similarity[r][s] for s in ("psnr", "ssim") for r in regions}
            rows.append(_identity(row, name) | scores)
        return rows

    return _table(score, images)


def _table(score: Callable, images: pd.DataFrame) -> pd.DataFrame:
    """Apply `score` to every row on all cores; it returns the rows of one image."""
    parts = threads.map_files(score, images.itertuples(index=False))
    rows = [row for part in parts for row in part]
    if not rows:
        raise ValueError(f"none of {len(images)} images can be scored; expected at least one")
    return pd.DataFrame(rows)


def _known_gains(folder: Path, image_ids: pd.Series) -> dict[str, np.ndarray]:
    file = folder / datasets.TRUTH / "truth.csv"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder.name}: no {datasets.TRUTH}/truth.csv; expected a synthetic data set"
        )
    table = pd.read_csv(file, dtype={"image_id": str}).set_index("image_id")
    unknown = set(image_ids) - set(table.index)
    if unknown:
        raise ValueError(
            f"{folder.name}/{datasets.TRUTH}/truth.csv has no row for {len(unknown)} images, "
            f"the first {min(unknown)}"
        )
    return dict(zip(table.index, table[["gain_r", "gain_g", "gain_b"]].to_numpy(), strict=True))


def _score_names(rows: pd.DataFrame) -> list[str]:
    return [name for name in rows.columns if name not in [*KEYS, "method"]]


def _identity(row, method: str) -> dict[str, str]:
    return {name: getattr(row, name) for name in KEYS} | {"method": method}


def _inpaint(image: np.ndarray, mask: np.ndarray, radius: float) -> np.ndarray:
    return cv2.inpaint(image, mask.astype(np.uint8), radius, cv2.INPAINT_TELEA)


def _mean_color(image: np.ndarray) -> np.ndarray:
    return image.mean(axis=(0, 1), dtype=np.float64)


if __name__ == "__main__":
    sys.exit(command.main("Score preprocessing against the truth of synthetic images.", measure))
