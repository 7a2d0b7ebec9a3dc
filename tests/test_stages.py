"""A notebook runs again when what it depends on has changed, and not otherwise."""

import json
import os
import re
import shutil
import subprocess
import time

import pytest
from conftest import without_make

from lib import config, models, paths, source_code
from lib.networks import feature_cache, model_graph, training
from lib.preprocessing import image_array
from lib.stages import STAGES, code_of
from tools import stages

NAMES = [file.stem for file in sorted((paths.ROOT / "notebooks").glob("0[1-7]_*.ipynb"))]
#: Notebooks that are added to the six depend on all of them.
HEATMAPS = NAMES[NAMES.index("06_heatmaps") :]
EVALUATION = ["05_evaluation", *HEATMAPS]


def code_in(name):
    notebook = json.loads((paths.ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return "\n".join(code)


# ------------------------------------------------------------------------------ the configuration


def test_every_section_of_a_configuration_reaches_a_notebook_or_a_page():
    listed = {name for stage in STAGES.values() for name in stage.sections} | set(stages.PAGE)
    assert listed == set(config.Config.model_fields) - {"name"} | {"roles", *config.KINDS}


#: Properties of a configuration, and the sections that they read.
PARTS = {
    "handcrafted": "handcrafted",
    "baseline": "roles",
    "networks": "network",
    "transfers": "transfer",
    "primary": "roles",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_reads_no_section_that_it_does_not_depend_on(name):
    """Its own sections or, since those notebooks come before it, an earlier notebook's."""
    before = [stage for stage in STAGES.values() if stage.notebook <= name]
    allowed = {"name", *(section for stage in before for section in stage.sections)}
    code = code_in(name)
    read = set(re.findall(r"\b(?:config|run)\.(\w+)", code))
    fields = read & set(config.Config.model_fields) | {PARTS[name] for name in read & set(PARTS)}
    assert fields <= allowed


def test_a_model_belongs_to_the_stage_of_its_kind_and_all_models_to_the_evaluation():
    for kind in config.KINDS:
        notebooks = {stage.notebook for stage in STAGES.values() if kind in stage.sections}
        assert notebooks == {STAGES[kind].notebook}
    assert "models" in STAGES["metrics"].sections


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.code])
def test_code_that_decides_about_kept_files_is_in_modules_that_make_watches(name):
    """Otherwise the notebook would not run again, and the files would stay as they are."""
    notebook = paths.ROOT / "notebooks" / f"{STAGES[name].notebook}.ipynb"
    assert set(STAGES[name].code) <= set(stages.modules_of(notebook))


def test_the_keys_of_kept_files_hold_the_code_that_their_stage_names():
    trees = list(code_of("transfer").values())
    names = " ".join(STAGES["transfer"].code.values()).split()
    assert len(trees) == len(names)
    assert {"Batches", "AdamW", "LogitAdjusted", "Scores", "fit"} < set(names)
    assert training._CODE == model_graph.digest_of(trees)
    assert feature_cache._CODE == model_graph.digest_of(list(code_of("features").values()))
    assert image_array._SOURCES == code_of("images")
    assert code_of("network") == code_of("relu_output") == code_of("transfer")
    rest = {f"lib/preprocessing/{name}.py" for name in ("image_array", "threads", "quality_scores")}
    assert not rest & set(code_of("images"))


def test_the_sections_of_a_configuration_hold_its_models_by_kind():
    sections = stages.read_sections(paths.ROOT / "tests" / "tiny.yaml")
    names = {kind: [item["name"] for item in sections[kind]] for kind in config.KINDS}
    assert names == {
        "handcrafted": ["color_texture_svm", "color_texture_forest", "no_mask_svm"],
        "network": ["baseline_cnn", "alexnet"],
        "transfer": ["vgg16"],
    }


# ----------------------------------------------------------------------------------- the modules


def test_the_evaluation_depends_on_the_bootstrap_and_on_no_network():
    modules = stages.modules_of(paths.ROOT / "notebooks" / "05_evaluation.ipynb")
    assert {"lib/evaluation/bootstrap.py", "lib/data/splits.py"} <= set(modules)
    assert not [name for name in modules if name.startswith("lib/networks/")]


def test_a_new_setting_concerns_the_notebooks_of_its_section_only():
    """Sections hold their defaults, so lib/config.py itself is not part of a run's keys."""
    file = paths.ROOT / "configs" / "demo.yaml"
    assert stages.read_sections(file)["preprocessing"]["mean_kernel"] == 0, "not in the file"
    notebook = paths.ROOT / "notebooks" / "01_data_survey.ipynb"
    assert "lib/config.py" in stages.modules_of(notebook)
    assert "lib/config.py" not in stages.modules_of(notebook, [stages.CONFIG])


def test_what_lib_config_decides_is_in_the_sections(monkeypatch):
    """Names and titles of rows, the names of classes, the paper's network, the primary result."""
    file = paths.ROOT / "configs" / "demo.yaml"
    before = stages.read_sections(file)
    assert before["roles"] == {"baseline": "baseline_cnn", "primary": "vgg16_fine_tuned"}
    assert before["class_names"]["mel"] == "melanoma"
    titles = config.TRANSFER_ROWS | {"frozen": ", new head"}
    monkeypatch.setattr(models, "TRANSFER_ROWS", titles)
    after = stages.read_sections(file)
    assert [name for name in before if before[name] != after[name]] == ["models", "transfer"]


def test_a_notebook_that_is_not_json_depends_on_nothing_and_fails_when_it_is_executed(tmp_path):
    (tmp_path / "07_broken.ipynb").write_text("{")
    assert stages.modules_of(tmp_path / "07_broken.ipynb") == {}


def test_a_study_depends_on_its_measuring_script():
    modules = stages.modules_of(paths.ROOT / "notebooks" / "studies" / "leakage.ipynb")
    assert "studies/leakage.py" in modules


@pytest.mark.parametrize("text", ["", '"""Docs."""\n', "# why\n", '"""Docs."""\n\n\n# more\n'])
def test_comments_docstrings_and_formatting_are_not_part_of_a_syntax_tree(text):
    function = "def f(x):\n    'Docs.'\n    return [x,\n 1]  # one\n"
    assert source_code.syntax_tree(text + function) == source_code.syntax_tree(
        "def f(x):\n    return [x, 1]"
    )


@pytest.mark.parametrize("other", ["def f(x): return [x, 2]", "def f(y): return [y, 1]"])
def test_code_is_part_of_a_syntax_tree(other):
    assert source_code.syntax_tree(other) != source_code.syntax_tree("def f(x): return [x, 1]")


def test_a_text_that_is_not_a_docstring_is_part_of_a_syntax_tree():
    one, two = (source_code.syntax_tree(f"def f(): return {text!r}") for text in ("one", "two"))
    assert one != two


def test_a_key_file_is_rewritten_only_when_its_contents_change(tmp_path, monkeypatch):
    """A small repository: a notebook, a module that it imports, and one that it does not."""
    valid = (paths.ROOT / "tests" / "tiny.yaml").read_text(encoding="utf-8")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    cell = {"cell_type": "code", "source": ["from lib import used\n"]}
    for file, text in {
        "notebooks/05_evaluation.ipynb": json.dumps({"cells": [cell]}),
        "lib/used.py": "from lib.deeper import x\n",
        "lib/deeper.py": "x = 1\n",
        "lib/other.py": "y = 1\n",
        "a.yaml": valid,
    }.items():
        paths.write_text(tmp_path / file, text)
    key = tmp_path / "output" / "runs" / "a" / "keys" / "05_evaluation.key"

    def rewritten(file, text):
        """Change a file, and say whether the key file was rewritten."""
        stages._read_module.cache_clear()
        paths.write_text(tmp_path / file, text)
        old = key.read_text(encoding="utf-8") if key.is_file() else ""
        stages.write_keys(tmp_path / "a.yaml")
        return key.read_text(encoding="utf-8") != old

    assert rewritten("lib/other.py", "y = 2\n"), "there was none"
    assert json.loads(key.read_text(encoding="utf-8")).keys() == {
        *("evaluation", "models", "roles", "lib/used.py", "lib/deeper.py")
    }
    before = key.stat().st_mtime_ns
    assert not rewritten("lib/other.py", "y = 3\n")
    assert not rewritten("lib/deeper.py", '"""Docs."""\nx = 1  # one\n')
    same = "# few\n" + valid.replace("folds: 2", "folds: 3")
    assert not rewritten("a.yaml", same)
    assert key.stat().st_mtime_ns == before
    assert rewritten("lib/deeper.py", "x = 2\n")
    assert rewritten("a.yaml", same.replace("draws: 100", "draws: 200"))
    assert rewritten("a.yaml", same.replace("batch_size: 16", "batch_size: 8"))
    assert rewritten("a.yaml", "evaluation: [\n"), "the notebook will say what is wrong"
    assert rewritten("lib/deeper.py", "x = (\n"), "the notebook will say what is wrong"


# ------------------------------------------------------------------------------------------ make


@pytest.fixture
def up_to_date(tiny_config, tmp_path, monkeypatch):
    """Write empty files that look like a finished run of an hour ago; return its configuration."""
    output, copy = tmp_path / "output", tmp_path / "tiny.yaml"
    text = tiny_config.read_text(encoding="utf-8")
    copy.write_text(re.sub("(?m)^  synthetic:.*\n", "", text), encoding="utf-8")
    stages.write_keys(copy)
    hour_ago = time.time() - 3600
    for file in (output / "runs").rglob("keys/*"):
        os.utime(file, (hour_ago, hour_ago))
    (output / "runs" / "tiny" / "keys" / "checked").touch()
    studies = [file.stem for file in (paths.ROOT / "notebooks" / "studies").glob("*.ipynb")]
    for run, names in {"tiny": NAMES, "studies": studies}.items():
        files = [output / "runs" / run / "notebooks" / f"{name}.ipynb" for name in names]
        for file in [*files, *(output / "reports" / run / f"{name}.html" for name in names)]:
            paths.write_text(file, "")
    paths.write_text(output / "reports" / "tiny" / "index.html", "")
    return copy


def planned(make, file, *options):
    """Return the notebooks that make would execute, and those whose pages it would render."""
    output = file.parent / "output"
    done = make("--dry-run", *options, "reproduce", f"CONFIG={file}", output=output)
    assert done.returncode == 0, done.stderr
    executed = re.findall(r"reports execute notebooks/(\S+)\.ipynb", done.stdout)
    return executed, re.findall(r"reports render \S+/(\w+)\.ipynb", done.stdout)


@pytest.mark.parametrize(
    ("old", "new", "executed", "rendered"),
    [
        ("seed", "seed", [], []),
        ("title: Tiny", "title: Very tiny", [], NAMES),
        ("bootstrap_draws: 100", "bootstrap_draws: 5000", EVALUATION, EVALUATION),
        ("block4_conv3}", "block4_conv2}", HEATMAPS, HEATMAPS),
        ("epochs: 8 ", "epochs: 9 ", *[["03_baseline_cnn", *EVALUATION]] * 2),
        ('"AlexNet, from', '"Net, from', *[["03_baseline_cnn", *EVALUATION]] * 2),
        ("input_size: 32", "input_size: 48", *[["04_vgg16_transfer", *EVALUATION]] * 2),
        ("split: {validation: 0.2", "split: {validation: 0.3", NAMES, NAMES),
        ("split: {validation", "split: [validation", NAMES, NAMES),
    ],
    ids=[
        "nothing",
        "title",
        "draws",
        "heatmaps",
        "baseline",
        "a model's title",
        "vgg16",
        "split",
        "not YAML",
    ],
)
def test_a_changed_configuration_runs_what_depends_on_it(
    make, up_to_date, old, new, executed, rendered
):
    text = up_to_date.read_text(encoding="utf-8")
    assert old in text
    up_to_date.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert planned(make, up_to_date) == (executed, rendered)


def test_a_key_file_that_was_deleted_is_written_again(make, up_to_date):
    """Without it, make would run the notebook every time."""
    keys = list((up_to_date.parent / "output" / "runs" / "studies" / "keys").iterdir())
    for key in keys:
        key.unlink()
    planned(make, up_to_date)
    assert keys and all(key.is_file() for key in keys)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("images", "data:\n  folder: {}\n  attribution: Ours."),
        ("my images", "data:\n  folder: {}   # with spaces\n  attribution: Ours."),
        ("images", "data:\n  folder: '{}'\n  attribution: Ours."),
        ("images", "data: {{attribution: Ours., folder: {}}}"),
        ("a$b 'c", 'data: {{"folder": "{}", attribution: Ours.}}'),
    ],
    ids=["plain", "spaces", "quotes", "flow", "special characters"],
)
def test_replaced_images_and_changed_tables_run_everything_again(
    make, up_to_date, name, data, data_folder
):
    folder = up_to_date.parent / name
    paths.write_text(folder / "HAM10000_metadata.csv", "lesion_id,image_id,dx\n")
    paths.write_text(folder / "images" / "a.jpg", "pixels")
    text = up_to_date.read_text(encoding="utf-8")
    text = re.sub(r"(?ms)^data:.*?(?=^split)", f"{data.format(folder)}\n", text)
    up_to_date.write_text(text, encoding="utf-8")
    settle(make, up_to_date)
    assert planned(make, up_to_date) == ([], [])
    changes = [add_a_row, replace_by_an_older_image, move_another_folder_there]
    # two spellings see every change; the others differ only in how the folder is written
    for change in changes if name in ("a$b 'c", "my images") else changes[:1]:
        change(folder)
        assert planned(make, up_to_date) == (NAMES, NAMES), change.__name__
        settle(make, up_to_date)
    (folder / ".DS_Store").write_text("a view")
    assert planned(make, up_to_date) == ([], [])


