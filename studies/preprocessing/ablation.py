"""Does preprocessing help a classifier? The same images and classifier, each step on and off.

Frozen VGG16 features of the images as they are, with each step alone, with several steps together,
and with all but one, are classified by logistic regression in grouped five-fold cross-validation.
Only the steps differ: images, folds, classifier and regularisation are the same. The effect of a
step is the paired difference in balanced accuracy, with the step minus without it; a positive
difference favours the step.
"""

import hashlib
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

from lib import tables
from lib.config import Preprocessing, Split
from lib.data import datasets, duplicates, splits
from lib.evaluation import bootstrap
from lib.evaluation.scores import curve_scores, macro_auc, rule_draws
from lib.preprocessing import decode, pipeline, threads
from studies import command, features, leakage

CLASSES = leakage.CLASSES
#: Of a larger class, whole groups are drawn: twice as many nevi would take half as long again and
#: narrow an interval by about a twentieth, because the rare classes set its width.
IMAGES_PER_CLASS = 500
SEED = 0  # of the sample of images and of the bootstrap
FOLDS = 5
#: Each seed assigns the groups to folds anew; scores are means over these repetitions.
REPEATS = range(5)
#: Enough that the corrected intervals, too, have more than ten draws beyond each end.
DRAWS = 10_000
CONFIDENCE = 0.95
#: Pixels: images are preprocessed at the size of the runs, and VGG16 sees its native size.
IMAGE_SIZE, INPUT_SIZE = 256, 224
#: Of the convolutions: twice as fast as float32 on processors with native bfloat16.
PRECISION = "mixed_bfloat16"
CHUNK = 32  # images preprocessed at a time, in all variants
DIGITS = 6  # of the published numbers

#: Every step off; what is not listed here is off by default.
NOTHING = Preprocessing(
    image_size=IMAGE_SIZE,
    remove_hair=False,
    remove_bubbles=False,
    median_kernel=0,
    color_constancy=False,
    equalize_contrast=False,
)
#: The variant of hair removal that searches for thick hair, too.
TWO_SCALES = "hair removal at two scales"
#: How each measured step is switched on; other names are those of `pipeline.STEPS`.
STEPS = {
    "hair removal": {"remove_hair": True},
    TWO_SCALES: {"remove_hair": True, "thick_hair": True},
    "bubble removal": {"remove_bubbles": True},
    "median filter": {"median_kernel": 3},
    "mean filter": {"mean_kernel": 3},
    "colour constancy": {"color_constancy": True},
    "contrast": {"equalize_contrast": True},
}
PAPER = ("hair removal", "bubble removal", "median filter")
#: The median and the mean both smooth, and hair is removed once.
EVERYTHING = tuple(n for n in STEPS if n not in ("mean filter", TWO_SCALES))

RESULTS = command.results_folder("preprocessing")

HELPS, HARMS, NO_DIFFERENCE = "helps", "harms", "no detectable difference"


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
    """Return which variants are compared; each but `nothing` is the subject of one comparison."""
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


_PROPORTION = {"checks": pa.Check.in_range(0, 1)}
_DIFFERENCE = {"checks": pa.Check.in_range(-1, 1)}

#: `ablation.csv`: one row per variant, ordered as `variants()`.
VARIANT_SCHEMA = {
    "variant": pa.Column(str, pa.Check.isin(list(variants())), unique=True),
    "steps": pa.Column(str),
    "balanced_accuracy": pa.Column(float, **_PROPORTION),
    "balanced_accuracy_low": pa.Column(float, **_PROPORTION),
    "balanced_accuracy_high": pa.Column(float, **_PROPORTION),
    "macro_auc": pa.Column(float, **_PROPORTION),
    "macro_auc_low": pa.Column(float, **_PROPORTION),
    "macro_auc_high": pa.Column(float, **_PROPORTION),
}
#: What a variant's comparison adds; empty for `nothing`. `against` is the other variant, `changed`
#: the proportion of images whose pixels differ from it. Differences are with the step minus without
#: it. `corrected` intervals have the error level divided by the number of comparisons; `repeat` is
#: the smallest and largest difference of a single assignment to folds.
DIFFERENCE_SCHEMA = {
    "compared": pa.Column(str, nullable=True),
    "against": pa.Column(str, pa.Check.isin(list(variants())), nullable=True),
    "changed": pa.Column(float, **_PROPORTION, nullable=True),
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

#: `ablation_answers.csv`: one row per image; for each variant, in how many of the repetitions the
#: image was classified correctly. The balanced accuracies follow from it.
CORRECT_SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, unique=True),
        "group_id": pa.Column(str),
        "label": pa.Column(str, pa.Check.isin(CLASSES)),
    }
    | {name: pa.Column(int, pa.Check.in_range(0, len(REPEATS))) for name in variants()},
    strict=True,
)


