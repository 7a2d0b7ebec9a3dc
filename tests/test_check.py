"""The check before a run: every kind of fault is found, all at once, and stops make."""

import os
import re
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import with_model, without_make

from lib import paths, tables
from lib.config import Training
from lib.networks import building
from tools import check, stages

GOOD = ["network baseline_cnn", "network alexnet", "network vgg16", "images", "images of this run"]
GOOD += ["disk", "memory", "time"]


@pytest.fixture
def changed(tiny_config, tmp_path):
    """Write the tiny configuration with some texts replaced."""

    def write(*replacements):
        text = tiny_config.read_text(encoding="utf-8")
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "changed.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def faults_of(function, settings, **known):
    findings = check.Findings(settings, **known)
    return [text for text in function(findings) if isinstance(text, check.Fault)], findings


def test_a_good_configuration_passes_and_nothing_is_written(tiny_config, capsys):
    assert check.main([str(tiny_config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == GOOD
    assert re.match(r"time: about \d+ minutes? from nothing, roughly", lines[-1])
    assert not paths.output_root().exists()


def test_all_faults_are_listed_at_once(changed, data_folder, capsys):
    file = changed(
        ("filters: [4, 4, 4, 4, 4]", "filter: [4, 4, 4, 4, 4]"),
        ("[block3_pool, block4_pool,", "[block3_pol, block4_pool,"),
        ("baseline_cnn: conv5", "baseline_cnn: con5"),
        (data_folder.as_posix(), "/nowhere"),
        ("  synthetic: {lesions: 40, seed: 3}\n", ""),
    )
    assert check.main([str(file)]) == 1
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    first, *faults = output.err.splitlines()
    assert first == f"error: {file}: 4 to fix"
    expected = [
        "models.alexnet.options.filters: Missing required keyword only argument; models.alexnet",
        "models.vgg16: VGG16 has no layer 'block3_pol'; did you mean 'block3_pool'?",
        "heatmaps.layers.baseline_cnn: the network has no layer 'con5'; did you mean 'conv5'?",
        "/nowhere: no HAM10000_metadata.csv there; bring HAM10000 with `make data`",
    ]
    assert len(faults) == len(expected)
    for fault, text in zip(faults, expected, strict=True):
        assert fault.startswith(f"  {text}")
    assert not paths.output_root().exists()


def test_an_unreadable_configuration_is_one_fault(changed, capsys):
    file = changed(("seed: 1\n\ndata", "sed: 1\n\ndata"))
    assert check.main([str(file)]) == 1
    assert "unknown key 'sed'; did you mean 'seed'?" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- networks


def mobile(run, **changes):
    """Return the tiny configuration with another backbone, and only that network."""
    settings = {
        "backbone": "MobileNetV2",
        "weights": "none",
        "feature_layers": ["block_2_add", "block_4_add"],
        "fine_tune": run.model("vgg16").fine_tune.model_copy(
            update={"from_layer": "block_4_expand"}
        ),
    }
    run = with_model(run, "vgg16", **settings | changes)
    return run.model_copy(update={"models": [run.model("vgg16")]})


def test_another_backbone_with_random_weights_passes(run):
    faults, findings = faults_of(check.check_networks, mobile(run))
    assert not faults
    assert list(findings.networks) == ["vgg16"]


def test_a_misspelt_layer_of_another_backbone_is_refused(run):
    (fault,), _ = faults_of(check.check_networks, mobile(run, feature_layers=["block_2_ad"]))
    assert fault.startswith(
        "models.vgg16: MobileNetV2 has no layer 'block_2_ad'; did you mean 'block_2_add'?"
    )


def test_a_first_layer_after_the_features_is_refused(run):
    later = run.model("vgg16").fine_tune.model_copy(update={"from_layer": "block_5_expand"})
    (fault,), _ = faults_of(check.check_networks, mobile(run, fine_tune=later))
    assert fault.startswith("models.vgg16: MobileNetV2 up to block_4_add has no layer")


def test_weights_that_are_not_available_are_a_fault_beside_others(run, monkeypatch):
    def unavailable(model, backbone):
        raise OSError(f"{backbone}'s ImageNet weights are not available: no network")

    monkeypatch.setattr(building.vgg16_weights, "load_backbone_weights", unavailable)
    layers = run.heatmaps.model_copy(update={"layers": {"vgg16_fine_tuned": "block4_conv9"}})
    run = mobile(run, weights="imagenet").model_copy(update={"heatmaps": layers})
    (fault,), findings = faults_of(check.check_networks, run)
    expected = "models.vgg16.weights = imagenet: MobileNetV2's ImageNet weights are not available"
    assert fault.startswith(expected)
    (fault,) = check.check_heatmaps(findings)
    assert "heatmaps.layers.vgg16_fine_tuned: the network has no layer 'block4_conv9'" in fault


def test_a_heatmap_needs_a_layer_with_maps(run):
    layers = run.heatmaps.model_copy(update={"layers": {"vgg16_fine_tuned": "features"}})
    run = mobile(run).model_copy(update={"heatmaps": layers})
    _, findings = faults_of(check.check_networks, run)
    (fault,) = check.check_heatmaps(findings)
    assert "heatmaps.layers.vgg16_fine_tuned: layer 'features' outputs shape (None, 56)" in fault


# --------------------------------------------------------------------------------------- images


def own_images(run, folder, **split):
    data = run.data.model_copy(update={"folder": str(folder), "synthetic": None})
    changes = {"data": data, "split": run.split.model_copy(update=split)}
    return run.model_copy(update=changes)


def rows(*counts):
    """Return images of as many lesions of each class."""
    names = [name for name, n in zip(("bcc", "mel", "nv"), counts, strict=True) for _ in range(n)]
    return [(f"I{i:02d}", f"L{i:02d}", name) for i, name in enumerate(names)]


def images_and_groups(settings):
    faults, findings = faults_of(check.check_images, settings)
    return faults, list(check.check_groups(findings)), findings


def test_images_without_a_file_are_counted(run, write_folder):
    folder = write_folder(rows(6, 6, 6))
    (folder / "images" / "I03.jpg").unlink()
    (fault,), groups, _ = images_and_groups(own_images(run, folder))
    assert "1 of 18 images cannot be used, more than data.max_dropped = 0.01 allows" in fault
    assert "missing (no JPEG or PNG file; make data FROM=... CONVERT=1 converts other" in fault
    assert "the first: I03, no file" in fault
    assert groups == ["images of this run: 17; lesions: bcc 5, mel 6, nv 6"]


def test_a_class_without_images_is_a_fault(run, write_folder):
    _, (fault,), _ = images_and_groups(own_images(run, write_folder(rows(0, 6, 6))))
    assert isinstance(fault, check.Fault)
    assert "HAM10000_metadata.csv has no image of class bcc" in fault


def test_a_class_with_too_few_lesions_is_a_fault(run, write_folder):
    _, (fault,), _ = images_and_groups(own_images(run, write_folder(rows(4, 6, 6))))
    assert isinstance(fault, check.Fault)
    assert "class bcc has 4 " in fault


def test_cached_duplicates_join_lesions(run, write_folder):
    """Five lesions are enough; two of them are one, so four are left."""
    folder = write_folder(rows(5, 6, 6))
    settings, good = own_images(run, folder), "images of this run: 17; lesions: bcc 5, mel 6, nv 6"
    assert images_and_groups(settings)[1] == [good]
    ids = {"image_id_1": "I01", "image_id_2": "I02", "lesion_id_1": "L01", "lesion_id_2": "L02"}
    pair = ids | {"dx_1": "bcc", "dx_2": "bcc", "similarity": 0.9, "part": 1.0}
    other = pair | {"image_id_2": "I99", "lesion_id_2": "a lesion that is no longer listed"}
    tables.write_table(pd.DataFrame([pair, other]), paths.run_folder(run.name) / "duplicates.csv")
    (fault,) = images_and_groups(settings)[1]
    assert "class bcc has 4 " in fault
    assert "joined lesions to groups: bcc 5 to 4, mel 6 to 6, nv 6 to 6" in fault
    assert images_and_groups(own_images(run, folder, duplicates=False))[1] == [good]


def test_the_images_of_a_run_are_drawn_as_in_notebook_01(run, write_folder):
    settings = own_images(run, write_folder(rows(12, 12, 12)))
    data = settings.data.model_copy(update={"images_per_class": 10})
    _, (text,), _ = images_and_groups(settings.model_copy(update={"data": data}))
    assert text == "images of this run: 30; lesions: bcc 10, mel 10, nv 10"


def test_synthetic_images_need_not_be_drawn_yet(run, tmp_path):
    data = run.data.model_copy(update={"folder": str(tmp_path / "later")})
    faults, groups, findings = images_and_groups(run.model_copy(update={"data": data}))
    assert not faults
    assert groups[0].startswith(f"images of this run: {findings.listed}; lesions: bcc ")


# ---------------------------------------------------------------------------------- the machine


@pytest.fixture
def ready(run):
    """Findings on the images and one small network."""
    _, _, findings = images_and_groups(run)
    model = building.build_for_training(run, run.baseline)
    findings.networks["baseline_cnn"] = model
    return findings


def test_other_trainings_of_the_run_are_not_a_part_of_what_it_needs(ready, monkeypatch, tmp_path):
    usage = SimpleNamespace(free=0)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(check, "_run_folder", lambda config: tmp_path)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**11)
    assert not isinstance(next(check.check_disk(ready)), check.Fault)
    (tmp_path / "folds").mkdir()
    (tmp_path / "sparse").rename(tmp_path / "folds" / "sparse")
    assert isinstance(next(check.check_disk(ready)), check.Fault)


def test_a_full_disk_is_a_fault(ready, monkeypatch):
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda folder: usage)
    (fault,) = check.check_disk(ready)
    assert isinstance(fault, check.Fault)
    assert fault.endswith("1.00MB are free")
    assert "in runs/tiny, 0.00B of it written" in fault


def test_what_a_run_has_written_needs_no_more_space(ready, monkeypatch):
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda folder: usage)
    file = paths.run_folder("tiny") / "images.npy"
    np.lib.format.open_memmap(file, "w+", np.uint8, (60, 256, 256, 3))
    assert not isinstance(next(check.check_disk(ready)), check.Fault)


