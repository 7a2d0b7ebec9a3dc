"""Networks of a configuration: built from their items, rows of their own, refused with the key."""

import json
import shutil
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
from conftest import change_layers, with_model
from pydantic import Field

from lib import config, paths
from lib.models import models_of, titles
from lib.networks import building, saving
from lib.networks.backend import keras
from tools import finished_run, predict, publish_models, published_networks

MOBILE = {
    "name": "mobilenet",
    "backbone": "MobileNetV2",
    "weights": "none",
    "feature_layers": ["block_3_expand_relu"],
    "fine_tune": {"from_layer": "block_3_expand", "epochs": 1, "learning_rate": 0.001},
}
ROWS = ["color_texture_svm", "color_texture_forest", "no_mask_svm", "baseline_cnn", "alexnet"]
VGG16 = ["vgg16_linear", "vgg16_frozen", "vgg16_fine_tuned"]


@pytest.fixture
def tiny():
    return config.load_config("tests/tiny.yaml")


def with_item(run, item):
    """Return a configuration with one model more, checked like a file."""
    values = run.model_dump()
    return config.Config.model_validate(values | {"models": [*values["models"], item]})


@pytest.fixture
def two_transfers(tiny):
    return with_item(tiny, tiny.model("vgg16").model_dump() | MOBILE)


# ------------------------------------------------------------------------------------------- rows


def test_each_item_is_a_row_and_a_pretrained_network_is_three(tiny):
    rows = models_of(tiny)
    assert list(rows) == ["majority", "stratified", *ROWS, *VGG16]
    assert [row.settings and row.settings.kind for row in rows.values()] == [
        *(None, None, *["handcrafted"] * 3, "network", "network"),
        *["transfer"] * 3,
    ]
    networks = {name: (row.network, row.manifest) for name, row in rows.items() if row.network}
    assert networks == {
        "baseline_cnn": ("model", "manifest"),
        "alexnet": ("model", "manifest"),
        "vgg16_frozen": ("frozen", "manifest_frozen"),
        "vgg16_fine_tuned": ("model", "manifest"),
    }
    assert titles(tiny) == {
        "majority": "Majority-class baseline",
        "stratified": "Stratified guessing",
        "color_texture_svm": "Hand-crafted features, SVM",
        "color_texture_forest": "Hand-crafted features, random forest",
        "no_mask_svm": "Hand-crafted features without mask, SVM",
        "baseline_cnn": "Baseline CNN (8 convolutions)",
        "alexnet": "AlexNet, from scratch",
        "vgg16_linear": "VGG16 features, logistic regression",
        "vgg16_frozen": "VGG16, frozen",
        "vgg16_fine_tuned": "VGG16, fine-tuned",
    }


def test_only_pretrained_networks_average_their_predictions_over_views(tiny):
    views = {name: row.test_time_views for name, row in models_of(tiny).items()}
    assert {name for name, n in views.items() if n > 1} == set(VGG16)


def test_two_pretrained_networks_have_rows_and_folders_of_their_own(two_transfers):
    rows = models_of(two_transfers)
    mobile = ["mobilenet_linear", "mobilenet_frozen", "mobilenet_fine_tuned"]
    assert list(rows) == ["majority", "stratified", *ROWS, *VGG16, *mobile]
    assert {rows[name].folder for name in VGG16} == {"vgg16"}
    assert {rows[name].folder for name in mobile} == {"mobilenet"}
    assert [rows[name].title for name in mobile] == [
        "MobileNetV2 features, logistic regression",
        "MobileNetV2, frozen",
        "MobileNetV2, fine-tuned",
    ]
    assert {rows[name].notebook for name in [*VGG16, *mobile]} == {"04_vgg16_transfer"}
    files = {finished_run.run_file(two_transfers, name) for name in rows if rows[name].network}
    assert len(files) == 6
    assert two_transfers.primary == "vgg16_fine_tuned"


def test_two_pretrained_networks_are_built_side_by_side(two_transfers):
    vgg16, mobile = (
        building.build(item.model_copy(update={"weights": "none"}), 256, 3)
        for item in two_transfers.transfers
    )
    assert "block5_conv1" in [layer.name for layer in vgg16.layers]
    assert "block_3_expand" in [layer.name for layer in mobile.layers]
    assert vgg16.output_shape == mobile.output_shape == (None, 3)


