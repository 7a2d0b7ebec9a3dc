"""How fast is training, and what do kept features and bfloat16 bring? `make bench-training`.

Everything is measured in one run, on images of a folder that are preprocessed as
configs/ham10000.yaml has it, with that configuration's networks. What is compared is timed side by
side: single steps by their fastest repetition, epochs by the median of those after the first, in
which Keras traces the network. Where the pipeline is compared with a batch in memory, epochs of the
two alternate. What changes a whole process (determinism, peak memory) runs in a process of its own.

The usual way of public notebooks is Keras's own ImageDataGenerator: PIL decodes and resizes each
image anew in every epoch, SciPy turns it, one image after the other, and the frozen part of VGG16
is run again.
"""

import argparse
import contextlib
import functools
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.model_selection import train_test_split

from lib import config, paths, tables
from lib.config import Config, Stage
from lib.data import datasets, duplicates, splits
from lib.evaluation import bootstrap
from lib.networks import (
    alexnet,
    baseline_cnn,
    batching,
    devices,
    epoch_scores,
    feature_cache,
    inference,
    model_graph,
    training,
    vgg16,
    vgg16_weights,
)
from lib.networks.backend import computes_bfloat16, keras, processor, versions
from lib.preprocessing import pipeline, threads

CONFIGURATION = "configs/ham10000.yaml"

#: Where the published result lies, and the README's part on it.
PUBLISHED = paths.ROOT / "reports" / "studies" / "speed"
MARKS = "<!-- benchmark: make bench-training writes this -->", "<!-- end of benchmark -->"

FORMATS = ("float32", "bfloat16")
BASELINE, ALEXNET = "baseline CNN", "AlexNet"
FROM_IMAGES, FROM_MAPS = "VGG16 fine-tuned from images", "VGG16 fine-tuned from kept maps"
HEAD = "head on kept features"
NETWORKS = (BASELINE, ALEXNET, FROM_IMAGES, FROM_MAPS, HEAD)

#: What is fine-tuned where the number formats are compared.
COMPARED_FROM = "block5_conv1"

WARM, COLD, FIXED = "file in the page cache", "file dropped from it", "one batch in memory"
ALONE = "one batch, no pipeline and no fit"
EPOCHS_OF = (FIXED, WARM, COLD)  # in turn

MOST_PIPELINE = 1.15  # times the same steps on a batch in memory
LEAST_CACHE = 15.0  # times as fast as recomputing the frozen layers
MOST_MEMORY = 4.0  # GiB at the peak
MOST_GROWTH = 1.1  # times the peak with a tenth of the images
MOST_MINUTES = 12.0

