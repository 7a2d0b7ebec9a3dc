"""The benchmarks run on a few images and say what they promise; speed itself is not tested."""

import itertools
import json

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import paths, tables
from lib.data import datasets
from lib.networks import vgg16
from lib.networks.backend import keras
from lib.preprocessing import decode
from studies.speed import preprocessing as benchmark
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


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of the test's own for what is published."""
    monkeypatch.setattr(benchmark, "PUBLISHED", tmp_path / "published")
    return benchmark.PUBLISHED


def test_the_preprocessing_benchmark_writes_what_its_schema_says(data_folder, published, capsys):
    threads = cv2.getNumThreads()
    command = [str(data_folder), "--images", "6", "--rounds", "2"]
    assert benchmark.main(command) == 0
    assert cv2.getNumThreads() == threads
    file = published / "preprocessing.csv"
    table = tables.read_table(file, benchmark.SCHEMA)
    assert (table["images"] == 6).all()
    assert set(table["round"]) == {1, 2}
    ways = table[["what", "cores"]].drop_duplicates()
    assert len(table) == 2 * len(ways)
    steps = ["crop and resize", "hair removal at two scales", "hair removal", "bubble removal"]
    steps += ["median filter", "mean filter", "colour constancy", "contrast"]
    for what in [benchmark.DECODING, benchmark.CONFIGURED, benchmark.REMOVALS, *steps]:
        assert set(ways.loc[ways["what"] == what, "cores"]) == {"one core", "all cores"}
    assert ways.loc[ways["what"] == benchmark.TEXTBOOK, "cores"].tolist() == ["plain loop"]

    said = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert said["opencv"] == cv2.__version__
    assert len(said["images_per_second"]) == len(ways)
    ratio = said["times_the_textbook_loop"]["all cores"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    assert f"{ratio['value']:.2f} ({ratio['low']:.2f} to" in capsys.readouterr().out
    part = paths.read_part(published / "README.md", benchmark.MARKS)
    assert f"{ratio['value']:.2f} ({ratio['low']:.2f} to" in part
    assert part == benchmark.describe(said)


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
    said = benchmark.summarise(table)
    assert said["times_the_textbook_loop"]["all cores"] == {"value": 6, "low": 5, "high": 7}
    assert said["times_the_textbook_loop"]["one core"] == {"value": 3, "low": 2.5, "high": 3.5}
    assert said["decoding_share"] == 0.25  # 1/2, 1/4 and 1/8 of the time
    first = said["images_per_second"][0]
    assert first == {
        "what": benchmark.REMOVALS,
        "cores": "all cores",
        "value": 5,
        "low": 2.5,
        "high": 10,
    }


def test_the_published_benchmark_is_of_500_images_and_the_readme_says_what_it_says():
    table = tables.read_table(benchmark.PUBLISHED / "preprocessing.csv", benchmark.SCHEMA)
    assert (table["images"] == 500).all()
    said = json.loads((benchmark.PUBLISHED / "preprocessing.json").read_text(encoding="utf-8"))
    again = benchmark.summarise(table)["times_the_textbook_loop"][benchmark.ALL]
    assert again["value"] == pytest.approx(
        said["times_the_textbook_loop"][benchmark.ALL]["value"], abs=0.01
    )
    readme = benchmark.PUBLISHED / "README.md"
    assert paths.read_part(readme, benchmark.MARKS) == benchmark.describe(said)
    front = (paths.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    times = said["times_the_textbook_loop"][benchmark.ALL]["value"]
    assert f"on two cores {times:.1f} times the recipe in a plain loop" in front


def test_nothing_to_measure_is_an_error(data_folder, tmp_path, capsys):
    assert benchmark.main([str(data_folder), "--images", "0"]) == 1
    assert "expected at least one of each" in capsys.readouterr().err
    assert benchmark.main([str(tmp_path)]) == 1
    assert datasets.METADATA in capsys.readouterr().err


# -------------------------------------------------------------------------------------- training


@pytest.fixture
def worked():
    """A network whose operations are worked by hand below, and what each layer takes forwards."""
    inputs = keras.Input((8, 6, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, padding="same", name="conv")(inputs)
    x = keras.layers.DepthwiseConv2D(3, padding="valid", name="depthwise")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(7, activation="relu", name="dense")(x)
    forwards = {
        "conv": 2 * (4 * 3) * (3 * 3 * 3 * 5),  # 12 places, a kernel of 135 weights: 3,240
        "depthwise": 2 * (2 * 1) * (3 * 3 * 5),  # 2 places, 45 weights: 180
        "flatten": 0,
        "dense": 2 * 10 * 7,  # 140
    }
    return keras.Model(inputs, x), forwards


def test_the_operations_of_a_layer_are_those_worked_by_hand(worked):
    model, forwards = worked
    for name, count in forwards.items():
        layer = model.get_layer(name)
        assert bench.layer_operations(layer, layer.output.shape) == count


def test_a_gradient_is_counted_where_it_is_needed(worked):
    model, _ = worked
    whole = bench.operations(model)
    # the first layer needs no gradient of its inputs
    assert whole == {"inference": 3560, "training": 2 * 3240 + 3 * 180 + 3 * 140}
    model.get_layer("conv").trainable = False
    assert bench.operations(model)["training"] == 3240 + 2 * 180 + 3 * 140
    model.get_layer("dense").trainable = False  # the gradient passes through it
    assert bench.operations(model)["training"] == 3240 + 2 * 180 + 2 * 140
    model.trainable = False
    assert bench.operations(model)["training"] == 3560


def test_vgg16_takes_as_many_multiply_adds_as_are_known():
    # its convolutions at 224 pixels: 15.3 billion, as published for configuration D
    assert bench.operations(vgg16.vgg16_features(224))["inference"] == 2 * 15_346_630_656


def test_a_layer_that_cannot_be_counted_is_an_error():
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, keras.layers.LSTM(2, name="recurrent")(inputs))
    with pytest.raises(ValueError, match="'recurrent' is of type LSTM; expected one of Conv2D"):
        bench.operations(model)


def test_the_training_benchmark_runs_and_its_readme_says_what_its_table_says(
    data_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bench, "PUBLISHED", tmp_path / "published")
    assert bench.main([str(data_folder), "--quick"]) == 0
    said, table = read_training(bench.PUBLISHED)
    assert said["quick"]
    assert sum(said["images"]["train"].values()) > sum(said["images"]["validation"].values()) > 0
    values = table.set_index(["what", "variant"])["value"]
    for figure, unit in {"peak memory": "GiB", "usual way": "images/s", "cache": None}.items():
        part = table[table["what"] == figure]
        assert len(part) >= 2 and (part["value"] > 0).all()
        assert unit is None or (part["unit"] == unit).all()
    kept, anew = (values["epoch of stage 1", way] for way in (bench.KEPT, bench.RECOMPUTED))
    assert values["cache", "times as fast"] == pytest.approx(anew / kept, rel=1e-3)
    assert values["peak memory", "400 images"] < 2
    printed = capsys.readouterr().out
    for each in bench.goals(table):
        assert each["goal"] in printed


def test_a_goal_is_met_or_missed_by_what_was_measured():
    rows = bench.Rows()
    for name, value in ((bench.BASELINE, 1.15), (bench.HEAD, 1.16)):
        for way in (bench.WARM, bench.COLD, bench.ALONE):
            rows.add(f"pipeline, {name}", way, value, "times")
    rows.add("cache", "times as fast", 14.9, "times")
    for count, gib in ((10_000, 1.0), (100_000, 3.9)):
        rows.add("peak memory", f"{count:,} images", gib, "GiB")
    rows.add("memory", "many images over few", 3.9, "times")
    rows.add("peak memory of a network", bench.BASELINE, 4.1, "GiB")
    intervals = ((-0.1, 0.0), (0.001, 0.1), (-0.1, -0.001), (-0.1, 0.1))
    for (low, high), (what, score) in zip(
        intervals,
        itertools.product(("stage 1", "fine-tuning"), ("accuracy", "balanced_accuracy")),
        strict=True,
    ):
        for name, value in {"value": 0.0, "low": low, "high": high}.items():
            rows.add(f"{what}: difference in {score}", name, value, "share")
    met = {each["goal"]: each["met"] for each in bench.goals(rows.table())}
    pipeline, cache, memory = [True] * 3 + [False] * 3, [False], [True, False, False]
    assert list(met.values()) == [*pipeline, *cache, *memory, True, False, False, True]
    assert met["peak memory of a training on 100,000 images: at most 4 GiB"]
    assert not met["peak memory of the baseline CNN on 100,000 images: at most 4 GiB"]


def test_the_published_training_benchmark_is_whole_and_its_readme_says_what_it_says():
    if not (bench.PUBLISHED / "training.csv").is_file():
        pytest.skip("no training benchmark was published: make bench-training")
    said, table = read_training(bench.PUBLISHED)
    assert not said["quick"]
    counted = table[table["what"] == "operations, training"].set_index("variant")["value"]
    assert tuple(counted.index) == bench.NETWORKS
    assert f"{max(bench.FULL.memory):,} images" in set(table["variant"])


def read_training(folder):
    """Read a training benchmark's files, and check that its README follows from them."""
    table = tables.read_table(folder / "training.csv", bench.SCHEMA)
    said = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    part = paths.read_part(folder / "README.md", bench.MARKS)
    assert part == bench.describe(table, said)
    for each in bench.goals(table):
        verdict = "met" if each["met"] else "**missed**"
        assert f"| {each['goal']} | {each['measured']} | {verdict} |" in part
    return said, table