def test_one_backbone_twice_needs_a_title(tiny):
    item = tiny.model("vgg16").model_dump() | {"name": "vgg16_large"}
    with pytest.raises(ValueError, match=r"a title is there twice: .*VGG16, frozen, VGG16, frozen"):
        with_item(tiny, item)
    run = with_item(tiny, item | {"title": "VGG16, 224 pixels"})
    assert titles(run)["vgg16_frozen"] == "VGG16, frozen"
    assert titles(run)["vgg16_large_frozen"] == "VGG16, 224 pixels, frozen"
    assert len(set(titles(run).values())) == len(titles(run))


def test_a_network_that_the_configuration_does_not_list_has_no_file(tiny):
    for name in ("resnet", "vgg16_linear", "majority"):
        message = f"run tiny has no network '{name}'; it has: baseline_cnn, alexnet, vgg16_frozen, "
        with pytest.raises(ValueError, match=message):
            finished_run.run_file(tiny, name)


# ---------------------------------------------------------------------------------------- refused


SIZES = {"filters": [4] * 8, "dense_units": [8, 8]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builder": "resnet"}, r": .*has no builder 'resnet'; .*it has: baseline_cnn, alexnet$"),
        ({"options": SIZES | {"width": 3}}, r"\.options\.width: Unexpected keyword argument"),
        ({"options": {"filters": [4] * 8}}, r"\.options\.dense_units: Missing required"),
        ({"options": SIZES | {"filters": [4] * 7}}, r"\.options\.filters: .*at least 8 items"),
        ({"options": SIZES | {"filters": [4] * 9}}, r"\.options\.filters: .*at most 8 items"),
        ({"options": SIZES | {"dense_units": [8]}}, r"\.options\.dense_units: .*at least 2 items"),
        ({"options": SIZES | {"filters": [4] * 7 + ["4"]}}, r"\.options\.filters\.7: .*integer"),
        ({"options": SIZES | {"filters": [4] * 7 + [0]}}, r"\.options\.filters\.7: .*equal to 1"),
        ({"options": SIZES | {"filters": 4}}, r"\.options\.filters: .*valid list"),
        ({"options": SIZES | {"output": "sigmoid"}}, r"\.options\.output: .*'softmax' or 'relu'"),
    ],
)
def test_a_network_with_impossible_settings_is_named(tiny, changes, message):
    settings = with_model(tiny, "baseline_cnn", **changes).model("baseline_cnn")
    with pytest.raises(ValueError, match=rf"models\.baseline_cnn{message}"):
        building.build(settings, 256, 3)


def test_all_wrong_options_are_named_at_once(tiny):
    options = {"filters": [4] * 6, "dense_units": [8, 8], "dropout": 1.5}
    settings = tiny.model("alexnet").model_copy(update={"options": options})
    with pytest.raises(ValueError, match=r"alexnet\.options\.filters: .*; models\.alexnet\.opt"):
        building.build(settings, 256, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "VGG61"}, r"no network 'VGG61'; did you mean 'VGG\d\d'\?"),
        (
            {"feature_layers": ["block6_pool"]},
            r"VGG16 has no layer 'block6_pool'; did you mean 'block\d_pool'\?; "
            r"it has: block1_conv1, block1_conv2, block1_pool, .*block5_pool$",
        ),
        ({"feature_layers": ["block5_pool"] * 2}, "feature_layers names a layer twice"),
        ({"from_layer": "conv5_1"}, r"has no layer 'conv5_1'; it has: block1_conv1, "),
        (  # at block4_pool VGG16 ends: nothing of block 5 can be trained
            {"feature_layers": ["block3_pool", "block4_pool"]},
            r"VGG16 up to block4_pool has no layer 'block5_conv1'.* block4_conv3, block4_pool$",
        ),
    ],
)
def test_a_backbone_without_a_layer_of_that_name_is_refused(tiny, changes, message):
    settings = tiny.model("vgg16").model_copy(update={"weights": "none"})
    if "from_layer" in changes:
        changes = {"fine_tune": settings.fine_tune.model_copy(update=changes)}
    with pytest.raises(ValueError, match=message):
        building.build(settings.model_copy(update=changes), 256, 3)


