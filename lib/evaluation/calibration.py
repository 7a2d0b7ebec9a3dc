"""Calibration: turn the outputs of a network into calibrated probabilities.

A network trained with balanced classes outputs posteriors under equal priors, and may be over- or
underconfident. One scale and one bias per class on the logarithms of the outputs correct both.
They are fitted on validation images: bias-corrected temperature scaling (Alexandari, Kundaje and
Shrikumar, ICML 2020). After class-weighted training a temperature alone is not enough.
"""

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

SMALLEST = 1e-7  # smaller outputs are replaced by this before taking logarithms

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Calibration(BaseModel):
    """Posteriors under the training prior: softmax(scale * log(outputs) + bias).

    Attributes
    ----------
    scale : float
        Positive; below 1 the outputs were overconfident.
    bias : dict of str to float
        For each class, in the order of the outputs.

    Examples
    --------
    >>> Calibration(scale=1.0, bias={"mel": 0.0, "nv": 0.0}).apply(np.array([[0.3, 0.7]]))
    array([[0.3, 0.7]])
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    scale: Annotated[Finite, Field(gt=0)]
    bias: dict[str, Finite]

    def of_classes(self, classes: list[str]) -> "Calibration":
        """Return the calibration with its biases in the order of `classes`.

        Raises
        ------
        ValueError
            It was fitted for other classes.
        """
        if set(self.bias) != set(classes):
            raise ValueError(
                f"found a calibration for the classes {', '.join(self.bias)}; expected one for "
                f"{', '.join(classes)}"
            )
        return Calibration(scale=self.scale, bias={name: self.bias[name] for name in classes})

    def apply(self, outputs: np.ndarray) -> np.ndarray:
        """Return posteriors under the training prior.

        Parameters
        ----------
        outputs : ndarray of float, shape (n, classes)
            Outputs of the network, averaged over views; rows sum to 1.

        Returns
        -------
        ndarray of float64, shape (n, classes)
            Rows sum to 1.

        Raises
        ------
        ValueError
            Another number of classes, or values that are no probabilities.
        """
        return softmax(self.scale * _logs(outputs, len(self.bias)) + _values(self.bias), axis=1)

    def invert(self, posteriors: np.ndarray) -> np.ndarray:
        """Return the outputs that `apply` turns into these posteriors, up to their rounding."""
        logs = _logs(posteriors, len(self.bias)) - _values(self.bias)
        return softmax(logs / self.scale, axis=1)


def fit(
    outputs: np.ndarray,
    targets: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    classes: list[str],
) -> Calibration:
    """Fit scale and biases to images of known class, by penalised log loss.

    The penalty is a normal prior of standard deviation 1 on the logarithm of the scale and on the
    biases, centred at what only changes the prior (see `priors.change_prior`): a few images of a
    class, or none, move them little.

    Parameters
    ----------
    outputs : ndarray of float, shape (n, classes)
        As in `Calibration.apply`.
    targets : ndarray of int, shape (n,)
        The class of each image, as its position in `classes`.
    before : ndarray of float, shape (classes,)
        The prior under which the outputs are posteriors (equal after balanced training).
    after : ndarray of float, shape (classes,)
        The training prior. The class frequencies of these images may differ from it; the fit
        corrects for that.

    Raises
    ------
    ValueError
        No images, or outputs that are no probabilities of these classes.
    """
    targets = np.asarray(targets)
    logs = _logs(outputs, len(classes))
    if not len(targets) or len(targets) != len(logs):
        raise ValueError(f"found {len(targets)} targets for {len(logs)} outputs; expected as many")
    frequencies = np.bincount(targets, minlength=len(classes)) / len(targets)
    with np.errstate(divide="ignore"):  # a class without an image has probability 0 here
        shift = np.log(frequencies) - np.log(after)
    start = np.append(0.0, np.log(after) - np.log(before))
    one_hot = np.eye(len(classes))[targets]

    def loss_and_gradient(parameters):
        scale, bias = np.exp(parameters[0]), parameters[1:]
        scores = scale * logs + bias + shift
        losses = logsumexp(scores, axis=1) - scores[np.arange(len(logs)), targets]
        errors = softmax(scores, axis=1) - one_hot
        moved = parameters - start
        gradient = np.append((errors * logs).sum() * scale, errors.sum(axis=0)) + moved
        return losses.sum() + (moved**2).sum() / 2, gradient

    fitted = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B")
    bias = dict(zip(classes, fitted.x[1:].tolist(), strict=True))
    return Calibration(scale=float(np.exp(fitted.x[0])), bias=bias)


def _logs(outputs: np.ndarray, n_classes: int) -> np.ndarray:
    outputs = np.asarray(outputs, float)
    if outputs.ndim != 2 or outputs.shape[1] != n_classes:
        raise ValueError(f"found outputs of shape {outputs.shape}; expected (n, {n_classes})")
    if not (np.isfinite(outputs) & (outputs >= 0)).all():
        raise ValueError(f"outputs: expected finite values >= 0; found {outputs.min()}")
    return np.log(np.maximum(outputs, SMALLEST))


def _values(bias: dict[str, float]) -> np.ndarray:
    return np.array(list(bias.values()))
