"""Calibration: what a network puts out, turned into probabilities that hold.

The outputs of a network trained with balanced classes are posteriors for classes that are equally
frequent, and may be too confident or not enough. Both are mended by one scale and a bias a class,
on the logarithms of the outputs, fitted on validation images: bias-corrected temperature scaling
(Alexandari, Kundaje and Shrikumar, ICML 2020). A temperature alone is not enough after training
with weights of the classes.
"""

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

#: An output below this counts as this: the logarithm of zero is no number.
SMALLEST = 1e-7

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Calibration(BaseModel):
    """How outputs become posteriors under the training prior: softmax(scale * log(p) + bias)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    scale: Annotated[Finite, Field(gt=0)]
    #: of each class, in the order of the outputs
    bias: dict[str, Finite]

    def of_classes(self, classes: list[str]) -> "Calibration":
        """Return it with the biases in the order of the classes, which is that of the outputs.

        Raises
        ------
        ValueError
            It is for other classes.
        """
        if set(self.bias) != set(classes):
            raise ValueError(
                f"a calibration for the classes {', '.join(self.bias)}; expected one for "
                f"{', '.join(classes)}"
            )
        return Calibration(scale=self.scale, bias={name: self.bias[name] for name in classes})

    def apply(self, outputs: np.ndarray) -> np.ndarray:
        """Return posteriors under the training prior.

        Parameters
        ----------
        outputs : ndarray of float, shape (n, classes)
            What the network puts out, averaged over views; rows add up to 1.

        Returns
        -------
        ndarray of float64, shape (n, classes)
            Rows add up to 1.

        Raises
        ------
        ValueError
            Outputs for another number of classes, or that are no probabilities.
        """
        return softmax(self.scale * _logs(outputs, len(self.bias)) + _values(self.bias), axis=1)


def conversion(before: np.ndarray, after: np.ndarray, classes: list[str]) -> Calibration:
    """Return the calibration that changes the prior and nothing else (`metrics.change_prior`)."""
    bias = np.log(np.asarray(after, float)) - np.log(np.asarray(before, float))
    return Calibration(scale=1.0, bias=dict(zip(classes, bias.tolist(), strict=True)))


def fit(
    outputs: np.ndarray,
    targets: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    classes: list[str],
) -> Calibration:
    """Fit scale and biases to images with known classes, by penalised log loss.

    The biases are held, and so is the logarithm of the scale, by a normal distribution of standard
    deviation 1 about what the priors alone ask for (`conversion`): a few images of a class, or
    none, move them little.

    Parameters
    ----------
    outputs : ndarray of float, shape (n, classes)
        As `Calibration.apply` takes them.
    targets : ndarray of int, shape (n,)
        Each image's class, as its place among the classes.
    before : ndarray of float, shape (classes,)
        The classes' shares under which the outputs are posteriors (`training.output_prior`).
    after : ndarray of float, shape (classes,)
        The training prior. The images' own shares may be others, and are allowed for.

    Raises
    ------
    ValueError
        No images, or outputs that are no probabilities of these classes.
    """
    targets = np.asarray(targets)
    logs = _logs(outputs, len(classes))
    if not len(targets) or len(targets) != len(logs):
        raise ValueError(f"found {len(targets)} targets of {len(logs)} outputs; expected as many")
    shares = np.bincount(targets, minlength=len(classes)) / len(targets)
    with np.errstate(divide="ignore"):  # a class without an image cannot be the answer here
        here = np.log(shares) - np.log(after)
    centre = _values(conversion(before, after, classes).bias)
    one_hot = np.eye(len(classes))[targets]

    def loss(parameters):
        scale, bias = np.exp(parameters[0]), parameters[1:]
        scores = scale * logs + bias + here
        misses = logsumexp(scores, axis=1) - scores[np.arange(len(logs)), targets]
        wrong = softmax(scores, axis=1) - one_hot
        moved = parameters - start
        slope = np.append((wrong * logs).sum() * scale, wrong.sum(axis=0)) + moved
        return misses.sum() + (moved**2).sum() / 2, slope

    start = np.append(0.0, centre)
    found = minimize(loss, start, jac=True, method="L-BFGS-B")
    bias = dict(zip(classes, found.x[1:].tolist(), strict=True))
    return Calibration(scale=float(np.exp(found.x[0])), bias=bias)


def _logs(outputs: np.ndarray, n_classes: int) -> np.ndarray:
    outputs = np.asarray(outputs, float)
    if outputs.ndim != 2 or outputs.shape[1] != n_classes:
        raise ValueError(f"found outputs of shape {outputs.shape}; expected (n, {n_classes})")
    if not (np.isfinite(outputs) & (outputs >= 0)).all():
        raise ValueError(f"outputs: expected numbers from 0 up; found {outputs.min()}")
    return np.log(np.maximum(outputs, SMALLEST))


def _values(bias: dict[str, float]) -> np.ndarray:
    return np.array(list(bias.values()))