def test_too_little_memory_is_a_fault(ready, monkeypatch):
    monkeypatch.setattr(check, "gpus", list)
    monkeypatch.setattr(check.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.get)
    (fault,) = check.check_memory(ready)
    assert isinstance(fault, check.Fault)
    assert "for training; this machine has 4.10MB" in fault


def test_unknown_memory_is_no_fault(ready, monkeypatch):
    monkeypatch.setattr(check, "gpus", list)
    monkeypatch.delattr(check.os, "sysconf")
    (text,) = check.check_memory(ready)
    assert text.endswith("this system does not say how much there is")


def test_the_time_on_several_devices_is_not_estimated(ready):
    ready.config = ready.config.model_copy(update={"training": Training(devices="all")})
    assert check.estimate_time(ready) == "time: not estimated with training.devices = all"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "1 minute"), (290, "5 minutes"), (10_000, "2.8 hours")]
)
def test_durations_are_rounded(seconds, text):
    assert check._duration(seconds) == text


# ------------------------------------------------------------------------------------------ make


def test_on_another_backend_the_layers_are_checked_and_no_heatmap_is_computed(run, monkeypatch):
    findings = check.Findings(run)
    list(check.check_networks(findings))
    monkeypatch.setattr(check.keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(check.gradcam, "grad_cam", None)
    texts = list(check.check_heatmaps(findings))
    assert [text.partition(": ")[2] for text in texts] == [
        "not computed, since notebook 06 needs TensorFlow"
    ] * 2
    assert not [text for text in texts if isinstance(text, check.Fault)]


def test_any_error_of_a_builder_is_a_fault(run, monkeypatch):
    monkeypatch.setattr(check.building, "build_for_training", lambda *_: {}["filters"])
    texts = list(check.check_networks(check.Findings(run)))
    assert "models.alexnet: KeyError: 'filters'" in texts
    assert all(isinstance(text, check.Fault) for text in texts)


#: Stands in for Python: writes down what it is called with, and finds faults if CHECK_FAILS is set.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  *tools.stages*) exec "{python}" "$@" ;;
  *tools.check*) [ -z "$CHECK_FAILS" ] ;;
  *--output*) while [ "$1" != --output ]; do shift; done; mkdir -p "$(dirname "$2")"; : > "$2" ;;
