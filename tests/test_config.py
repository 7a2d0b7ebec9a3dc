"""Configuration: what is not meant is refused, with the key, the value and what is allowed."""

import pytest

from lib import config, figures, paths

DEMO = paths.ROOT / "configs" / "demo.yaml"


@pytest.fixture
def load(tmp_path):
    """Load configs/demo.yaml with one line replaced."""

    def load_changed(old, new):
        text = DEMO.read_text(encoding="utf-8")
        assert old in text
        file = tmp_path / "changed.yaml"
        file.write_text(text.replace(old, new), encoding="utf-8")
        return config.load_config(file)

    return load_changed


@pytest.mark.parametrize(
    "file", sorted((paths.ROOT / "configs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_committed_configuration_is_valid_and_named_by_its_file(file):
    assert config.load_config(file).name == file.stem


def test_the_paper_s_settings_are_256_pixels_batches_of_32_and_50_epochs():
    run = config.load_config("configs/ham10000.yaml")
    assert run.classes == ["bcc", "mel", "nv"]
    assert run.preprocessing.image_size == 256
    assert (run.baseline_cnn.batch_size, run.baseline_cnn.epochs) == (32, 50)
    assert run.model("vgg16").backbone == "VGG16"
    assert run.model("vgg16").test_time_views > 1
    assert run.data.synthetic is None


def test_a_misspelt_key_is_named_with_the_one_that_was_meant(load):
    with pytest.raises(
        ValueError, match=r"unknown key 'baseline_cnn\.epoch'; did you mean 'epochs'\?"
    ):
        load("  epochs: 14", "  epoch: 14")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs: 14", "  epochs: sixteen", r"baseline_cnn\.epochs = 'sixteen': .*integer"),
        ("  epochs: 14", "  epochs: 0", r"baseline_cnn\.epochs = 0: .*greater than or equal to 1"),
        ("  epochs: 14", '  epochs: "14"', r"baseline_cnn\.epochs = '14': .*integer"),
        (
            "[bcc, mel, nv]",
            "[bcc, mole]",
            r"classes = .*mole.*: must be different names out of akiec",
        ),
        ("[bcc, mel, nv]", "[bcc, bcc]", r"classes = .*must be different names"),
        ("[bcc, mel, nv]", "[bcc]", r"classes = \['bcc'\]: .*at least 2"),
        ("median_kernel: 3", "median_kernel: 4", r"median_kernel = 4: should be 0, 3 or 5"),
        ("image_size: 256", "image_size: 128", r"image_size = 128: .*256"),
        (
            "remove_hair: true",
            "remove_hair: false\n  thick_hair: true",
            r"preprocessing = .*thick_hair = true needs remove_hair = true",
        ),
        ("128, 128]", "128]", r"baseline_cnn\.filters = .*at least 8"),
        ("test: 0.15", "test: 0.8", r"split = .*below 0\.9"),
        ("title: Demo", "name: x\ntitle: Demo", r"unknown key 'name': the file's own name"),
        ("seed: 2023\n\ndata", "data", r"missing key 'seed'"),
        ("zoom: 0.1", "zoom: 0.1\n  zoom: 0.2", r"key given twice: zoom"),
        ("baseline_layer: conv5", "baseline_layer: conv9", r"baseline_layer = 'conv9': .*'conv1'"),
        (
            "block5_pool]",
            "block6_pool]",
            r"vgg16_transfer\.feature_layers = 'block6_pool': .*did you mean 'block\d_pool'\?"
            r" \(allowed: block1_conv1, block1_conv2, block1_pool, .*block5_pool\)",
        ),
        (
            "from_layer: block5_conv1",
            "from_layer: conv5_1",
            r"vgg16_transfer\.fine_tune\.from_layer = 'conv5_1': .*\(allowed: block1_conv1, ",
        ),
        (
            "vgg16_layer: block5_conv3",
            "vgg16_layer: block5_pool",
            r"heatmaps\.vgg16_layer = 'block5_pool': .*did you mean 'block5_conv\d'\? "
            r"\(allowed: block1_conv1, block1_conv2, block2_conv1, .*, block5_conv3\)",
        ),
        ("seed: 2023}", "seed: -1}", r"split\.seed = -1: .*greater than or equal to 0"),
        ("zoom: 0.1", "zoom: [0.1", r"not a YAML file"),
    ],
)
def test_an_impossible_value_is_named(load, old, new, message):
    with pytest.raises(ValueError, match=message):
        load(old, new)


def test_layers_that_come_after_the_last_feature_are_refused(load):
    """At block4_pool VGG16 ends: nothing of block 5 can be trained, or looked at."""
    with pytest.raises(ValueError, match=r"(?s)from_layer.*heatmaps\.vgg16_layer") as refused:
        load("block4_pool, block5_pool]", "block4_pool]")
    lines = str(refused.value).splitlines()[1:]
    assert [line.split(" = ")[0].strip() for line in lines] == [
        "vgg16_transfer.fine_tune.from_layer",
        "heatmaps.vgg16_layer",
    ]
    assert lines[0].endswith("block4_conv3, block4_pool)")
    assert lines[1].endswith("block4_conv2, block4_conv3)")


def test_the_order_of_the_feature_layers_does_not_matter(load):
    run = load("[block3_pool, block4_pool, block5_pool]", "[block5_pool, block3_pool]")
    assert run.model("vgg16").fine_tune.from_layer == "block5_conv1"
    run = load("from_layer: block5_conv1", "from_layer: block5_pool")
    assert run.model("vgg16").fine_tune.from_layer == "block5_pool"


def test_another_backbone_s_layers_are_not_compared_with_vgg16_s(load):
    run = load(
        "  feature_layers: [block3_pool, block4_pool, block5_pool]",
        "  backbone: ResNet50\n  feature_layers: [conv4_block6_out]",
    )
    assert run.model("vgg16").feature_layers == ["conv4_block6_out"]


def test_all_faults_are_told_at_once(load):
    with pytest.raises(ValueError, match=r"(?s)unknown key 'surprise'.*unknown key 'other'"):
        load("title: Demo", "surprise: 1\nother: 2\ntitle: Demo")


def test_a_missing_file_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"configs/nowhere\.yaml: .*configs/demo\.yaml"):
        config.load_config("configs/nowhere.yaml")


def test_a_file_without_keys_is_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected keys and values, found list"):
        config.load_config(tmp_path / "list.yaml")


def test_every_class_has_a_colour_even_beside_all_of_ham10000_s(run):
    known = dict(figures.CLASS_COLORS), dict(figures.CLASS_LINES)
    try:
        figures.use_style(run.model_copy(update={"classes": [*config.CLASS_NAMES, "wart"]}))
        assert "wart" in figures.CLASS_COLORS
        assert "wart" in figures.CLASS_LINES
    finally:
        for table, before in zip((figures.CLASS_COLORS, figures.CLASS_LINES), known, strict=True):
            table.clear()
            table.update(before)
