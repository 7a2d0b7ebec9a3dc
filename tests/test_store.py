"""Published networks: the same weights and answers as those trained, or a refusal."""

import json
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import with_model

from lib import config, paths, tables
from lib.models import models_of
from lib.networks import (
    array_files,
    devices,
    inference,
    model_graph,
    saving,
    vgg16_weights,
)
from lib.networks.backend import keras
from tools import publish_models, published_networks, whole_files

NETWORKS = ("baseline_cnn", "vgg16_frozen", "vgg16_fine_tuned")


@pytest.fixture
def own_run(finished):
    """The finished run, in the test's own output; what a test changes there is its own."""
    target = paths.output_root() / "runs" / "tiny"
    shutil.copytree(finished.run, target)
    return target


@pytest.fixture
def published(finished, tmp_path, monkeypatch):
    """A copy of the published networks, which a test may damage."""
    monkeypatch.setattr(published_networks, "MODELS", tmp_path / "models")
    shutil.copytree(finished.models / "tiny", tmp_path / "models" / "tiny")
    return tmp_path / "models" / "tiny"


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)


def trained(finished, run, model):
    row = models_of(run)[model]
    return saving.load_model(finished.run / row.folder / f"{row.network}.keras")


def manifest_of(folder):
    return json.loads((folder / published_networks.MANIFEST).read_text(encoding="utf-8"))


def rewrite(folder, model, edit):
    """Change a network's arrays, and let the manifest name the new file's SHA-256."""
    file = folder / f"{model}.npz"
    kept, note = array_files.read_arrays(file)
    array_files.write_arrays(file, edit(kept), note)
    said = manifest_of(folder)
    said["models"][model]["sha256"] = array_files.file_digest(file)
    tables.write_json(said, folder / published_networks.MANIFEST)


# ------------------------------------------------------------------------------- what is published


@pytest.mark.parametrize("model", NETWORKS)
def test_a_loaded_network_has_the_weights_and_the_answers_of_the_trained(
    finished, published, run, noise, model
):
    expected = trained(finished, run, model)
    network, note = published_networks.load("tiny", model)
    assert model_graph.weights_digest(network) == model_graph.weights_digest(expected)
    assert note.weights_sha256 == model_graph.weights_digest(expected)
    answers = inference.predict(network, noise)
    np.testing.assert_array_equal(answers, inference.predict(expected, noise))
    assert np.abs(answers - 1 / 3).max() > 0.01, "answers that differ from image to image or class"
    assert all(layer.dtype_policy.name in ("float32", "uint8") for layer in network.layers)


def test_the_three_networks_differ(published, noise):
    answers = [
        inference.predict(published_networks.load("tiny", model)[0], noise) for model in NETWORKS
    ]
    for one, other in zip(answers, answers[1:] + answers[:1], strict=True):
        assert np.abs(one - other).max() > 1e-3


def test_only_what_training_changed_is_kept_and_in_half_precision(published):
    head = {f"{layer}/{part}" for layer in vgg16_weights.HEAD for part in ("kernel", "bias")}
    tuned = {f"block5_conv{i}/{part}" for i in (1, 2, 3) for part in ("kernel", "bias")}
    expected = {"vgg16_frozen": head, "vgg16_fine_tuned": head | tuned}
    for model, names in expected.items():
        kept, _ = array_files.read_arrays(published / f"{model}.npz")
        assert set(kept) == names
        assert {values.dtype for values in kept.values()} == {np.dtype(np.float16)}
    assert (published / "vgg16_frozen.npz").stat().st_size < 50_000


def test_values_that_half_precision_would_round_are_kept_in_single(own_run, run, published):
    file = own_run / "baseline_cnn" / "model.keras"
    network, history = saving.load_model(file), pd.read_csv(file.with_name("history.csv"))
    kernel, bias = network.get_layer("conv3").get_weights()
    bias[0] = 0.1
    network.get_layer("conv3").set_weights([kernel, bias])
    said = json.loads((file.parent / "manifest.json").read_text())["calibration"]
    saving.save(network, file.parent, history, class_balance="weights", calibration=said)
    publish_models.publish(run)
    kept, _ = array_files.read_arrays(published / "baseline_cnn.npz")
    assert [name for name, each in kept.items() if each.dtype == np.float32] == ["conv3/bias"]
    assert (
        published_networks.load("tiny", "baseline_cnn")[0].get_layer("conv3").get_weights()[1][0]
        == bias[0]
    )


