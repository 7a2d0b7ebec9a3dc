"""The benchmarks run on a few images and write their files; speed itself is not tested."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import paths, tables
from lib.data import datasets
from lib.preprocessing import decode
from studies import command
from studies.speed import preprocessing as benchmark
from studies.speed import recipe
from studies.speed import training as bench


@pytest.mark.parametrize("shape", [(224, 224), (450, 600), (300, 400), (900, 1000), (451, 601)])
def test_every_image_becomes_600_by_450(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    covered = benchmark.cover(image)
    assert covered.shape == (450, 600, 3)
    assert (covered == 77).all()


def test_the_middle_is_kept_and_a_circle_stays_one():
    image = np.zeros((224, 224, 3), np.uint8)
    cv2.circle(image, (112, 112), 40, (255, 255, 255), -1)
    y, x = np.nonzero(benchmark.cover(image)[..., 0] > 127)
    assert (x.mean(), y.mean()) == pytest.approx((300, 225), abs=2)
    assert np.ptp(x) == pytest.approx(np.ptp(y), abs=2)


def test_images_are_written_once_and_spread_over_the_folder(data_folder, tmp_path):
    files = benchmark.write_images(data_folder, tmp_path, 6)
    assert len(set(files)) == 6
    assert {decode.read_image(file).shape for file in files} == {(450, 600, 3)}
    names = datasets.read_metadata(data_folder)["image_id"].sort_values()
    assert [files[0].stem, files[-1].stem] == [names.iloc[0], names.iloc[-1]]
    assert len(benchmark.write_images(data_folder, tmp_path, 10_000)) == len(names)


def test_the_preprocessing_benchmark_writes_files_that_agree(data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmark, "IMAGES", 3)
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    threads = cv2.getNumThreads()
    csv, note = benchmark.measure(data_folder)
    assert cv2.getNumThreads() == threads
    table = tables.read_table(csv, benchmark.SCHEMA)
    assert (table["images"] == 3).all()
    assert set(table["round"]) == {1, 2}
    ways = table[["what", "cores"]].drop_duplicates()
    assert len(table) == 2 * len(ways)
    steps = ["crop and resize", "hair removal at two scales", "hair removal", "bubble removal"]
    steps += ["median filter", "mean filter", "colour constancy", "contrast"]
    for what in [benchmark.DECODING, benchmark.CONFIGURED, benchmark.REMOVALS, *steps]:
        assert set(ways.loc[ways["what"] == what, "cores"]) == {"one core", "all cores"}
    assert ways.loc[ways["what"] == benchmark.TEXTBOOK, "cores"].tolist() == ["plain loop"]
    summary = json.loads(note.read_text(encoding="utf-8"))
    assert len(summary["images_per_second"]) == len(ways)
    ratio = summary["times_the_textbook_loop"]["all cores"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_the_ratio_is_taken_round_by_round():
    seconds = {
        (benchmark.REMOVALS, "all cores"): (1, 2, 4),
        (benchmark.REMOVALS, "one core"): (2, 4, 8),
        (benchmark.TEXTBOOK, "plain loop"): (6, 14, 20),
        (benchmark.DECODING, "one core"): (1, 1, 1),
    }
    table = pd.DataFrame(
        [
            (what, cores, i + 1, 10, value, 10 / value)
            for (what, cores), values in seconds.items()
            for i, value in enumerate(values)
        ],
        columns=list(benchmark.SCHEMA.columns),
    )
    summary = benchmark.summarise(table)
    assert summary["times_the_textbook_loop"]["all cores"] == {"value": 6, "low": 5, "high": 7}
    assert summary["times_the_textbook_loop"]["one core"] == {"value": 3, "low": 2.5, "high": 3.5}
    assert summary["decoding_share"] == 0.25  # 1/2, 1/4 and 1/8 of the time
    first = summary["images_per_second"][0]
    assert first == {
        "what": benchmark.REMOVALS,
        "cores": "all cores",
        "value": 5,
        "low": 2.5,
        "high": 10,
    }


def test_the_committed_benchmark_is_of_500_images_and_agrees_with_its_summary():
    table = tables.read_table(benchmark.RESULTS / "preprocessing.csv", benchmark.SCHEMA)
    assert (table["images"] == 500).all()
    file = benchmark.RESULTS / "preprocessing.json"
    summary = json.loads(file.read_text(encoding="utf-8"))["times_the_textbook_loop"]
    again = benchmark.summarise(table)["times_the_textbook_loop"]
    for cores, interval in again.items():
        assert interval == pytest.approx(summary[cores], abs=0.01)
    assert summary["all cores"]["low"] > 1


# -------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def quick(data_folder, tmp_path_factory):
    """A benchmark of tiny networks that is interrupted in its second part and resumed."""
    folder = tmp_path_factory.mktemp("speed")
    measured = []

    def watched(name, part):
        def measure(data):
            if name == "memory" and name not in measured:
                measured.append(name)
                raise KeyboardInterrupt
            measured.append(name)
            return part(data)

        return measure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "RESULTS", folder)
        patch.setattr(bench, "SIZE", bench.QUICK)
        patch.setattr(bench, "NETWORKS", (bench.FROM_MAPS,))
        patch.setattr(bench, "PARTS", {n: watched(n, part) for n, part in bench.PARTS.items()})
        patch.setattr(bench, "_in_process", lambda function, *arguments: function(*arguments))
        patch.setenv("SKIN_OUTPUT", str(folder / "output"))
        with pytest.raises(KeyboardInterrupt):
            bench.measure(data_folder)
        csv, note = bench.measure(data_folder)
    table = tables.read_table(csv, bench.SCHEMA)
    return table, json.loads(note.read_text(encoding="utf-8")), measured


def test_the_training_benchmark_writes_every_figure_that_is_committed(quick):
    table, summary, _ = quick
    assert summary["quick"] and summary["seconds"].keys() == bench.PARTS.keys()
    assert sum(summary["images"]["train"].values()) > sum(summary["images"]["validation"].values())
    assert (table.loc[table["unit"] != "proportion", "value"] > 0).all()
    committed = tables.read_table(
        paths.ROOT / "reports" / "studies" / "speed" / "training.csv", bench.SCHEMA
    )
    assert set(table["what"]) == set(committed["what"])
    measured = set(map(tuple, table[["what", "variant"]].to_numpy()))
    counted = committed["what"] == "peak memory"  # its variants count the images
    steps = committed["what"].str.startswith(("training", "inference"))  # of fewer networks here
    keys = committed.loc[~counted & ~steps, ["what", "variant"]]
    assert set(map(tuple, keys.to_numpy())) <= measured


def test_the_arithmetic_of_a_step_is_counted_layer_by_layer():
    """64 places with 27 x 4 products and a layer of 4 x 2: 13,824 and 16 operations forward.

    Backward twice as many, but for the gradient of the images. With the convolution frozen, its
    gradients and that of the averages are not needed.
    """
    inputs = bench.keras.Input((8, 8, 3))
    x = bench.keras.layers.Conv2D(4, 3, padding="same")(inputs)
    outputs = bench.keras.layers.Dense(2)(bench.keras.layers.GlobalAveragePooling2D()(x))
    model = bench.keras.Model(inputs, outputs)
    assert recipe.arithmetic(model) == pytest.approx((2 * 13_824 + 3 * 16) * 1e-9)
    model.layers[1].trainable = False
    assert recipe.arithmetic(model) == pytest.approx((13_824 + 2 * 16) * 1e-9)


def test_the_recipe_is_timed_beside_a_product_of_matrices(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "FILE", tmp_path / "recipe.json")
    for name, value in {"ROWS": 64, "STEPS": 1, "EPOCHS": 1}.items():
        monkeypatch.setattr(recipe, name, value)
    (file,) = recipe.measure(bench.configuration(bench.QUICK))
    measured = json.loads(file.read_text(encoding="utf-8"))
    committed = paths.ROOT / "reports" / "studies" / "speed" / "recipe.json"
    committed = json.loads(committed.read_text(encoding="utf-8"))
    assert measured.keys() == committed.keys()
    for note in (measured, committed):
        for row in note["formats"].values():
            rate = row["images per second"] * row["GFLOP per image"]
            product = np.mean(row["matrix product GFLOP/s"])
            assert row["relative to the product"] == pytest.approx(rate / product)


def test_an_interrupted_benchmark_measures_only_what_is_missing(quick):
    *first, interrupted, again = quick[2]
    assert interrupted == again == "memory"
    assert [*first, again] == list(bench.PARTS)


def test_the_memory_of_a_process_of_its_own_is_measured(tmp_path):
    settings = bench.configuration(bench.QUICK)
    peak = bench._in_process(bench.train_on_sparse_file, None, 64, None, settings, tmp_path)
    assert 0.2 < peak < 2


def test_a_class_with_too_few_images_is_named(write_folder, tmp_path):
    folder = write_folder([(f"I{i}", f"L{i}", "nv") for i in range(4)])
    with pytest.raises(ValueError, match="0 images of class bcc; expected two or more"):
        bench.prepare(folder, tmp_path)


def test_the_committed_memory_is_of_100_000_images_and_met_its_goal():
    table = tables.read_table(
        paths.ROOT / "reports" / "studies" / "speed" / "training.csv", bench.SCHEMA
    )
    peak = table[table["what"].str.startswith("peak memory")]
    assert f"{max(bench.FULL.files):,} images" in set(peak["variant"])
    assert (peak["value"] < 4).all()


# ------------------------------------------------------------------------------- the command line


def test_a_study_prints_the_files_that_it_wrote(tmp_path, capsys):
    def measure(folder):
        yield paths.ROOT / "reports" / folder.name

    assert command.main("A study.", measure, [str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"reports/{tmp_path.name}\n"


def test_an_error_is_one_line(tmp_path, capsys):
    assert command.main("A study.", bench.measure, [str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and datasets.METADATA in error and error.count("\n") == 1


def test_the_archived_study_says_where_its_configuration_is_described(tmp_path):
    arguments = [sys.executable, "-m", "studies.tuning", str(tmp_path)]
    process = subprocess.run(arguments, cwd=paths.ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    assert "archived results" in process.stderr
    assert "(reports/studies/tuning/README.md)" in process.stderr