esac
"""


@pytest.fixture
def calls(tiny_config, tmp_path, monkeypatch):
    """Return a function that runs `make reproduce` and returns its status and what it called."""
    python, log = tmp_path / "python", tmp_path / "calls"
    python.write_text(FAKE_PYTHON.replace("{python}", check.sys.executable), encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("CALLS", str(log))

    def reproduce(file, *options):
        log.write_text("", encoding="utf-8")
        command = ["make", f"PYTHON={python}", *options, "reproduce", "STUDIES=", f"CONFIG={file}"]
        done = subprocess.run(command, cwd=paths.ROOT, env=without_make(), capture_output=True)
        text = log.read_text(encoding="utf-8")
        return done.returncode, re.findall(r"tools\.check|(?<=execute notebooks/)\d\d", text)

    return reproduce


@pytest.mark.parametrize("options", [[], ["-j2"]], ids=["one job", "two jobs"])
def test_a_check_that_fails_stops_make_before_any_notebook(
    calls, tiny_config, monkeypatch, options
):
    monkeypatch.setenv("CHECK_FAILS", "yes")
    status, called = calls(tiny_config, *options)
    assert status != 0
    assert called == ["tools.check"]
    status, called = calls(tiny_config, *options)
    assert status != 0
    assert called == ["tools.check"], "it is not taken for passed"


def test_make_checks_a_run_once_and_again_only_when_it_is_computed_anew(calls, changed):
    file = changed()
    names = [path.name[:2] for path in sorted((paths.ROOT / "notebooks").glob("0[1-7]_*"))]
    assert calls(file) == (0, ["tools.check", *names])
    assert calls(file) == (0, [])

    def edit(old, new):
        for key in (paths.output_root() / "runs" / "changed" / "keys").glob("*.key"):
            os.utime(key, (1, 1))
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        stages.write_keys(file)

    edit("bootstrap_draws: 100", "bootstrap_draws: 200")
    assert calls(file) == (0, names[4:]), "the evaluation computes no networks"
    edit("input_size: 32", "input_size: 48")
    assert calls(file) == (0, ["tools.check", *names[3:]])
    assert calls(file, "PREFLIGHT=") == (0, [])


def test_synthetic_images_that_are_drawn_after_the_check_do_not_repeat_it(calls, changed):
    file = changed()
    assert calls(file)[0] == 0
    for key in (paths.output_root() / "runs" / "changed" / "keys").iterdir():
        os.utime(key, (1, 1))
    assert calls(file) == (0, [])


def test_a_configuration_that_does_not_exist_is_not_checked(make, tmp_path):
    done = make("check", "CONFIG=nowhere", output=tmp_path)
    assert done.returncode != 0
    assert "error: configs/nowhere.yaml: no such configuration" in done.stderr
