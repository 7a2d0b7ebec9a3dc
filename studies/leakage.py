"""How much does a careless split flatter? The same classifiers, split three ways.

Frozen VGG16 features are classified by logistic regression, cheap and strong, and by the nearest
neighbour, which only memorises. Both are scored on test images that were split off by image, by
lesion, and by group (lesions that share an image joined, lib/data/duplicates.py), with ten seeds
each. Only the unit of the split differs; images, features, classifiers and the proportion that is
tested are the same.
"""

import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa
from scipy.stats import t as student
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from lib import tables
from lib.data import datasets, duplicates, splits
from lib.preprocessing import decode, pipeline, threads
from studies import command, features

CLASSES = ["bcc", "mel", "nv"]
SEEDS = range(10)
TEST_PROPORTION = 0.2
IMAGE_SIZE = 128  # pixels
CHUNK = 256  # images whose features are computed at a time
#: Inverse regularisation of the logistic regression: the best of `STRENGTHS` in balanced accuracy
#: on splits by lesion with other seeds (`regularisation_grid`).
REGULARISATION = 0.001
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
CLASSIFIERS = {
    "logistic regression": LogisticRegression(
        C=REGULARISATION, class_weight="balanced", max_iter=2000
    ),
    "nearest neighbour": KNeighborsClassifier(1, algorithm="brute"),
}
PLANTED = 200
#: Alterations of an image that a search for copies should survive.
ALTERATIONS = ("flip", "quarter turn", "JPEG quality 60", "crop of 10 %", "brightness +-15 %")
#: The unit that a split keeps whole, and its name.
UNITS = {"image_id": "by image", "lesion_id": "by lesion", "group_id": "by group"}
SCORES = ("accuracy", "balanced_accuracy", "balanced_accuracy_several")
RESULTS = command.results_folder("leakage")

#: `leakage.csv`: one row per split and classifier. `siblings` is the proportion of test images
#: with another image of their lesion in training; `balanced_accuracy_several` is of the test images
#: whose lesion has several images in the data: the only ones that can gain by a careless split.
RESULT_SCHEMA = pa.DataFrameSchema(
    {
        "classifier": pa.Column(str, pa.Check.isin(list(CLASSIFIERS))),
        "split": pa.Column(str, pa.Check.isin(list(UNITS.values()))),
        "seed": pa.Column(int),
        "test_images": pa.Column(int),
        "siblings": pa.Column(float, pa.Check.in_range(0, 1)),
    }
    | {name: pa.Column(float, pa.Check.in_range(0, 1)) for name in SCORES},
    unique=["classifier", "split", "seed"],
    strict=True,
)


#: `inspected_pairs.csv`: pairs that a person compared side by side, and the verdict.
INSPECTED_SCHEMA = pa.DataFrameSchema(
    {
        **{name: pa.Column(str) for name in ("image_id_1", "image_id_2")},
        **{name: pa.Column(str) for name in ("lesion_id_1", "lesion_id_2")},
        "similarity": pa.Column(float),
        "drawn": pa.Column(str),  # why the pair was inspected
        "verdict": pa.Column(str, pa.Check.isin(["same view", "not the same view"])),
    },
    unique=["image_id_1", "image_id_2"],
    strict=True,
)


def compute_features(folder: Path, files: pd.Series, store: features.FeatureStore) -> np.ndarray:
    """Return frozen VGG16 features of the central squares; a killed computation resumes.

    Parameters
    ----------
    files : Series of str
        Relative to `folder`.

    Returns
    -------
    ndarray of float32, shape (n, 1280)
    """

    def read(path):
        square = pipeline.crop_square(decode.read_image(folder / path))
        return cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)

    keys = []
    for start in range(0, len(files), CHUNK):
        keys += store.add(threads.map_files(read, files.iloc[start : start + CHUNK]))
    store.save()
    return store.get(keys)


def score_split(
    images: pd.DataFrame,
    inputs: np.ndarray,
    unit: str,
    seed: int,
    classifiers: dict = CLASSIFIERS,
) -> list[dict]:
    """Split, train, and score on the test images.

    Parameters
    ----------
    images : DataFrame
        `image_id`, `lesion_id`, `group_id` and `label`, one row per row of `inputs`.
    inputs : ndarray of float, shape (n, features)
    unit : str
        One of `UNITS`: what the split keeps whole.

    Returns
    -------
    list of dict
        Rows of `RESULT_SCHEMA`, one per classifier.
    """
    labels = splits.group_labels(images.assign(group_id=images[unit]))
    _, held_out = train_test_split(
        labels, test_size=TEST_PROPORTION, stratify=labels, random_state=seed
    )
    test = images[unit].isin(held_out.index).to_numpy()
    label, lesion = images["label"].to_numpy(), images["lesion_id"]
    several = lesion.duplicated(keep=False).to_numpy()[test]
    scaler = StandardScaler().fit(inputs[~test])
    classes = np.unique(label)
    rows = []
    for name, classifier in classifiers.items():
        classifier = clone(classifier).fit(scaler.transform(inputs[~test]), label[~test])
        correct = classifier.predict(scaler.transform(inputs[test])) == label[test]
        rows.append(
            {
                "classifier": name,
                "split": UNITS[unit],
                "seed": seed,
                "test_images": int(test.sum()),
                "siblings": float(lesion[test].isin(lesion[~test]).mean()),
                "accuracy": float(correct.mean()),
                "balanced_accuracy": _balanced(correct, label[test], classes),
                "balanced_accuracy_several": _balanced(
                    correct[several], label[test][several], classes
                ),
            }
        )
    return rows