def compute_features(folder: Path, files: pd.Series, store: features.FeatureStore) -> pd.DataFrame:
    """Preprocess every image in every variant and compute features; a killed computation resumes.

    Parameters
    ----------
    files : Series of str
        Relative to `folder`, indexed by image_id.

    Returns
    -------
    DataFrame of str
        The pictures' keys in the store, one row per image, one column per variant. Variants that
        leave an image unchanged share a key.
    """
    settings = {name: settings_of(steps) for name, steps in variants().items()}

    def process(path):
        image = decode.read_image(folder / path)
        return [pipeline.preprocess_image(image, variant) for variant in settings.values()]

    keys = []
    for start in range(0, len(files), CHUNK):
        pictures = threads.map_files(process, files.iloc[start : start + CHUNK])
        keys += store.add([picture for versions in pictures for picture in versions])
        done = min(start + CHUNK, len(files))
        print(f"{done:,} of {len(files):,} images, {len(store):,} different pictures", flush=True)
    store.save()
    rows = np.reshape(keys, (len(files), len(settings)))
    return pd.DataFrame(rows, index=files.index, columns=list(settings))


def predict_out_of_fold(images: pd.DataFrame, inputs: np.ndarray, seed: int) -> np.ndarray:
    """Predict each image by a classifier that was trained on the other folds.

    Parameters
    ----------
    images : DataFrame
        `group_id` and `label`, one row per row of `inputs`.
    inputs : ndarray of float, shape (n, features)
    seed : int
        Assigns the groups to folds.

    Returns
    -------
    ndarray of float, shape (n, classes), in the order of `CLASSES`
    """
    settings = Split(validation=0.2, test=0.2, folds=FOLDS, seed=seed)  # only folds and seed count
    folds = splits.fold_groups(splits.group_labels(images), settings)
    classifier = make_pipeline(StandardScaler(), clone(leakage.CLASSIFIERS["logistic regression"]))
    return cross_val_predict(
        classifier,
        inputs,
        images["label"],
        cv=PredefinedSplit(images["group_id"].map(folds)),
        method="predict_proba",
        n_jobs=-1,
    )


