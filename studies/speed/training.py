"""How fast training is, and what cached features and bfloat16 bring.

The images of a folder are preprocessed as in configs/ham10000.yaml, and the networks are that
configuration's. Things that are compared are timed side by side: single steps by their fastest
repetition, epochs by the median of those after the first, in which Keras traces the network. Peak
memory is that of a process of its own. What was measured before an interruption is not measured
again.

The usual way of public notebooks is Keras's own ImageDataGenerator: PIL decodes and resizes each
image in every epoch, SciPy turns it, one image after the other, and the frozen part of VGG16 is
run again.
"""

import contextlib
import functools
import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.model_selection import train_test_split

from lib import config, paths, tables
from lib.config import Config, Stage
from lib.data import datasets, splits
from lib.evaluation import bootstrap
from lib.evaluation.scores import rule_draws
from lib.networks import (
    batching,
    building,
    devices,
    epoch_scores,
    feature_cache,
    inference,
    model_graph,
    training,
)
from lib.networks.backend import keras, machine
from lib.preprocessing import pipeline, threads
from studies import command

CONFIGURATION = "configs/ham10000.yaml"
RESULTS = command.results_folder("speed")

FORMATS = ("float32", "bfloat16")
BASELINE, ALEXNET = "baseline CNN", "AlexNet"
FROM_IMAGES, FROM_MAPS = "VGG16 fine-tuned from images", "VGG16 fine-tuned from cached maps"
HEAD = "head on cached features"
#: The names in the configuration of the networks that are trained from scratch.
FROM_SCRATCH = {BASELINE: "baseline_cnn", ALEXNET: "alexnet"}
NETWORKS = (BASELINE, ALEXNET, FROM_IMAGES, FROM_MAPS, HEAD)
#: The first layer that is fine-tuned where the number formats are compared.
COMPARED_FROM = "block5_conv1"
MEMORY, FILE = "one batch in memory", "file in the page cache"
CACHED, RECOMPUTED = "cached features", "recomputed features"

#: `training.csv`: one row per figure.
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
Row = tuple[str, str, float, str, str]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    images_per_class: int = 120
    validation: float = 0.35  # proportion of the lesions
    repeats: int = 2  # of a single step, of which the fastest counts
    rounds: int = 3  # pairs of epochs of the input pipeline after the first
    steps: int = 10  # of such an epoch
    head_steps: int = 400
    frozen_epochs: int = 3
    views: int = 2  # that are cached
    tuned_epochs: int = 2
    usual: tuple[int, int] = (192, 64)  # images of the usual way, for the baseline and for VGG16
    files: tuple[int, int] = (10_000, 100_000)  # images of the files that memory is measured on
    file_steps: int = 4  # of the networks that are trained from the larger file
    pretrained: bool = True  # without ImageNet's weights, the networks are tiny


FULL = Size()
QUICK = Size(
    images_per_class=6,
    repeats=1,
    rounds=1,
    steps=2,
    head_steps=2,
    frozen_epochs=2,
    views=1,
    usual=(8, 8),
    files=(200, 400),
    file_steps=1,
    pretrained=False,
)


