"""Does augmentation help? The same new head on frozen features, with three kinds of augmentation.

Every image of the published HAM10000 run is predicted by heads that were trained on the other
folds: without augmentation, with the paper's (rotation, zoom, flips), and at full strength (wider,
and also shear, shift, aspect ratio and colour). The images, the frozen VGG16, the settings of the
head, the number of steps and the seeds are the same. Predictions use the plain view.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lib import config, tables
from lib.config import Augmentation, ColorJitter, Config, Stage
from lib.data import datasets, duplicates
from lib.evaluation import metrics, prediction_files, priors
from lib.evaluation.scores import SCORES, point_scores
from lib.networks import batching, building, feature_cache, inference, model_graph, training
from lib.preprocessing import pipeline, threads
from studies import command

CONFIGURATION = "configs/ham10000.yaml"
RESULTS = command.results_folder("augmentation")
NONE, PAPER, FULL = KINDS = ("none", "the paper's", "full strength")
DIFFERENCES = ((PAPER, NONE), (FULL, NONE), (FULL, PAPER))
#: The decision rule of each score; macro AUC needs none.
RULES = {
    "accuracy": "training_prior",
    "balanced_accuracy": "equal_priors",
    "macro_auc": "training_prior",
}
#: The amounts at full strength; the paper's kinds have those of the configuration.
STRONG = Augmentation(
    rotation_degrees=180,
    zoom=0.3,
    flip="horizontal_and_vertical",
    shear=0.15,
    shift=0.06,
    aspect=0.12,
    color_jitter=ColorJitter(brightness=0.1, contrast=0.2, saturation=0.25, channels=0.06),
)

#: `scores.csv`: a kind of augmentation, or the difference between two, with its interval.
SCHEMA = pa.DataFrameSchema(
    {
        "augmentation": pa.Column(str),
        "minus": pa.Column(str, nullable=True),
        "score": pa.Column(str, pa.Check.isin(list(SCORES))),
        **{name: pa.Column(float) for name in ("value", "low", "high")},
    },
    unique=["augmentation", "minus", "score"],
    strict=True,
)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    views: int = 4  # of each image: the plain one and augmented ones
    seeds: int = 3  # heads that are trained for each fold and kind
    images_per_class: int | None = None  # by default all images of the published run
    pretrained: bool = True  # without ImageNet's weights, the network is tiny


FULL_SIZE = Size()
QUICK = Size(views=2, seeds=1, images_per_class=20, pretrained=False)
SIZE = FULL_SIZE


@dataclasses.dataclass(frozen=True)
class Data:
    """Preprocessed images, and their rows of the index."""

    settings: Config
    index: pd.DataFrame
    images: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        return self.index["label"].map(self.settings.classes.index).to_numpy()


def configuration() -> Config:
    """Return the configuration whose augmentation and head are measured."""
    settings = config.load_config(CONFIGURATION)
    if SIZE.images_per_class is None:
        return settings
    tiny = {"input_size": 32, "dense_units": 8, "weights": "none", "batch_size": 8}
    transfer = settings.model("vgg16")
    stage = transfer.frozen.model_copy(update={"epochs": 2})
    transfer = transfer.model_copy(update=tiny | {"frozen": stage})
    models = [transfer if item.name == "vgg16" else item for item in settings.models]
    sections = {
        "data": settings.data.model_copy(update={"images_per_class": SIZE.images_per_class}),
        "split": settings.split.model_copy(update={"file": None, "folds": 2}),
        "models": models,
    }
    return settings.model_copy(update=sections)


def prepare(folder: Path, work: Path) -> Data:
    """Read the images of the published run and preprocess them to a file in `work`.

    Raises
    ------
    FileNotFoundError, ValueError
        Images of the published run are missing or cannot be used.
    """
    settings = configuration()
    metadata = datasets.read_metadata(folder)
    files = datasets.find_images(folder, metadata["image_id"])
    metadata = metadata[metadata["image_id"].isin(files.index)]
    no_pairs = pd.DataFrame(columns=["lesion_id_1", "lesion_id_2"])
    groups = duplicates.join(metadata, no_pairs)  # the published split has its own
    index = datasets.build_index(metadata, files, groups, settings)

    def read(path):
        return pipeline.prepare(folder / path, settings.preprocessing)

    with threads.one_opencv_thread():
        np.save(work / "images.npy", np.stack(threads.map_files(read, index["path"])))
    return Data(settings, index, np.load(work / "images.npy", mmap_mode="r"))


def cache_views(data: Data, kind: str, work: Path) -> np.ndarray:
    """Return the frozen features of all images in the plain view and in augmented ones."""
    name = kind.replace(" ", "_").replace("'", "")
    model = build(data.settings, augmentation_of(data.settings, kind))
    frozen, _ = model_graph.split_before(model, "dense")
    rows = np.arange(len(data.images))
    (features,) = feature_cache.cache_features(
        frozen, data.images, rows, work / f"features_{name}", views=SIZE.views
    )
    return features


def augmentation_of(settings: Config, kind: str) -> Augmentation:
    """Return the amounts of the paper's kinds of augmentation, or those at full strength."""
    return STRONG if kind == FULL else settings.augmentation


def build(settings: Config, augmentation: Augmentation, seed: int | None = None):
    """Build VGG16 with a new head, whose first weights follow the seed."""
    seed = settings.seed if seed is None else seed
    changed = settings.model_copy(update={"seed": seed})
    item = settings.model("vgg16").model_copy(update={"augmentation": augmentation})
    return building.build_for_training(changed, item)


