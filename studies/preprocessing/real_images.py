"""What preprocessing does to real images, where the truth is unknown.

Three things can be measured without knowing what lies under the hair: what hair removal changes on
images without hair (false alarms), what small filters do to the noise of flat skin and to the
border of the lesion, and how each step moves the colours. Numbers and ids are published, never
images.
"""

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import tables
from lib.evaluation import bootstrap
from lib.preprocessing import decode, hair, pipeline, quality_scores, threads
from studies import command
from studies.preprocessing import ablation, restoration

CLASSES = ablation.CLASSES
IMAGE_SIZE = ablation.IMAGE_SIZE
#: Of the order in which images were inspected for hair, and the smallest proportion of the pixels
#: that the lesion mask must cover for an image to be inspected.
HAIRLESS_SEED, LEAST_LESION = 2018, 0.01
#: Of the sample for noise and colours, and of the bootstrap.
SEED = 0
IMAGES_PER_CLASS = 100
DRAWS, CONFIDENCE = 2000, 0.95
BINS = 64
DIGITS = 6  # of the published numbers; grey levels have fewer
RESULTS = ablation.RESULTS

#: Fresh images were not inspected before the detector was finished.
VERDICTS = ("hairless", "unsure", "hair", "fresh hairless", "fresh unsure", "fresh hair")
#: Which images are scored together.
GROUPS = {
    "fresh hairless": ("fresh hairless",),
    "fresh unsure": ("fresh unsure",),
    "hairless": ("hairless",),
    "unsure": ("unsure",),
    "hairless or unsure": ("hairless", "unsure"),
    "hair": ("hair",),
}
#: The size of the filters that are compared, in pixels.
SIZES = (3, 5)
CHANNELS = ("red", "green", "blue")
START = "crop and resize"
STEPS = (START, *(name for name in ablation.STEPS if name != ablation.TWO_SCALES))
METHODS = ("nothing", *(f"{kind} {size}" for kind in ("median", "mean") for size in SIZES))

_ID = {
    "image_id": pa.Column(str),
    "lesion_id": pa.Column(str),
    "dx": pa.Column(str, pa.Check.isin(CLASSES)),
}
_PROPORTION = {"checks": pa.Check.in_range(0, 1)}