def test_the_manifest_says_what_each_file_is(finished, published, run, data_folder):
    said = manifest_of(published)
    assert list(said["models"]) == list(NETWORKS)
    for model, each in said["models"].items():
        row = models_of(run)[model]
        source = json.loads((finished.run / row.folder / f"{row.manifest}.json").read_text())
        assert each["title"] == row.title
        assert each["settings"] == row.settings.model_dump()
        assert each["weights_sha256"] == source["weights_sha256"]
        assert each["settings"]["class_balance"] == source["class_balance"]
        assert each["calibration"] == source["calibration"]
        assert each["sha256"] == array_files.file_digest(published / each["file"])
        assert each["bytes"] == (published / each["file"]).stat().st_size
        kept, _ = array_files.read_arrays(published / each["file"])
        assert each["values"] == sum(values.size for values in kept.values())
    assert [each["test_time_views"] for each in said["models"].values()] == [1, 2, 2]
    assert said["classes"] == {name: run.names[name] for name in ("bcc", "mel", "nv")}
    assert said["preprocessing"] == run.preprocessing.model_dump()
    assert said["vgg16_sha256"] == vgg16_weights.VGG16_DIGEST
    assert said["versions"]["keras"] == keras.__version__
    assert str(data_folder.parent) not in json.dumps(said), "no path of this machine"


def test_the_shares_are_those_of_the_training_images(finished, published):
    index = pd.read_csv(finished.run / "index.csv")
    counts = index.loc[index["split"] == "train", "label"].value_counts()
    shares = {name: counts[name] / counts.sum() for name in ("bcc", "mel", "nv")}
    said = manifest_of(published)
    assert said["training_prior"] == pytest.approx(shares)


def test_the_readme_says_what_these_are_and_under_which_terms(published):
    text = (published / "README.md").read_text(encoding="utf-8")
    for part in (
        "Not a medical device",
        "no medical evidence",
        "make predict IMAGE=<file or folder> CONFIG=tiny",
        "Left out (`publish: false`): AlexNet, from scratch. ",
        "CC BY 4.0",
        "basal cell carcinoma, melanoma and melanocytic nevus",
    ):
        assert part in text
    assert "CC BY-NC" not in text, "no image of HAM10000 was seen"
    assert "{{" not in text and "{%" not in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 3


def test_weights_learnt_from_ham10000_follow_its_licence(published, run):
    said = published_networks.read_manifest(published / published_networks.MANIFEST)
    real = {"attribution": config.load_config("configs/ham10000.yaml").data.attribution}
    text = publish_models.render_readme(said.model_copy(update=real | {"synthetic": False}))
    assert "HAM10000's CC BY-NC 4.0: not for commercial use, and with attribution" in text
    assert "no medical evidence" not in text


def test_a_backbone_that_starts_from_random_weights_has_no_licence_of_its_own(published):
    manifest = published_networks.read_manifest(published / published_networks.MANIFEST)
    assert "ImageNet" in publish_models.render_readme(manifest)
    changed = {
        name: model.model_copy(
            update={"settings": model.settings.model_copy(update={"weights": "none"})}
        )
        for name, model in manifest.models.items()
        if model.settings.kind == "transfer"
    }
    text = publish_models.render_readme(manifest.model_copy(update={"models": changed}))
    assert "| `vgg16_frozen.npz` |" in text
    assert "ImageNet" not in text and "VGG16 weights" not in text


def test_publishing_twice_gives_the_same_files_and_leaves_nothing_of_the_first(
    own_run, run, published
):
    names = sorted(each.name for each in published.iterdir())
    before = {file.name: file.read_bytes() for file in published.glob("*.npz")}
    (published / "left_over.npz").write_bytes(b"old")
    assert publish_models.publish(run) == published
    assert sorted(each.name for each in published.iterdir()) == names
    assert {file.name: file.read_bytes() for file in published.glob("*.npz")} == before
    assert len(before) == 3
    assert [each.name for each in published.parent.iterdir()] == ["tiny"]


