"""Are heatmaps true to the network? Sanity checks, and scores of methods that take long.

For a finished run, on test images in a seeded order: randomised weights (Adebayo et al., NeurIPS
2018), deletion and insertion (Petsiuk, Das and Saenko, BMVC 2018), stability under changes that
nobody sees, and the scores of `lib.heatmaps.lesion_overlap` for all four methods. For a run with
synthetic images, networks are trained besides: one on shuffled labels, and one with a sticker on
all images of one class.

The thresholds of `LIMITS` were chosen before any of these values was computed. Rows are written as
they are measured; a study that was stopped continues from its file.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import softmax
from skimage.metrics import structural_similarity

from lib import models, paths, tables
from lib.config import Transfer
from lib.evaluation import bootstrap, variance
from lib.heatmaps import attribution, gradcam, lesion_overlap
from lib.networks import building, inference, model_graph, saving, training
from lib.networks.backend import keras
from lib.run import Run, open_run
from studies import command, leakage

FAST, SLOW = ("Grad-CAM", "HiResCAM"), ("integrated gradients", "occlusion")
METHODS = (*FAST, *SLOW)
#: Orders that ignore the network, for deletion and insertion.
RANDOM, CENTER = "random order", "centre first"
#: Test images of each check, the first in a seeded order: fast methods, slow methods.
IMAGES = {"randomised": (20, 5), "stability": (20, 5)}
#: Test images with scores (overlap with the lesion, deletion and insertion): synthetic, real.
SCORED = {True: 30, False: 100}
#: Validation images that choose the threshold of IoU.
VALIDATION = 20
#: What passes. Rank correlations with the original: below the limit for networks that know nothing,
#: at least it for an image that looks the same. Areas under curves, compared with random order: the
#: interval is above it. The share of heat on a sticker, relative to its area: at least it.
LIMITS = {"randomised weights": 0.3, "shuffled labels": 0.3, "shift by a pixel": 0.9}
LIMITS |= {"deletion": 0.0, "insertion": 0.0, "sticker": 3.0}
#: Deletion and insertion: cells along each axis, and the proportions of them that are changed.
CELLS, PROPORTIONS = 16, (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
#: With fewer images than this, an interval is Student's, not the bootstrap's.
FEW = 10
#: What is measured, a file each.
CHECKS = "shuffled sticker randomised stability validation passes scores".split()
#: Test images that are also covered at all places; images on which Grad-CAM is timed, and how many
#: at a time.
DENSE, TIMED, BATCH = 3, 1000, 16
#: Images between two writes of the results, and the seed of randomised weights.
CHUNK, SEED = 5, 1
#: The side of the sticker in pixels, its colour, and the epochs of the training with it.
STICKER, STICKER_COLOR, STICKER_EPOCHS = 32, (40, 90, 220), 12
#: Training images whose labels are shuffled, and when that training ends.
SHUFFLED, SHUFFLED_EPOCHS, MEMORISED = 150, 60, 0.95


@dataclass(frozen=True)
class Explained:
    """A network with the layer that Grad-CAM explains."""

    name: str
    model: keras.Model
    layer: str

    def maps(self, method: str, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return heatmaps of a method of `METHODS`, float32, from 0 on."""
        if method in FAST:
            return gradcam.grad_cam(self.model, images, self.layer, classes)[FAST.index(method)]
        if method == "occlusion":
            return np.maximum(attribution.occlusion(self.model, images, classes), 0)
        return attribution.integrated_gradients(self.model, images, classes)[0]


# ------------------------------------------------------------------------------ comparing maps


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's correlation of two heatmaps, at every fourth pixel along each axis.

    NaN if the first is constant: there is nothing to compare. 0 if the second is.
    """
    one, other = one[::4, ::4].ravel(), other[::4, ::4].ravel()
    if np.ptp(one) == 0:
        return np.nan
    return float(stats.spearmanr(one, other).statistic) if np.ptp(other) else 0.0


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Return the structural similarity of two heatmaps, each relative to its maximum.

    NaN if the first is zero everywhere.
    """
    if not one.any():
        return np.nan
    one, other = (values / max(values.max(), 1e-12) for values in (one, other))
    return float(structural_similarity(one, other, data_range=1.0))


COMPARISONS = {"rank correlation": rank_correlation, "SSIM": similarity}