#: `hairless.csv`: one row per inspected image, in the order of `judging_order`.
HAIRLESS_SCHEMA = pa.DataFrameSchema(
    {
        "order": pa.Column(
            int,
            pa.Check(lambda order: order == np.arange(len(order)), error="counted from 0"),
        ),
        "image_id": pa.Column(str, unique=True),
        "verdict": pa.Column(str, pa.Check.isin(VERDICTS)),
    },
    strict=True,
)
ALARM_SCORES = ("inside", "outside", "inside_two_scales", "outside_two_scales")
#: `false_alarms.csv`: one row per image; `inside` and `outside` are the proportions of the pixels
#: inside and outside the lesion mask that hair removal changes, empty where there is no such pixel;
#: the last two columns are of hair removal at two scales.
ALARM_SCHEMA = pa.DataFrameSchema(
    _ID
    | {
        "verdict": pa.Column(str, pa.Check.isin(VERDICTS)),
    }
    | {name: pa.Column(float, **_PROPORTION, nullable=True) for name in ALARM_SCORES},
    unique=["image_id"],
    strict=True,
)
#: `noise.csv`: one row per image and filter, see `restoration.noise_scores`; grey levels, and grey
#: levels per pixel.
NOISE_SCHEMA = pa.DataFrameSchema(
    _ID
    | {
        "method": pa.Column(str, pa.Check.isin(METHODS)),
        "noise": pa.Column(float, pa.Check.ge(0), nullable=True),
        "border_strength": pa.Column(float, pa.Check.ge(0), nullable=True),
    },
    unique=["image_id", "method"],
    strict=True,
)
#: `channel_statistics.csv`: one row per image and step; grey levels, and grey levels squared.
CHANNEL_SCHEMA = pa.DataFrameSchema(
    _ID
    | {"step": pa.Column(str, pa.Check.isin(STEPS))}
    | {f"mean_{name}": pa.Column(float, pa.Check.in_range(0, 255)) for name in CHANNELS}
    | {f"variance_{name}": pa.Column(float, pa.Check.in_range(0, 127.5**2)) for name in CHANNELS},
    unique=["image_id", "step"],
    strict=True,
)
#: `histograms.csv`: for each step and channel the mean over the images of the proportion of the
#: pixels (`share`) from grey level `low` up to the next bin.
HISTOGRAM_SCHEMA = pa.DataFrameSchema(
    {
        "step": pa.Column(str, pa.Check.isin(STEPS)),
        "channel": pa.Column(str, pa.Check.isin(CHANNELS)),
        "low": pa.Column(int, pa.Check.isin(range(0, 256, 256 // BINS))),
        "share": pa.Column(float, **_PROPORTION),
    },
    unique=["step", "channel", "low"],
    strict=True,
)

# -------------------------------------------------------------------------------- which images


def read_hairless(file: Path | None = None) -> pd.DataFrame:
    """Read which real images a person judged to be without hair: `HAIRLESS_SCHEMA`."""
    return tables.read_table(file or RESULTS / "hairless.csv", HAIRLESS_SCHEMA)


def list_images(folder: Path) -> pd.DataFrame:
    """List the images of the three classes that have a lesion mask: `restoration.list_images`."""
    return restoration.list_images(folder, CLASSES).dropna(subset="mask").reset_index(drop=True)


def judging_order(folder: Path) -> list[str]:
    """Return the images in the order in which they were inspected for hair.

    Those of the three classes whose lesion mask covers at least a hundredth of the image as it is
    stored, sorted by image_id and then permuted with a fixed seed. `hairless.csv` ends where the
    200th hairless image and then 60 fresh ones had been inspected.
    """
    images = list_images(folder)
    covered = np.array(
        threads.map_files(lambda path: decode.read_mask(folder / path).mean(), images["mask"])
    )
    pool = images.loc[covered >= LEAST_LESION, "image_id"].to_numpy()
    return pool[np.random.default_rng(HAIRLESS_SEED).permutation(len(pool))].tolist()


def draw_sample(folder: Path) -> pd.DataFrame:
    """Draw equally many images of each class, one per lesion, ordered by image_id.

    Raises
    ------
    ValueError
        A class has too few lesions.
    """
    images = list_images(folder).sample(frac=1, random_state=SEED).drop_duplicates("lesion_id")
    available = images["dx"].value_counts().reindex(CLASSES, fill_value=0)
    if available.min() < IMAGES_PER_CLASS:
        raise ValueError(
            f"{folder.name}: {available.min()} lesions of class {available.idxmin()} have an image "
            f"with a mask; expected at least {IMAGES_PER_CLASS}"
        )
    sample = images.groupby("dx").head(IMAGES_PER_CLASS)
    return sample.sort_values("image_id", ignore_index=True)


# -------------------------------------------------------------------------------------- scores


def false_alarms(folder: Path, judged: pd.DataFrame) -> pd.DataFrame:
    """Measure the proportion of pixels that hair removal changes, inside and outside the lesion.

    A pixel is changed if any channel has another value. On images without hair, every change is a
    false alarm; images with hair are scored for comparison.

    Parameters
    ----------
    folder : Path
        HAM10000, or images in its layout.
    judged : DataFrame
        From `read_hairless`, or some of its rows.

    Returns
    -------
    DataFrame
        `ALARM_SCHEMA`, ordered as `judged`.

    Raises
    ------
    ValueError
        An image is not in the folder, or has no mask.
    """
    images = judged.merge(list_images(folder), on="image_id", how="left")
    missing = images.loc[images["path"].isna(), "image_id"]
    if len(missing):
        raise ValueError(
            f"{folder.name}: {len(missing)} of the {len(images)} judged images are not there with "
            f"a mask, the first {missing.iloc[0]}"
        )

    def score(row) -> dict:
        image, lesion = _read(folder, row)
        removals = hair.remove_hair, partial(hair.remove_hair, thick=True)
        changed = [(remove(image) != image).any(axis=2) for remove in removals]
        scores = [
            pixels[region].mean() if region.any() else np.nan
            for pixels in changed
            for region in (lesion, ~lesion)
        ]
        return {
            name: getattr(row, name) for name in ("image_id", "lesion_id", "dx", "verdict")
        } | dict(zip(ALARM_SCORES, scores, strict=True))

    rows = pd.DataFrame(threads.map_files(score, images.itertuples(index=False)))
    return ALARM_SCHEMA.validate(rows.round(DIGITS))


def noise_scores(folder: Path, images: pd.DataFrame) -> pd.DataFrame:
    """Measure what small filters do to flat skin and to the border: `NOISE_SCHEMA`."""
    rows = restoration.noise_scores(folder, images, IMAGE_SIZE).drop(columns="group_id")
    rows.insert(2, "dx", rows["image_id"].map(images.set_index("image_id")["dx"]))
    return NOISE_SCHEMA.validate(rows.round(4))


def steps_alone() -> dict[str, Callable]:
    """Return each step with the settings of the ablation: name to function of a resized image."""
    return {START: lambda image: image} | {
        name: pipeline.enabled_steps(ablation.settings_of((name,)))[name] for name in STEPS[1:]
    }


def color_scores(folder: Path, images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure mean, variance and histogram of each channel after each step by itself.

    Returns
    -------
    channels : DataFrame
        `CHANNEL_SCHEMA`.
    histograms : DataFrame
        `HISTOGRAM_SCHEMA`.
    """
    steps = steps_alone()

    def score(row) -> tuple[list[dict], pd.Series]:
        image, _ = _read(folder, row)
        identity = {name: getattr(row, name) for name in _ID}
        rows, histograms = [], {}
        for name, step in steps.items():
            after = step(image)
            values = quality_scores.channel_statistics(after)
            values.index = ["_".join(key) for key in values.index]
            rows.append(identity | {"step": name} | values.to_dict())
            histograms[name] = quality_scores.channel_histograms(after, BINS)
        return rows, pd.concat(histograms, names=["step"])

    parts = threads.map_files(score, images.itertuples(index=False))
    channels = pd.DataFrame([row for rows, _ in parts for row in rows])
    histograms = sum(histogram for _, histogram in parts) / len(parts)
    histograms = histograms.rename("share").reset_index()
    return CHANNEL_SCHEMA.validate(channels.round(2)), HISTOGRAM_SCHEMA.validate(
        histograms.round(DIGITS)
    )


# ------------------------------------------------------------------------------------ summaries


def mean_intervals(values: pd.DataFrame, rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the mean of each column, with its bootstrap interval over lesions.

    Parameters
    ----------
    values : DataFrame of float, one row per image
        Missing values are left out.
    rows : DataFrame
        `lesion_id` and `dx` of the same images in the same order; the number of lesions of each
        class is held fixed (`bootstrap.lesion_weights`).

    Returns
    -------
    dict
        For each column `value`, `low` and `high`.

    Raises
    ------
    ValueError
        A column without any value.
    """
    intervals = {}
    for name, column in values.items():
        present = column.notna().to_numpy()
        if not present.any():
            raise ValueError(f"{name}: none of {len(rows)} images has a value; expected one")
        weights = _weights(tuple(rows["lesion_id"][present]), tuple(rows["dx"][present]), DRAWS)
        means = weights @ column[present].to_numpy(float) / weights.sum(axis=1)
        interval = bootstrap.interval(means, CONFIDENCE)
        intervals[name] = {end: round(value, DIGITS) for end, value in interval.items()}
    return intervals


@lru_cache(maxsize=1)
def _weights(lesions: tuple[str, ...], labels: tuple[str, ...], draws: int) -> np.ndarray:
    """Return `bootstrap.lesion_weights`; consecutive scores are of the same images."""
    table = pd.DataFrame({"group_id": lesions, "label": labels})
    return bootstrap.lesion_weights(table, draws, SEED)


def summarise_alarms(alarms: pd.DataFrame) -> dict:
    """Return, for each of `GROUPS`, how much hair removal changes.

    Parameters
    ----------
    alarms : DataFrame
        `ALARM_SCHEMA`.

    Returns
    -------
    dict
        For each group `images`, `lesions`, `percentile_95_inside`; the means of `ALARM_SCORES`,
        `images_changed_inside` and `images_changed` (proportions of the images with any changed
        pixel inside, and anywhere), with their intervals; and `by_class` the means inside and
        outside.
    """
    summary = {}
    for group, verdicts in GROUPS.items():
        rows = alarms[alarms["verdict"].isin(verdicts)]
        both = rows[["inside", "outside"]]
        values = rows[list(ALARM_SCORES)].assign(
            images_changed_inside=rows["inside"] > 0, images_changed=both.max(axis=1) > 0
        )
        classes = {name: rows[rows["dx"] == name] for name in CLASSES}
        summary[group] = {
            "images": len(rows),
            "lesions": int(rows["lesion_id"].nunique()),
            "percentile_95_inside": round(float(rows["inside"].quantile(0.95)), DIGITS),
            **mean_intervals(values, rows),
            "by_class": {
                name: {"images": len(part), **mean_intervals(part[["inside", "outside"]], part)}
                for name, part in classes.items()
            },
        }
    return summary


def summarise_noise(noise: pd.DataFrame) -> dict:
    """Return how much of the variance of flat skin and of the border each filter leaves.

    Parameters
    ----------
    noise : DataFrame
        `NOISE_SCHEMA`.

    Returns
    -------
    dict
        `filters`: for each method the means of `variance` (grey levels squared) and
        `border_strength` (grey levels per pixel), and of both as a proportion of the unfiltered
        image's own, `variance_left` and `border_left`. `median_minus_mean`: for each size the mean
        differences of these two proportions, image by image. All with their intervals.
    """
    rows = noise.drop_duplicates("image_id")
    noise = noise.assign(variance=noise["noise"] ** 2)
    scores = {
        name: noise.pivot(index="image_id", columns="method", values=name).loc[rows["image_id"]]
        for name in ("variance", "border_strength")
    }
    left = {"variance_left": scores["variance"], "border_left": scores["border_strength"]}
    left = {name: table.div(table["nothing"], axis=0) for name, table in left.items()}
    filters = {name: mean_intervals(table, rows) for name, table in (scores | left).items()}
    differences = {}
    for name, table in left.items():
        by_size = {str(n): table[f"median {n}"] - table[f"mean {n}"] for n in SIZES}
        differences[name] = mean_intervals(pd.DataFrame(by_size), rows)
    return {
        "filters": {
            method: {name: table[method] for name, table in filters.items()} for method in METHODS
        },
        "median_minus_mean": {
            str(size): {name: table[str(size)] for name, table in differences.items()}
            for size in SIZES
        },
    }


def summarise_colors(channels: pd.DataFrame) -> dict:
    """Return, for each step, the means over the images of each channel's mean and variance.

    Parameters
    ----------
    channels : DataFrame
        `CHANNEL_SCHEMA`.
    """
    names = [name for name in channels.columns if name.startswith(("mean_", "variance_"))]
    return {
        step: mean_intervals(rows[names], rows)
        for step, rows in channels.groupby("step", sort=False)
    }


# ------------------------------------------------------------------------------------- the run


def measure(folder: Path) -> list[Path]:
    """Score preprocessing on real images in HAM10000's layout; return the files written."""
    alarms = false_alarms(folder, read_hairless())
    sample = draw_sample(folder)
    noise = noise_scores(folder, sample)
    channels, histograms = color_scores(folder, sample)
    summary = {
        "image_size": IMAGE_SIZE,
        "classes": CLASSES,
        "hairless_seed": HAIRLESS_SEED,
        "least_lesion": LEAST_LESION,
        "pool": len(judging_order(folder)),
        "judged": alarms["verdict"].value_counts().reindex(VERDICTS, fill_value=0).to_dict(),
        "sample": sample["dx"].value_counts().reindex(CLASSES).to_dict(),
        "sample_lesions": int(sample["lesion_id"].nunique()),
        "seed": SEED,
        "draws": DRAWS,
        "confidence": CONFIDENCE,
        **command.describe_machine(),
        "false_alarms": summarise_alarms(alarms),
        **summarise_noise(noise),
        "steps": summarise_colors(channels),
    }
    return [
        tables.write_table(alarms, RESULTS / "false_alarms.csv"),
        tables.write_table(noise, RESULTS / "noise.csv"),
        tables.write_table(channels, RESULTS / "channel_statistics.csv"),
        tables.write_table(histograms, RESULTS / "histograms.csv"),
        tables.write_json(summary, RESULTS / "real_images.json"),
    ]


def _read(folder: Path, row) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, cropped and resized, and its lesion mask in the same frame."""
    full = decode.read_image(folder / row.path)
    lesion = decode.read_mask(folder / row.mask, full.shape[:2])
    image = pipeline.crop_and_resize(full, IMAGE_SIZE)
    return image, pipeline.preprocess_mask(lesion, IMAGE_SIZE)


if __name__ == "__main__":
    sys.exit(command.main("Measure what preprocessing does to real images.", measure))