def summarise(result: pd.DataFrame) -> dict:
    """Return means over the seeds, and the differences between ways to split, seed by seed.

    The splits of different seeds share images, so their scores are not independent: the intervals
    are those of the corrected resampled t-test (Nadeau and Bengio, Machine Learning 52:239, 2003).

    Returns
    -------
    dict
        For each classifier, way to split or difference, and score: `value` (the mean), `low` and
        `high` (95 %).
    """
    summary = {}
    for classifier, rows in result.groupby("classifier", sort=False):
        wide = rows.pivot(index="seed", columns="split", values=list(SCORES))
        values = {name: wide.xs(name, axis=1, level=1) for name in UNITS.values()}
        values |= {
            f"{one} − {other}": values[one] - values[other]
            for one, other in (("by image", "by lesion"), ("by lesion", "by group"))
        }
        summary[classifier] = {
            name: {score: _interval(table[score].to_numpy()) for score in SCORES}
            for name, table in values.items()
        }
    return summary


def find_groups(folder: Path, metadata: pd.DataFrame, files: pd.Series) -> tuple[pd.Series, dict]:
    """Search the whole data set for near-duplicates, and measure the search.

    Writes `duplicates.csv` and `planted_copies.csv`. Memory is the peak of the process, libraries
    included.

    Returns
    -------
    groups : Series of str
        `group_id` by image_id.
    search : dict
        Counts, seconds and memory.
    """
    started = time.monotonic()
    images = duplicates.thumbnails(folder, files)
    read = time.monotonic()
    pairs = duplicates.name_pairs(duplicates.find_pairs(images), metadata)
    searched = time.monotonic()
    duplicates.find_pairs(duplicates.Thumbnails(*(part[::4] for part in images)))
    quarter = time.monotonic() - searched
    tables.write_table(pairs, RESULTS / "duplicates.csv")
    recall = planted_recall(folder, files, images, PLANTED, seed=0)
    tables.write_table(recall.reset_index(), RESULTS / "planted_copies.csv")
    other_lesion = pairs["lesion_id_1"] != pairs["lesion_id_2"]
    per_lesion = metadata["lesion_id"].value_counts()
    return duplicates.join(metadata, pairs), {
        "images": len(metadata),
        "lesions": int(metadata["lesion_id"].nunique()),
        "pairs": len(pairs),
        "pairs_of_one_lesion": int((~other_lesion).sum()),
        "possible_pairs_of_one_lesion": int((per_lesion * (per_lesion - 1) // 2).sum()),
        "pairs_of_different_lesions": int(other_lesion.sum()),
        "pairs_of_different_classes": int((pairs["dx_1"] != pairs["dx_2"]).sum()),
        "planted_copies": int(recall["planted"].sum()),
        "planted_copies_found": int(recall["found"].sum()),
        "seconds_to_read": round(read - started, 1),
        "seconds_to_search": round(searched - read, 1),
        "seconds_to_search_a_quarter": round(quarter, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def measure(folder: Path) -> list[Path]:
    """Run the experiment on a folder in HAM10000's layout; return the files written.

    Raises
    ------
    FileNotFoundError, ValueError
        Images are missing, or no lesion has several.
    """
    started = time.monotonic()
    metadata = datasets.read_metadata(folder)
    if metadata["lesion_id"].is_unique:
        raise ValueError(f"{folder}: one image a lesion; expected HAM10000 with all of them")
    files = datasets.find_images(folder, metadata["image_id"])
    if len(files) < len(metadata):
        raise FileNotFoundError(f"{folder}: {len(metadata) - len(files)} images are missing")
    groups, search = find_groups(folder, metadata, files)
    print(f"near-duplicates: {search}", flush=True)
    images = metadata[metadata["dx"].isin(CLASSES)].rename(columns={"dx": "label"})
    images = images.assign(group_id=images["image_id"].map(groups))
    store = features.FeatureStore(
        command.work_folder("leakage") / "features.npz", *features.load_features_model(IMAGE_SIZE)
    )
    inputs = compute_features(folder, files[images["image_id"]], store)
    rows = []
    for seed in SEEDS:
        for unit in UNITS:
            rows += score_split(images, inputs, unit, seed)
        print(f"seed {seed} of {len(SEEDS)} done", flush=True)
    result = RESULT_SCHEMA.validate(pd.DataFrame(rows))
    summary = {
        "images": len(images),
        "lesions": int(images["lesion_id"].nunique()),
        "groups": int(images["group_id"].nunique()),
        "classes": CLASSES,
        "test_proportion": TEST_PROPORTION,
        "image_size": IMAGE_SIZE,
        "regularisation": REGULARISATION,
        "regularisation_grid": regularisation_grid(images, inputs),
        "seconds": round(time.monotonic() - started),
        "seconds_for_features": round(store.seconds),
        **command.describe_machine(),
        "near_duplicates": search,
        "scores": summarise(result),
    }
    return [
        RESULTS / "duplicates.csv",
        RESULTS / "planted_copies.csv",
        tables.write_table(result, RESULTS / "leakage.csv"),
        tables.write_json(summary, RESULTS / "leakage.json"),
    ]


def regularisation_grid(images: pd.DataFrame, inputs: np.ndarray) -> list[dict]:
    """Score strengths of the logistic regression, by image and by lesion, on other seeds.

    Returns
    -------
    list of dict
        For each strength the mean balanced accuracy with both ways to split.
    """
    strengths = {
        str(strength): LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
        for strength in STRENGTHS
    }
    rows = [
        row
        for unit in ("image_id", "lesion_id")
        for seed in (1001, 1002)
        for row in score_split(images, inputs, unit, seed, strengths)
    ]
    means = pd.DataFrame(rows).pivot_table("balanced_accuracy", "classifier", "split")
    return [{"strength": s} | means.loc[str(s)].round(4).to_dict() for s in STRENGTHS]


def _balanced(correct: np.ndarray, label: np.ndarray, classes: np.ndarray) -> float:
    """Return the mean over the classes of the proportion that is correct."""
    empty = set(classes) - set(label)
    if empty:
        raise ValueError(
            f"no test image of class {', '.join(sorted(empty))} whose lesion has several images; "
            "the experiment needs HAM10000 with all images of each lesion"
        )
    return float(np.mean([correct[label == name].mean() for name in classes]))


def _interval(values: np.ndarray, confidence: float = 0.95) -> dict[str, float]:
    n = len(values)
    error = np.sqrt((1 / n + TEST_PROPORTION / (1 - TEST_PROPORTION)) * values.var(ddof=1))
    reach = student.ppf(0.5 + confidence / 2, n - 1) * error
    mean = values.mean()
    return {"value": float(mean), "low": float(mean - reach), "high": float(mean + reach)}


def alter(image: np.ndarray, alteration: str, random: np.random.Generator) -> np.ndarray:
    """Return an altered copy of an image, one of `ALTERATIONS`."""
    if alteration == "flip":
        return np.ascontiguousarray(np.flip(image, axis=random.integers(2)))
    if alteration == "quarter turn":
        return np.ascontiguousarray(np.rot90(image, random.integers(1, 4)))
    if alteration == "JPEG quality 60":
        return as_jpeg(image, 60)
    if alteration == "crop of 10 %":
        height, width = image.shape[:2]
        top, left = random.integers(height // 10 + 1), random.integers(width // 10 + 1)
        part = image[top : top + height * 9 // 10, left : left + width * 9 // 10]
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    if alteration == "brightness +-15 %":
        return np.clip(image * random.choice([0.85, 1.15]), 0, 255).astype(np.uint8)
    raise ValueError(f"alteration {alteration!r}; expected one of {', '.join(ALTERATIONS)}")


def planted_recall(
    folder: Path, files: pd.Series, images: duplicates.Thumbnails, copies: int, seed: int
) -> pd.DataFrame:
    """Plant altered copies among the images and count those that are found again.

    Each copy is altered in one way and stored as a JPEG of quality 90.

    Parameters
    ----------
    files : Series of str
        Of the images that `images` are the thumbnails of, in their order.

    Returns
    -------
    DataFrame
        One row per alteration, indexed by it: `planted` and `found`.
    """
    random = np.random.default_rng(seed)
    sources = random.choice(len(files), min(copies, len(files)), replace=False)
    alterations = [ALTERATIONS[i % len(ALTERATIONS)] for i in range(len(sources))]
    altered = [
        duplicates.thumbnail(
            as_jpeg(alter(decode.read_image(folder / files.iloc[i]), alteration, random), 90)
        )
        for i, alteration in zip(sources, alterations, strict=True)
    ]
    planted = duplicates.stack(altered)
    both = duplicates.Thumbnails(
        *(np.concatenate(parts) for parts in zip(images, planted, strict=True))
    )
    pairs = set(zip(*duplicates.find_pairs(both)[["first", "second"]].to_numpy().T, strict=True))
    is_found = [(source, len(files) + i) in pairs for i, source in enumerate(sources)]
    table = pd.DataFrame({"alteration": alterations, "found": is_found})
    return table.groupby("alteration", sort=False)["found"].agg(planted="size", found="sum")


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an RGB image as it looks after JPEG compression of a quality of 1 to 100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


if __name__ == "__main__":
    sys.exit(command.main("Measure what a careless split is worth.", measure))
