"""Estimate what a run needs: disk, memory and time."""

import math
import timeit

import numpy as np

from lib.config import Config, Network, Transfer
from lib.networks import inference, model_graph, training
from lib.networks.backend import keras

#: Images in a batch of noise that is timed.
TIMED_IMAGES = 8
#: Seconds that the notebooks take beside the networks, on two cores: all of them together, for
#: each image of the run (preprocessing, measurements, hand-crafted features and their classifiers),
#: and for each image of the data set (inspection and the search for duplicates).
NOTEBOOKS_SECONDS, IMAGE_SECONDS, LISTED_SECONDS = 60, 0.09, 0.01
#: What Python, TensorFlow and the tables occupy.
BASE_BYTES = 10**9


def disk_bytes(config: Config, networks: dict[str, keras.Model], counts: dict[str, int]) -> int:
    """Return the size of `images.npy`, cached features and networks with their states.

    Parameters
    ----------
    networks : dict of str to keras.Model
        By the name of their item in the configuration.
    counts : dict of str to int
        The number of images in each split.
    """
    total = sum(counts.values()) * config.preprocessing.image_size**2 * 3
    for name, network in networks.items():
        settings = config.model(name)
        total += 5 * 4 * network.count_params()  # saved; in a state: now, best, Adam's two moments
        if isinstance(settings, Transfer):
            fine_tune = settings.fine_tune
            cuts = ["dense", *([fine_tune.from_layer] if fine_tune.cached else [])]
            maps = [x for cut in cuts for x in model_graph.split_before(network, cut)[0].outputs]
            rows = settings.views * counts["train"] + counts["validation"]
            total += 2 * rows * sum(math.prod(x.shape[1:]) for x in maps)
    return total


def memory_bytes(config: Config, networks: dict[str, keras.Model]) -> int:
    """Return the memory that training the largest network takes, on the processor."""
    needed = [0]
    for name, network in networks.items():
        settings, trained = config.model(name), network
        if isinstance(settings, Transfer):
            trained = model_graph.split_before(network, settings.fine_tune.from_layer)[1]
        outputs = [x for call in model_graph.calls(trained) for x in call.outputs]
        values = settings.batch_size * sum(math.prod(x.shape[1:]) for x in outputs)
        # each with its gradient; weights also have Adam's two moments
        needed.append(4 * (2 * values + 4 * trained.count_params()))
    return BASE_BYTES + max(needed)


def seconds(
    config: Config, networks: dict[str, keras.Model], counts: dict[str, int], listed: int
) -> dict[str, float]:
    """Time a few steps of each network on noise, and return the seconds of a run from nothing.

    Parameters
    ----------
    networks, counts
        As for `disk_bytes`. Networks of a pretrained backbone are frozen up to their first layer.
    listed : int
        The number of images in the data set.

    Returns
    -------
    dict of str to float
        By the name of the network, and for `all else`.
    """
    training.set_seed(config.seed)
    # an epoch also predicts the validation images; a prediction takes about a third of a step
    epoch = counts["train"] + counts["validation"] / 3
    times = {}
    for name, network in networks.items():
        settings = config.model(name)
        if isinstance(settings, Network):
            relu = config.relu_output_epochs if settings == config.baseline else 0
            times[name] = (settings.epochs + relu) * epoch * _time_training(network)
        else:
            times[name] = _transfer_seconds(network, settings, counts, epoch)
    images = IMAGE_SECONDS * sum(counts.values()) + LISTED_SECONDS * listed
    return times | {"all else": NOTEBOOKS_SECONDS + images}


def _transfer_seconds(
    network: keras.Model, settings: Transfer, counts: dict[str, int], epoch: float
) -> float:
    """Return the seconds to compute features, fine-tune, and predict the held-out images."""
    backbone, first = model_graph.split_before(network, "dense")[0], settings.fine_tune.from_layer
    exact = model_graph.in_float32(backbone)
    rows = settings.views * counts["train"] + counts["validation"]
    # features of the held-out images, and then their predictions
    exact_rows = 2 * settings.test_time_views * (counts["validation"] + counts["test"])
    if exact is backbone:
        seconds = (rows + exact_rows) * _time_forward(backbone)
    else:  # the features of the training images are computed in float32, too
        exact_rows += counts["train"]
        seconds = rows * _time_forward(backbone) + exact_rows * _time_forward(exact)
    model_graph.train_from(network, first)
    is_cached = settings.fine_tune.cached
    trained = model_graph.split_before(network, first)[1] if is_cached else network
    return seconds + settings.fine_tune.epochs * epoch * _time_training(trained)


def _time_training(model: keras.Model) -> float:
    """Return the seconds that a step of training takes for each image."""
    model.compile("adam", "categorical_crossentropy")
    inputs, targets = _noise(model), np.zeros((TIMED_IMAGES, model.output.shape[-1]))
    # the first of the three traces the function
    times = timeit.repeat(lambda: model.train_on_batch(inputs, targets), number=1, repeat=3)
    return min(times) / TIMED_IMAGES


def _time_forward(model: keras.Model) -> float:
    """Return the seconds that a model takes for each image outside training."""
    inputs = _noise(model)
    times = timeit.repeat(lambda: inference.call(model, inputs), number=1, repeat=2)
    return min(times) / TIMED_IMAGES


def _noise(model: keras.Model):
    """Return random inputs for one small batch."""
    random, arrays = np.random.default_rng(0), []
    for tensor in model.inputs:
        noise = 255 * random.random((TIMED_IMAGES, *tensor.shape[1:]), np.float32)
        arrays.append(noise.astype(np.uint8) if tensor.dtype == "uint8" else noise)
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