def score_variant(
    images: pd.DataFrame, inputs: np.ndarray, weights: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Cross-validate with every assignment to folds.

    Parameters
    ----------
    weights : ndarray of float, shape (1 + draws, n)
        From `bootstrap.lesion_weights`.

    Returns
    -------
    scores : dict of str to ndarray of float, shape (repeats, 1 + draws)
        `balanced_accuracy` and `macro_auc`.
    correct : ndarray of int, shape (n,)
        In how many of the repetitions each image was classified correctly.
    """
    scores, correct = {"balanced_accuracy": [], "macro_auc": []}, np.zeros(len(images), int)
    for seed in REPEATS:
        probabilities = predict_out_of_fold(images, inputs, seed)
        predicted = np.array(CLASSES)[probabilities.argmax(axis=1)]
        table = images[["label"]].assign(predicted=predicted)
        draws = rule_draws(table, "predicted", CLASSES, weights)
        scores["balanced_accuracy"].append(draws["balanced_accuracy"])
        actual = images["label"].to_numpy()[:, None] == np.array(CLASSES)
        scores["macro_auc"].append(macro_auc(curve_scores(probabilities, actual, weights)))
        correct += (table["label"] == table["predicted"]).to_numpy()
    return {name: np.stack(values) for name, values in scores.items()}, correct


def verdict(interval: dict[str, float]) -> str:
    """Return what the interval of a difference, with a step minus without it, says of the step."""
    if interval["low"] > 0:
        return HELPS
    return HARMS if interval["high"] < 0 else NO_DIFFERENCE


def summarise(scores: dict[str, dict[str, np.ndarray]], keys: pd.DataFrame) -> pd.DataFrame:
    """Return each variant's scores, and its difference from the variant it is compared with.

    Each score is the mean over the assignments to folds, in every draw of lesions.

    Parameters
    ----------
    scores : dict of str to dict
        For each variant, from `score_variant`.
    keys : DataFrame of str
        From `compute_features`.

    Returns
    -------
    DataFrame
        `RESULT_SCHEMA`.
    """
    compared = {subject(comparison): comparison for comparison in comparisons()}
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


def _compare(comparison: Comparison, scores: dict, keys: pd.DataFrame) -> dict:
    more, less = comparison.more, comparison.less
    difference, auc = (
        scores[more][score] - scores[less][score] for score in ("balanced_accuracy", "macro_auc")
    )
    mean = difference.mean(axis=0)
    exact = bootstrap.interval(mean, CONFIDENCE)
    interval = {end: round(value, DIGITS) for end, value in exact.items()}  # -1e-17 is zero
    corrected = bootstrap.interval(mean, 1 - (1 - CONFIDENCE) / len(comparisons()))
    return {
        "compared": comparison.label,
        "against": less if subject(comparison) == more else more,
        "changed": float((keys[more] != keys[less]).mean()),
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


def subject(comparison: Comparison) -> str:
    """Return the variant in whose row of `ablation.csv` a comparison is."""
    return comparison.less if comparison.group == "with the others" else comparison.more


def choose_images(folder: Path) -> tuple[pd.DataFrame, dict]:
    """Choose the images, near-duplicates joined: all of the rare classes, a sample of the others.

    Returns
    -------
    images : DataFrame
        `image_id`, `lesion_id`, `group_id`, `label` and `path`, ordered by image_id.
    counts : dict
        How many there are, and how many were chosen.

    Raises
    ------
    FileNotFoundError, ValueError
        Images are missing, or a class has none.
    """
    metadata = datasets.read_metadata(folder)
    metadata = metadata[metadata["dx"].isin(CLASSES)].reset_index(drop=True)
    available = metadata["dx"].value_counts().reindex(CLASSES, fill_value=0)
    if available.min() == 0:
        raise ValueError(
            f"{folder}: no image of class {available.idxmin()}; expected all of {CLASSES}"
        )
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
        "available_images": available.to_dict(),
        "images": {name: int(taken[name]) for name in CLASSES},
        "lesions": int(chosen["lesion_id"].nunique()),
        "groups": int(chosen["group_id"].nunique()),
        "pairs_of_near_duplicates": len(pairs),
    }


def measure(folder: Path, load_model: Callable = features.load_features_model) -> list[Path]:
    """Run the ablation on a folder in HAM10000's layout; return the files written."""
    started = time.monotonic()
    images, counts = choose_images(folder)
    print(f"images: {counts}", flush=True)
    file = command.work_folder("preprocessing") / "ablation_features.npz"
    store = features.FeatureStore(file, *load_model(IMAGE_SIZE, INPUT_SIZE, PRECISION))
    keys = compute_features(folder, images.set_index("image_id")["path"], store)
    weights = bootstrap.lesion_weights(images, DRAWS, SEED)
    scores, correct = {}, images[["image_id", "group_id", "label"]]
    for name in variants():
        scores[name], counted = score_variant(images, store.get(keys[name]), weights)
        correct = correct.assign(**{name: counted})
        value = scores[name]["balanced_accuracy"][:, 0].mean()
        print(f"{name}: balanced accuracy {value:.3f}", flush=True)
    settings = {
        **counts,
        "classes": CLASSES,
        "images_per_class": IMAGES_PER_CLASS,
        "image_size": IMAGE_SIZE,
        "input_size": INPUT_SIZE,
        "precision": PRECISION,
        "model": store.model,
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
        "seconds": round(time.monotonic() - started),
        "seconds_for_features": round(store.seconds),
        **command.describe_machine(),
    }
    return [
        tables.write_table(summarise(scores, keys), RESULTS / "ablation.csv"),
        tables.write_table(CORRECT_SCHEMA.validate(correct), RESULTS / "ablation_answers.csv"),
        tables.write_json(settings, RESULTS / "ablation.json"),
    ]


if __name__ == "__main__":
    sys.exit(command.main("Measure what each preprocessing step does to a classifier.", measure))
