"""The optimiser of every training: Adam, with what recipes for fine-tuning add to it."""

from lib.networks.backend import keras


@keras.saving.register_keras_serializable(package="lib")
class AdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay, a learning rate for each variable, and averaged weights.

    Keras's AdamW has one learning rate for all. Scaling gradients instead would do next to nothing,
    since Adam divides them by their size.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule
    factors : sequence of float
        Of the learning rate, for each trainable variable.
    decay : float
        Each step takes away this part of a weight, times its learning rate (Loshchilov and Hutter,
        ICLR 2019).
    average : float
        Momentum of an exponential moving average of the weights (Polyak and Juditsky, 1992); 0:
        none. It begins at 0 and rises as n / (n + 9) after n steps: with the full momentum from the
        start, the first weights would count for longer than a short training lasts.
    clip_norm : float
        Gradients whose norm over all variables is larger are scaled down to it; 0: never.
    """

    def __init__(self, learning_rate, factors, decay=0.0, average=0.0, clip_norm=0.0, **options):
        options |= {"use_ema": average > 0, "ema_momentum": average}
        options["global_clipnorm"] = clip_norm or None
        super().__init__(learning_rate, **options)
        self.factors, self.decay = list(factors), decay

    def get_config(self):
        config = super().get_config()
        clip_norm, average = config["global_clipnorm"] or 0.0, config["ema_momentum"]
        own = {"factors": self.factors, "decay": self.decay}
        return config | own | {"average": average, "clip_norm": clip_norm}

    def update_step(self, gradient, variable, learning_rate):
        rate = learning_rate * self.factors[self._get_variable_index(variable)]
        if self.decay:
            self.assign_sub(variable, variable * (rate * self.decay))
        super().update_step(gradient, variable, rate)

    def _update_model_variables_moving_average(self, trainable_variables):
        steps = keras.ops.cast(self.iterations, "float32")
        momentum = keras.ops.minimum(self.ema_momentum, steps / (steps + 9))
        averages = self._model_variables_moving_average
        for variable, average in zip(trainable_variables, averages, strict=True):
            average.assign(momentum * average + (1 - momentum) * variable)