class Data:
    """Preprocessed images in a file, with the attributes of `lib.run.Run` that batches need."""

    def __init__(self, index: pd.DataFrame, images: np.ndarray, source: Path, folder: Path):
        self.index, self.images, self.source, self.folder = index, images, source, folder
        self.config = configuration(SIZE)
        self.classes = self.config.classes
        self.targets = index["label"].map(self.classes.index).to_numpy()

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split."""
        return np.flatnonzero(self.index["split"] == split)


def configuration(size: Size) -> Config:
    """Return the configuration whose networks are measured."""
    settings = config.load_config(paths.resolve(CONFIGURATION))
    if size.pretrained:
        return settings
    sizes = {
        "baseline_cnn": {"filters": [4] * 8, "dense_units": [8, 8]},
        "alexnet": {"filters": [4] * 5, "dense_units": [8, 8]},
    }
    changes = {
        name: {"batch_size": 8, "options": settings.model(name).options | options}
        for name, options in sizes.items()
    } | {"vgg16": {"batch_size": 8, "input_size": 32, "dense_units": 8, "weights": "none"}}
    models = [item.model_copy(update=changes.get(item.name, {})) for item in settings.models]
    return settings.model_copy(update={"models": models})


def prepare(source: Path, folder: Path) -> Data:
    """Draw equally many images of each class, split them by lesion and preprocess them to a file.

    Raises
    ------
    FileNotFoundError, ValueError
        Images are missing or cannot be used, or a class has too few.
    """
    settings = configuration(SIZE)
    metadata = datasets.read_metadata(source)
    metadata = metadata[metadata["dx"].isin(settings.classes)].rename(columns={"dx": "label"})
    available = metadata["label"].value_counts().reindex(settings.classes, fill_value=0)
    if available.min() < 2:
        raise ValueError(
            f"{source.name}: {available.min()} images of class {available.idxmin()}; expected two "
            "or more"
        )
    lesions = metadata.assign(group_id=metadata["lesion_id"])
    index = splits.sample_groups(lesions, SIZE.images_per_class, settings.seed)
    index = index.sort_values("image_id", ignore_index=True)
    files = datasets.find_images(source, index["image_id"])
    if len(files) < len(index):
        raise FileNotFoundError(f"{source.name}: {len(index) - len(files)} images are missing")
    labels = splits.group_labels(index)
    _, held_out = train_test_split(
        labels, test_size=SIZE.validation, stratify=labels, random_state=settings.seed
    )
    is_held_out = index["group_id"].isin(held_out.index)
    index = index.assign(
        path=files[index["image_id"]].to_numpy(),
        split=np.where(is_held_out, "validation", "train"),
    )
    read = functools.partial(pipeline.prepare, settings=settings.preprocessing)
    with threads.one_opencv_thread():
        images = np.stack(threads.map_files(read, [source / path for path in index["path"]]))
    np.save(folder / "images.npy", images)
    return Data(index, np.load(folder / "images.npy", mmap_mode="r"), source, folder)


# -------------------------------------------------------------------------------------- networks


def build_transfer(
    settings: Config, pretrained: bool, image_size: int | None = None, augment: bool = True
) -> keras.Model:
    """Build VGG16 with a new head, and ImageNet's weights where they are wanted."""
    augmentation = settings.augmentation if augment else _no_augmentation(settings)
    side = image_size or settings.preprocessing.image_size
    transfer = settings.model("vgg16")
    if not pretrained:
        transfer = transfer.model_copy(update={"weights": "none"})
    return building.build(transfer, side, len(settings.classes), augmentation, settings.seed)


def build_network(name: str, settings: Config, augment: bool = True) -> keras.Model:
    """Build one of `NETWORKS` as it is trained; speed does not depend on the weights."""
    augmentation = settings.augmentation if augment else _no_augmentation(settings)
    if name in FROM_SCRATCH:
        side, n_classes = settings.preprocessing.image_size, len(settings.classes)
        network = settings.model(FROM_SCRATCH[name])
        return building.build(network, side, n_classes, augmentation, settings.seed)
    model = build_transfer(settings, pretrained=False)
    if name == HEAD:
        return model_graph.split_before(model, "dense")[1]
    first = settings.model("vgg16").fine_tune.from_layer
    model_graph.train_from(model, first)
    return model if name == FROM_IMAGES else model_graph.split_before(model, first)[1]


def batch_size(name: str, settings: Config) -> int:
    """Return the configured batch size of one of `NETWORKS`."""
    return settings.model(FROM_SCRATCH.get(name, "vgg16")).batch_size


def _no_augmentation(settings: Config):
    changes = {"rotation_degrees": 0.0, "zoom": 0.0, "flip": "none", "color_jitter": None}
    return settings.augmentation.model_copy(update=changes)


# ---------------------------------------------------------------------------------------- timing