#: `training.csv`: one row a figure.
SCHEMA = pa.DataFrameSchema(
    {
        "what": pa.Column(str),
        "variant": pa.Column(str),
        "value": pa.Column(float),
        "unit": pa.Column(str),
        "note": pa.Column(str, nullable=True),
    },
    unique=["what", "variant"],
    strict=True,
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    images_per_class: int = 120
    #: share of the lesions for validation
    validation: float = 0.35
    #: sides of the matrices that are multiplied
    matrices: tuple[int, ...] = (2048, 4096)
    #: repetitions of a single step, of which the fastest counts
    repeats: int = 2
    #: rounds of the pipeline's epochs after the first, and steps of such an epoch
    rounds: int = 3
    steps: int = 10
    head_steps: int = 400
    #: of stage 1, both with kept features and recomputed, and views that are kept
    frozen_epochs: int = 3
    views: int = 2
    tuned_epochs: int = 2
    #: images of the usual way, for the baseline and for VGG16
    usual: tuple[int, int] = (192, 64)
    #: images of the sparse files that memory is measured on
    memory: tuple[int, int] = (10_000, 100_000)
    #: networks that are trained from the larger of them, and for how many steps
    on_file: tuple[str, ...] = (BASELINE, FROM_IMAGES)
    file_steps: int = 4
    #: whose steps and states are timed
    networks: tuple[str, ...] = NETWORKS
    #: processes that run at the same time; with more than one, what they time says nothing
    at_once: int = 1
    #: ImageNet's weights; without them, the networks are small and their scores mean nothing
    pretrained: bool = True


FULL = Size()
QUICK = Size(
    images_per_class=6,
    matrices=(128,),
    repeats=1,
    rounds=1,
    steps=2,
    head_steps=2,
    frozen_epochs=2,
    views=1,
    tuned_epochs=2,
    usual=(8, 8),
    memory=(200, 400),
    file_steps=1,
    at_once=4,
    pretrained=False,
)


@dataclass(frozen=True)
class Data:
    """The images of a benchmark, preprocessed, in files."""

    index: pd.DataFrame  # image_id, lesion_id, group_id, label, split, path; row i is image i
    images: np.ndarray  # uint8, shape (n, size, size, 3), memory-mapped
    source: Path
    folder: Path  # for what is made on the way

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split."""
        return np.flatnonzero(self.index["split"] == split)

    def targets(self, classes: list[str], rows: np.ndarray) -> np.ndarray:
        """Return each row's class, as its place among the classes."""
        return self.index["label"].map(classes.index).to_numpy()[rows]


class Rows:
    """The figures of a benchmark, as they come; each is printed."""

    def __init__(self):
        self.kept: list[tuple] = []
        self.seconds: dict[str, float] = {}  # of each part of the benchmark

    def timed(self, part: str, measure: Callable, *arguments):
        """Call a function, count its time towards a part, and return what it returns."""
        started = time.perf_counter()
        result = measure(*arguments)
        spent = self.seconds.get(part, 0.0) + time.perf_counter() - started
        self.seconds[part] = round(spent, 1)
        return result

    def add(self, what: str, variant: str, value: float, unit: str, note: str = "") -> float:
        """Keep a figure, and return it."""
        self.kept.append((what, variant, float(f"{value:.6g}"), unit, note))
        print(f"{what} | {variant} | {value:.4g} {unit}", flush=True)
        return value

    def table(self) -> pd.DataFrame:
        """Return the figures as `SCHEMA` has them."""
        return SCHEMA.validate(pd.DataFrame(self.kept, columns=list(SCHEMA.columns)))


# ---------------------------------------------------------------------------------- operations


def layer_operations(layer: keras.Operation, outputs: tuple) -> int:
    """Return the floating-point operations of a layer for one image, forwards.

    Two a multiply-add, of convolutions and dense layers; whatever else there is (bias, activation,
    pooling, normalisation, augmentation) counts nothing.

    Parameters
    ----------
    outputs : tuple
        The shape of what the layer puts out, batch first.

    Raises
    ------
    ValueError
        A layer with a matrix of weights, of a kind that is not known here.
    """
    known = keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense
    if isinstance(layer, known):
        places = math.prod(outputs[1:-1])  # a kernel is applied once at each
        return 2 * places * math.prod(layer.kernel.shape)
    if any(len(weight.shape) > 1 for weight in getattr(layer, "weights", [])):
        raise ValueError(
            f"layer {layer.name!r} is of type {type(layer).__name__}; expected one of "
            f"{', '.join(kind.__name__ for kind in known)}, or a layer without matrices"
        )
    return 0


def operations(model: keras.Model) -> dict[str, int]:
    """Return the operations for one image, `inference` and `training` (forwards and backwards).

    Backwards, a layer's weights cost as much as the layer forwards, if they are trained; the
    gradient with respect to its inputs costs the same again, if something before it is trained.
    """
    counts = {"inference": 0, "training": 0}
    learned = set()  # tensors that depend on trained weights
    for call in model_graph.calls(model):
        layer = call.operation
        forwards = layer_operations(layer, call.outputs[0].shape)
        trained = bool(getattr(layer, "trainable_weights", []))
        behind = any(id(tensor) in learned for tensor in call.input_tensors)
        counts["inference"] += forwards
        counts["training"] += forwards * (1 + trained + behind)
        if trained or behind:
            learned |= {id(tensor) for tensor in call.outputs}
    return counts


# ---------------------------------------------------------------------------------------- timing


def fastest(action: Callable, repeats: int, at_least: float = 1.0) -> float:
    """Return the seconds of the fastest repetition, after one to warm up.

    There are `repeats` of them, or as many as take `at_least` seconds in all.
    """
    action()
    seconds = []
    while len(seconds) < repeats or (repeats > 1 and sum(seconds) < at_least):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def compile_as_fit(model: keras.Model, classes: list[str], **options) -> None:
    """Compile a network with the optimiser, the loss and the scores of `training.fit`."""
    scores = [epoch_scores.Accuracy(name="accuracy"), epoch_scores.Scores(classes)]
    loss = "categorical_crossentropy"
    model.compile(keras.optimizers.Adam(1e-5), loss, metrics=scores, **options)


def random_batch(model: keras.Model, batch_size: int):
    """Return inputs of a network (noise) and one-hot targets."""
    random = np.random.default_rng(0)

    def noise(tensor):
        shape = (batch_size, *tensor.shape[1:])
        if tensor.dtype == "uint8":
            return random.integers(0, 256, shape, dtype=np.uint8)
        return random.random(shape, np.float32)

    inputs = [noise(tensor) for tensor in model.inputs]
    n_classes = model.output_shape[-1]
    targets = np.eye(n_classes, dtype=np.float32)[np.arange(batch_size) % n_classes]
    return inputs[0] if len(inputs) == 1 else inputs, targets


def step_seconds(model: keras.Model, batch_size: int, run: Config, repeats: int, **options):
    """Return the seconds of a training step on one batch, the fastest of several."""
    compile_as_fit(model, run.classes, **options)
    inputs, targets = random_batch(model, batch_size)
    return fastest(lambda: model.train_on_batch(inputs, targets), repeats)


def later(history: pd.DataFrame) -> float:
    """Return the median seconds of an epoch, leaving out the first, which traces the network."""
    return float(history["seconds"].iloc[1:].median())


# ---------------------------------------------------------------------------------------- inputs


def smaller(run: Config) -> Config:
    """Return the configuration with networks that take no time."""
    changes = {
        "baseline_cnn": {"filters": [4] * 8, "dense_units": [8, 8], "batch_size": 8},
        "alexnet": {"filters": [4] * 5, "dense_units": [8, 8], "batch_size": 8},
        "vgg16_transfer": {"input_size": 32, "dense_units": 8, "batch_size": 8},
    }
    return run.model_copy(
        update={name: getattr(run, name).model_copy(update=each) for name, each in changes.items()}
    )


def configuration(size: Size) -> Config:
    """Return the configuration whose networks are measured."""
    run = config.load_config(CONFIGURATION)
    return run if size.pretrained else smaller(run)


def prepare(source: Path, run: Config, size: Size, folder: Path) -> Data:
    """Draw images, as many of each class, split them by lesion and preprocess them into a file.

    Raises
    ------
    FileNotFoundError, ValueError
        Images that are missing or cannot be used, or a class without any.
    """
    metadata = datasets.read_metadata(source)
    metadata = metadata[metadata["dx"].isin(run.classes)].rename(columns={"dx": "label"})
    there = metadata["label"].value_counts().reindex(run.classes, fill_value=0)
    if there.min() < 2:
        raise ValueError(
            f"{source.name}: {there.min()} images of class {there.idxmin()}; expected two or more"
        )
    lesions = metadata.assign(group_id=metadata["lesion_id"])
    index = splits.sample_groups(lesions, size.images_per_class, run.seed)
    index = index.sort_values("image_id", ignore_index=True)
    files = datasets.find_images(source, index["image_id"])
    if len(files) < len(index):
        raise FileNotFoundError(f"{source.name}: {len(index) - len(files)} images are missing")
    files = files[index["image_id"]]
    pairs = duplicates.find_pairs(duplicates.thumbnails(source, files))
    named = index.assign(dx=index["label"])
    groups = duplicates.join(named, duplicates.name_pairs(pairs, named))
    index = index.assign(group_id=index["image_id"].map(groups), path=files.to_numpy())
    labels = splits.group_labels(index)
    _, held_out = train_test_split(
        labels, test_size=size.validation, stratify=labels, random_state=run.seed
    )
    held_out = index["group_id"].isin(held_out.index)
    index = index.assign(split=np.where(held_out, "validation", "train"))

    side, target = run.preprocessing.image_size, folder / "images.npy"
    images = np.lib.format.open_memmap(target, "w+", np.uint8, (len(index), side, side, 3))
    with threads.one_opencv_thread():
        for start in range(0, len(index), 32):
            part = [source / path for path in index["path"].iloc[start : start + 32]]
            read = functools.partial(pipeline.prepare, settings=run.preprocessing)
            images[start : start + len(part)] = threads.map_files(read, part)
    images.flush()
    return Data(index, np.load(target, mmap_mode="r"), source, folder)


def build_transfer(run: Config, size: Size, image_size: int | None = None, augment=True):
    """Build VGG16 with a new head, and ImageNet's weights where they are wanted."""
    augmentation = run.augmentation if augment else _no_augmentation(run)
    settings = run.vgg16_transfer
    side = image_size or run.preprocessing.image_size
    model = vgg16.vgg16_transfer(side, len(run.classes), settings, augmentation, run.seed)
    if size.pretrained:
        vgg16_weights.load_backbone_weights(model, settings)
    return model


def build_baseline(run: Config, augment: bool = True) -> keras.Model:
    """Build the baseline CNN."""
    augmentation = run.augmentation if augment else _no_augmentation(run)
    side = run.preprocessing.image_size
    return baseline_cnn.baseline_cnn(
        side, len(run.classes), run.baseline_cnn, augmentation, run.seed
    )


def build_network(name: str, run: Config, size: Size) -> keras.Model:
    """Build one of `NETWORKS` as it is trained."""
    if name == BASELINE:
        return build_baseline(run)
    if name == ALEXNET:
        side, n_classes = run.preprocessing.image_size, len(run.classes)
        return alexnet.alexnet(side, n_classes, run.alexnet, run.augmentation, run.seed)
    # speed does not depend on the weights
    model = build_transfer(run, Size(pretrained=False))
    if name == HEAD:
        return model_graph.split_before(model, "dense")[1]
    first = run.vgg16_transfer.fine_tune.from_layer
    model_graph.train_from(model, first)
    return model if name == FROM_IMAGES else model_graph.split_before(model, first)[1]


def batch_size_of(name: str, run: Config) -> int:
    """Return the batch size that the configuration has for one of `NETWORKS`."""
    of = {BASELINE: run.baseline_cnn, ALEXNET: run.alexnet}
    return of.get(name, run.vgg16_transfer).batch_size


def _no_augmentation(run: Config):
    changes = {"rotation_degrees": 0.0, "zoom": 0.0, "flip": "none", "color_jitter": None}
    return run.augmentation.model_copy(update=changes)


# ----------------------------------------------------------- 1 and 2: the machine, the networks


def measure_matrices(rows: Rows, size: Size) -> None:
    """Multiply square matrices in each format; the fastest product is the machine's peak."""
    random = np.random.default_rng(0)
    for name in FORMATS:
        rates = {}
        for side in size.matrices:
            pair = random.random((2, side, side), np.float32)
            left, right = (keras.ops.cast(each, name) for each in pair)

            def multiply(left=left, right=right):
                product = keras.ops.matmul(left, right)
                return model_graph.to_numpy(
                    keras.ops.cast(product[0, 0], "float32")
                )  # waits for it

            rates[side] = 2 * side**3 / fastest(multiply, max(size.repeats, 2)) / 1e9
        best = max(rates, key=rates.get)
        note = f"square matrices of {best}, the fastest of {', '.join(map(str, size.matrices))}"
        rows.add("matrix product", name, rates[best], "GFLOP/s", note)


def measure_networks(rows: Rows, run: Config, size: Size) -> None:
    """Time a training step and inference of each network in each format, and count operations."""
    for name in size.networks:
        batch_size = batch_size_of(name, run)
        for number_format in FORMATS:
            with devices.policy(number_format):
                model = build_network(name, run, size)
            counted = operations(model)
            if number_format == FORMATS[0]:
                for task, count in counted.items():
                    rows.add(f"operations, {task}", name, count / 1e9, "GFLOP an image")
            inputs, _ = random_batch(model, batch_size)
            seconds = {
                "training": step_seconds(model, batch_size, run, size.repeats),
                "inference": fastest(
                    functools.partial(inference.call, model, inputs), size.repeats
                ),
            }
            for task, value in seconds.items():
                note = f"batches of {batch_size}, the fastest step"
                speed = rows.add(
                    f"{task}, {number_format}", name, batch_size / value, "images/s", note
                )
                rate = counted[task] * speed / 1e9
                rows.add(f"rate of {task}, {number_format}", name, rate, "GFLOP/s")


# -------------------------------------------------------------------------- 3: the input pipeline


class Alternating(batching.Batches):
    """Batches whose epochs are served in turn from memory, from a cached file, from the disk."""

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.way = EPOCHS_OF[epoch % len(EPOCHS_OF)]
        if self.way == COLD:
            for part in self.inputs if isinstance(self.inputs, list) else [self.inputs]:
                drop_from_cache(part)

    def __getitem__(self, batch):
        if self.way != FIXED:
            return super().__getitem__(batch)
        if not hasattr(self, "fixed"):
            self.fixed = super().__getitem__(0)
        return self.fixed


def drop_from_cache(array: np.ndarray) -> None:
    """Make the next reading of a memory-mapped array one from the disk, where the system can."""
    batching.let_go(array)
    if hasattr(os, "posix_fadvise"):
        with open(array.filename, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_pipeline(
    rows: Rows, name: str, inputs: np.ndarray, run: Config, size: Size, data: Data
):
    """Time epochs through `training.fit` from a file, and from one batch in memory, in turn.

    Parameters
    ----------
    name : str
        `BASELINE` or `HEAD`.
    inputs : ndarray, memory-mapped
        Images, one a row of the index, or features, one row for each training image.
    """
    model = build_network(name, run, size)
    batch_size = batch_size_of(name, run)
    steps = size.head_steps if name == HEAD else size.steps
    rows_of = data.rows("train")
    targets = np.resize(data.targets(run.classes, rows_of), steps * batch_size)
    places = np.arange(len(rows_of)) if name == HEAD else rows_of
    places = np.resize(places, steps * batch_size)
    equal = np.ones(len(run.classes))
    train = Alternating(inputs, places, targets, equal, batch_size, run.seed)
    validation = batching.Batches(
        inputs, places[:batch_size], targets[:batch_size], equal, batch_size
    )
    history = training.fit(
        model,
        train,
        validation,
        Stage(epochs=len(EPOCHS_OF) * (1 + size.rounds), learning_rate=1e-5),
        classes=run.classes,
        state=data.folder / f"pipeline_{name.split()[0]}.state.npz",
        stage=name,
    )
    way = pd.Series(EPOCHS_OF * (1 + size.rounds))
    seconds = history["seconds"].iloc[len(EPOCHS_OF) :].groupby(way).median()
    note = f"{steps} steps of {batch_size}, median of {size.rounds} epochs, in turn"
    for each in EPOCHS_OF:
        rows.add(f"epoch, {name}", each, seconds[each], "s", note)
    batch, one_hot, weight = train[0]
    batch = np.array(batch)
    alone = fastest(lambda: model.train_on_batch(batch, one_hot, weight), 3)
    rows.add(f"epoch, {name}", ALONE, steps * alone, "s", f"{steps} times the fastest step")
    for each in (WARM, COLD):
        rows.add(f"pipeline, {name}", each, seconds[each] / seconds[FIXED], "times")
    rows.add(f"pipeline, {name}", ALONE, seconds[WARM] / (steps * alone), "times")
    rows.add(f"through fit, {name}", WARM, len(places) / seconds[WARM], "images/s")


# -------------------------------------------------------------------- 4 and 6: kept maps, formats


def keep(
    model: keras.Model, data: Data, views: int, name: str
) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
    """Keep what `COMPARED_FROM` takes and the head's features; return them and the seconds."""
    maps, _ = model_graph.split_before(model, COMPARED_FROM)
    frozen, _ = model_graph.split_before(model, "dense")
    keeper = keras.Model(model.input, [*maps.outputs, frozen.outputs[0]])
    inference.call(keeper, data.images[data.rows("train")[:8]])  # warms up
    kept, seconds = {}, {}
    for split in ("train", "validation"):
        started = time.perf_counter()
        kept[split] = feature_cache.cache_features(
            keeper,
            data.images,
            data.rows(split),
            data.folder / f"{name}_{split}",
            views=views if split == "train" else 1,
        )
        seconds[split] = time.perf_counter() - started
    return kept, seconds


def make_batches(inputs, split: str, run: Config, data: Data, views: int = 1, seed=None):
    """Return batches of a split: of images, or of what was kept of its images."""
    rows = data.rows(split)
    places = rows
    if inputs is not data.images:
        first = inputs[0] if isinstance(inputs, list) else inputs
        places = batching.view_rows(first, len(rows))[:, :views]
    targets = data.targets(run.classes, rows)
    loss_weights = batching.class_weights(
        data.targets(run.classes, data.rows("train")), len(run.classes), "weights"
    )
    batch_size = run.vgg16_transfer.batch_size
    return batching.Batches(inputs, places, targets, loss_weights, batch_size, seed)


def train(model: keras.Model, inputs: dict, stage: Stage, name: str, run, data, views=1):
    """Train a network on a split's inputs; return the history and the validation's answers."""
    history = training.fit(
        model,
        make_batches(inputs["train"], "train", run, data, views, run.seed),
        make_batches(inputs["validation"], "validation", run, data),
        stage,
        classes=run.classes,
        state=data.folder / f"{name}.state.npz".replace(" ", "_"),
        stage=name,
    )
    rows = data.rows("validation") if inputs["validation"] is data.images else None
    probabilities = inference.predict(model, inputs["validation"], rows)
    return history, np.array(run.classes)[probabilities.argmax(axis=1)]


def add_scores(rows: Rows, what: str, answers: dict[str, np.ndarray], run: Config, data: Data):
    """Add two ways' scores on the validation images, and their difference with its interval.

    Parameters
    ----------
    answers : dict of ndarray of str
        The predicted classes; the difference is the second way's score less the first's.
    """
    held_out = data.index.iloc[data.rows("validation")].reset_index(drop=True)
    drawn = bootstrap.lesion_weights(held_out, run.evaluation.bootstrap_draws, run.seed)
    draws = {
        way: bootstrap.rule_draws(held_out.assign(predicted=each), "predicted", run.classes, drawn)
        for way, each in answers.items()
    }
    first, second = draws
    note = f"{len(held_out)} validation images of {held_out['group_id'].nunique()} lesions"
    for score in ("accuracy", "balanced_accuracy"):
        for way in draws:
            rows.add(f"{what}: {score}", way, draws[way][score][0], "share", note)
        difference = bootstrap.interval(
            draws[second][score] - draws[first][score], run.evaluation.confidence
        )
        for name, each in difference.items():
            rows.add(f"{what}: difference in {score}", name, each, "share", f"{second} - {first}")


KEPT, RECOMPUTED = "kept", "recomputed in every epoch"


def measure_cache(rows: Rows, chosen: str, run: Config, size: Size, data: Data):
    """Train the head on kept features and on images; return what was kept, and the head's weights.

    Both ways start from the same weights, run the same number of epochs and end them with a
    validation, whose frozen layers are recomputed, too.
    """
    with devices.policy(chosen):
        model = build_transfer(run, size)
    head = model_graph.split_before(model, "dense")[1]
    first = head.get_weights()
    kept, seconds = keep(model, data, size.views, "kept")
    counts = {split: len(each[-1]) for split, each in kept.items()}
    note = f"{size.views} views of {counts['train'] // size.views} training images, and validation"
    once = rows.add("cache", "seconds to keep", sum(seconds.values()), "s", f"{chosen}; {note}")
    pace = counts["train"] / seconds["train"]
    rows.add("cache", "views kept a second", pace, "images/s", chosen)

    stage = Stage(epochs=size.frozen_epochs, learning_rate=run.vgg16_transfer.frozen.learning_rate)
    features = {split: each[-1] for split, each in kept.items()}
    histories, answers = {}, {}
    histories[KEPT], answers[KEPT] = train(
        head, features, stage, "kept features", run, data, size.views
    )
    trained = head.get_weights()
    head.set_weights(first)
    model_graph.train_from(model, "dense")
    images = dict.fromkeys(features, data.images)
    histories[RECOMPUTED], answers[RECOMPUTED] = train(
        model, images, stage, "recomputed features", run, data
    )
    epoch = {way: later(history) for way, history in histories.items()}
    for way, value in epoch.items():
        rows.add("epoch of stage 1", way, value, "s", f"{chosen}; median, validation included")
    rows.add("cache", "times as fast", epoch[RECOMPUTED] / epoch[KEPT], "times", chosen)
    saved = epoch[RECOMPUTED] - epoch[KEPT]
    paid = math.ceil(once / saved) if saved > 0 else math.inf
    rows.add("cache", "epochs until it has paid", paid, "epochs", f"with {size.views} views")
    views, epochs = run.vgg16_transfer.views, run.vgg16_transfer.frozen.epochs
    whole = seconds["train"] * views / size.views + seconds["validation"]
    rows.add(
        "cache",
        "times as fast, stage 1 as configured",
        epochs * epoch[RECOMPUTED] / (whole + epochs * epoch[KEPT]),
        "times",
        f"{epochs} epochs and keeping {views} views, computed from the figures above",
    )
    add_scores(rows, "stage 1", {way: answers[way] for way in (RECOMPUTED, KEPT)}, run, data)
    return kept, trained


def measure_formats(rows: Rows, chosen: str, kept: dict, trained: list, run, size, data) -> None:
    """Fine-tune block 5 in each format, each from plain images' maps kept in that format."""
    tuning = run.vgg16_transfer.fine_tune
    stage = Stage(epochs=size.tuned_epochs, learning_rate=tuning.learning_rate)
    seconds, answers = {}, {}
    for name in FORMATS:
        with devices.policy(name):
            model = build_transfer(run, size)
        model_graph.train_from(model, COMPARED_FROM)
        model_graph.split_before(model, "dense")[1].set_weights(trained)
        of_format = kept if name == chosen else keep(model, data, 1, name)[0]
        maps = {split: _plain(each[:-1]) for split, each in of_format.items()}
        top = model_graph.split_before(model, COMPARED_FROM)[1]
        training.set_seed(run.seed)
        history, answers[name] = train(top, maps, stage, f"block 5 in {name}", run, data)
        seconds[name] = later(history)
        note = "block 5 from kept maps; median, validation included"
        rows.add("epoch of fine-tuning", name, seconds[name], "s", note)
    rows.add(
        "formats", "times as fast in bfloat16", seconds["float32"] / seconds["bfloat16"], "times"
    )
    add_scores(rows, "fine-tuning", answers, run, data)


def _plain(maps: list[np.ndarray]):
    """Return one input as it is, several as a list; the plain images' rows come first in each."""
    return maps[0] if len(maps) == 1 else maps


# ------------------------------------------------------------------------------- 5: the usual way


def measure_usual_way(rows: Rows, run: Config, size: Size, data: Data, values: Callable) -> None:
    """Train as public notebooks do, and divide our images a second by theirs.

    Keras's ImageDataGenerator reads, resizes and augments the original files one by one; networks
    are in float32, Keras's default, without augmentation layers; VGG16 is frozen and run in every
    epoch. Images are not cleaned of hair, which would take longer still.
    """
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    files = data.index.iloc[data.rows("train")]
    side = {BASELINE: run.preprocessing.image_size, HEAD: run.vgg16_transfer.input_size}
    settings = run.augmentation
    generator = ImageDataGenerator(
        rotation_range=settings.rotation_degrees,
        zoom_range=settings.zoom,
        horizontal_flip=True,
        vertical_flip=True,
        fill_mode="reflect",
    )
    for name, count in zip((BASELINE, HEAD), size.usual, strict=True):
        if name == BASELINE:
            model = build_baseline(run, augment=False)
        else:
            model = build_transfer(run, size, image_size=side[name], augment=False)
            model_graph.train_from(model, "dense")
        compile_as_fit(model, run.classes)
        with contextlib.redirect_stdout(io.StringIO()):  # it says how many files it found
            batches = generator.flow_from_dataframe(
                files.sample(min(count, len(files)), random_state=run.seed),
                directory=str(data.source),
                x_col="path",
                y_col="label",
                classes=run.classes,
                target_size=(side[name], side[name]),
                batch_size=batch_size_of(name, run),
                seed=run.seed,
            )
        seconds = []
        for _ in range(2):  # the first epoch traces the network
            started = time.perf_counter()
            model.fit(batches, epochs=1, verbose=0)
            seconds.append(time.perf_counter() - started)
        note = f"ImageDataGenerator, {batches.n} images, second epoch, float32"
        usual = rows.add("usual way", name, batches.n / seconds[1], "images/s", note)
        ours = values(f"through fit, {name}", WARM)
        rows.add("times the usual way", name, ours / usual, "times")
        if name == HEAD:
            epochs, views = run.vgg16_transfer.frozen.epochs, run.vgg16_transfer.views
            per_image = views / values("cache", "views kept a second") + epochs / ours
            rows.add(
                "times the usual way",
                "head, keeping included",
                epochs / usual / per_image,
                "times",
                f"{epochs} epochs of stage 1 and keeping {views} views, computed",
            )


# ------------------------------------------------- 7 and 8: memory, determinism, the state's file


def tiny_network(run: Config) -> keras.Model:
    """Build a network that takes hardly any time: one pixel in 256 and a dense layer."""
    side = run.preprocessing.image_size
    inputs = keras.Input((side, side, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs[:, ::16, ::16])
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(len(run.classes), activation="softmax")(x))


def peak_memory() -> float:
    """Return this process's peak resident memory in GiB; mapped pages of files count."""
    file = Path("/proc/self/status")
    if file.is_file():  # Linux's getrusage would count what the parent had before
        lines = file.read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource  # in bytes on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30


def train_on_sparse_file(
    count: int, folder: Path, run: Config, model: keras.Model, name: str, steps: int | None = None
) -> dict[str, float]:
    """Train for one epoch on so many images of zeros; return the peak memory and the seconds.

    With `steps`, an epoch has so many, of images drawn from the whole file.
    """
    side, file = run.preprocessing.image_size, folder / f"sparse_{name.replace(' ', '_')}.npy"
    np.lib.format.open_memmap(file, "w+", np.uint8, (count, side, side, 3)).flush()
    images = np.load(file, mmap_mode="r")
    rows = np.random.default_rng(run.seed).permutation(count)[: steps and 32 * steps]
    targets, equal = rows % len(run.classes), np.ones(len(run.classes))
    batches = [
        batching.Batches(images, rows[:n], targets[:n], equal, 32, seed)
        for n, seed in ((len(rows), run.seed), (32, None))
    ]
    history = training.fit(
        model,
        *batches,
        Stage(epochs=1, learning_rate=1e-5),
        classes=run.classes,
        state=file.with_suffix(".state.npz"),
        stage="sparse file",
    )
    file.unlink()
    return {"gib": peak_memory(), "seconds": float(history["seconds"].iloc[0])}


#: What a process for determinism times: the operations' way and whether Keras may compile with XLA.
DETERMINISTIC, FREE, FREE_XLA = "deterministic", "not deterministic, no XLA", "Keras's default"
WAYS = (DETERMINISTIC, FREE, FREE_XLA)


def time_steps(way: str, run: Config, size: Size) -> dict[str, dict[str, float]]:
    """Return the seconds of a training step of each network, with or without determinism."""
    keras.utils.set_random_seed(run.seed)
    options = {FREE: {"jit_compile": False}, FREE_XLA: {}}
    if way == DETERMINISTIC:
        training.set_seed(run.seed)
        options = {DETERMINISTIC: {}}
    seconds = {each: {} for each in options}
    for name in (each for each in size.networks if each != FROM_IMAGES):
        batch_size = 8 if name == FROM_MAPS else batch_size_of(name, run)
        for each, chosen in options.items():
            model = build_network(name, run, size)
            seconds[each][name] = step_seconds(model, batch_size, run, size.repeats, **chosen)
    return seconds


def in_process(task: str, argument: str, folder: Path, quick: bool) -> dict:
    """Run a part of the benchmark in a process of its own; return what it found.

    Raises
    ------
    OSError
        The process failed; the message ends with its last line.
    """
    command = [sys.executable, "-m", "benchmarks.training", str(folder), "--part", task, argument]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(
        command + ["--quick"] * quick,
        cwd=paths.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"the part {task!r} with {argument} ended with {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def run_processes(size: Size, folder: Path) -> list[dict]:
    """Run what takes processes of its own; return what each found, in the order of their jobs.

    Steps without and with determinism, then a training on few images, one on many, and the
    trainings of networks that are used.
    """
    jobs = [("steps", way) for way in (FREE, DETERMINISTIC)]
    jobs += [("memory", str(count)) for count in size.memory]
    jobs += [("network's memory", name) for name in size.on_file]
    with ThreadPoolExecutor(size.at_once) as pool:
        return list(pool.map(lambda job: in_process(*job, folder, not size.pretrained), jobs))


def add_processes(rows: Rows, size: Size, found: list[dict]) -> None:
    """Add what `run_processes` found: the cost of determinism, and the peaks of memory."""
    seconds = found[0] | found[1]
    for name in seconds[FREE]:
        for way in WAYS:
            rows.add(f"step, {name}", way, seconds[way][name], "s", "float32, the fastest")
        for way in WAYS[1:]:
            ratio = seconds[DETERMINISTIC][name] / seconds[way][name]
            rows.add(f"determinism, {name}", f"over {way}", ratio, "times")
    peaks = []
    for count, each in zip(size.memory, found[2:4], strict=True):
        note = f"one epoch on a sparse file, {each['seconds']:.0f} s"
        peaks.append(rows.add("peak memory", f"{count:,} images", each["gib"], "GiB", note))
    rows.add("memory", "many images over few", peaks[1] / peaks[0], "times")
    for name, each in zip(size.on_file, found[4:], strict=True):
        note = f"float32, {size.file_steps} steps on images drawn from {size.memory[1]:,}"
        rows.add("peak memory of a network", name, each["gib"], "GiB", note)


class Watched(batching.Batches):
    """Batches that note when each epoch starts."""

    def start_epoch(self, epoch: int) -> None:
        self.starts = getattr(self, "starts", []) + [time.monotonic()]
        super().start_epoch(epoch)


def measure_state(rows: Rows, run: Config, size: Size, data: Data) -> None:
    """Time what `training.fit` writes after an epoch: weights, optimiser and the best weights.

    It is what lies between the end of an epoch, as the history has it, and the start of the next.
    """
    for name in size.networks:
        model = build_network(name, run, size)
        inputs, _ = random_batch(model, 1)
        equal = np.ones(len(run.classes))
        batches = [
            kind(inputs, [0], [0], equal, 1, seed)
            for kind, seed in ((Watched, run.seed), (batching.Batches, None))
        ]
        place = data.folder / f"written_{NETWORKS.index(name)}.state.npz"
        history = training.fit(
            model,
            *batches,
            Stage(epochs=3, learning_rate=1e-5),
            classes=run.classes,
            state=place,
            stage=name,
        )
        starts = batches[0].starts[-3:]  # before them, the batches were made
        gaps = np.diff(starts) - history["seconds"].to_numpy()[:-1]
        values = sum(math.prod(each.shape) for each in model.optimizer.variables)
        values += 2 * model.count_params()  # now, and the best
        note = f"{4 * values / 1e6:.0f} MB"
        rows.add("state after an epoch", name, max(float(gaps.min()), 0.0), "s", note)
        place.unlink()


# ------------------------------------------------------------------------------------- the result


def measure(source: Path, size: Size, folder: Path) -> tuple[pd.DataFrame, dict]:
    """Measure everything; return the figures and how many images they are from."""
    run, rows = configuration(size), Rows()

    def value(what: str, variant: str) -> float:
        return rows.kept[[each[:2] for each in rows.kept].index((what, variant))][2]

    training.set_seed(run.seed)
    with ThreadPoolExecutor(1) as pool:
        beside = size.at_once > 1
        processes = pool.submit(run_processes, size, folder) if beside else None
        data = rows.timed("images", prepare, source, run, size, folder)
        rows.timed("matrix products", measure_matrices, rows, size)
        rows.timed("steps", measure_networks, rows, run, size)
        chosen = "bfloat16" if computes_bfloat16() else "float32"
        kept, trained = rows.timed("kept features", measure_cache, rows, chosen, run, size, data)
        with devices.policy(chosen):
            for name, inputs in ((BASELINE, data.images), (HEAD, kept["train"][-1])):
                rows.timed("pipeline", measure_pipeline, rows, name, inputs, run, size, data)
        rows.timed("usual way", measure_usual_way, rows, run, size, data, value)
        rows.timed("formats", measure_formats, rows, chosen, kept, trained, run, size, data)
        rows.timed("state", measure_state, rows, run, size, data)
        processes = processes or pool.submit(run_processes, size, folder)
        rows.timed("other processes", processes.result)
        add_processes(rows, size, processes.result())
    counts = data.index.groupby(["split", "label"]).size()
    images = {
        split: {name: int(counts[split, name]) for name in run.classes}
        for split in ("train", "validation")
    }
    return rows.table(), {"images": images, "format": chosen, "seconds": rows.seconds}


def run_benchmark(source: Path, size: Size = FULL) -> Path:
    """Run the benchmark; write `training.csv`, `training.json` and the README's part on it.

    Parameters
    ----------
    source : Path
        A folder in HAM10000's layout.

    Returns
    -------
    Path
        The CSV file.
    """
    paths.expect_part(PUBLISHED / "README.md", MARKS)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        table, counts = measure(source, size, Path(folder))
    said = counts | {
        "configuration": CONFIGURATION,
        "folder": source.name,
        "quick": size is QUICK,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    said |= versions()
    target = PUBLISHED / "training.csv"
    tables.write_table(table, target)
    tables.write_json(said, target.with_suffix(".json"))
    written = tables.read_table(target, SCHEMA)
    paths.write_part(PUBLISHED / "README.md", MARKS, describe(written, said))
    return target


def goals(table: pd.DataFrame) -> list[dict]:
    """Return each goal, what was measured, and whether it is met."""
    values = table.set_index(["what", "variant"])["value"]
    few, many = table.loc[table["what"] == "peak memory", "variant"]
    overs = {
        WARM: "from a file, over the same steps on a batch in memory",
        COLD: "from a file that is not in the page cache, over the same",
        ALONE: "from a file, over so many bare training steps, without the scores and validation",
    }
    rows = [
        (f"an epoch of the {name} {over}",
         values[f"pipeline, {name}", way], "at most", MOST_PIPELINE, "times")
        for name in (BASELINE, HEAD)
        for way, over in overs.items()
    ]  # fmt: skip
    rows += [
        ("an epoch of stage 1 on kept features, times as fast as recomputing them",
         values["cache", "times as fast"], "at least", LEAST_CACHE, "times"),
        (f"peak memory of a training on {many}",
         values["peak memory", many], "at most", MOST_MEMORY, "GiB"),
        (f"the same, over the peak on {few}",
         values["memory", "many images over few"], "at most", MOST_GROWTH, "times"),
    ]  # fmt: skip
    rows += [
        (f"peak memory of the {name} on {many}", value, "at most", MOST_MEMORY, "GiB")
        for (what, name), value in values.items()
        if what == "peak memory of a network"
    ]
    made = [
        {
            "goal": f"{what}: {bound} {limit:g} {unit}",
            "measured": f"{value:.3g} {unit}",
            "met": bool(value <= limit if bound == "at most" else value >= limit),
        }
        for what, value, bound, limit, unit in rows
    ]
    return made + [
        _no_difference(values, what, ways, score)
        for what, ways in (
            ("stage 1", f"{KEPT} and {RECOMPUTED}"),
            ("fine-tuning", " and ".join(FORMATS)),
        )
        for score in ("accuracy", "balanced_accuracy")
    ]


def _no_difference(values: pd.Series, what: str, ways: str, score: str) -> dict:
    """Return the goal that two ways end alike: that the interval of the difference holds zero."""
    found = {key: values[f"{what}: difference in {score}", key] for key in ("value", "low", "high")}
    return {
        "goal": f"{what}, {ways}: no difference in {score.replace('_', ' ')} within its interval",
        "measured": bootstrap.format_interval(found),
        "met": bool(found["low"] <= 0 <= found["high"]),
    }


def describe(table: pd.DataFrame, said: dict) -> str:
    """Return the README's part on the result, in Markdown.

    Parameters
    ----------
    table : DataFrame
        `SCHEMA`, as read from `training.csv`.
    said : dict
        The contents of `training.json`.
    """
    values = table.set_index(["what", "variant"])["value"]
    notes = table.set_index(["what", "variant"])["note"]
    what = set(table["what"])
    networks = list(table.loc[table["what"] == f"training, {FORMATS[0]}", "variant"])
    other = MOST_MINUTES >= said["minutes"]
    images = "; ".join(
        f"{split} {', '.join(f'{n} {name}' for name, n in counts.items())}"
        for split, counts in said["images"].items()
    )
    lines = [
        f"Measured on {said['date']}: {said['cores']} cores ({said['processor']}, "
        f"{said['system']}), Python {said['python']}, Keras {said['keras']}, {said['backend']}. "
        f"Images of {said['folder']}, {images}. It took {said['minutes']:g} minutes; "
        f"{MOST_MINUTES:g} were the goal: {_verdict(other)}.",
        "",
        *_markdown(["Goal", "Measured", ""], [
            (each["goal"], each["measured"], _verdict(each["met"])) for each in goals(table)
        ]),
        "### Steps",
        "",
        "The machine multiplies matrices at "
        + " and ".join(f"{values['matrix product', n]:.0f} GFLOP/s in {n}" for n in FORMATS)
        + ". Rates in brackets are GFLOP/s of convolutions and dense layers, to compare with that.",
        "",
        *_markdown(
            ["Network", "Task", "GFLOP an image", *(f"images/s, {n}" for n in FORMATS), "ratio"],
            [
                (
                    name,
                    task,
                    _number(values[f"operations, {task}", name]),
                    *(
                        f"{_number(values[f'{task}, {n}', name])} "
                        f"({_number(values[f'rate of {task}, {n}', name])})"
                        for n in FORMATS
                    ),
                    f"{values[f'{task}, bfloat16', name] / values[f'{task}, float32', name]:.2f}",
                )
                for name in networks
                for task in ("training", "inference")
            ],
        ),
        "### The input pipeline",
        "",
        *_markdown(
            ["Seconds of an epoch", *EPOCHS_OF, ALONE, "file / memory", "dropped file / memory"],
            [
                (
                    f"{name}, {notes[f'epoch, {name}', WARM]}",
                    *(f"{values[f'epoch, {name}', each]:.3f}" for each in (*EPOCHS_OF, ALONE)),
                    *(f"{values[f'pipeline, {name}', each]:.3f}" for each in (WARM, COLD)),
                )
                for name in (BASELINE, HEAD)
            ],
        ),
        "The last column but two leaves out `fit` as well: over it, an epoch from the file takes "
        + " and ".join(
            f"{values[f'pipeline, {name}', ALONE]:.2f} times ({name})" for name in (BASELINE, HEAD)
        )
        + " as long; the difference is what Keras and the scores take for each step, and one batch "
        "of validation images.",
        "",
        "### Kept features",
        "",
        f"An epoch of stage 1 takes {values['epoch of stage 1', KEPT]:.3g} s with the features "
        f"kept and {values['epoch of stage 1', RECOMPUTED]:.3g} s with the frozen layers computed "
        f"anew ({notes['epoch of stage 1', KEPT]}): "
        f"{values['cache', 'times as fast']:.1f} times as fast. Keeping took "
        f"{values['cache', 'seconds to keep']:.1f} s "
        f"({notes['cache', 'seconds to keep']}), which has paid after "
        f"{values['cache', 'epochs until it has paid']:.0f} epochs. Stage 1 as configured "
        f"({notes['cache', 'times as fast, stage 1 as configured']}) is "
        f"{values['cache', 'times as fast, stage 1 as configured']:.1f} times as fast in all.",
        "",
        *_score_lines(values, notes, "stage 1", (RECOMPUTED, KEPT)),
        "### The usual way",
        "",
        *_markdown(
            ["Training", "usual way, images/s", "here, images/s", "times"],
            [
                (
                    name,
                    _number(values["usual way", name]),
                    _number(values[f"through fit, {name}", WARM]),
                    _number(values["times the usual way", name]),
                )
                for name in (BASELINE, HEAD)
            ],
        ),
        f"The baseline is in float32 there, and in {said['format']} here; the second row there is "
        "VGG16, frozen, with a new head. With the time that keeping takes, it is "
        f"{values['times the usual way', 'head, keeping included']:.1f} times "
        f"({notes['times the usual way', 'head, keeping included']}).",
        "",
        "### bfloat16",
        "",
        "Block 5 fine-tuned from kept maps, an epoch: "
        + ", ".join(f"{values['epoch of fine-tuning', n]:.3g} s in {n}" for n in FORMATS)
        + f"; bfloat16 is {values['formats', 'times as fast in bfloat16']:.2f} times as fast.",
        "",
        *_score_lines(values, notes, "fine-tuning", FORMATS),
        "### Memory, determinism, the state's file",
        "",
        *_markdown(
            ["Training", "Peak, GiB", ""],
            [
                (each.variant, f"{each.value:.2f}", each.note)
                for each in table[table["what"].str.startswith("peak memory")].itertuples()
            ],
        ),
        *_markdown(
            ["A step, float32", DETERMINISTIC, FREE, FREE_XLA, "cost", "cost over the default"],
            [
                (
                    name,
                    *(f"{values[f'step, {name}', way]:.4f} s" for way in WAYS),
                    *(f"{values[f'determinism, {name}', f'over {way}']:.2f}" for way in WAYS[1:]),
                )
                for name in networks
                if f"step, {name}" in what
            ],
        ),
        *_markdown(
            ["State after an epoch", "Seconds", "Size"],
            [
                (name, f"{values['state after an epoch', name]:.3f}",
                 notes["state after an epoch", name])
                for name in networks
            ],
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def _score_lines(values, notes, what: str, ways: tuple[str, str]) -> list[str]:
    lines = []
    for score in ("accuracy", "balanced_accuracy"):
        key = f"{what}: difference in {score}"
        difference = {name: values[key, name] for name in ("value", "low", "high")}
        lines.append(
            (
                score.replace("_", " "),
                *(f"{values[f'{what}: {score}', way]:.3f}" for way in ways),
                bootstrap.format_interval(difference),
            )
        )
    head = [notes[f"{what}: accuracy", ways[0]], *ways, f"{ways[1]} less {ways[0]}"]
    return _markdown(head, lines)


def _markdown(head: list[str], rows: list[tuple]) -> list[str]:
    """Return a table's lines, and an empty one after it."""
    return [
        *(f"| {' | '.join(each)} |" for each in [head, ["---"] * len(head), *rows]),
        "",
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def main(arguments: list[str] | None = None) -> int:
    """Time training and what goes with it, and write reports/studies/speed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a folder in HAM10000's layout")
    parser.add_argument("--quick", action="store_true", help="try it out; the figures say nothing")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    size, folder = QUICK if chosen.quick else FULL, chosen.folder.resolve()
    try:
        if chosen.part:
            print(json.dumps(_part(*chosen.part, folder, size)))
            return 0
        file = run_benchmark(folder, size)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for each in goals(tables.read_table(file, SCHEMA)):
        print(f"{_verdict(each['met']).strip('*'):>6}  {each['goal']}: {each['measured']}")
    print(paths.relative(file))
    return 0


def _part(task: str, argument: str, folder: Path, size: Size) -> dict:
    run = configuration(size)
    if task == "memory":
        count = int(argument)
        return train_on_sparse_file(count, folder, run, tiny_network(run), f"{count}")
    if task == "network's memory":
        model, count = build_network(argument, run, size), size.memory[1]
        return train_on_sparse_file(count, folder, run, model, argument, size.file_steps)
    return time_steps(argument, run, size)


if __name__ == "__main__":
    sys.exit(main())