def add_a_row(folder):
    with (folder / "HAM10000_metadata.csv").open("a") as table:
        table.write("L1,a,nv\n")


def replace_by_an_older_image(folder):
    image, other = folder / "images" / "a.jpg", folder.parent / "other.jpg"
    other.write_text("fewer")
    os.utime(other, (1e9, 1e9))
    other.rename(image)


def move_another_folder_there(folder):
    shutil.copytree(folder, folder.parent / "copy")
    (folder.parent / "copy" / "images" / "a.jpg").write_text("other")
    shutil.rmtree(folder)
    (folder.parent / "copy").rename(folder)


def settle(make, file):
    """Let the files of a run look as if make had just written them."""
    planned(make, file)
    now = time.time()
    for written in (file.parent / "output").rglob("*.*"):
        older = written.suffix == ".key"
        os.utime(written, (now - 60 * older, now - 60 * older))


def test_another_link_to_data_runs_everything_again(make, up_to_date):
    for name in ("one", "two"):
        paths.write_text(up_to_date.parent / name / "HAM10000_metadata.csv", name)
    link = up_to_date.parent / "link"
    link.symlink_to(up_to_date.parent / "one")
    text = up_to_date.read_text(encoding="utf-8")
    up_to_date.write_text(re.sub("(?m)^  folder: .*", f"  folder: {link}", text))
    settle(make, up_to_date)
    assert planned(make, up_to_date) == ([], [])
    link.unlink()
    link.symlink_to(up_to_date.parent / "two")
    assert planned(make, up_to_date) == (NAMES, NAMES)