def test_another_process_with_bfloat16_on_still_loads_float32(published, noise):
    expected = inference.predict(published_networks.load("tiny", "vgg16_fine_tuned")[0], noise)
    with devices.policy("bfloat16"):
        found = inference.predict(published_networks.load("tiny", "vgg16_fine_tuned")[0], noise)
    np.testing.assert_array_equal(found, expected)


# -------------------------------------------------------------------------- what is not published


def refused(run, error, match):
    """Publishing fails, and what was published before stays as it was."""
    target = published_networks.MODELS / "tiny"
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with pytest.raises(error, match=match):
        publish_models.publish(run)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert [each.name for each in published_networks.MODELS.iterdir()] == ["tiny"]


def test_files_too_large_together_are_refused_with_their_sizes(
    own_run, run, published, monkeypatch
):
    monkeypatch.setattr(publish_models, "LARGEST", 1)
    size = f"{(published / 'vgg16_fine_tuned.npz').stat().st_size:,}"
    refused(run, ValueError, rf"more than 1 MB \(.*vgg16_fine_tuned\.npz {size}\)")


def test_a_run_without_a_network_is_refused(own_run, run, published):
    (own_run / "vgg16" / "frozen.keras").unlink()
    refused(run, FileNotFoundError, r"runs/tiny/vgg16/frozen\.keras: no such file")


@pytest.mark.parametrize(
    ("key", "value"),
    [("weights_sha256", "0" * 64), ("class_balance", "sampling"), ("test_time_views", 8)],
)
@pytest.mark.parametrize(("name", "suffix"), [("model", ""), ("frozen", "_frozen")])
def test_a_network_that_its_own_manifest_contradicts_is_refused(
    own_run, run, published, key, value, name, suffix
):
    file = own_run / "vgg16" / f"manifest{suffix}.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    tables.write_json(said | {key: value}, file)
    refused(run, ValueError, rf"vgg16/{name}\.keras: its manifest says {key} = {value}; ")


def test_a_network_that_the_configuration_does_not_build_is_refused(own_run, run, published):
    """The same weights fit other settings, such as another size of the image inside."""
    other = with_model(run, "vgg16", input_size=64)
    refused(other, ValueError, r"frozen\.keras: .* gives other predictions")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "Input should be"),
        ({"scale": 0.0, "bias": dict.fromkeys(("bcc", "mel", "nv"), 0.0)}, "greater than 0"),
        ({"scale": 1.0, "bias": {"bcc": 0.0, "mel": 0.0}}, "for the classes bcc, mel; expected"),
    ],
)
def test_a_network_without_a_calibration_that_can_be_used_is_refused(
    own_run, run, published, change, said
):
    saving.add_to_manifest(own_run / "vgg16", "manifest_frozen", calibration=change)
    with pytest.raises(ValueError, match=rf"frozen\.keras: its manifest lacks .*{said}"):
        publish_models.publish(run)


def test_images_prepared_otherwise_are_refused(own_run, run, published):
    settings = run.preprocessing.model_copy(update={"median_kernel": 5})
    other = run.model_copy(update={"preprocessing": settings})
    refused(other, ValueError, "made with other preprocessing")


# ------------------------------------------------------------------------------ what is not loaded


def test_a_damaged_file_is_refused(published):
    file = published / "baseline_cnn.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"baseline_cnn\.npz: SHA-256 is \w{64}; its manifest"):
        published_networks.load("tiny", "baseline_cnn")
    published_networks.load("tiny", "vgg16_frozen")  # the others are as they were


