"""Does preprocessing help? The same images and classifier, each step on and off: `make ablation`.

Frozen VGG16 features of the images as they are, with each step alone, with several steps together,
and with all but one, are classified by a logistic regression in grouped five-fold cross-validation.
Only the steps differ: the images, the folds, the classifier and its strength are the same. What a
step does is the paired difference in balanced accuracy, with the step less without it, so above
zero speaks for the step.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.base import clone
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib import figures, paths, tables
from lib.config import Preprocessing, Split
from lib.data import datasets, duplicates, splits
from lib.evaluation import bootstrap
from lib.networks import inference, model_graph, vgg16, vgg16_weights
from lib.preprocessing import decode, pipeline, threads
from studies import leakage

CLASSES = leakage.CLASSES
#: Of a class that has more, whole groups are drawn: twice as many nevi would take half as long
#: again and narrow an interval by about a twentieth, for the rare classes set its width.
IMAGES_PER_CLASS = 500
SEED = 0  # of the drawing of images and of the bootstrap
FOLDS = 5
#: Each seed deals the groups to folds anew; scores are means over the dealings.
REPEATS = range(5)
#: So many that the corrected intervals, too, have more than ten draws beyond each end.
DRAWS = 10_000
CONFIDENCE = 0.95
#: Pixels: the images are preprocessed at the size of the runs, and VGG16 sees its native size.
IMAGE_SIZE, INPUT_SIZE = 256, 224
#: Of the convolutions: twice as fast as float32 on processors that have bfloat16.
PRECISION = "mixed_bfloat16"
CHUNK = 32  # images preprocessed at a time, in all variants
WRITE_EVERY = 120  # seconds
DIGITS = 6  # of what is published

#: Every switch off.
NOTHING = Preprocessing(
    image_size=IMAGE_SIZE,
    **{
        name: False if field.annotation is bool else 0
        for name, field in Preprocessing.model_fields.items()
        if name != "image_size"
    },
)
#: How each step is switched on; the names are those of `preprocessing.steps`.
STEPS = {
    "hair removal": {"remove_hair": True},
    pipeline.TWO_SCALES: {"remove_hair": True, "thick_hair": True},
    "bubble removal": {"remove_bubbles": True},
    "median filter": {"median_kernel": 3},
    "mean filter": {"mean_kernel": 3},
    "colour constancy": {"color_constancy": True},
    "contrast": {"equalize_contrast": True},
}
PAPER = ("hair removal", "bubble removal", "median filter")
#: The median and the mean both smooth, and hair is removed once.
EVERYTHING = tuple(n for n in STEPS if n not in ("mean filter", pipeline.TWO_SCALES))

#: Where the published result lies; committed, for it holds numbers and ids only.
PUBLISHED = paths.ROOT / "reports" / "studies" / "preprocessing"
FILES = ("ablation.csv", "ablation_answers.csv", "ablation.json", "ablation.png")
MARKS = "<!-- ablation: make ablation writes this -->", "<!-- end of ablation -->"

HELPS, HARMS = "helps", "harms"
NO_DIFFERENCE = "makes no difference that can be seen"


class Comparison(NamedTuple):
    """Two variants: `more` has a step, or several, that `less` does not have."""

    group: str
    label: str
    more: str
    less: str


def variants() -> dict[str, tuple[str, ...]]:
    """Return the steps of each variant, beyond cropping and resizing."""
    return {
        "nothing": (),
        **{name: (name,) for name in STEPS},
        "the paper's steps": PAPER,
        "everything": EVERYTHING,
        **{
            f"everything but {name}": tuple(other for other in EVERYTHING if other != name)
            for name in EVERYTHING
        },
    }


def settings_of(steps: tuple[str, ...]) -> Preprocessing:
    """Return the settings that switch these steps on."""
    switches = {key: value for name in steps for key, value in STEPS[name].items()}
    return Preprocessing(**NOTHING.model_dump() | switches)


def comparisons() -> list[Comparison]:
    """Return which variants are compared: every variant but `nothing` is in one as its subject."""
    return [
        *(Comparison("alone", f"{name}, alone", name, "nothing") for name in STEPS),
        *(
            Comparison("together", f"{name}, together", name, "nothing")
            for name in ("the paper's steps", "everything")
        ),
        *(
            Comparison(
                "with the others", f"{n}, with the others", "everything", f"everything but {n}"
            )
            for n in EVERYTHING
        ),
    ]


_SHARE = {"checks": pa.Check.in_range(0, 1)}
_DIFFERENCE = {"checks": pa.Check.in_range(-1, 1)}

#: `ablation.csv`: one row a variant, ordered as `variants()`.
VARIANT_SCHEMA = {
    "variant": pa.Column(str, pa.Check.isin(list(variants())), unique=True),
    "steps": pa.Column(str),
    "balanced_accuracy": pa.Column(float, **_SHARE),
    "balanced_accuracy_low": pa.Column(float, **_SHARE),
    "balanced_accuracy_high": pa.Column(float, **_SHARE),
    "macro_auc": pa.Column(float, **_SHARE),
    "macro_auc_low": pa.Column(float, **_SHARE),
    "macro_auc_high": pa.Column(float, **_SHARE),
}
#: What a variant's comparison adds; empty for `nothing`. `against` is the other variant,
#: `changed` the share of images whose pixels differ from it. Differences are those of the variant
#: with the step less that without. `corrected` intervals have the level divided by the number of
#: comparisons; `repeat` is the smallest and largest difference of a single dealing of the folds.
DIFFERENCE_SCHEMA = {
    "compared": pa.Column(str, nullable=True),
    "against": pa.Column(str, pa.Check.isin(list(variants())), nullable=True),
    "changed": pa.Column(float, **_SHARE, nullable=True),
    "verdict": pa.Column(str, pa.Check.isin([HELPS, HARMS, NO_DIFFERENCE]), nullable=True),
} | {
    name: pa.Column(float, **_DIFFERENCE, nullable=True)
    for name in (
        "difference",
        "difference_low",
        "difference_high",
        "corrected_low",
        "corrected_high",
        "repeat_low",
        "repeat_high",
        "auc_difference",
        "auc_difference_low",
        "auc_difference_high",
    )
}
RESULT_SCHEMA = pa.DataFrameSchema(VARIANT_SCHEMA | DIFFERENCE_SCHEMA, strict=True)

#: `ablation_answers.csv`: one row an image; for each variant, in how many of the dealings of the
#: folds the image was classified rightly. The balanced accuracies follow from it.
ANSWERS_SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, unique=True),
        "group_id": pa.Column(str),
        "label": pa.Column(str, pa.Check.isin(CLASSES)),
    }
    | {name: pa.Column(int, pa.Check.in_range(0, len(REPEATS))) for name in variants()},
    strict=True,
)


# ----------------------------------------------------------------------------------- features


def load_features_model() -> tuple[Callable, str]:
    """Build frozen VGG16 with ImageNet's weights.

    Returns
    -------
    forward : callable
        From images, ndarray of uint8, shape (n, 256, 256, 3), to features, ndarray of float32,
        shape (n, 1280).
    name : str
        Another one wherever the features would be others: weights, size, precision.
    """
    from lib.networks.backend import keras

    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISION)
    try:
        model = vgg16.vgg16_features(IMAGE_SIZE, input_size=INPUT_SIZE)
    finally:
        keras.config.set_dtype_policy(usual)
    vgg16_weights.load_vgg16_weights(model)
    name = f"vgg16 {model_graph.weights_digest(model)} {INPUT_SIZE} {PRECISION}"
    return lambda images: inference.forward(model, images), name


class Kept(NamedTuple):
    """Features that were computed, by the SHA-256 of the preprocessed pixels."""

    features: dict[str, np.ndarray]  # float16, shape (1280,)
    seconds: float  # that they took, of all runs together


def compute_features(
    folder: Path, files: pd.Series, forward: Callable, model: str, file: Path
) -> tuple[pd.DataFrame, Kept]:
    """Preprocess every image in every variant, and compute features of what is new.

    Images that come out with the same pixels are computed once. What was computed is written to
    `file` every two minutes, after whole chunks, and taken again by the next run with this model.

    Parameters
    ----------
    files : Series of str
        Relative to `folder`, indexed by image_id.
    forward, model : callable, str
        From `load_features_model`.

    Returns
    -------
    keys : DataFrame of str
        The SHA-256 of the pixels, one row an image, one column a variant.
    kept : Kept
    """
    kept, started = _read_kept(file, model), time.monotonic()
    features, before = kept.features, kept.seconds
    settings = {name: settings_of(steps) for name, steps in variants().items()}
    rows, written = [], started

    def process(path):
        image = decode.read_image(folder / path)
        return [pipeline.preprocess_image(image, each) for each in settings.values()]

    for start in range(0, len(files), CHUNK):
        versions = threads.map_files(process, files.iloc[start : start + CHUNK])
        hashes = [[hashlib.sha256(pixels).hexdigest() for pixels in each] for each in versions]
        rows += hashes
        new = {
            key: pixels
            for keys, images in zip(hashes, versions, strict=True)
            for key, pixels in zip(keys, images, strict=True)
            if key not in features
        }
        if new:
            values = forward(np.stack(list(new.values()))).astype(np.float16)
            features |= dict(zip(new, values, strict=True))
        done, now = min(start + CHUNK, len(files)), time.monotonic()
        if done == len(files) or now - written > WRITE_EVERY:
            _write_kept(file, model, Kept(features, before + now - started))
            written = now
        if start // CHUNK % 5 == 0 or done == len(files):
            said = f"{done:,} of {len(files):,} images, {len(features):,} different pictures"
            print(f"{(now - started) / 60:5.1f} min  features: {said}", flush=True)
    keys = pd.DataFrame(rows, index=files.index, columns=list(settings))
    return keys, Kept(features, before + time.monotonic() - started)


def _read_kept(file: Path, model: str) -> Kept:
    if not file.is_file():
        return Kept({}, 0.0)
    with np.load(file) as kept:
        if str(kept["model"]) != model:
            print(f"{paths.relative(file)} is of another model: computed anew", flush=True)
            return Kept({}, 0.0)
        features = dict(zip(kept["keys"].tolist(), kept["features"], strict=True))
        return Kept(features, float(kept["seconds"]))


def _write_kept(file: Path, model: str, kept: Kept) -> None:
    partial = paths.temporary(file)
    np.savez(
        partial,
        model=np.array(model),
        keys=np.array(list(kept.features)),
        features=np.stack(list(kept.features.values())),
        seconds=np.array(kept.seconds),
    )
    os.replace(partial, file)


# ------------------------------------------------------------------------------------- scores


def predict_out_of_fold(images: pd.DataFrame, features: np.ndarray, seed: int) -> np.ndarray:
    """Predict each image by a classifier that was trained on the other folds.

    Parameters
    ----------
    images : DataFrame
        `group_id` and `label`, one row for each row of `features`.
    seed : int
        Deals the groups to folds.

    Returns
    -------
    ndarray of float, shape (n, classes), in the order of `CLASSES`
    """
    dealing = Split(validation=0.2, test=0.2, folds=FOLDS, seed=seed)  # the shares are not used
    folds = splits.fold_groups(splits.group_labels(images), dealing)
    classifier = make_pipeline(StandardScaler(), clone(leakage.CLASSIFIERS["logistic regression"]))
    return cross_val_predict(
        classifier,
        features,
        images["label"],
        cv=PredefinedSplit(images["group_id"].map(folds)),
        method="predict_proba",
        n_jobs=-1,
    )


def score_variant(
    images: pd.DataFrame, features: np.ndarray, weights: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Cross-validate with every dealing of the folds.

    Parameters
    ----------
    weights : ndarray of float, shape (1 + draws, n)
        From `metrics.lesion_weights`.

    Returns
    -------
    scores : dict of str to ndarray of float, shape (repeats, 1 + draws)
        `balanced_accuracy` and `macro_auc`.
    answers : ndarray of int, shape (n,)
        In how many of the dealings each image was classified rightly.
    """
    scores, answers = [], np.zeros(len(images), int)
    for seed in REPEATS:
        probabilities = predict_out_of_fold(images, features, seed)
        columns = {f"prob_{name}": probabilities[:, i] for i, name in enumerate(CLASSES)}
        predicted = np.array(CLASSES)[probabilities.argmax(axis=1)]
        table = images[["label"]].assign(predicted=predicted, **columns)
        of_answers = bootstrap.rule_draws(table, "predicted", CLASSES, weights)
        areas = bootstrap.auc_draws(table, CLASSES, weights)
        scores.append(of_answers | {"macro_auc": areas["macro"]})
        answers += (table["label"] == table["predicted"]).to_numpy()
    names = ("balanced_accuracy", "macro_auc")
    return {name: np.stack([each[name] for each in scores]) for name in names}, answers