@pytest.mark.parametrize("name", ["my run.yaml", "run#2.yaml", "a$b.yaml", "it's.yaml"])
def test_a_name_that_make_cannot_handle_is_refused_in_one_line(make, tmp_path, name):
    done = make("check", f"CONFIG={name}", output=tmp_path)
    assert done.returncode != 0
    assert f"CONFIG={name}: in this name make cannot handle: " in done.stderr
    assert done.stderr.count("\n") == 1
    done = make("check", output=tmp_path / "two words")
    assert "SKIN_OUTPUT=" in done.stderr and "handle: space" in done.stderr


def test_a_run_that_would_share_the_folders_of_the_studies_is_refused(make, tmp_path):
    done = make("--dry-run", "clean", f"CONFIG={tmp_path}/studies.yaml", output=tmp_path)
    assert done.returncode != 0
    assert "reports/studies holds the side experiments; rename the configuration" in done.stderr


def test_an_external_test_of_the_demonstration_needs_its_run(make, tmp_path):
    done = make("external-test", "CONFIG=demo", output=tmp_path)
    assert done.returncode != 0
    assert "run demo is not up to date; make reproduce CONFIG=demo first" in done.stderr


#: Stands in for Python: prints its arguments, one a line.
PRINT = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


@pytest.mark.parametrize("name", ['a"b', "a$b", "a#b", "it's", "two words", "$(date)", "~/x", "-x"])
@pytest.mark.parametrize(
    ("target", "argument"),
    [("data", "FROM"), ("predict", "IMAGE"), ("predict", "MODEL"), ("external-test", "EXTERNAL")],
)
def test_any_character_of_a_folder_reaches_the_command(tmp_path, target, argument, name):
    python = tmp_path / "python here"
    python.write_text(PRINT, encoding="utf-8")
    python.chmod(0o755)
    up_to_date = ["-o", "check-python", "-o", "finished"]
    command = ["make", f"PYTHON={python}", *up_to_date, target, f"{argument}={name}"]
    done = subprocess.run(command, cwd=paths.ROOT, env=without_make(), capture_output=True)
    lines = done.stdout.decode().splitlines()
    assert name in [line.removeprefix("--from=").removeprefix("--model=") for line in lines]