def test_a_file_that_is_missing_is_named(published):
    (published / "baseline_cnn.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"baseline_cnn\.npz: no such file"):
        published_networks.load("tiny", "baseline_cnn")


def test_another_network_s_file_is_refused(published):
    shutil.copyfile(published / "vgg16_frozen.npz", published / "vgg16_fine_tuned.npz")
    with pytest.raises(ValueError, match=r"vgg16_fine_tuned\.npz: SHA-256"):
        published_networks.load("tiny", "vgg16_fine_tuned")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda kept: without(kept, "conv3/bias"), r"lacks conv3/bias, and holds nothing"),
        (lambda kept: kept | {"conv9/bias": np.zeros(4)}, r"lacks nothing, and holds conv9/bias"),
        (
            lambda kept: kept | {"conv3/bias": np.zeros(5, np.float16)},
            r"conv3/bias is float16 of shape \(5,\); expected .* of shape \(4,\)",
        ),
        (
            lambda kept: kept | {"conv3/bias": np.zeros(4, np.int64)},
            r"conv3/bias is int64 of shape \(4,\); expected float16 or float32",
        ),
        (
            lambda kept: kept | {"conv3/bias": kept["conv3/bias"] + np.float16(1)},
            r"the network's weights have the SHA-256",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(published, edit, said):
    rewrite(published, "baseline_cnn", lambda kept: kept)
    published_networks.load("tiny", "baseline_cnn")  # rewriting alone does no harm
    rewrite(published, "baseline_cnn", edit)
    with pytest.raises(ValueError, match=rf"baseline_cnn\.npz.*{said}"):
        published_networks.load("tiny", "baseline_cnn")


def without(kept, name):
    return {key: values for key, values in kept.items() if key != name}


def test_a_fine_tuned_layer_that_is_missing_is_noticed(published):
    """The backbone's own weights would stand in for it."""
    rewrite(published, "vgg16_fine_tuned", lambda kept: without(kept, "block5_conv2/kernel"))
    with pytest.raises(ValueError, match=r"vgg16_fine_tuned\.npz: the network's weights"):
        published_networks.load("tiny", "vgg16_fine_tuned")


@pytest.mark.parametrize("model", ["vgg16_frozen", "vgg16_fine_tuned"])
def test_other_vgg16_weights_are_refused(published, monkeypatch, model):
    tensors = vgg16_weights.vgg16_tensors()
    name = "block2_conv1/bias"
    other = tensors | {name: tensors[name] + np.float32(1e-6)}
    monkeypatch.setattr(vgg16_weights, "vgg16_tensors", lambda: other)
    with pytest.raises(ValueError, match=rf"{model}\.npz: the network's weights"):
        published_networks.load("tiny", model)


def test_pickled_arrays_are_not_read(published):
    file = published / "baseline_cnn.npz"
    np.savez(file, **{"conv1/kernel": np.array([print], dtype=object)})
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["conv1/kernel.npy"]
    said = manifest_of(published)
    said["models"]["baseline_cnn"]["sha256"] = array_files.file_digest(file)
    tables.write_json(said, published / published_networks.MANIFEST)
    with pytest.raises(ValueError, match=r"baseline_cnn\.npz: cannot be read .*pickle"):
        published_networks.load("tiny", "baseline_cnn")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m | {"classes": {"bcc": "a", "nv": "b", "akiec": "c"}}, "elsewhere they are"),
        (lambda m: m | {"schema_version": 1}, "schema_version: Input should be 2"),
        (
            lambda m: m | {"models": {"baseline_cnn": m["models"]["baseline_cnn"] | UNKNOWN}},
            "models.baseline_cnn.settings: Input tag 'forest'",
        ),
        (lambda m: without(m, "training_prior"), "training_prior: Field required"),
        (lambda m: m | {"code": "import os"}, "code: Extra inputs are not permitted"),
        (lambda m: m | {"training_prior": dict.fromkeys(m["classes"], 0.3)}, "add up to 1"),
        (
            lambda m: m | {"models": {"baseline_cnn": m["models"]["baseline_cnn"] | OUTSIDE}},
            "models.baseline_cnn.file: String should match",
        ),
    ],
)
def test_a_manifest_that_is_not_as_it_should_be_is_refused(published, edit, said):
    file = published / published_networks.MANIFEST
    tables.write_json(edit(manifest_of(published)), file)
    with pytest.raises(ValueError, match=rf"manifest\.json: not a manifest of networks: .*{said}"):
        published_networks.load("tiny", "baseline_cnn")


OUTSIDE = {"file": "../secret.npz"}
UNKNOWN = {"settings": {"kind": "forest", "name": "baseline_cnn"}}