def verdict(interval: dict[str, float]) -> str:
    """Say what an interval of a difference, with a step less without, says of the step."""
    if interval["low"] > 0:
        return HELPS
    return HARMS if interval["high"] < 0 else NO_DIFFERENCE


def summarise(scores: dict[str, dict[str, np.ndarray]], keys: pd.DataFrame) -> pd.DataFrame:
    """Return each variant's scores, and its difference to the variant it is compared with.

    Each score is the mean over the dealings of the folds, in every draw of lesions.

    Parameters
    ----------
    scores : dict of str to dict
        For each variant, what `score_variant` returns.
    keys : DataFrame of str
        From `compute_features`.

    Returns
    -------
    DataFrame
        `RESULT_SCHEMA`.
    """
    compared = {_subject(each): each for each in comparisons()}
    rows = []
    for name, steps in variants().items():
        row = {"variant": name, "steps": " + ".join(steps) or "none"}
        for score, values in scores[name].items():
            row |= _columns(score, bootstrap.interval(values.mean(axis=0), CONFIDENCE))
        if name in compared:
            row |= _compare(compared[name], scores, keys)
        rows.append(row)
    table = pd.DataFrame(rows)[list(RESULT_SCHEMA.columns)]
    numbers = table.select_dtypes("number").columns
    return RESULT_SCHEMA.validate(table.assign(**table[numbers].round(DIGITS)))