#: Stands in for Python: a notebook is executed by copying it, unless its name is in FAILS.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *"reports execute"*"$FAILS"*.ipynb*) exit 1 ;;
  *"reports index"*) while [ "$1" != --output ]; do shift; done; echo "$@" > "$2" ;;
  *--output*) while [ "$1" != --output ]; do shift; done; mkdir -p "$(dirname "$2")"; : > "$2" ;;
esac
"""


@pytest.mark.parametrize(
    ("fails", "is_indexed"), [("06_heatmaps", True), ("03_baseline_cnn", False)]
)
def test_a_notebook_that_fails_after_the_evaluation_leaves_the_others_their_index(
    up_to_date, monkeypatch, fails, is_indexed
):
    python, output = up_to_date.parent / "python", up_to_date.parent / "output"
    python.write_text(FAKE_PYTHON, encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("FAILS", fails)
    (output / "runs" / "tiny" / "notebooks" / f"{fails}.ipynb").unlink()
    command = ["make", f"PYTHON={python}", "reproduce", f"CONFIG={up_to_date}"]
    done = subprocess.run(command, cwd=paths.ROOT, env=without_make(), capture_output=True)
    assert done.returncode != 0
    reports = output / "reports" / "tiny"
    assert not (reports / f"{fails}.html").exists()
    assert (reports / "index.html").exists() == is_indexed
    if is_indexed:
        pages = re.findall(r"tiny/(\w+)\.html", (reports / "index.html").read_text())
        assert [page for page in pages if page != "index"] == [n for n in NAMES if n != fails]
