"""How fast the recipe of configs/ham10000.yaml trains, beside a product of two matrices.

`training.fit` fine-tunes the VGG16 of the configuration on noise, with all that the recipe has:
augmentation, learning rates by block, logit adjustment, averaged weights. A product of large
matrices, timed before and after, says how fast the machine computes at that time.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lib import tables
from lib.config import Config
from lib.networks import backend, batching, building, devices, model_graph, training, vgg16
from lib.networks.backend import keras
from studies import command
from studies.speed import training as benchmark

STEPS, EPOCHS = 2, 3  # steps of an epoch, epochs that are timed
ROWS = 4096  # of the matrices, and columns
FILE = benchmark.RESULTS / "recipe.json"


def measure(settings: Config) -> Iterator[Path]:
    """Time the recipe in float32 and, where the processor has it, in bfloat16."""
    formats = benchmark.FORMATS if backend.computes_bfloat16() else benchmark.FORMATS[:1]
    note = {"formats": {name: measure_format(settings, name) for name in formats}}
    note |= {"configuration": benchmark.CONFIGURATION, "steps": STEPS, "epochs": EPOCHS}
    yield tables.write_json(note | command.describe_machine(), FILE)


def measure_format(settings: Config, number_format: str) -> dict:
    """Return speeds of one number format: of training in images/s, of the product in GFLOP/s."""
    products = [matrix_product(number_format)]
    with devices.policy(number_format):
        model = build(settings)
    speed, operations = train(model, settings), arithmetic(model)
    products.append(matrix_product(number_format))
    return {
        "images per second": speed,
        "GFLOP per image": operations,
        "matrix product GFLOP/s": products,
        "relative to the product": speed * operations / float(np.mean(products)),
    }


def build(settings: Config) -> keras.Model:
    """Build the network that the recipe fine-tunes, with weights drawn at random."""
    transfer = settings.model("vgg16").model_copy(update={"weights": "none"})
    side, augmentation = settings.preprocessing.image_size, transfer.augmentation
    model = building.build(transfer, side, len(settings.classes), augmentation, settings.seed)
    model_graph.train_from(model, transfer.fine_tune.from_layer)
    return model


def train(model: keras.Model, settings: Config) -> float:
    """Return images per second: the median epoch after the first, in which Keras traces."""
    transfer, n_classes = settings.model("vgg16"), len(settings.classes)
    n, size = transfer.batch_size, settings.preprocessing.image_size
    shape = (STEPS * n, size, size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    places, equal = np.arange(len(images)), np.full(n_classes, 1 / n_classes)
    targets, few = places % n_classes, places[:n_classes]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        history = training.fit(
            model,
            batching.Batches(images, places, targets, np.ones(n_classes), n, settings.seed),
            batching.Batches(images, few, targets[few], np.ones(n_classes), n),
            transfer.fine_tune.model_copy(update={"epochs": 1 + EPOCHS}),
            classes=settings.classes,
            state=Path(folder) / "recipe.state.npz",
            stage="recipe",
            loss_prior=equal,
            rates=vgg16.learning_rates(model, transfer),
        )
    return len(images) / float(np.median([row["seconds"] for row in history[1:]]))


def arithmetic(model: keras.Model) -> float:
    """Return the multiplications and additions of a training step, in 1e9 for each image.

    Those of convolutions and dense layers. The gradient of the weights of a trained layer takes as
    many as its output, and so does the gradient of its input, which the first trained one lacks.
    """
    forward, trained = 0.0, []
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        places = np.prod(layer.output.shape[1:-1]) if len(layer.output.shape) == 4 else 1
        operations = 2 * float(np.prod(layer.kernel.shape) * places)
        forward += operations
        if layer.trainable:
            trained.append(operations)
    return (forward + 2 * sum(trained) - trained[0]) / 1e9


def matrix_product(number_format: str) -> float:
    """Return the speed of the product of two square matrices, in GFLOP/s, of five the fastest."""
    values = np.random.default_rng(0).standard_normal((ROWS, ROWS), np.float32)
    matrix = keras.ops.cast(values, number_format)

    def multiply():
        return model_graph.to_numpy(keras.ops.matmul(matrix, matrix)[0, 0])

    return 2 * ROWS**3 / benchmark.fastest(multiply, repeats=5) / 1e9


if __name__ == "__main__":
    description = "Time the recipe of the published network beside a product of matrices."
    sys.exit(
        command.main(
            description,
            lambda file: measure(benchmark.config.load_config(file)),
            argument=("config", f"such as {benchmark.CONFIGURATION}"),
        )
    )