def _compare(each: Comparison, scores: dict, keys: pd.DataFrame) -> dict:
    difference, auc = (
        scores[each.more][score] - scores[each.less][score]
        for score in ("balanced_accuracy", "macro_auc")
    )
    mean = difference.mean(axis=0)
    exact = bootstrap.interval(mean, CONFIDENCE)
    interval = {end: round(value, DIGITS) for end, value in exact.items()}  # -1e-17 is zero
    corrected = bootstrap.interval(mean, 1 - (1 - CONFIDENCE) / len(comparisons()))
    return {
        "compared": each.label,
        "against": each.less if _subject(each) == each.more else each.more,
        "changed": float((keys[each.more] != keys[each.less]).mean()),
        "verdict": verdict(interval),
        **_columns("difference", interval),
        "corrected_low": corrected["low"],
        "corrected_high": corrected["high"],
        "repeat_low": float(difference[:, 0].min()),
        "repeat_high": float(difference[:, 0].max()),
        **_columns("auc_difference", bootstrap.interval(auc.mean(axis=0), CONFIDENCE)),
    }


def _columns(name: str, interval: dict[str, float]) -> dict[str, float]:
    return {
        name: interval["value"],
        f"{name}_low": interval["low"],
        f"{name}_high": interval["high"],
    }


