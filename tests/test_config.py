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
    assert (run.baseline.batch_size, run.baseline.epochs) == (32, 50)
    assert run.model("vgg16").backbone == "VGG16"
    assert run.model("vgg16").test_time_views > 1
    assert run.data.synthetic is None


def test_a_misspelt_key_is_named_with_the_one_that_was_meant(load):
    with pytest.raises(
        ValueError, match=r"unknown key 'models\.baseline_cnn\.epoch'; did you mean 'epochs'\?"
    ):
        load("  epochs: 14", "  epoch: 14")
    with pytest.raises(
        ValueError,
        match=r"unknown key 'models\.vgg16\.fine_tune\.layer'; did you mean 'from_layer'\? "
        r"\(allowed: epochs, ",
    ):
        load("from_layer: block5_conv1", "layer: block5_conv1")


EPOCHS = r"models\.baseline_cnn\.epochs"
UNKNOWN_KIND = r"models\.alexnet\.kind = 'forest': should be one of handcrafted, network, transf"
HEATMAPS = (
    r"heatmaps\.layers = .*: expected networks out of baseline_cnn, alexnet, vgg16_frozen, "
    r"vgg16_fine_tuned, among them vgg16_fine_tuned"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  epochs: 14",
            "  epochs: sixteen",
            rf"{EPOCHS} = 'sixteen': .*integer",
        ),
        (
            "  epochs: 14",
            "  epochs: 0",
            rf"{EPOCHS} = 0: .*greater than or equal to 1",
        ),
        ("  epochs: 14", '  epochs: "14"', rf"{EPOCHS} = '14': .*integer"),
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
        ("test: 0.15", "test: 0.8", r"split = .*below 0\.9"),
        (
            "title: Demonstration",
            "name: x\ntitle: Demonstration",
            r"unknown key 'name': the file's own name",
        ),
        ("seed: 2023\n\ndata", "data", r"missing key 'seed'"),
        (
            "zoom: 0.1",
            "zoom: 0.1\n  zoom: 0.2",
            r'not a YAML file: line \d+: found duplicate key "zoom"',
        ),
        ("kind: network\n    name: alexnet", "kind: forest\n    name: alexnet", UNKNOWN_KIND),
        (
            "- kind: network\n    name: alexnet",
            "- name: alexnet",
            r"missing key 'models\.alexnet\.kind'",
        ),
        ("name: alexnet", "name: AlexNet", r"models\.AlexNet\.name = 'AlexNet': .*pattern"),
        ("  name: alexnet\n  ", "", r"missing key 'models\.3\.name'"),
        ("classifier: svm", "classifier: tree", r"color_texture_svm\.classifier = 'tree': .*'svm'"),
        ("name: alexnet", "name: baseline_cnn", r"a name is there twice: .*baseline_cnn, base"),
        ("name: alexnet", "name: majority", r"models: a name is there twice: .*majority, majority"),
        ("name: alexnet", "name: vgg16_linear", r"a name is there twice: .*vgg16_linear, vgg"),
        ('SVM"', 'random forest"', r"a title is there twice: .*, random forest, Hand-crafted"),
        (
            "AlexNet, from scratch",
            "VGG16, frozen",
            r"a title is there twice: .*VGG16, frozen, V",
        ),
        ("name: alexnet", "name: keys", r"a name is there twice: .*keys, keys"),
        ("name: alexnet", "name: external", r"a name is there twice: .*external, .*external"),
        ("builder: baseline_cnn", "builder: alexnet", r"missing: network with builder = baseline"),
        ("{baseline_cnn: conv5", "{baseline: conv5", HEATMAPS),
        ("{baseline_cnn: conv5", "{vgg16_linear: conv5", HEATMAPS),
        (", vgg16_fine_tuned: block5_conv3", "", HEATMAPS),
        ("{baseline_cnn: conv5, vgg16_fine_tuned: block5_conv3}", "{}", r"heatmaps\.layers = {}: "),
        ("seed: 2023}", "seed: -1}", r"split\.seed = -1: .*greater than or equal to 0"),
        ("zoom: 0.1", "zoom: [0.1", r"not a YAML file: line \d+: "),
        ("folds: 5", "folds: 5, duplicates: off", r"split\.duplicates = 'off': .*true or false"),
        ("batch_size: 32", "batch_size: 1:30", r"batch_size = '1:30': .*integer"),
        (
            "title: Demonstration",
            "title: !!python/name:os.system",
            r"line \d+: could not",
        ),
    ],
)
def test_an_impossible_value_is_named(load, old, new, message):
    with pytest.raises(ValueError, match=message):
        load(old, new)


@pytest.mark.parametrize("kind", config.KINDS)
def test_a_configuration_without_one_kind_of_model_is_refused(kind):
    values = config.load_config(DEMO).model_dump()
    values["models"] = [item for item in values["models"] if item["kind"] != kind]
    with pytest.raises(ValueError, match=rf"models of each kind; missing: {kind}"):
        config.Config.model_validate(values)


def test_a_configuration_without_models_is_refused(load):
    text = DEMO.read_text(encoding="utf-8")
    models = text[text.index("models: ") : text.index("relu_output_epochs")]
    with pytest.raises(ValueError, match=r"models = \[\]: .*at least 1"):
        load(models, "models: []\n")


def test_another_backbone_is_an_item_of_its_own(load):
    settings = load("backbone: VGG16 ", "backbone: ResNet50 ").model("vgg16")
    assert settings.backbone == "ResNet50"
    assert settings.feature_layers == ["block3_pool", "block4_pool", "block5_pool"]


def test_all_faults_are_told_at_once(load):
    with pytest.raises(ValueError, match=r"(?s)unknown key 'surprise'.*unknown key 'other'"):
        load("title: Demonstration", "surprise: 1\nother: 2\ntitle: Demonstration")


def test_a_missing_file_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"configs/nowhere\.yaml: .*configs/demo\.yaml"):
        config.load_config("configs/nowhere.yaml")


def test_numbers_and_words_are_read_as_yaml_1_2_has_them(load, tmp_path):
    assert load("learning_rate: 0.0003", "learning_rate: 3e-4").baseline.learning_rate == 0.0003
    file = tmp_path / "values.yaml"
    file.write_text("classes: [nv, no, on]\nseed: 010\nnight: 1:30\n", encoding="utf-8")
    values = config.read_yaml(file, file.name)
    assert values == {"classes": ["nv", "no", "on"], "seed": 10, "night": "1:30"}


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
