"""What a network answers to images that test its limits, for notebook 07.

Beside the held-out images these are test images of which a part is hidden, lesions with diagnoses
that it was not taught, and images without a lesion.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf

from lib import tables
from lib.data import datasets, quality
from lib.evaluation import refusal
from lib.evaluation.calibration import Calibration
from lib.models import Model
from lib.networks import array_files, inference, model_graph, saving
from lib.networks.backend import keras
from lib.preprocessing import pipeline

if TYPE_CHECKING:
    from lib.run import Run

BATCH = 32
#: Training images of a class from which its place among the features is estimated.
PER_CLASS = 200
#: Images of each kind without a lesion.
EXAMPLES = 20


@dataclass(frozen=True)
class Space:
    """Where the training images of each class lie among the features of the last layer.

    Attributes
    ----------
    means : ndarray of float, shape (classes, features)
    precision : ndarray of float, shape (features, features)
        The inverse of the covariance within the classes, shrunk (Ledoit and Wolf, J. Multivar.
        Anal. 88:365, 2004).
    """

    means: np.ndarray
    precision: np.ndarray

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the squared Mahalanobis distance to the nearest class, shape (n,).

        Lee, Lee, Lee and Shin, NeurIPS 2018.
        """
        apart = features[:, None] - self.means
        return np.einsum("ncf,fg,ncg->nc", apart, self.precision, apart, optimize=True).min(axis=1)


def fit_space(features: np.ndarray, targets: np.ndarray) -> Space:
    """Estimate the place of each class from features, shape (n, features), and classes, (n,)."""
    means = np.stack([features[targets == i].mean(axis=0) for i in range(targets.max() + 1)])
    spread = LedoitWolf(assume_centered=True).fit(features - means[targets])
    return Space(means, spread.precision_)


def assess(
    network: keras.Model, images: np.ndarray, space: Space, fitted: Calibration
) -> pd.DataFrame:
    """Return what a network says of images, and how strange they are to it.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, size, size, 3)
        Preprocessed.

    Returns
    -------
    DataFrame
        `prob_<class>`, posteriors under the training prior from the plain view; `energy`, minus
        the log of the sum of the exponentials of the logits (Liu, Wang, Owens and Li, NeurIPS
        2020); `distance`, from `Space.distance`.
    """
    features = inference.call(_body(network), images).astype(float)
    kernel, bias = network.layers[-1].get_weights()
    logits = features @ kernel.astype(float) + bias
    columns = [f"prob_{name}" for name in fitted.bias]
    table = pd.DataFrame(fitted.apply(softmax(logits, axis=1)), columns=columns)
    return table.assign(energy=-logsumexp(logits, axis=1), distance=space.distance(features))


def write(run: "Run", model: Model, network: keras.Model) -> pd.DataFrame:
    """Write `probes.csv` and `space.npz` of a trained and calibrated network.

    Returns
    -------
    DataFrame
        `refusal.probes_schema`.
    """
    folder, random = run.folder / model.folder, np.random.default_rng(run.config.seed)
    shuffled = run.index.loc[random.permutation(run.rows("train"))]
    rows = shuffled.groupby("label").head(PER_CLASS).index.to_numpy()
    space = fit_space(inference.forward(_body(network), run.images, rows), run.targets[rows])
    array_files.write_arrays(folder / "space.npz", vars(space), {"model": model.name})
    manifest = saving.read_manifest(folder / f"{model.network}.keras")
    fitted = Calibration(**manifest["calibration"]).of_classes(run.classes)
    images, parts = _all_images(run), []
    for batch in iter(lambda: list(itertools.islice(images, BATCH)), []):
        rows, pixels = zip(*batch, strict=True)
        assessed = assess(network, np.stack(pixels), space, fitted)
        parts.append(pd.concat([pd.DataFrame(rows), assessed], axis=1))
    table = pd.concat(parts, ignore_index=True).assign(model=model.name)
    table = refusal.probes_schema(run.classes).validate(table)
    tables.write_table(table, folder / "probes.csv")
    return table


def _body(network: keras.Model) -> keras.Model:
    return model_graph.split_before(network, network.layers[-1].name)[0]


def _all_images(run: "Run") -> Iterator[tuple[dict, np.ndarray]]:
    """Yield every image with its row: `image_id`, `kind`, and `split` and `label` where known."""
    settings = run.config.preprocessing
    for i, row in run.held_out[["image_id", "split", "label"]].iterrows():
        image = array_files.read_rows(run.images, np.array([i]))[0]
        yield {**row, "kind": "held_out"}, image
        lesion = run.read_mask(i) if row["split"] == "test" else None
        for kind, part in ({} if lesion is None else hide(image, lesion)).items():
            yield {**row, "kind": kind}, part
    metadata = datasets.read_metadata(run.data_folder, run.config.names)
    others = metadata[~metadata["dx"].isin(run.classes)].set_index("image_id")["dx"]
    for image_id, path in datasets.find_images(run.data_folder, others.index).items():
        if not quality.inspect_image(run.data_folder / path)[2]:  # notebook 01 lists the others
            dx = others[image_id]
            row = {"image_id": image_id, "split": "other", "label": dx, "kind": f"diagnosis {dx}"}
            yield row, pipeline.prepare(run.data_folder / path, settings)
    for kind, draw in NO_LESION.items():
        for i in range(EXAMPLES):
            image = draw(np.random.default_rng(i))
            row = {"image_id": f"{kind} {i}", "split": "other", "label": "none", "kind": kind}
            yield row, pipeline.preprocess_image(image, settings)


def hide(image: np.ndarray, lesion: np.ndarray) -> dict[str, np.ndarray]:
    """Hide the background, the lesion, or the box around the lesion, behind a mean colour.

    The box hides the lesion's outline as well (Bissoto, Fornaciali, Valle and Avila, CVPR Workshops
    2019).

    Parameters
    ----------
    lesion : ndarray of bool, shape (height, width)
        Nothing is returned if it is empty or covers the image.
    """
    if not lesion.any() or lesion.all():
        return {}
    skin = image[~lesion].mean(axis=0).round().astype(np.uint8)
    left, top, width, height = cv2.boundingRect(lesion.astype(np.uint8))
    box = np.zeros_like(lesion)
    box[top : top + height, left : left + width] = True
    return {
        "lesion only": np.where(lesion[..., None], image, skin),
        "background only": np.where(lesion[..., None], skin, image),
        "lesion covered": np.where(box[..., None], skin, image),
    }


def _strip(random: np.random.Generator) -> np.ndarray:
    """A gradient between random colours, 3000 x 40 pixels."""
    colors = random.integers(0, 256, (1, 8, 3)).astype(np.float32)
    return cv2.resize(colors, (3000, 40), interpolation=cv2.INTER_LINEAR).astype(np.uint8)


def _drawing(random: np.random.Generator) -> np.ndarray:
    """A few plain shapes on paper."""
    image = np.full((224, 224, 3), 245, np.uint8)
    for _ in range(5):
        color = random.integers(0, 256, 3).tolist()
        a, b = random.integers(0, 224, (2, 2)).tolist()
        cv2.rectangle(image, a, b, color, int(random.choice([-1, 4])))
        cv2.circle(image, a, int(random.integers(5, 50)), color[::-1], 3)
    return image


#: Images without a lesion, by kind.
NO_LESION: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "drawing": _drawing,
    "noise": lambda random: random.integers(0, 256, (224, 224, 3), np.uint8),
    "strip": _strip,
    "white": lambda random: np.full((224, 224, 3), random.integers(230, 256), np.uint8),
}