def compare(before: np.ndarray, after: np.ndarray) -> dict[str, list[float]]:
    """Return each of `COMPARISONS` for pairs of heatmaps, shape (n, height, width)."""
    pairs = list(zip(before, after, strict=True))
    return {name: [function(*pair) for pair in pairs] for name, function in COMPARISONS.items()}


# ----------------------------------------------------------------------------- randomised weights


def randomised(model: keras.Model, seed: int) -> Iterator[tuple[str, str, keras.Model]]:
    """Yield copies of a model with weights drawn anew: `cascade` or `single`, layer, copy.

    In the cascade all layers from the output down to this one have new weights, else only this one.
    The copy is the same object each time.
    """
    keras.utils.set_random_seed(seed)
    fresh, copy = keras.models.clone_model(model), keras.models.clone_model(model)
    names = [layer.name for layer in model.layers[::-1] if hasattr(layer, "kernel")]
    for way in ("cascade", "single"):
        copy.set_weights(model.get_weights())
        for name in names:
            if way == "single":
                copy.set_weights(model.get_weights())
            copy.get_layer(name).set_weights(fresh.get_layer(name).get_weights())
            yield way, name, copy


def randomisation(network: Explained, method: str, images, classes, seed: int) -> dict:
    """Return comparisons with maps of randomised networks, by way and layer.

    Slow methods only with all weights, and with those of the last layer, drawn anew.
    """
    before, values = network.maps(method, images, classes), {}
    ends = {network.model.layers[-1].name, _first_layer(network.model)}
    for way, layer, copy in randomised(network.model, seed):
        if method in SLOW and (way == "single" or layer not in ends):
            continue
        after = Explained(network.name, copy, network.layer).maps(method, images, classes)
        for name, numbers in compare(before, after).items():
            values[f"{way} {name}", layer] = numbers
    return values


def _first_layer(model: keras.Model) -> str:
    return next(layer.name for layer in model.layers if hasattr(layer, "kernel"))


# -------------------------------------------------------------------------------------- stability


def shifted(images: np.ndarray) -> np.ndarray:
    """Return images (or maps) moved by one pixel to the right; the first column stays."""
    return np.concatenate([images[:, :, :1], images[:, :, :-1]], axis=2)


def compressed(images: np.ndarray) -> np.ndarray:
    """Return images as they look after JPEG compression of quality 80."""
    return np.stack([leakage.as_jpeg(image, 80) for image in images])