def fastest(action: Callable, repeats: int, at_least: float = 1.0) -> float:
    """Return the seconds of the fastest repetition, after one to warm up.

    There are `repeats` of them, or as many as take `at_least` seconds in total.
    """
    action()
    seconds = []
    while len(seconds) < repeats or (repeats > 1 and sum(seconds) < at_least):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def compile_as_fit(model: keras.Model, classes: list[str]) -> None:
    """Compile a network with the optimiser, the loss and the scores of `training.fit`."""
    scores = [epoch_scores.Accuracy(name="accuracy"), epoch_scores.Scores(classes)]
    model.compile(keras.optimizers.Adam(1e-5), "categorical_crossentropy", metrics=scores)


def random_batch(model: keras.Model, n: int):
    """Return inputs of a network (noise) and one-hot targets."""
    random = np.random.default_rng(0)

    def noise(tensor):
        shape = (n, *tensor.shape[1:])
        if tensor.dtype == "uint8":
            return random.integers(0, 256, shape, dtype=np.uint8)
        return random.random(shape, np.float32)

    inputs = [noise(tensor) for tensor in model.inputs]
    n_classes = model.output_shape[-1]
    targets = np.eye(n_classes, dtype=np.float32)[np.arange(n) % n_classes]
    return inputs[0] if len(inputs) == 1 else inputs, targets


# --------------------------------------------------------------------------------------- the parts


def measure_steps(data: Data) -> list[Row]:
    """Time a training step and inference of each network in each number format."""
    rows = []
    for name in NETWORKS:
        n = batch_size(name, data.config)
        for number_format in FORMATS:
            with devices.policy(number_format):
                model = build_network(name, data.config)
            compile_as_fit(model, data.classes)
            inputs, targets = random_batch(model, n)
            step = functools.partial(model.train_on_batch, inputs, targets)
            infer = functools.partial(inference.call, model, inputs)
            for task, action in (("training", step), ("inference", infer)):
                speed = n / fastest(action, SIZE.repeats)
                note = f"batches of {n}, the fastest step"
                rows.append((f"{task}, {number_format}", name, speed, "images/s", note))
    return rows


class Alternating(batching.Batches):
    """Batches whose epochs are served in turn from one batch in memory and from the file."""

    def __getitem__(self, batch):
        if self.epoch % 2:
            return super().__getitem__(batch)
        if not hasattr(self, "fixed"):
            self.fixed = super().__getitem__(0)
        return self.fixed


def measure_pipeline(data: Data) -> list[Row]:
    """Time epochs through `training.fit` from a file, and from one batch in memory, in turn."""
    rows = []
    for name, steps in ((BASELINE, SIZE.steps), (HEAD, SIZE.head_steps)):
        with devices.policy("auto"):
            model = build_network(name, data.config)
        n, places = batch_size(name, data.config), data.rows("train")
        inputs, targets = data.images, data.targets[places]
        if name == HEAD:  # speed does not depend on the values
            inputs = _random_features(len(places), model, data.folder)
            places = np.arange(len(places))
        places, targets = (np.resize(values, steps * n) for values in (places, targets))
        equal = np.ones(len(data.classes))
        history = training.fit(
            model,
            Alternating(inputs, places, targets, equal, n, data.config.seed),
            batching.Batches(inputs, places[:n], targets[:n], equal, n),
            Stage(epochs=2 * (1 + SIZE.rounds), learning_rate=1e-5),
            classes=data.classes,
            state=data.folder / f"pipeline_{name.split()[0]}.state.npz",
            stage=name,
        )
        note = f"{steps} steps of {n}, median of {SIZE.rounds} epochs, in turn"
        for first, way in enumerate((MEMORY, FILE)):
            seconds = float(np.median([row["seconds"] for row in history][2 + first :: 2]))
            rows.append((f"epoch, {name}", way, seconds, "s", note))
    return rows


def _random_features(n: int, head: keras.Model, folder: Path) -> np.ndarray:
    features = np.random.default_rng(0).random((n, *head.input_shape[1:]), np.float32)
    np.save(folder / "random_features.npy", features.astype(np.float16))
    return np.load(folder / "random_features.npy", mmap_mode="r")


