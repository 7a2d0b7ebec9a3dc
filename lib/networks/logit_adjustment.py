"""The loss for networks whose outputs are to be posteriors under equal priors."""

from collections.abc import Sequence

from lib.networks.backend import keras

#: Smaller outputs count as this, which has a logarithm and a gradient in float32.
SMALLEST = 1e-30


@keras.saving.register_keras_serializable(package="lib")
class LogitAdjusted(keras.losses.Loss):
    """Cross-entropy of the outputs times the class prior (Menon et al., ICLR 2021).

    It is least where those products are the posteriors under that prior, so that the outputs
    themselves are posteriors under equal priors.

    Parameters
    ----------
    prior : sequence of float
        The frequency of each class among the training images.
    """

    def __init__(self, prior: Sequence[float], **options):
        super().__init__(**options)
        self.prior = [float(p) for p in prior]

    def call(self, y_true, y_pred):
        ops = keras.ops
        prior = ops.convert_to_tensor(self.prior, y_pred.dtype)
        logits = ops.log(ops.maximum(y_pred, SMALLEST)) + ops.log(prior)
        return keras.losses.categorical_crossentropy(y_true, logits, from_logits=True)

    def get_config(self):
        return super().get_config() | {"prior": self.prior}