def test_a_new_section_of_the_configuration_does_not_concern_a_manifest(published, monkeypatch):
    """A manifest does not hold a configuration."""

    class Later(config.Config):
        surprise: int

    monkeypatch.setattr(config, "Config", Later)
    with pytest.raises(ValueError, match="missing key 'surprise'"):
        config.load_config("configs/demo.yaml")
    manifest = published_networks.read_manifest(published / published_networks.MANIFEST)
    assert list(manifest.models) == list(NETWORKS)
    published_networks.load("tiny", "baseline_cnn")


def test_a_run_that_is_not_published_is_one_clear_error(published):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: no such file; .* are: tiny$"):
        published_networks.load("nowhere", "baseline_cnn")


def test_a_network_that_is_not_published_is_one_clear_error(published):
    with pytest.raises(ValueError, match="no network 'alexnet'; it has: baseline_cnn, vgg16_fro"):
        published_networks.load("tiny", "alexnet")


# ------------------------------------------------------------------------------- folders, replaced


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")

    def fail_halfway():
        with whole_files.whole_folder(target) as partial:
            (partial / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert [each.name for each in tmp_path.rglob("*")] == ["target", "old"]
    with whole_files.whole_folder(target) as partial:
        (partial / "new").write_text("new")
        assert (target / "old").exists()
    assert [each.name for each in tmp_path.rglob("*")] == ["target", "new"]


def test_a_kill_between_the_two_renamings_loses_nothing(tmp_path):
    target = tmp_path / "target"
    with whole_files.whole_folder(target) as partial:
        (partial / "first").write_text("")
    target.rename(tmp_path / ".target_before.partial")
    with pytest.raises(RuntimeError), whole_files.whole_folder(target):
        raise RuntimeError
    assert [each.name for each in tmp_path.rglob("*")] == ["target", "first"]


# ------------------------------------------------------------------------------ what is committed

COMMITTED = sorted(paths.ROOT.glob(f"models/*/{published_networks.MANIFEST}"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_committed_networks_are_those_whose_results_are_published(file):
    manifest = published_networks.read_manifest(file)
    results = paths.ROOT / "reports" / manifest.run / "published" / "manifest.json"
    published = json.loads(results.read_text(encoding="utf-8"))
    configuration = published["configuration"]
    assert list(manifest.classes) == configuration["classes"]
    steps = manifest.preprocessing.model_dump()  # of which the older one may lack some
    for step in steps.keys() & configuration["preprocessing"].keys():
        assert steps[step] == configuration["preprocessing"][step], step
    for name, model in manifest.models.items():
        said = published[name]
        assert model.weights_sha256 == said["weights_sha256"]
        assert model.calibration.model_dump() == said["calibration"]
        settings = model.settings.model_dump(mode="json")
        assert settings in configuration["models"]
        assert model.settings.class_balance == said["class_balance"]
        if "test_time_views" in said:
            assert model.test_time_views == said["test_time_views"]


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_a_committed_folder_holds_what_its_manifest_says_and_nothing_else(file):
    manifest, folder = published_networks.read_manifest(file), file.parent
    assert folder.name == manifest.run
    for model in manifest.models.values():
        assert array_files.file_digest(folder / model.file) == model.sha256
        assert (folder / model.file).stat().st_size == model.bytes
    assert sum(model.bytes for model in manifest.models.values()) <= 40 * 10**6
    files = {model.file for model in manifest.models.values()} | {
        published_networks.MANIFEST,
        "README.md",
    }
    assert {each.name for each in folder.iterdir()} == files
    readme = (folder / "README.md").read_text(encoding="utf-8")
    listed = re.search(r"^Left out .*?\): (.*)\. `make", readme, re.MULTILINE)
    left_out = listed[1].split("; ") if listed else []
    assert readme == publish_models.render_readme(manifest, left_out)
    results = paths.ROOT / "reports" / manifest.run / "published" / "metrics.json"
    scored = json.loads(results.read_text(encoding="utf-8"))["models"]
    published = [scored[name]["title"] for name in manifest.models]
    assert published == [model.title for model in manifest.models.values()]
    assert set(left_out) <= {each["title"] for each in scored.values()} - set(published)