def predict_fold(
    data: Data, head, features: np.ndarray, views: int, fold: int, seed: int, state: Path
) -> np.ndarray:
    """Train a head on all other folds, to its last epoch, and predict the images of this one.

    Returns
    -------
    ndarray of float, shape (images of the fold, classes)
        Posteriors under equal priors.
    """
    item, classes = data.settings.model("vgg16"), data.settings.classes
    held_out = (data.index["fold"] == fold).to_numpy()
    rows = batching.view_rows(features, len(data.index))[:, :views]
    equal, size, targets = np.ones(len(classes)), item.batch_size, data.targets
    training.fit(
        head,
        batching.Batches(features, rows[~held_out], targets[~held_out], equal, size, seed),
        batching.Batches(features, rows[held_out, :1], targets[held_out], equal, size),
        _stage(data.settings),
        classes=classes,
        state=state,
        stage="head",
        loss_prior=priors.fold_prior(data.index, fold, classes),
        verbose=False,
    )
    return inference.predict(head, features, rows[held_out, 0])


def _stage(settings: Config) -> Stage:
    """Return the settings of the new head, without a choice of the epoch."""
    return settings.model("vgg16").frozen.model_copy(update={"keep": "last"})


def predict_all(
    data: Data, features: np.ndarray, views: int, seed: int, name: str, work: Path
) -> pd.DataFrame:
    """Return out-of-fold predictions of all images: `prediction_files.cross_validation_schema`."""
    network = build(data.settings, data.settings.augmentation, seed)
    _, head = model_graph.split_before(network, "dense")
    reset, parts, classes = model_graph.snapshot(head), [], data.settings.classes
    for fold in range(data.settings.split.folds):
        reset()  # the same first weights, and the same random numbers
        rows = data.index[data.index["fold"] == fold]
        state = work / f"{name.replace(' ', '_')}_{seed}_{fold}.state.npz"
        outputs = predict_fold(data, head, features, views, fold, seed, state)
        prior = priors.fold_prior(data.index, fold, classes)
        posteriors = priors.change_prior(outputs, np.ones(len(classes)), prior)
        table = prediction_files.prediction_table(name, rows, posteriors, classes, prior)
        parts.append(table.assign(fold=fold))
    return pd.concat(parts, ignore_index=True)


def score(predictions: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Return scores over all seeds, and their paired differences, with intervals over lesions."""
    options = metrics.settings(data.settings.model_dump())
    titles = dict(zip(KINDS, KINDS, strict=True))
    scored = metrics.evaluate_models(predictions, titles, **options, comparisons=DIFFERENCES)
    rows = []
    for name, rule in RULES.items():
        entries = [(kind, None, part["rules"][rule]) for kind, part in scored["models"].items()]
        pairs = [pair for pair in scored["differences"] if pair["rule"] == rule]
        entries += [(pair["model"], pair["less"], pair) for pair in pairs]
        for kind, less, values in entries:
            interval = {end: values[name][end] for end in ("value", "low", "high")}
            rows.append({"augmentation": kind, "minus": less, "score": name} | interval)
    return SCHEMA.validate(pd.DataFrame(rows).astype({"minus": object}))


def title(score: str) -> str:
    """Return a score and the decision rule under which the study reports it."""
    return f"{SCORES[score].label}, {priors.RULES[RULES[score]]}"


def score_seed(predictions: pd.DataFrame) -> dict[str, float]:
    """Return the scores that need decisions, without intervals."""
    scores = {name: point_scores(predictions, rule) for name, rule in RULES.items()}
    return {title(name): values[name] for name, values in scores.items() if name in values}


def measure(folder: Path) -> list[Path]:
    """Run the experiment on a folder in HAM10000's layout; return the files written."""
    started, work = time.monotonic(), command.work_folder("augmentation")
    data = prepare(folder, work)
    training.set_seed(data.settings.seed)
    seeds = range(1, 1 + SIZE.seeds)
    parts, by_seed = [], []
    for kind in KINDS:
        # the plain view alone needs no features of its own
        features = cache_views(data, PAPER if kind == NONE else kind, work)
        views = 1 if kind == NONE else SIZE.views
        for seed in seeds:
            parts.append(predict_all(data, features, views, seed, kind, work))
            by_seed.append({"augmentation": kind, "seed": seed} | score_seed(parts[-1]))
            print(by_seed[-1], flush=True)
    summary = {
        "images": len(data.index),
        "folds": data.settings.split.folds,
        "views": SIZE.views,
        "seeds": list(seeds),
        "kinds": {
            kind: augmentation_of(data.settings, kind).model_dump() for kind in (PAPER, FULL)
        },
        "head": data.settings.model("vgg16").model_dump(include={"dense_units", "dropout"})
        | _stage(data.settings).model_dump(),
        "seconds": round(time.monotonic() - started),
        **command.describe_machine(),
    }
    return [
        tables.write_table(score(pd.concat(parts), data).round(6), RESULTS / "scores.csv"),
        tables.write_table(pd.DataFrame(by_seed).round(6), RESULTS / "seeds.csv"),
        tables.write_json(summary, RESULTS / "augmentation.json"),
    ]


if __name__ == "__main__":
    sys.exit(command.main("Measure what augmentation is worth.", measure))