@pytest.mark.parametrize(
    ("feature_layers", "from_layer"),
    [(["block5_pool", "block3_pool"], "block5_conv1"), (["block5_pool"], "block5_pool")],
)
def test_the_order_of_the_feature_layers_does_not_matter(tiny, feature_layers, from_layer):
    settings = tiny.model("vgg16")
    stage = settings.fine_tune.model_copy(update={"from_layer": from_layer})
    changes = {"weights": "none", "feature_layers": feature_layers, "fine_tune": stage}
    model = building.build(settings.model_copy(update=changes), 256, 3)
    assert {f"{name}_average" for name in feature_layers} <= {layer.name for layer in model.layers}


@pytest.mark.parametrize(
    "file", sorted((paths.ROOT / "configs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_network_of_a_committed_configuration_is_built(file):
    """And has the layers that Grad-CAM explains."""
    run = config.load_config(file)
    for item in [*run.networks, *run.transfers]:
        item = item.model_copy(update={"weights": "none"} if item.kind == "transfer" else {})
        model = building.build(item, run.preprocessing.image_size, len(run.classes))
        assert model.output_shape == (None, len(run.classes))
        for name, layer in run.heatmaps.layers.items():
            if models_of(run)[name].settings.name == item.name:
                assert isinstance(model.get_layer(layer), keras.layers.Conv2D)


# ------------------------------------------------------------------------------- a network is added


def small_cnn(
    image_size: int,
    n_classes: int,
    augmentation: config.Augmentation | None,
    seed: int,
    *,
    width: Annotated[int, Field(ge=1)],
) -> keras.Model:
    """Build one convolution."""
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, dtype="float32")(inputs)
    x = keras.layers.Conv2D(width, 8, strides=8, name="conv1")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    outputs = keras.layers.Dense(n_classes, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="small_cnn")


def test_a_builder_that_is_added_is_built_published_and_predicted_with(
    finished, run, data_folder, monkeypatch, tmp_path, capsys
):
    """One entry in `BUILDERS` and one item of `models`, and no edit of a tool."""
    monkeypatch.setitem(building.BUILDERS, "small_cnn", small_cnn)
    monkeypatch.setattr(published_networks, "MODELS", tmp_path / "models")
    own = paths.output_root() / "runs" / "tiny"
    shutil.copytree(finished.run, own)
    item = run.model("alexnet").model_dump() | {
        "name": "small",
        "title": "One convolution",
        "builder": "small_cnn",
        "options": {"width": 4},
        "publish": True,
    }
    for name in ("baseline_cnn", "vgg16"):
        run = with_model(run, name, publish=False)
    run = with_item(run, item)

    network = building.build_for_training(run, run.model("small"))
    assert network.get_layer("conv1").filters == 4
    with pytest.raises(ValueError, match=r"models\.small\.options\.width: .*equal to 1"):
        building.build(run.model("small"), 256, 3, width=0)
    change_layers(network, ["conv1", "probabilities"], seed=5)
    history = pd.DataFrame({"epoch": [1], "stage": ["a"], "kept": [True], "seconds": [1.0]})
    calibration = {"scale": 1.0, "bias": {"bcc": 0.0, "mel": 0.0, "nv": 0.0}}
    saving.save(network, own / "small", history, class_balance="sampling", calibration=calibration)

    with pytest.raises(ValueError, match="every network has publish: false"):
        publish_models.publish(with_model(run, "small", publish=False))
    assert publish_models.published_names(run) == ["small"]
    folder = publish_models.publish(run)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "| `small.npz` | One convolution |" in readme
    assert "VGG16 weights" not in readme and "ImageNet" not in readme
    manifest = published_networks.read_manifest(folder / published_networks.MANIFEST)
    assert manifest.vgg16_sha256 is None

    image = sorted((data_folder / "images").glob("*.jpg"))[0]
    arguments = [str(image), "--config", "tiny", "--model", "small", "--json"]
    assert predict.main(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    probabilities = json.loads(line)["training_prior"]["probabilities"]
    loaded, _ = published_networks.load("tiny", "small")
    np.testing.assert_array_equal(loaded.get_weights()[0], network.get_weights()[0])
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