def noisy(images: np.ndarray) -> np.ndarray:
    """Return images with normal noise of two grey levels."""
    noise = np.random.default_rng(0).normal(0, 2, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


CHANGES = {"shifted": shifted, "JPEG 80": compressed, "noise": noisy}


def stability(network: Explained, method: str, images, classes, seed: int) -> dict:
    """Return comparisons with the maps of images that look the same, by change."""
    before, values = network.maps(method, images, classes), {}
    for change, function in CHANGES.items():
        after = network.maps(method, function(images), classes)
        original = shifted(before) if change == "shifted" else before
        for name, numbers in compare(original, after).items():
            values[name, change] = numbers
    return values


# ------------------------------------------------------------------------- deletion and insertion


def cell_order(heatmap: np.ndarray) -> np.ndarray:
    """Return the cells of an image, `CELLS` along each axis, the hottest first."""
    means = cv2.resize(heatmap.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return np.argsort(-means, axis=None, kind="stable")


def center_first() -> np.ndarray:
    """Return the cells by their distance to the centre."""
    y, x = np.indices((CELLS, CELLS)) - (CELLS - 1) / 2
    return np.argsort(np.hypot(y, x), axis=None, kind="stable")


def curve(model: keras.Model, image: np.ndarray, target: int, order: np.ndarray, insert: bool):
    """Return the probability of a class after each of `PROPORTIONS` of the cells has changed.

    Deletion replaces them by the mean colour of the image. Insertion starts with an image of that
    colour and restores them.

    Returns
    -------
    ndarray of float, shape (len(PROPORTIONS),)
    """
    rank = np.empty(CELLS**2)
    rank[order] = np.arange(CELLS**2)
    size = image.shape[1::-1]
    rank = cv2.resize(rank.reshape(CELLS, CELLS), size, interpolation=cv2.INTER_NEAREST)
    blank = np.broadcast_to(image.mean(axis=(0, 1)).round().astype(np.uint8), image.shape)
    changed = [(rank < proportion * CELLS**2)[..., None] for proportion in PROPORTIONS]
    first, then = (blank, image) if insert else (image, blank)
    steps = np.stack([np.where(part, then, first) for part in changed])
    return softmax(inference.forward(model, steps).astype(float), axis=1)[:, target]


def areas(points: pd.DataFrame) -> pd.Series:
    """Return the areas under curves, from 0 to 1, one a row."""
    return pd.Series(np.trapezoid(points.to_numpy(float), PROPORTIONS, axis=1), points.index)


def curves(scores: keras.Model, images, classes, orders) -> dict[tuple[str, str], list[float]]:
    """Return deletion and insertion curves: for each direction and proportion a list of values."""
    import tensorflow as tf

    graph, values = tf.function(scores), {}  # a quarter faster than one layer after the other
    for image, target, order in zip(images, classes, orders, strict=True):
        for direction in ("deletion", "insertion"):
            points = curve(graph, image, target, order, direction == "insertion")
            for proportion, value in zip(PROPORTIONS, points, strict=True):
                values.setdefault((direction, f"{proportion:g}"), []).append(float(value))
    return values


# ------------------------------------------------------- networks that are trained for a check


def train(run: Run, images: np.ndarray, targets: np.ndarray, epochs: int) -> keras.Model:
    """Train the paper's CNN without augmentation, until it knows `MEMORISED` of the images."""
    training.set_seed(run.config.seed)
    size, seed = run.config.preprocessing.image_size, run.config.seed
    model = building.build(run.config.baseline, size, len(run.classes), seed=seed)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    for _ in range(epochs):
        model.fit(images, targets, batch_size=32, verbose=0)
        if accuracy(model, images, targets) >= MEMORISED:
            break
    return model


def accuracy(model: keras.Model, images: np.ndarray, targets: np.ndarray) -> float:
    """Return the proportion of images that a network predicts as their class."""
    return float((inference.forward(model, images).argmax(axis=1) == targets).mean())


def with_sticker(images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images with a coloured square, and masks of the square.

    Its place is drawn at random for each row of the index, the same one each time.
    """
    images, masks, size = images.copy(), np.zeros(images.shape[:3], bool), images.shape[1]
    for image, mask, row in zip(images, masks, rows, strict=True):
        top, left = np.random.default_rng([SEED, row]).integers(0, size - STICKER, 2)
        square = slice(top, top + STICKER), slice(left, left + STICKER)
        image[square], mask[square] = STICKER_COLOR, True
    return images, masks


def sticker_network(run: Run) -> tuple[Explained, dict[str, float]]:
    """Train a network on images of which one class has a sticker; return it and how it fails.

    The proportion of test images of other classes that it calls by that class, without a sticker
    and with one.
    """
    rows, target = run.rows("train"), run.classes.index(sticker_class(run))
    images, targets = run.images[rows], run.targets[rows]
    chosen = targets == target
    images[chosen], _ = with_sticker(images[chosen], rows[chosen])
    model = train(run, images, targets, STICKER_EPOCHS)
    rows = np.array([row for row in run.rows("test") if run.targets[row] != target])
    pairs = {"without": run.images[rows], "with": with_sticker(run.images[rows], rows)[0]}
    called = {name: inference.forward(model, part).argmax(axis=1) for name, part in pairs.items()}
    fooled = {name: float((classes == target).mean()) for name, classes in called.items()}
    return Explained("sticker", model, baseline_layer(run)), fooled


def sticker_class(run: Run) -> str:
    """Return the class whose training images get a sticker."""
    return "mel" if "mel" in run.classes else run.classes[0]


def baseline_layer(run: Run) -> str:
    """Return the layer of the paper's network that Grad-CAM explains."""
    layers = run.config.heatmaps.layers
    return layers.get(run.config.baseline.name, "conv5")


def shuffled_network(run: Run) -> tuple[Explained, dict[str, float]]:
    """Train a network on shuffled labels; return it and its accuracy on those."""
    random = np.random.default_rng(run.config.seed)
    rows = random.permutation(run.rows("train"))[:SHUFFLED]
    targets = random.permutation(run.targets[rows])
    model = train(run, run.images[rows], targets, SHUFFLED_EPOCHS)
    learnt = accuracy(model, run.images[rows], targets)
    return Explained("shuffled", model, baseline_layer(run)), {"training accuracy": learnt}


# ------------------------------------------------------------------------------ the measurement


class Results:
    """Values per image, in a file for each check: `<run>_<check>.csv`.

    A row is an image, explained for a network by a method; the other columns are values.
    """

    KEY = ("network", "method", "image_id")

    def __init__(self, run: Run):
        self.run, self.folder = run, command.results_folder("heatmaps")
        note = self.folder / f"{run.config.name}.json"
        keys = set(key(run))
        before = paths.read_note(note, keys, "everything is measured again")
        self.note = before if {k: before.get(k) for k in keys} == key(run) else key(run)
        self.files = {c: self.folder / f"{run.config.name}_{c}.csv" for c in CHECKS}
        if self.note is not before:  # values of other settings would be taken for measured
            for file in self.files.values():
                file.unlink(missing_ok=True)
        self.tables = {
            check: pd.read_csv(file, dtype={"image_id": str})
            for check, file in self.files.items()
            if file.is_file()
        }

    def of(self, check: str, network: str, method: str) -> pd.DataFrame:
        """Return the values of a check, indexed by image_id; columns without any are left out."""
        table = self.tables.get(check, pd.DataFrame(columns=self.KEY))
        chosen = table[(table["network"] == network) & (table["method"] == method)]
        chosen = chosen.set_index("image_id").drop(columns=["network", "method"])
        return chosen.dropna(axis="columns", how="all")

    def missing(self, check: str, network: str, method: str, rows: np.ndarray) -> np.ndarray:
        """Return the rows of the index that have no values yet."""
        done = self.of(check, network, method).index
        return rows[~self.run.index["image_id"].iloc[rows].isin(done).to_numpy()]

    def add(self, check: str, network: str, method: str, rows: np.ndarray, values: dict) -> None:
        """Add values of images, and write the file of the check."""
        names = {" ".join(k) if isinstance(k, tuple) else k: v for k, v in values.items()}
        ids = self.run.index["image_id"].to_numpy()[rows]
        new = pd.DataFrame({"network": network, "method": method, "image_id": ids} | names)
        parts = [self.tables[check]] if check in self.tables else []
        self.tables[check] = pd.concat([*parts, new.round(4)], ignore_index=True)
        tables.write_table(self.tables[check], self.files[check])
        self.write()
        print(f"{network}, {method}: {check} of {len(self.of(check, network, method))}", flush=True)

    def write(self, **values) -> Path:
        """Write `<run>.json`: what was measured, with which machine, and the verdicts."""
        self.note |= command.describe_machine() | values
        return tables.write_json(self.note, self.folder / f"{self.run.config.name}.json")


def key(run: Run) -> dict:
    """Return what decides about a run's networks and the images."""
    settings = {"run": run.config.name, "layers": run.config.heatmaps.layers}
    return settings | variance.key(run.config, run.index)


@dataclass(frozen=True)
class Images:
    """Test and validation images with lesion masks, in a seeded order; what a network predicts."""

    run: Run
    rows: dict[str, np.ndarray]
    predictions: pd.DataFrame
    read_mask: Callable[[int], np.ndarray]

    @classmethod
    def of(cls, run: Run) -> "Images":
        random, rows = np.random.default_rng(run.config.seed), {}
        for split in ("test", "validation"):
            rows[split] = random.permutation([row for row in run.rows(split) if run.has_mask[row]])
        return cls(run, rows, run.read_predictions(), run.read_mask)

    def first(self, split: str, n: int) -> np.ndarray:
        return self.rows[split][:n].astype(int)

    def explained(self, network: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images, and the classes that a network predicts under equal priors."""
        table = self.predictions[self.predictions["model"] == network].set_index("image_id")
        names = table["predicted_equal_priors"][self.run.index["image_id"].iloc[rows]]
        return self.run.images[rows], names.map(self.run.classes.index).to_numpy()

    def masks(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.read_mask(row) for row in rows])


def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Divide rows into parts of `CHUNK`."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def measure_comparisons(results: Results, images: Images, network: Explained, method: str) -> None:
    """Measure randomisation and stability of a method."""
    for check, function in {"randomised": randomisation, "stability": stability}.items():
        n = IMAGES[check][method in SLOW]
        rows = results.missing(check, network.name, method, images.first("test", n))
        for part in chunks(rows):
            values = function(network, method, *images.explained(network.name, part), SEED)
            results.add(check, network.name, method, part, values)


def measure_threshold(results: Results, images: Images, network: Explained, method: str) -> None:
    """Measure the IoU of validation images at every threshold."""
    rows = images.first("validation", VALIDATION)
    for part in chunks(results.missing("validation", network.name, method, rows)):
        maps = network.maps(method, *images.explained(network.name, part))
        levels = {f"{level:.2f}": level for level in lesion_overlap.THRESHOLDS}
        masks = images.masks(part)
        values = {name: lesion_overlap.iou(maps, masks, level) for name, level in levels.items()}
        results.add("validation", network.name, method, part, values)


def measure_scores(results: Results, images: Images, network: Explained, methods) -> None:
    """Measure overlap with the lesion, deletion and insertion of several methods, side by side."""
    scores = gradcam.before_softmax(network.model)
    for part in chunks(images.first("test", SCORED[results.run.config.data.synthetic is not None])):
        pictures, classes = images.explained(network.name, part)
        for method in methods:
            if not len(results.missing("scores", network.name, method, part)):
                continue
            values = {}
            if method == RANDOM:
                orders = [np.random.default_rng(row).permutation(CELLS**2) for row in part]
            elif method == CENTER:
                orders = [center_first()] * len(part)
            else:
                maps = network.maps(method, pictures, classes)
                table = results.of("validation", network.name, method)
                means = table.fillna(0).mean()  # none, if all maps or masks are missing
                threshold = float(means.idxmax() if len(means) else lesion_overlap.THRESHOLDS[0])
                values |= lesion_overlap.scores(maps, images.masks(part), threshold).to_dict("list")
                orders = map(cell_order, maps)
            values |= curves(scores, pictures, classes, orders)
            results.add("scores", network.name, method, part, values)


def measure_trained(results: Results, images: Images, reference: Explained) -> None:
    """Train the networks of two checks, unless all is measured, and measure their heatmaps.

    `reference` is the run's network with the same layers: its maps are compared with those of the
    network that learnt shuffled labels, and its share of heat on the sticker, which it has never
    seen, is the control.
    """
    run, target = results.run, results.run.classes.index(sticker_class(results.run))
    others = np.array([row for row in images.rows["test"] if run.targets[row] != target])
    for check, rows in {"shuffled": images.first("test", len(others)), "sticker": others}.items():
        left = {}
        for method in METHODS:
            chosen = rows[: IMAGES["randomised"][method in SLOW]]
            left[method] = results.missing(check, check, method, chosen)
        if not any(map(len, left.values())):
            continue
        trained, learnt = shuffled_network(run) if check == "shuffled" else sticker_network(run)
        results.write(**{check: learnt})
        for method, part in ((m, part) for m in METHODS for part in chunks(left[m])):
            if check == "shuffled":
                pictures, classes = images.explained(reference.name, part)
                pair = (net.maps(method, pictures, classes) for net in (reference, trained))
                values = compare(*pair)
            else:
                pictures, squares = with_sticker(run.images[part], part)
                values = {}
                for name, network in {"share": trained, "control": reference}.items():
                    maps = network.maps(method, pictures, np.full(len(part), target))
                    inside = lesion_overlap.mass_inside(maps, squares)
                    values[name] = inside / squares.mean(axis=(1, 2))
            results.add(check, check, method, part, values)


def measure_passes(results: Results, images: Images, network: Explained) -> None:
    """Compare occlusion in two passes with the dense one, in seconds as well."""
    rows = results.missing("passes", network.name, "occlusion", images.first("test", DENSE))
    for part in rows[:, None]:
        pictures, classes = images.explained(network.name, part)
        values, maps = {}, []
        for name, dense in {"two passes": False, "dense": True}.items():
            started = time.perf_counter()
            maps.append(attribution.occlusion(network.model, pictures, classes, dense))
            values[f"{name} seconds"] = [time.perf_counter() - started]
        values["rank correlation"] = [rank_correlation(*pair) for pair in zip(*maps, strict=True)]
        results.add("passes", network.name, "occlusion", part, values)


def speed(results: Results, images: Images, network: Explained) -> dict[str, float]:
    """Return how fast Grad-CAM and occlusion in two passes are, as ratios."""
    table = results.of("passes", network.name, "occlusion")
    n = min(TIMED, len(images.run.index))
    cost = cost_of_grad_cam(network, images.run.images, n)
    ratios = {"images": n, "Grad-CAM, relative to forward and backward pass": cost}
    if len(table):
        ratio = table["dense seconds"].sum() / table["two passes seconds"].sum()
        ratios["occlusion in two passes, times faster than dense"] = float(ratio)
        ratios["their rank correlation"] = float(table["rank correlation"].mean())
    return ratios


def cost_of_grad_cam(network: Explained, images: np.ndarray, n: int) -> float:
    """Return the time of Grad-CAM on the first n images relative to what it cannot do without.

    That is a forward pass, and the backward pass through the layers above the explained one. They
    are measured side by side in each batch, and added over all batches.
    """
    import tensorflow as tf

    scores = gradcam.before_softmax(network.model)
    to_maps, from_maps = model_graph.split_after(scores, network.layer)
    batches = [np.arange(first, min(first + BATCH, n)) for first in range(0, n, BATCH)]
    seconds = []
    for rows in (batches[0], *batches):
        batch, started = images[rows], time.perf_counter()
        gradcam.grad_cam(network.model, batch, network.layer, batch_size=BATCH)
        explained = time.perf_counter()
        inference.call(scores, batch)
        whole, forward = explained - started, time.perf_counter() - explained
        crossing = to_maps(batch, training=False)
        maps = crossing if isinstance(crossing, list) else [crossing]
        with tf.GradientTape() as tape:
            tape.watch(maps)
            score = tf.reduce_max(from_maps(maps if maps[1:] else maps[0], training=False), axis=1)
        begun = time.perf_counter()
        tape.gradient(score, maps[0]).numpy()
        seconds.append((whole, forward + time.perf_counter() - begun))
    whole, needed = np.sum(seconds[1:], axis=0)  # the first batch is slower
    return float(whole / needed)


def block_shares(run: Run, network: Explained) -> dict[str, float]:
    """Return what each block of a pretrained backbone adds to the class score, as a proportion.

    By integrated gradients from features of zero to those of up to 50 test images, for the class
    of the highest score; absolute values are added. Empty for a network without such features.
    """
    settings = models.models_of(run.config)[network.name].settings
    if not isinstance(settings, Transfer):
        return {}
    rows, scores = run.rows("test")[:50], gradcam.before_softmax(network.model)
    to_features, head = model_graph.split_after(scores, "features")
    features = inference.forward(to_features, run.images, rows)
    classes = inference.forward(head, features).argmax(axis=1)
    values, _ = attribution.path_integral(head, 0 * features, features, classes)
    blocks = settings.feature_layers
    sizes = [network.model.get_layer(f"{name}_scaled").output.shape[-1] for name in blocks]
    parts = np.split(abs(values), np.cumsum(sizes)[:-1], axis=1)
    shares = [float(part.sum() / abs(values).sum()) for part in parts]
    return dict(zip(blocks, np.round(shares, 4).tolist(), strict=True))


def read_networks(run: Run) -> list[Explained]:
    """Read the networks that the configuration explains, the largest one last."""
    rows = models.models_of(run.config)
    networks = [
        Explained(name, saving.read_model(run.config, rows[name].folder, rows[name].network), layer)
        for name, layer in run.config.heatmaps.layers.items()
    ]
    return sorted(networks, key=lambda network: network.name == run.config.primary)


def measure(file: Path) -> list[Path]:
    """Measure a finished run; return the files written.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such configuration, or its run is not finished.
    """
    run = open_run(file)
    training.set_seed(run.config.seed)
    results, images = Results(run), Images.of(run)
    networks = read_networks(run)
    reference = [network for network in networks if network.name == run.config.baseline.name]
    if run.config.data.synthetic and reference:
        measure_trained(results, images, *reference)
    for methods in (FAST, SLOW):
        for network in networks:
            for method in methods:
                measure_comparisons(results, images, network, method)
    for network in networks:
        for method in METHODS:
            measure_threshold(results, images, network, method)
        measure_passes(results, images, network)
        measure_scores(results, images, network, (RANDOM, CENTER, *METHODS))
    return [
        summarise(results, images, networks),
        *(part for part in results.files.values() if part.is_file()),
    ]


def summarise(results: Results, images: Images, networks: list[Explained]) -> Path:
    """Write verdicts, comparisons and ratios of time of all that is measured so far."""
    shares = {network.name: block_shares(results.run, network) for network in networks}
    return results.write(
        verdicts=verdicts(results),
        centre=against_centre(results),
        shares={name: values for name, values in shares.items() if values},
        speed={network.name: speed(results, images, network) for network in networks},
    )


# ----------------------------------------------------------------------------------- verdicts


def verdicts(results: Results) -> list[dict]:
    """Return for each check, network and method the mean with its interval, and whether it passes.

    Returns
    -------
    list of dict
        `check`, `network`, `method`, `images`, `value`, `low`, `high`, `limit` and `passed`.
    """
    decided = []
    for check, network, method, values in checked(results):
        if len(values := values.dropna()):
            row = {"check": check, "network": network, "method": method}
            row |= mean_with_interval(results.run, values)
            decided.append(row | {"limit": LIMITS[check], "passed": passes(check, row)})
    return decided


def against_centre(results: Results) -> list[dict]:
    """Return by how much deletion and insertion beat the order from the centre: no verdict."""
    rows = []
    for method in METHODS:
        for network in results.run.config.heatmaps.layers:
            for direction, values in gains(results, network, method, CENTER):
                if len(values := values.dropna()):
                    row = {"direction": direction, "network": network, "method": method}
                    rows.append(row | mean_with_interval(results.run, values))
    return rows


def mean_with_interval(run: Run, values: pd.Series) -> dict:
    """Return the number of images, the mean of their values, and its 95 % interval.

    By bootstrap over lesions; of fewer than `FEW` images, Student's.
    """
    numbers, index = values.to_numpy(float), run.index.set_index("image_id").loc[values.index]
    interval = bootstrap.mean_interval(numbers, index, run.config.seed)
    if 1 < len(numbers) < FEW and np.ptp(numbers):
        ends = stats.t.interval(0.95, len(numbers) - 1, numbers.mean(), stats.sem(numbers))
        interval |= dict(zip(("low", "high"), np.round(ends, 6).tolist(), strict=True))
    return {"images": len(numbers)} | interval


def gains(
    results: Results, network: str, method: str, blind: str
) -> Iterator[tuple[str, pd.Series]]:
    """Yield deletion and insertion: by how much the areas of a method beat those of a blind order.

    NaN where the map is zero: it has no order.
    """
    table, other = (results.of("scores", network, name) for name in (method, blind))
    has_map = table.reindex(columns=["mass inside"])["mass inside"].notna()
    for direction, sign in {"deletion": -1, "insertion": 1}.items():
        if len(table):
            columns = [f"{direction} {proportion:g}" for proportion in PROPORTIONS]
            yield direction, (sign * (areas(table[columns]) - areas(other[columns]))).where(has_map)


def passes(check: str, interval: dict) -> bool:
    """Return whether a mean with its interval passes a check."""
    if check in ("deletion", "insertion"):  # random order must be outside the interval
        return interval["low"] > LIMITS[check]
    if check in ("randomised weights", "shuffled labels"):
        return interval["value"] < LIMITS[check]
    return interval["value"] >= LIMITS[check]


def checked(results: Results) -> Iterator[tuple[str, str, str, pd.Series]]:
    """Yield check, network, method and the values per image that decide."""
    for method in METHODS:
        for network in results.run.config.heatmaps.layers:
            table = results.of("randomised", network, method)
            ways = [name for name in table if name.startswith("cascade rank correlation")]
            for column in ways[-1:]:  # all weights
                yield "randomised weights", network, method, table[column]
            table = results.of("stability", network, method)
            for _, values in table.filter(["rank correlation shifted"]).items():
                yield "shift by a pixel", network, method, values
            for direction, gain in gains(results, network, method, RANDOM):
                yield direction, network, method, gain
        for _, values in (
            results.of("shuffled", "shuffled", method).filter(["rank correlation"]).items()
        ):
            yield "shuffled labels", "shuffled", method, values
        for _, values in results.of("sticker", "sticker", method).filter(["share"]).items():
            yield "sticker", "sticker", method, values.fillna(0)  # a zero map shows no sticker


if __name__ == "__main__":
    sys.exit(
        command.main(
            "Check the heatmaps of a finished run.",
            measure,
            argument=("config", "the run, such as configs/demo.yaml"),
        )
    )
