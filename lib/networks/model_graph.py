"""Cut a Keras model in two, freeze parts of it, and hash its layers and weights."""

import hashlib
import json
from collections.abc import Callable

import numpy as np

from lib import source_code
from lib.config import did_you_mean
from lib.networks.backend import keras

layers = keras.layers


def split_before(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cut a model in two: `layer` and all that depends on it, and all the rest.

    The parts share their layers, and so their weights, with `model`. Any graph of layers may be
    cut; a tensor of the first part that the second needs crosses over.

    Returns
    -------
    trunk, top : keras.Model
        `top(trunk(x))` equals `model(x)`; training `top` trains `model`. What crosses is the
        output of `trunk` and the input of `top`: one tensor, or a list, the first being what
        `layer` itself takes.

    Raises
    ------
    ValueError
        The model has no such layer, or `layer` is its input, or an output of the model does not
        depend on `layer`.
    """
    return _split(model, layer, [])


def split_after(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cut a model in two: all that depends on the output of `layer`, and all the rest.

    As `split_before`, but `layer` belongs to the first part, and the first tensor that crosses is
    its output. No cut can be made after the last layer.
    """
    outputs = [call.outputs[0] for call in calls(model) if call.operation.name == layer]
    return _split(model, layer, outputs[-1:])


def train_from(model: keras.Model, layer: str) -> None:
    """Make `layer` and all that depend on it trainable, and no others.

    Batch normalisation never is: its statistics, scale and offset stay those of ImageNet. Switched
    on, it would use the statistics of each batch, and small batches would overwrite its own.

    Raises
    ------
    ValueError
        The model has no such layer.
    """
    trained = {id(call.operation) for call in _dependents(model, layer)}
    for part in model.layers:
        frozen = isinstance(part, layers.BatchNormalization)
        part.trainable = id(part) in trained and not frozen


def _split(model, layer, crossing):
    """Cut a model; tensors in `crossing` are computed by the first part."""
    second = _dependents(model, layer)
    if crossing:
        second = [call for call in second if call.operation.name != layer]
    computed = {id(tensor) for call in second for tensor in call.outputs}
    if not computed.issuperset(map(id, model.outputs)):
        raise ValueError(f"an output of {model.name} does not depend on {layer!r}")
    for tensor in (tensor for call in second for tensor in call.input_tensors):
        if id(tensor) not in computed | set(map(id, crossing)):
            crossing = [*crossing, tensor]
    if not crossing:
        raise ValueError(f"nothing comes before {layer!r}, an input of {model.name}")
    between = crossing if len(crossing) > 1 else crossing[0]
    trunk = keras.Model(model.input, between, name=f"{model.name}_to_{layer}")
    return trunk, keras.Model(between, model.output, name=f"{model.name}_from_{layer}")


def _dependents(model, layer):
    """Return the calls of `layer` and of all that depend on it, in order."""
    names = [part.name for part in model.layers]
    if layer not in names:
        raise ValueError(unknown_name(model.name, "layer", layer, names))
    dependents, computed = [], set()
    for call in calls(model):
        if call.operation.name == layer or computed.intersection(map(id, call.input_tensors)):
            dependents.append(call)
            computed.update(map(id, call.outputs))
    return dependents


def calls(model):
    """Return Keras's nodes of a functional model, each after those whose outputs are its inputs."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def unknown_name(owner, kind, name, known):
    """Return the message for a name that is not known, with the closest ones."""
    known = list(known)
    names = ", ".join(known[:60]) + (f" and {len(known) - 60} more" if len(known) > 60 else "")
    return f"{owner} has no {kind} {name!r}{did_you_mean(name, known)}; it has: {names}"


def in_float32(model: keras.Model) -> keras.Model:
    """Return the model with every layer in float32; the model itself if that is so already."""
    if set(number_formats(model)) <= {"float32", "uint8"}:
        return model

    def copy(layer):
        settings = layer.get_config()
        if isinstance(layer, keras.Layer):  # operations of `keras.ops` follow their inputs
            settings["dtype"] = "float32"
        return type(layer).from_config(settings)

    exact = keras.models.clone_model(model, clone_function=copy)
    exact.set_weights(model.get_weights())
    for layer in exact.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights
    return exact


def number_formats(model: keras.Model) -> list[str]:
    """Return the names of the dtype policies of a model's layers, each once."""
    return sorted({x.dtype_policy.name for x in model.layers if hasattr(x, "dtype_policy")})


def snapshot(model: keras.Model) -> Callable[[], None]:
    """Copy the weights of a model and the states of its random layers.

    Returns
    -------
    callable
        Restores them, as often as it is called.
    """
    variables = variables_of(model)
    values = [to_numpy(variable).copy() for variable in variables]

    def restore():
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return restore


def weights_digest(model: keras.Model) -> str:
    """Return a SHA-256 over the model's weights (a `.keras` file changes at every save)."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(np.ascontiguousarray(to_numpy(variable)))
    return digest.hexdigest()


def digest_of(contents) -> str:
    """Return the SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()


def layers_digest(model: keras.Model) -> str:
    """Return a SHA-256 over what a model computes, except for weights and number formats.

    That is the type and the settings of each layer and operation, its inputs, and the syntax tree
    of layers of our own. Names are left out, since Keras counts them up within a process.
    """
    tensors, numbers, steps = {}, {}, []

    def reference(value):  # to another step, or the values of a constant, whatever the backend
        constant = to_numpy(value).tolist() if keras.ops.is_tensor(value) else value
        return tensors.get(id(value), constant)

    for i, call in enumerate(calls(model)):
        tensors |= {id(tensor): f"{i} {k}" for k, tensor in enumerate(call.outputs)}
        layer = call.operation
        own = type(layer).__module__.startswith("lib.")
        arguments = [call.arguments.args, call.arguments.kwargs]
        step = {
            "type": type(layer).__name__,
            "number": numbers.setdefault(id(layer), len(numbers)),  # a layer may be called twice
            "settings": layer.get_config() | {"name": None, "dtype": None},
            "code": source_code.syntax_tree_of(type(layer)) if own else None,
            "inputs": keras.tree.map_structure(reference, arguments),
        }
        steps.append(step)
    ends = [[tensors[id(x)] for x in model.inputs], [tensors[id(x)] for x in model.outputs]]
    return digest_of([steps, ends])


def random_states(model: keras.Model) -> list:
    """Return the variables that random layers draw from: a seed and a counter each."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in variables_of(model) if id(variable) not in weights]


def variables_of(model: keras.Model) -> list:
    """Return all variables of a model except those of its metrics."""
    metrics = {id(variable) for variable in model.metrics_variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def to_numpy(variable) -> np.ndarray:
    """Return the values of a variable or a tensor."""
    value = getattr(variable, "value", variable)
    if keras.backend.backend() == "tensorflow" and hasattr(value, "numpy"):
        return value.numpy()  # Keras's own way warns about a keyword that a variable lacks
    return np.asarray(keras.ops.convert_to_numpy(value))
