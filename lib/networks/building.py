"""Build the networks of a configuration: one entry in `BUILDERS` for each kind of network."""

from collections.abc import Callable
from functools import partial

from pydantic import ConfigDict, ValidationError, validate_call

from lib.config import Augmentation, Config, Network, Transfer
from lib.networks import alexnet, baseline_cnn, devices, model_graph, vgg16, vgg16_weights
from lib.networks.backend import keras

#: Networks trained from scratch, by the name that `builder` has in a configuration. A builder is
#: called as `builder(image_size, n_classes, augmentation, seed, **options)`, and returns a model
#: from uint8 RGB images, shape (n, image_size, image_size, 3), to probabilities.
BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "baseline_cnn": baseline_cnn.baseline_cnn,
    "alexnet": alexnet.alexnet,
}

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def build(
    settings: Network | Transfer,
    image_size: int,
    n_classes: int,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    **options,
) -> keras.Model:
    """Build a network, with the weights of its backbone if it has one.

    Parameters
    ----------
    settings : Network or Transfer
        An item of `models` in a configuration.
    image_size : int
        Side of the images in pixels.
    augmentation : Augmentation, optional
        By default none; outside training the network predicts the same.
    **options
        Further arguments of the builder, beside the `options` of the settings.

    Returns
    -------
    keras.Model
        From uint8 RGB images to probabilities.

    Raises
    ------
    ValueError
        There is no such builder, option, backbone or layer, or it does not fit.
    OSError
        The weights of the backbone are not available.
    """
    where = f"models.{settings.name}"
    if isinstance(settings, Transfer):
        model = vgg16.vgg16_transfer(image_size, n_classes, settings, augmentation, seed)
        if settings.weights == "imagenet":
            vgg16_weights.load_backbone_weights(model, settings.backbone)
        return model
    if settings.builder not in BUILDERS:
        owner = f"{where}: lib/networks/building.py"
        raise ValueError(model_graph.unknown_name(owner, "builder", settings.builder, BUILDERS))
    try:
        builder = validate_call(config=STRICT)(BUILDERS[settings.builder])
        return builder(image_size, n_classes, augmentation, seed, **settings.options | options)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()]
        raise ValueError("; ".join(f"{where}.options.{fault}" for fault in faults)) from None


def build_for_training(config: Config, settings: Network | Transfer, **options) -> keras.Model:
    """Build a network of a run as `config.training` says; its first weights follow the seed."""
    size, n_classes = config.preprocessing.image_size, len(config.classes)
    augmentation = settings.augmentation or config.augmentation
    options |= {"augmentation": augmentation, "seed": config.seed}
    builder = partial(build, settings, size, n_classes, **options)
    return devices.build(builder, config.training, config.seed)