def measure_cache(data: Data) -> list[Row]:
    """Train the head on cached features and on images, from the same weights.

    Both ways run the same number of epochs and end each with a validation, whose frozen layers are
    recomputed, too.
    """
    with devices.policy("auto"):
        model = build_transfer(data.config, SIZE.pretrained)
    frozen, head = model_graph.split_before(model, "dense")
    first = head.get_weights()
    features, seconds = _cache(frozen, data, SIZE.views, "features")
    n = len(data.rows("train"))
    note = f"{SIZE.views} views of {n} training images, and validation"
    pace = SIZE.views * n / seconds["train"]
    rows = [
        ("caching", "seconds", sum(seconds.values()), "s", note),
        ("caching", "views per second", pace, "images/s", ""),
    ]
    rate = data.config.model("vgg16").frozen.learning_rate
    stage, predicted = Stage(epochs=SIZE.frozen_epochs, learning_rate=rate), {}
    images = dict.fromkeys(("train", "validation"), data.images)
    for way, network, inputs in ((RECOMPUTED, model, images), (CACHED, head, features)):
        head.set_weights(first)
        model_graph.train_from(model, "dense")
        epoch, predicted[way] = _train(network, inputs, stage, way, data)
        rows.append(("epoch of stage 1", way, epoch, "s", "median, validation included"))
    return rows + _compare("stage 1", predicted, data)


def measure_formats(data: Data) -> list[Row]:
    """Fine-tune block 5 in each number format, each from maps cached in that format."""
    transfer, rows, predicted, head_weights = data.config.model("vgg16"), [], {}, None
    frozen_stage = Stage(epochs=SIZE.frozen_epochs, learning_rate=transfer.frozen.learning_rate)
    stage = Stage(epochs=SIZE.tuned_epochs, learning_rate=transfer.fine_tune.learning_rate)
    for number_format in FORMATS:
        with devices.policy(number_format):
            model = build_transfer(data.config, SIZE.pretrained)
        model_graph.train_from(model, COMPARED_FROM)
        lower, upper = model_graph.split_before(model, COMPARED_FROM)
        frozen, head = model_graph.split_before(model, "dense")
        both = keras.Model(model.input, [*lower.outputs, *frozen.outputs])
        cached, _ = _cache(both, data, 1, number_format)
        if head_weights is None:  # both formats start from the same head
            features = {split: arrays[-1] for split, arrays in cached.items()}
            _train(head, features, frozen_stage, "new head", data)
            head_weights = head.get_weights()
        head.set_weights(head_weights)
        maps = {split: _one_or_list(arrays[:-1]) for split, arrays in cached.items()}
        training.set_seed(data.config.seed)
        epoch, predicted[number_format] = _train(upper, maps, stage, number_format, data)
        note = "block 5 from cached maps; median, validation included"
        rows.append(("epoch of fine-tuning", number_format, epoch, "s", note))
    return rows + _compare("fine-tuning", predicted, data)


def _cache(layers: keras.Model, data: Data, views: int, name: str) -> tuple[dict, dict]:
    """Cache the outputs of layers for both splits; return the arrays and the seconds."""
    inference.call(layers, data.images[:8])  # warms up
    cached, seconds = {}, {}
    for split in ("train", "validation"):
        started, target = time.perf_counter(), data.folder / f"{name}_{split}"
        arrays = feature_cache.cache_features(
            layers, data.images, data.rows(split), target, views=views if split == "train" else 1
        )
        cached[split] = _one_or_list(arrays)
        seconds[split] = time.perf_counter() - started
    return cached, seconds


def _one_or_list(arrays: list[np.ndarray]):
    return arrays[0] if len(arrays) == 1 else arrays


def _train(network: keras.Model, inputs: dict, stage: Stage, name: str, data: Data):
    """Train a network; return the median seconds of an epoch and the predicted classes."""
    transfer = data.config.model("vgg16")
    batches = [
        batching.split_batches(data, split, inputs[split], transfer, "weights", seed)
        for split, seed in (("train", data.config.seed), ("validation", None))
    ]
    history = training.fit(
        network,
        *batches,
        stage,
        classes=data.classes,
        state=data.folder / f"{name.replace(' ', '_')}.state.npz",
        stage=name,
    )
    rows = data.rows("validation") if inputs["validation"] is data.images else None
    probabilities = inference.predict(network, inputs["validation"], rows)
    predicted = np.array(data.classes)[probabilities.argmax(axis=1)]
    return float(np.median([row["seconds"] for row in history[1:]])), predicted


