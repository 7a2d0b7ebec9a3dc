"""Cut a Keras model in two, freeze parts of it, and hash its layers and weights."""

import difflib
import hashlib
import inspect
import json

import numpy as np

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
        The model has no such layer, or `layer` is its input, or the model puts out something that
        does not depend on `layer`.
    """
    return _split(model, layer, [])


def split_after(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cut a model in two: all that depends on what `layer` puts out, and all the rest.

    As `split_before`, but `layer` belongs to the first part, and the first tensor that crosses is
    its output. No cut can be made after the last layer.
    """
    found = [each for each in calls(model) if each.operation.name == layer]
    return _split(model, layer, [found[-1].outputs[0]] if found else [])


def train_from(model: keras.Model, layer: str) -> None:
    """Make `layer` and all that depend on it trainable, and no others.

    Batch normalisation never is: its statistics, scale and offset stay those of ImageNet. Switched
    on, it would use the statistics of each batch, and small batches would overwrite its own.

    Raises
    ------
    ValueError
        The model has no such layer.
    """
    chosen = {id(call.operation) for call in _dependents(model, layer)}
    for each in model.layers:
        frozen = isinstance(each, layers.BatchNormalization)
        each.trainable = id(each) in chosen and not frozen


def _split(model, layer, crossing):
    behind = _dependents(model, layer)
    if crossing:
        behind = [call for call in behind if call.operation.name != layer]
    made = {id(tensor) for call in behind for tensor in call.outputs}
    if not made.issuperset(map(id, model.outputs)):
        raise ValueError(f"what {model.name} puts out does not depend on what comes of {layer!r}")
    for tensor in (tensor for call in behind for tensor in call.input_tensors):
        if id(tensor) not in made | {id(each) for each in crossing}:
            crossing = [*crossing, tensor]
    if not crossing:
        raise ValueError(f"nothing comes before {layer!r}, an input of {model.name}")
    between = crossing if len(crossing) > 1 else crossing[0]
    trunk = keras.Model(model.input, between, name=f"{model.name}_to_{layer}")
    return trunk, keras.Model(between, model.output, name=f"{model.name}_from_{layer}")


def _dependents(model, layer):
    """Return the calls of `layer` and of all that depend on it, in order."""
    names = [each.name for each in model.layers]
    if layer not in names:
        raise ValueError(unknown_name(model.name, "layer", layer, names))
    found, made = [], set()
    for call in calls(model):
        if call.operation.name == layer or any(id(each) in made for each in call.input_tensors):
            found.append(call)
            made |= {id(each) for each in call.outputs}
    return found


def calls(model):
    """Return Keras's nodes of a functional model, each after those whose outputs it takes."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def unknown_name(owner, kind, name, known):
    """Return the message for a name that is not known, with the closest ones."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    more = f" and {len(known) - 60} more" if len(known) > 60 else ""
    return f"{owner} has no {kind} {name!r}{hint}; it has: {', '.join(known[:60])}{more}"


def weights_digest(model: keras.Model) -> str:
    """Return a SHA-256 over the model's weights (a `.keras` file changes at every save)."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()


def digest_of(contents) -> str:
    """Return the SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()


def layers_digest(model: keras.Model) -> str:
    """Return a SHA-256 over what a model computes, its weights apart.

    That is the kinds of its layers and other operations, how they are set, and what each takes
    from which; of layers of our own, also their code. Their names are left out, for Keras counts
    them up within a process; not those of their number formats, which are further down.
    """
    places, parts, steps = {}, {}, []

    def place(value):
        return places.get(id(value), value)

    for number, call in enumerate(calls(model)):
        places |= {id(tensor): f"{number} {i}" for i, tensor in enumerate(call.outputs)}
        part, taken = (
            call.operation,
            [call.arguments.args, call.arguments.kwargs],
        )
        own = type(part).__module__.startswith("lib.")
        steps.append(
            {
                "kind": type(part).__name__,
                "which": parts.setdefault(id(part), len(parts)),  # one layer may be called twice
                "settings": part.get_config() | {"name": None},
                "code": inspect.getsource(type(part)) if own else None,
                "takes": keras.tree.map_structure(place, taken),
            }
        )
    ends = [[places[id(tensor)] for tensor in each] for each in (model.inputs, model.outputs)]
    return digest_of([steps, ends])


def random_states(model: keras.Model) -> list:
    """Return the variables that random layers draw from: a seed and a counter each."""
    weights_ = {id(each) for each in model.weights}
    return [each for each in variables_of(model) if id(each) not in weights_]


def variables_of(model: keras.Model) -> list:
    """Return all variables of a model except those of its metrics."""
    metrics = {id(each) for each in model.metrics_variables}
    return [each for each in model.variables if id(each) not in metrics]


def to_numpy(variable) -> np.ndarray:
    """Return a variable's or a tensor's values."""
    value = getattr(variable, "value", variable)
    if keras.backend.backend() == "tensorflow" and hasattr(value, "numpy"):
        return value.numpy()  # Keras's own way warns about a variable's missing keyword
    return np.asarray(keras.ops.convert_to_numpy(value))