def _subject(each: Comparison) -> str:
    """Return the variant whose row in `ablation.csv` a comparison stands in."""
    return each.less if each.group == "with the others" else each.more


# ------------------------------------------------------------------------------------ the run


def choose_images(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Choose the images, near-duplicates joined: all of the rare classes, a sample of the others.

    Returns
    -------
    images : DataFrame
        `image_id`, `lesion_id`, `group_id`, `label` and `path`, ordered by image_id.
    counts : dict
        How many there are, and how many were taken.

    Raises
    ------
    FileNotFoundError, ValueError
        Images that are missing, or a class without any.
    """
    metadata = datasets.read_metadata(folder)
    metadata = metadata[metadata["dx"].isin(CLASSES)].reset_index(drop=True)
    there = metadata["dx"].value_counts().reindex(CLASSES, fill_value=0)
    if there.min() == 0:
        raise ValueError(f"{folder}: no image of class {there.idxmin()}; expected all of {CLASSES}")
    files = datasets.find_images(folder, metadata["image_id"])
    if len(files) < len(metadata):
        raise FileNotFoundError(f"{folder}: {len(metadata) - len(files)} images are missing")
    files = files[metadata["image_id"]]
    pairs = duplicates.find_pairs(duplicates.thumbnails(folder, files))
    groups = duplicates.join(metadata, duplicates.name_pairs(pairs, metadata))
    images = metadata[["image_id", "lesion_id", "dx"]].rename(columns={"dx": "label"})
    images = images.assign(group_id=images["image_id"].map(groups))
    chosen = splits.sample_groups(images, IMAGES_PER_CLASS, SEED).sort_values("image_id")
    taken = chosen["label"].value_counts()
    return chosen.assign(path=chosen["image_id"].map(files)).reset_index(drop=True), {
        "images_there_are": there.to_dict(),
        "images": {name: int(taken[name]) for name in CLASSES},
        "lesions": int(chosen["lesion_id"].nunique()),
        "groups": int(chosen["group_id"].nunique()),
        "pairs_of_near_duplicates": len(pairs),
    }


def run(folder: Path, load_model: Callable = load_features_model) -> dict:
    """Run the experiment on a folder in HAM10000's layout; the result lies in runs/ablation.

    Returns
    -------
    dict
        The contents of `ablation.json`.
    """
    started, output = time.monotonic(), paths.run_folder("ablation")
    images, counts = choose_images(folder)
    print(f"{_minutes(started)}  images: {counts}", flush=True)
    forward, model = load_model()
    files = images.set_index("image_id")["path"]
    keys, kept = compute_features(folder, files, forward, model, output / "features.npz")
    computed, weights = time.monotonic(), bootstrap.lesion_weights(images, DRAWS, SEED)
    scores, answers = {}, images[["image_id", "group_id", "label"]]
    for name in variants():
        features = np.stack([kept.features[key] for key in keys[name]]).astype(np.float32)
        scores[name], right = score_variant(images, features, weights)
        answers = answers.assign(**{name: right})
        value = scores[name]["balanced_accuracy"][:, 0].mean()
        print(f"{_minutes(started)}  {name}: balanced accuracy {value:.3f}", flush=True)
    result = summarise(scores, keys)
    said = {
        **counts,
        "classes": CLASSES,
        "images_per_class": IMAGES_PER_CLASS,
        "image_size": IMAGE_SIZE,
        "input_size": INPUT_SIZE,
        "precision": PRECISION,
        "model": model,
        "regularisation": leakage.REGULARISATION,
        "folds": FOLDS,
        "fold_seeds": list(REPEATS),
        "seed": SEED,
        "draws": DRAWS,
        "confidence": CONFIDENCE,
        "comparisons": len(comparisons()),
        "settings": {name: settings_of(steps).model_dump() for name, steps in variants().items()},
        "pictures": keys.size,
        "different_pictures": len(np.unique(keys)),
        "pictures_sha256": hashlib.sha256("\n".join(keys.to_numpy().ravel()).encode()).hexdigest(),
        "seconds": round(kept.seconds + time.monotonic() - computed),
        "seconds_for_features": round(kept.seconds),
        "cores": os.cpu_count(),
        "versions": _versions(),
    }
    tables.write_table(result, output / "ablation.csv")
    tables.write_table(ANSWERS_SCHEMA.validate(answers), output / "ablation_answers.csv")
    figure = figures.step_differences(result)
    figure.savefig(output / "ablation.png", dpi=150, metadata={"Software": None})
    tables.write_json(said, output / "ablation.json")
    print(f"{_minutes(started)}  done", flush=True)
    return said


def publish() -> None:
    """Copy the result from runs/ablation to reports/studies, and write its README's part."""
    readme = PUBLISHED / "README.md"
    paths.expect_part(readme, MARKS)
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(paths.run_folder("ablation") / name, PUBLISHED / name)
    paths.write_part(readme, MARKS, describe(*read_result()))


def read_result() -> tuple[pd.DataFrame, dict]:
    """Read the published result."""
    result = tables.read_table(PUBLISHED / "ablation.csv", RESULT_SCHEMA)
    return result, json.loads((PUBLISHED / "ablation.json").read_text(encoding="utf-8"))


def read_answers() -> pd.DataFrame:
    """Read which images were classified rightly in the published result."""
    return tables.read_table(PUBLISHED / "ablation_answers.csv", ANSWERS_SCHEMA)


def describe(result: pd.DataFrame, said: dict) -> str:
    """Return the README's part on the result, in Markdown: what helps, what harms, and the table.

    Parameters
    ----------
    result, said : DataFrame, dict
        From `read_result`.
    """
    counts = ", ".join(
        f"{said['images'][name]:,} of {said['images_there_are'][name]:,} {name}"
        for name in said["classes"]
    )
    return "\n".join(
        [
            f"{counts}; {said['different_pictures']:,} different pictures. Computed in "
            f"{said['seconds'] / 60:.0f} minutes on {said['cores']} cores.",
            "",
            conclusions(result),
            "",
            "| Variant | Balanced accuracy | Macro AUC | Difference made by "
            "| in balanced accuracy | folds dealt anew | in macro AUC | Images changed |",
            "|---|---|---|---|---|---|---|---|",
            *(_table_row(row) for row in result.to_dict("records")),
            "",
        ]
    )


def conclusions(result: pd.DataFrame) -> str:
    """Say in Markdown what helps, what harms and what makes no difference that can be seen."""
    rows = result.dropna(subset=["compared"])
    lines = [
        f"- **{name.capitalize()}:** {_listed(rows[rows['verdict'] == name])}"
        for name in (HELPS, HARMS, NO_DIFFERENCE)
    ]
    corrected = rows[(rows["corrected_low"] > 0) | (rows["corrected_high"] < 0)]
    seen = (rows["verdict"] != NO_DIFFERENCE).sum()
    lines += [
        "",
        f"Of the {len(rows)} differences, {seen} exclude zero each by itself. With the level "
        f"divided by {len(rows)} (Bonferroni), {len(corrected)} still do: "
        f"{_listed(corrected, 'corrected')}",
    ]
    return "\n".join(lines)


def _listed(rows: pd.DataFrame, interval: str = "difference") -> str:
    found = [f"{row['compared']}: {_signed(row, interval)}" for row in rows.to_dict("records")]
    return "; ".join(found) + "." if found else "none."


def _table_row(row: dict) -> str:
    cells = [row["variant"]]
    cells += [_plain(row, score) for score in ("balanced_accuracy", "macro_auc")]
    if pd.isna(row["compared"]):
        cells += ["–"] * 5
    else:
        spread = f"{row['repeat_low']:+.3f} to {row['repeat_high']:+.3f}"
        cells += [row["compared"], _signed(row), spread, _signed(row, "auc_difference")]
        cells.append(f"{100 * row['changed']:.0f} %")
    return f"| {' | '.join(cells)} |"


def _plain(row: dict, name: str) -> str:
    ends = {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
    return bootstrap.format_interval(ends)


def _signed(row: dict, interval: str = "difference") -> str:
    value = row["auc_difference" if interval == "auc_difference" else "difference"]
    return f"{value:+.3f} ({row[f'{interval}_low']:+.3f} to {row[f'{interval}_high']:+.3f})"


def _minutes(started: float) -> str:
    return f"{(time.monotonic() - started) / 60:5.1f} min"


def _versions() -> dict[str, str]:
    wanted = ("keras", "numba", "numpy", "opencv-python-headless", "scikit-learn", "tensorflow")
    installed = {
        each.name.lower().replace("_", "-"): each.version
        for each in importlib.metadata.distributions()
    }
    found = {name: installed[name] for name in (*wanted, "tensorflow-cpu") if name in installed}
    return {"python": platform.python_version()} | found


def main(arguments: list[str] | None = None) -> int:
    """Measure what each preprocessing step does to a linear classifier of VGG16 features."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="HAM10000, or images in its layout")
    folder = parser.parse_args(arguments).folder.resolve()
    try:
        paths.expect_part(PUBLISHED / "README.md", MARKS)  # before the work, not after it
        run(folder)
        publish()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(paths.relative(PUBLISHED / "README.md"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