def _compare(what: str, predicted: dict[str, np.ndarray], data: Data) -> list[Row]:
    """Return two ways' scores on the validation images, and the second's minus the first's."""
    held_out = data.index.iloc[data.rows("validation")].reset_index(drop=True)
    evaluation = data.config.evaluation
    weights = bootstrap.lesion_weights(held_out, evaluation.bootstrap_draws, data.config.seed)
    tables_of_ways = {way: held_out.assign(predicted=p) for way, p in predicted.items()}
    draws = {
        way: rule_draws(table, "predicted", data.classes, weights)
        for way, table in tables_of_ways.items()
    }
    (first, second), rows = draws, []
    note = f"{len(held_out)} images of {held_out['group_id'].nunique()} lesions"
    for score in ("accuracy", "balanced_accuracy"):
        for way in draws:
            rows.append((f"{what}: {score}", way, draws[way][score][0], "proportion", note))
        difference = draws[second][score] - draws[first][score]
        for end, value in bootstrap.interval(difference, evaluation.confidence).items():
            what_differs = f"{what}: difference in {score}"
            rows.append((what_differs, end, value, "proportion", f"{second} minus {first}"))
    return rows


def measure_usual_way(data: Data) -> list[Row]:
    """Time the training of public notebooks: Keras's ImageDataGenerator on the original files.

    Networks are in float32, Keras's default, without augmentation layers; VGG16 is frozen and run
    in every epoch. Images are not cleaned of hair, which would take longer still.
    """
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    augmentation, files = data.config.augmentation, data.index.iloc[data.rows("train")]
    generator = ImageDataGenerator(
        rotation_range=augmentation.rotation_degrees,
        zoom_range=augmentation.zoom,
        horizontal_flip=True,
        vertical_flip=True,
        fill_mode="reflect",
    )
    rows = []
    for name, count in zip((BASELINE, HEAD), SIZE.usual, strict=True):
        if name == BASELINE:
            side = data.config.preprocessing.image_size
            model = build_network(BASELINE, data.config, augment=False)
        else:
            side = data.config.model("vgg16").input_size
            model = build_transfer(data.config, SIZE.pretrained, side, augment=False)
            model_graph.train_from(model, "dense")
        compile_as_fit(model, data.classes)
        with contextlib.redirect_stdout(io.StringIO()):  # the generator counts its files aloud
            batches = generator.flow_from_dataframe(
                files.sample(min(count, len(files)), random_state=data.config.seed),
                directory=str(data.source),
                x_col="path",
                y_col="label",
                classes=data.classes,
                target_size=(side, side),
                batch_size=batch_size(name, data.config),
                seed=data.config.seed,
            )
        for _ in range(2):  # the first epoch traces the network
            started = time.perf_counter()
            model.fit(batches, epochs=1, verbose=0)
            seconds = time.perf_counter() - started
        note = f"ImageDataGenerator, {batches.n} images, second epoch, float32"
        rows.append(("usual way", name, batches.n / seconds, "images/s", note))
    return rows


def measure_memory(data: Data) -> list[Row]:
    """Measure the peak memory of trainings on files of many images."""
    rows, largest = [], max(SIZE.files)
    for count in SIZE.files:
        peak = _in_process(train_on_sparse_file, None, count, None, data.config, data.folder)
        rows.append(("peak memory", f"{count:,} images", peak, "GiB", "one epoch, sparse file"))
    for name in (BASELINE, FROM_IMAGES):
        peak = _in_process(
            train_on_sparse_file, name, largest, SIZE.file_steps, data.config, data.folder
        )
        note = f"float32, {SIZE.file_steps} steps on images drawn from {largest:,}"
        rows.append(("peak memory of a network", name, peak, "GiB", note))
    return rows


def train_on_sparse_file(
    name: str | None, count: int, steps: int | None, settings: Config, folder: Path
) -> float:
    """Train for one epoch on images of zeros; return the process's peak memory in GiB.

    Parameters
    ----------
    name : str or None
        One of `NETWORKS`, or None for a network that takes hardly any time.
    count : int
        Images in the file.
    steps : int or None
        Of the epoch, on images drawn from the whole file; by default as many as it takes.
    """
    side, file = settings.preprocessing.image_size, folder / "sparse.npy"
    np.lib.format.open_memmap(file, "w+", np.uint8, (count, side, side, 3)).flush()
    images = np.load(file, mmap_mode="r")
    rows = np.random.default_rng(settings.seed).permutation(count)[: steps and 32 * steps]
    targets, equal = rows % len(settings.classes), np.ones(len(settings.classes))
    training.fit(
        build_network(name, settings) if name else _tiny_network(settings),
        batching.Batches(images, rows, targets, equal, 32, settings.seed),
        batching.Batches(images, rows[:32], targets[:32], equal, 32),
        Stage(epochs=1, learning_rate=1e-5),
        classes=settings.classes,
        state=folder / f"sparse_{name or 'tiny'}_{count}.state.npz".replace(" ", "_"),
        stage="sparse file",
    )
    file.unlink()
    return _peak_memory()


def _in_process(function: Callable, *arguments):
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _tiny_network(settings: Config) -> keras.Model:
    """Build a network of one pixel in 256 and a dense layer."""
    side = settings.preprocessing.image_size
    inputs = keras.Input((side, side, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs[:, ::16, ::16])
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(len(settings.classes), activation="softmax")(x)
    return keras.Model(inputs, outputs)


def _peak_memory() -> float:
    """Return this process's peak resident memory in GiB, mapped pages of files included."""
    file = Path("/proc/self/status")
    if file.is_file():  # Linux's getrusage would include the parent's memory
        lines = file.read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource  # in bytes on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30


# ------------------------------------------------------------------------------------- the run

SIZE = FULL
PARTS = {
    "steps": measure_steps,
    "input pipeline": measure_pipeline,
    "cached features": measure_cache,
    "number formats": measure_formats,
    "usual way": measure_usual_way,
    "memory": measure_memory,
}


def measure_parts(data: Data, file: Path) -> dict:
    """Measure every part that `file` does not hold yet; return rows and seconds by part."""
    key = {"source": data.source.name, "size": asdict(SIZE), "machine": machine()}
    key = json.loads(json.dumps(key))  # tuples become lists
    state = paths.read_note(file, {"key", "rows", "seconds"}, "everything is measured again")
    if state.get("key") != key:
        state = {"key": key, "rows": {}, "seconds": {}}
    training.set_seed(data.config.seed)
    for part, measure_part in PARTS.items():
        if part in state["rows"]:
            print(f"{part}: measured before the interruption", flush=True)
            continue
        started = time.perf_counter()
        state["rows"][part] = measure_part(data)
        state["seconds"][part] = round(time.perf_counter() - started, 1)
        print(f"{part}: {state['seconds'][part]} s", flush=True)
        tables.write_json(state, file)
    return state


def measure(folder: Path) -> list[Path]:
    """Run the benchmark on the images of a folder; return the files written."""
    state_file = command.work_folder("speed") / "training.json"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        data = prepare(folder, Path(temporary))
        state = measure_parts(data, state_file)
    rows = [tuple(row) for part in PARTS for row in state["rows"][part]]
    table = pd.DataFrame(rows, columns=list(SCHEMA.columns))
    table["value"] = [float(f"{value:.6g}") for value in table["value"]]
    counts = data.index.groupby(["split", "label"]).size()
    summary = {
        "images": {split: counts[split].to_dict() for split in ("train", "validation")},
        "seconds": state["seconds"],
        "minutes": round(sum(state["seconds"].values()) / 60, 1),
        "configuration": CONFIGURATION,
        "folder": folder.name,
        "quick": SIZE is QUICK,
        **command.describe_machine(),
    }
    files = [
        tables.write_table(SCHEMA.validate(table), RESULTS / "training.csv"),
        tables.write_json(summary, RESULTS / "training.json"),
    ]
    state_file.unlink()
    return files


if __name__ == "__main__":
    sys.exit(command.main("Time training and its memory.", measure))
