"""Reports: a failure never looks finished, and a page shows the notebook without a network."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from lib import paths
from lib.evaluation.scores import SCORES
from tools import index_page, isolation, refresh, render, reports

REPOSITORY = paths.ROOT
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
PNG = base64.b64encode(b"\x89PNG stands for an image").decode()
#: a cell that leaves the kernel's process number behind and does not end by itself
SLEEP = (
    "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(300)"
)


def parameters(source='CONFIG = "none"'):
    return v4.new_code_cell(source, metadata={"tags": ["parameters"]})


def write_notebook(path, *cells, count=True):
    """Write a notebook; code cells given with outputs count as executed."""
    cells = [v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    notebook.metadata.language_info = {"name": "python", "version": "3.11.7"}
    for number, cell in enumerate(cells if count else [], start=7):
        if cell.cell_type == "code":
            cell.execution_count = number
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def figure(
    alt="Accuracy rises to 0.8 & <stays>",
    caption="**Figure 3.1.** Accuracy by epoch.",
    kind="image/png",
):
    metadata = {kind: {"alt": alt, "width": 640}}
    return [
        v4.new_output("display_data", {kind: PNG}, metadata=metadata),
        v4.new_output("display_data", {"text/markdown": caption}),
    ]


def code(source, outputs=(), **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


def is_gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A configuration, in a repository of its own."""
    config = SimpleNamespace(
        name="demo",
        title="Demonstration <demo>",
        classes=["bcc", "mel", "nv"],
        names={"bcc": "basal cell carcinoma", "mel": "melanoma", "nv": "melanocytic nevus"},
        data=SimpleNamespace(synthetic=object()),
    )
    for module in (render, index_page):
        monkeypatch.setattr(module, "load_config", lambda path: config)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return config


# execute


@pytest.fixture
def output(tmp_path):
    """Where the executed copy goes; an older one and the trace of an older failure lie there."""
    target = tmp_path / "runs" / "03_cnn.ipynb"
    target.parent.mkdir()
    target.write_text("older")
    target.with_name("03_cnn.failed.ipynb").write_text("older failure")
    return target


def execute(source, output, *more):
    return reports.main(
        ["execute", str(source), "--config", "configs/demo.yaml", "--output", str(output), *more]
    )


HOSTILE_HOME = {
    ".ipython/profile_default/startup/00.py": "planted = True\nprint('planted')\n",
    ".config/matplotlib/matplotlibrc": "image.origin: lower\ntext.usetex: True\n",
    ".jupyter/jupyter_config.json": '{"KernelManager": {"transport": "none"}}',
    "jupyter/kernels/python3/kernel.json": json.dumps(
        {"argv": ["false"], "display_name": "another", "language": "python"}
    ),
}
WHAT_IT_SEES = """import os, sys, matplotlib
print(sys.executable == EXPECTED, "planted" in globals())
print(matplotlib.rcParams["image.origin"], matplotlib.rcParams["text.usetex"])
print([name for name in ("KERAS_MAX_EPOCHS", "MATPLOTLIBRC", "PIP_USER") if name in os.environ])
print(os.environ["OMP_NUM_THREADS"], sys.flags.no_user_site)"""


def test_nothing_in_the_home_or_the_shell_reaches_a_notebook(
    tmp_path, output, run, monkeypatch, capsys
):
    home = tmp_path / "home"
    for name, text in HOSTILE_HOME.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    monkeypatch.setenv("SKIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    monkeypatch.setenv("MATPLOTLIBRC", str(home / ".config" / "matplotlib" / "matplotlibrc"))
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "1")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = dict(os.environ)
    sees = WHAT_IT_SEES.replace("EXPECTED", repr(sys.executable))
    source = write_notebook(tmp_path / "03_cnn.ipynb", parameters(), sees, count=False)
    assert execute(source, output) == 0
    assert dict(os.environ) == before
    executed = nbformat.read(output, as_version=4)
    (text,) = (o.text for cell in executed.cells for o in cell.get("outputs", []))
    assert text.splitlines() == ["True False", "upper False", "[]", "2 1"]
    environment = executed.metadata.papermill.environment
    assert environment == {"OMP_NUM_THREADS": "2", "cache_folder": "cache"} | {
        name: os.environ[name] for name in isolation.ACTING if name in os.environ
    }
    (line,) = capsys.readouterr().err.splitlines()
    introduction, _, names = line.partition(": ")
    assert introduction == "ignored in notebooks"
    assert {"JUPYTER_PATH", "KERAS_MAX_EPOCHS", "MATPLOTLIBRC"} <= set(names.split(", "))


def test_a_notebook_runs_where_the_home_cannot_be_written(tmp_path, output, run, monkeypatch):
    for name in ("SKIN_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # for its .cache
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    code = "import os, matplotlib.pyplot\nprint(os.environ['MPLCONFIGDIR'])"
    source = write_notebook(tmp_path / "03_cnn.ipynb", parameters(), code, count=False)
    assert execute(source, output) == 0
    outputs = [o for c in nbformat.read(output, as_version=4).cells for o in c.get("outputs", [])]
    assert [o.text for o in outputs] == [f"{tmp_path / '.cache' / 'matplotlib'}\n"]


@pytest.mark.parametrize("kernel", [None, {"name": "ir", "language": "R", "display_name": "R"}])
def test_a_notebook_of_another_kernel_runs_with_python(tmp_path, output, run, kernel):
    source = write_notebook(tmp_path / "03_cnn.ipynb", parameters(), "print(CONFIG)", count=False)
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata = {"kernelspec": kernel} if kernel else {}
    nbformat.write(notebook, source)
    assert execute(source, output) == 0
    outputs = [o for c in nbformat.read(output, as_version=4).cells for o in c.get("outputs", [])]
    assert [o.text for o in outputs] == ["configs/demo.yaml\n"]


def test_success_leaves_the_output_and_nothing_else(tmp_path, output, run):
    source = write_notebook(
        tmp_path / "notebooks" / "03_cnn.ipynb",
        parameters(),
        "import pathlib, sys\nprint(CONFIG, pathlib.Path.cwd().name)\nprint(sys.prefix)",
    )
    assert execute(source, output) == 0
    assert [file.name for file in output.parent.iterdir()] == ["03_cnn.ipynb"]
    notebook = nbformat.read(output, as_version=4)
    assert notebook.cells[-1].outputs[0].text == f"configs/demo.yaml notebooks\n{sys.prefix}\n"
    assert str(tmp_path) not in json.dumps(notebook.metadata)
    assert notebook.metadata.papermill.output_path == "runs/03_cnn.ipynb"


def test_an_edit_during_the_execution_makes_its_output_old(tmp_path, output, run):
    source = tmp_path / "notebooks" / "03_cnn.ipynb"
    write_notebook(source, parameters(), f"import pathlib\npathlib.Path({str(source)!r}).touch()")
    assert execute(source, output) == 0
    assert output.stat().st_mtime < source.stat().st_mtime


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print('begun')\nraise ValueError('too dark')", "ValueError: too dark"),
        ("print('begun')\nimport os, sys; sys.stdout.flush(); os._exit(3)", "DeadKernelError"),
        ("print('begun')\nimport sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_failure_leaves_only_the_partial_copy_and_names_the_cell(
    source, reason, tmp_path, output, run, capsys
):
    notebook = write_notebook(
        tmp_path / "03_cnn.ipynb", v4.new_markdown_cell("# CNN"), parameters(), source, "1 + 1"
    )
    assert execute(notebook, output) == 1
    failed = output.with_name("03_cnn.failed.ipynb")
    assert [file.name for file in output.parent.iterdir()] == [failed.name]
    assert nbformat.read(failed, as_version=4)
    message = capsys.readouterr().err
    assert f"{notebook} failed in cell 3 of 4 (`print('begun')`)\n{reason}" in message
    assert f"partly executed copy: {failed}" in message
    assert "Traceback" not in message


def test_time_limit_is_for_the_whole_notebook_and_ends_the_kernel(tmp_path, output, run, capsys):
    source = write_notebook(tmp_path / "03_cnn.ipynb", parameters(), SLEEP)
    assert execute(source, output, "--timeout", "4") == 1
    assert "cell 2 of 2 (`import os, pathlib, time`)\nstopped: over the time limit of 4 s" in (
        capsys.readouterr().err
    )
    assert not output.exists()
    assert output.with_name("03_cnn.failed.ipynb").exists()
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_kernel(number, tmp_path, output):
    source = write_notebook(tmp_path / "03_cnn.ipynb", parameters(), SLEEP)
    arguments = ["execute", source, "--config", "configs/demo.yaml", "--output", output]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.reports", *map(str, arguments)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = tmp_path / "pid"
    for _ in range(300):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    process.send_signal(number)
    message = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert f"stopped: {number.name}" in message
    assert "Traceback" not in message
    assert not output.exists()
    assert output.with_name("03_cnn.failed.ipynb").exists()
    assert is_gone(int(pid.read_text()))


@pytest.mark.parametrize(
    ("cell", "fault"),
    [(parameters("SEED = 1"), "found SEED"), (code('CONFIG = "none"'), "found nothing")],
)
def test_notebook_without_the_parameter_is_an_error(cell, fault, tmp_path, output, run, capsys):
    source = write_notebook(tmp_path / "03_cnn.ipynb", cell)
    assert execute(source, output) == 1
    assert f"{source}: {fault}" in (message := capsys.readouterr().err)
    assert "expected an assignment to CONFIG" in message
    assert not output.exists()


def test_a_notebook_without_a_configuration_runs_as_it_is(tmp_path, output, run):
    cell = parameters('STUDY = "leakage"')
    source = write_notebook(tmp_path / "notebooks" / "studies" / "leakage.ipynb", cell, "STUDY")
    assert reports.main(["execute", str(source), "--output", str(output)]) == 0
    cells = nbformat.read(output, as_version=4).cells
    assert [cell.source for cell in cells] == ['STUDY = "leakage"', "STUDY"]


def test_missing_notebook_is_named(tmp_path, output, run, capsys):
    assert execute(tmp_path / "none.ipynb", output) == 1
    assert f"{tmp_path / 'none.ipynb'}: not found" in capsys.readouterr().err


# refresh


def executed_copy(source, target, changes=()):
    """Write what papermill makes of a source: one more cell, timings, counts that start later."""
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.insert(1, code("CONFIG = 'x'", tags=["injected-parameters"]))
    for number, cell in enumerate(notebook.cells, start=11):
        cell.metadata["papermill"] = {"duration": 1.5}
        if cell.cell_type == "code":
            cell.execution_count = number
    last = notebook.cells[-1]
    result = v4.new_output("execute_result", {"text/plain": "0.78"}, execution_count=13)
    last.outputs = [*figure(), result]
    last.update(changes)
    notebook.metadata["papermill"] = {"input_path": str(source)}
    nbformat.write(notebook, target)
    return target


@pytest.fixture
def source(tmp_path):
    stale = {"start": "2026-01-01"}
    return write_notebook(
        tmp_path / "source.ipynb",
        parameters(),
        v4.new_markdown_cell("# CNN"),
        code("accuracy", tags=["headline"], execution=stale, papermill=stale),
    )


def test_refresh_takes_the_outputs_and_nothing_that_varies(source, tmp_path):
    before = nbformat.read(source, as_version=4)
    refresh.refresh(source, executed_copy(source, tmp_path / "executed.ipynb"))
    after = nbformat.read(source, as_version=4)
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
    assert [cell.get("execution_count") for cell in after.cells] == [1, None, 2]
    assert after.cells[2].metadata == {"tags": ["headline"]}
    assert (
        after.cells[2].outputs[0].metadata["image/png"].alt == figure()[0].metadata["image/png"].alt
    )
    assert after.cells[2].outputs[2].execution_count == 2
    assert after.metadata == {"kernelspec": KERNEL, "language_info": {"name": "python"}}


@pytest.mark.parametrize(
    "line",
    [
        "runs/demo/vgg16/frozen.state.npz is from another training or other versions, so this one "
        "starts anew",
        "runs/demo/vgg16/frozen.state.npz: not a zip file: damaged, so this training starts over",
        "runs/demo/vgg16/features: missing or damaged, so it is computed again",
        "runs/demo/images.npy was cut short; it is made again",
    ],
)
def test_refresh_leaves_out_what_an_earlier_attempt_left(line, source, tmp_path):
    """A clone has no runs/, so that there the line is missing and nbval finds a difference."""
    streams = [v4.new_output("stream", text=text) for text in (f"{line}\n", f"a\n{line}\nb\n")]
    executed = executed_copy(source, tmp_path / "executed.ipynb", {"outputs": streams})
    refresh.refresh(source, executed)
    outputs = nbformat.read(source, as_version=4).cells[2].outputs
    assert [output.text for output in outputs] == ["a\nb\n"]


def test_refreshing_twice_changes_nothing(source, tmp_path):
    executed = executed_copy(source, tmp_path / "executed.ipynb")
    refresh.refresh(source, executed)
    once = source.read_bytes()
    refresh.refresh(source, executed)
    assert source.read_bytes() == once
    assert once.endswith(b"\n}\n")
    assert b'\n "cells"' in once


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outputs": [v4.new_output("error", ename="KeyError", evalue="'dx'")]}, "KeyError: 'dx'"),
        ({"outputs": [v4.new_output("stream", name="stderr", text="Warning: x\n")]}, "Warning: x"),
        ({"outputs": [v4.new_output("stream", text=f"{REPOSITORY}/runs")]}, "absolute path"),
        (
            {"outputs": [v4.new_output("display_data", {"text/html": f"<b>{Path.home()}/a</b>"})]},
            "absolute path",
        ),
        ({"source": "accuracy * 2"}, "differs from the source"),
        ({"execution_count": None}, "was not executed"),
    ],
)
def test_refresh_refuses_what_should_not_be_committed(changes, reason, source, tmp_path):
    before = source.read_bytes()
    executed = executed_copy(source, tmp_path / "executed.ipynb", changes)
    with pytest.raises(ValueError, match=rf"executed.ipynb: cell 3 \(`accuracy.*{reason}"):
        refresh.refresh(source, executed)
    assert source.read_bytes() == before


def test_refresh_refuses_another_number_of_cells(source, tmp_path):
    executed = executed_copy(source, tmp_path / "executed.ipynb")
    write_notebook(source, parameters())
    with pytest.raises(ValueError, match="3 cells; expected 1"):
        refresh.refresh(source, executed)


# render


@pytest.fixture
def render_page(tmp_path, run):
    """Render cells as reports/demo/03_cnn.html of the run and parse the page."""

    def render_cells(*cells, folder="demo", config="configs/demo.yaml"):
        executed = write_notebook(tmp_path / "runs" / "03_cnn.ipynb", *cells)
        page = tmp_path / "reports" / folder / "03_cnn.html"
        render.render(executed, page, config)
        return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")

    return render_cells


TITLE = v4.new_markdown_cell("# The `CNN`\n\nHow far does it **go**?\n\n## Load the data\n\n$a_i$")


def test_page_is_accessible_and_complete_in_itself(render_page):
    table = v4.new_output("execute_result", {"text/html": "<table><tr><td>1</td></tr></table>"})
    page = render_page(TITLE, parameters(), code("show()", figure()), code("table", [table]))
    assert page.html["lang"] == "en"
    assert page.title.get_text() == "The CNN | Demonstration <demo>"
    assert page.select_one("meta[name=viewport]")
    assert len(page.select("h1")) == 1
    assert not [
        e for e in page.select("script, link, img") if "//" in e.get("src", e.get("href", ""))
    ]
    assert "cdn" not in str(page)
    assert page.select_one(".scroll[tabindex='0'] table")
    assert "$a_i$" in page.main.get_text()


def test_figure_keeps_its_description_and_its_caption(render_page):
    page = render_page(TITLE, code("show()", [*figure(), *figure("Loss falls", "A remark.")]))
    first, second = page.select("figure")
    assert first.img["src"] == f"data:image/png;base64,{PNG}"
    assert first.img["alt"] == "Accuracy rises to 0.8 & <stays>"
    assert first.figcaption.get_text().strip() == "Figure 3.1. Accuracy by epoch."
    assert page.get_text().count("Accuracy by epoch") == 1
    assert second.figcaption is None
    assert "A remark." in page.main.get_text()


def test_photographs_and_drawings_keep_description_and_width(render_page):
    pictures = [*figure(kind="image/png"), *figure(kind="image/jpeg")]
    images = render_page(TITLE, code("show()", pictures)).select("figure img")
    assert [image["src"].partition(";")[0] for image in images] == [
        "data:image/png",
        "data:image/jpeg",
    ]
    assert {image["alt"] for image in images} == {"Accuracy rises to 0.8 & <stays>"}
    assert {image["width"] for image in images} == {"640"}


def test_cells_of_wide_tables_carry_their_column_for_narrow_screens(render_page):
    """pandas gives several header rows, spanning cells, and a row for the names of the index."""
    columns = pd.MultiIndex.from_product([["accuracy", "AUC"], ["value", "low"]])
    wide = pd.DataFrame([[1, 2, 3, 4]], columns=columns, index=pd.Index(["VGG16"], name="model"))
    tables = [wide.to_html(), wide["AUC"].to_html()]
    outputs = [v4.new_output("display_data", {"text/html": table}) for table in tables]
    wide, narrow = render_page(TITLE, code("table", outputs)).select("table")
    assert [cell["data-label"] for cell in wide.select("td[data-label]")] == [
        "accuracy, value",
        "accuracy, low",
        "AUC, value",
        "AUC, low",
    ]
    assert "stacked" in wide["class"]
    assert "stacked" not in narrow["class"]


def test_code_is_folded_and_parameters_are_named(render_page):
    injected = code('CONFIG = "configs/demo.yaml"', tags=["injected-parameters"])
    page = render_page(TITLE, parameters(), injected, "print('<b>')", " ")
    summaries = [summary.get_text() for summary in page.select("details.code summary")]
    assert summaries == ["Parameters", "Parameters of this run", "Code"]
    assert page.select_one("details.code .highlight span")
    assert "print('<b>')" in page.select("details.code")[2].get_text()
    assert "In [" not in page.get_text()


def test_contents_list_the_second_headings(render_page):
    page = render_page(TITLE, v4.new_markdown_cell("## Results & more\n\n### Not listed"))
    links = page.select(".toc a")
    assert [link.get_text() for link in links] == ["Load the data", "Results & more"]
    assert all(page.find(id=link["href"][1:]) for link in links)
    assert "¶" not in page.get_text()


def test_links_lead_from_the_report(render_page, tmp_path):
    for name in ("02_preprocessing", "03_cnn", "04_vgg16"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    text = "[a](05_evaluation.ipynb#Results) [b](../lib/config.py) [c](https://keras.io) [d](#e)"
    page = render_page(TITLE, v4.new_markdown_cell(text))
    assert [link["href"] for link in page.select("main a")] == [
        "05_evaluation.html#Results",
        "../../lib/config.py",
        "https://keras.io",
        "#e",
    ]
    assert [link["href"] for link in page.select("header a")] == [
        "02_preprocessing.html",
        "index.html",
        "04_vgg16.html",
    ]


@pytest.mark.parametrize(("folder", "there"), [("unpublished", True), ("demo/published", False)])
def test_a_run_called_unpublished_is_not_a_published_one(render_page, tmp_path, folder, there):
    for name in ("02_preprocessing", "03_cnn"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    links = render_page(TITLE, folder=folder).select("header a")
    assert ("02_preprocessing.html" in [link["href"] for link in links]) == there


def test_links_to_side_experiments_and_back_lead_to_their_pages(render_page, tmp_path):
    text = v4.new_markdown_cell("[a](studies/leakage.ipynb#Results)")
    assert render_page(TITLE, text).main.a["href"] == "../studies/leakage.html#Results"
    for name in ("leakage", "03_cnn"):
        write_notebook(tmp_path / "notebooks" / "studies" / f"{name}.ipynb")
    text = v4.new_markdown_cell("[a](../03_cnn.ipynb) [b](../04_vgg16.ipynb) [c](leakage.ipynb)")
    page = render_page(TITLE, text, folder="studies", config=None)
    assert [link["href"] for link in page.select("main a")] == [
        "../demo/03_cnn.html",  # rendered above; 04 is not
        "../../notebooks/04_vgg16.ipynb",
        "leakage.html",
    ]
    assert [link["href"] for link in page.select("header a")] == ["leakage.html"]
    assert "Side experiment" in page.header.get_text()
    assert render.BANNER not in page.get_text()


def test_the_answer_at_the_top_is_marked(render_page):
    answer = v4.new_output("display_data", {"text/markdown": "**Answer.** On 88 lesions: 0.86."})
    page = render_page(TITLE, code("reserve_answer()", [answer]))
    assert page.select_one(".answer").get_text().strip() == "Answer. On 88 lesions: 0.86."


def test_only_synthetic_runs_have_the_banner(render_page, run):
    synthetic = render_page(TITLE)
    run.data.synthetic = None
    real = render_page(TITLE)
    assert render.BANNER in synthetic.header.get_text()
    assert render.BANNER not in real.get_text()
    assert render.FOOTER in real.footer.get_text()


def test_attached_image_is_embedded_and_a_remote_one_refused(render_page):
    attached = v4.new_markdown_cell("![A lesion](attachment:a.png)")
    attached.attachments = {"a.png": {"image/png": PNG}}
    assert render_page(TITLE, attached).main.img["src"].startswith("data:image/png")
    with pytest.raises(ValueError, match=r"would load 'https://example\.org/a\.png'"):
        render_page(TITLE, v4.new_markdown_cell("![A lesion](https://example.org/a.png)"))


def test_headings_and_tags_in_code_are_left_alone(render_page):
    source = "# Not the title\nhtml = '<img src=\"https://example.org/a.png\"><table>'"
    page = render_page(code(source))
    assert page.h1.get_text() == "03_cnn"
    assert "https://example.org/a.png" in page.main.get_text()


# index


@pytest.fixture
def metrics(tmp_path):
    """The published metrics.json of the demonstration."""
    published = REPOSITORY / "reports" / "demo" / "published" / "metrics.json"
    file = tmp_path / "runs" / "demo" / "metrics.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(published.read_text(encoding="utf-8"), encoding="utf-8")
    return file


def make_index(tmp_path, metrics, *pages):
    target = tmp_path / "reports" / "demo" / "index.html"
    index_page.index("configs/demo.yaml", target, metrics, pages)
    return BeautifulSoup(target.read_text(encoding="utf-8"), "html.parser")


def test_index_shows_each_classifier_with_all_its_scores(tmp_path, run, metrics):
    page = make_index(tmp_path, metrics)
    values = json.loads(metrics.read_text(encoding="utf-8"))
    head, *rows = (" ".join(row.get_text(" ").split()) for row in page.table.select("tr"))
    assert head == (
        "Model balanced accuracy accuracy macro AUC melanoma sensitivity melanoma specificity"
    )
    assert len(rows) == len(values["models"])
    model = values["models"][values["primary"]]
    row = next(row for row in rows if row.startswith(model["title"]))
    scores = model["rules"]["equal_priors"]
    listed = [scores[name] for name in SCORES]
    listed += [scores["per_class"]["mel"][name] for name in ("sensitivity", "specificity")]
    texts = ("{value:.3f} {low:.3f} to {high:.3f}".format(**score) for score in listed)
    assert row == f"{model['title']} {' '.join(texts)}"


def test_index_says_where_its_values_come_from(tmp_path, run, metrics):
    values = json.loads(metrics.read_text(encoding="utf-8"))
    values["manifest"] = {"keras": "3.15.1", "duration_s": {"03_cnn": 12}}
    values["manifest"]["configuration"] = {"seed": 2023, "split": {"folds": 5}}
    metrics.write_text(json.dumps(values), encoding="utf-8")
    page = make_index(tmp_path, metrics)
    text = " ".join(page.main.get_text(" ").split())
    assert values["interval"] in text
    assert f"train {values['images']['train']:,} {values['lesions']['train']:,}" in text
    assert "keras 3.15.1 duration_s: 03_cnn 12" in text
    assert "configuration: " not in text
    assert "The paper states an accuracy of 0.93" in text
    assert page.select_one("details pre").get_text() == "seed: 2023\nsplit:\n  folds: 5\n"
    assert render.BANNER in page.header.get_text()
    assert (tmp_path / "reports" / "demo" / "metrics.json").read_text() == metrics.read_text()


def test_index_shows_the_confusion_matrix_under_both_rules(tmp_path, run, metrics):
    page = make_index(tmp_path, metrics)
    models = json.loads(metrics.read_text(encoding="utf-8"))["models"]
    matrices = page.select("[aria-label*='confusion matrix']")
    assert len(matrices) == 2 * len(models)
    for rule, title in index_page.RULES.items():
        model = models["baseline_cnn"]
        label = f"{model['title']}: confusion matrix. {title}"
        rows = page.find(attrs={"aria-label": label}).select("tbody tr")
        counts = [[int(cell.get_text()) for cell in row.select("td")] for row in rows]
        assert counts == model["rules"][rule]["confusion"]


def test_index_shows_a_cross_validation_where_there_is_one(tmp_path, run, metrics):
    page = make_index(tmp_path, metrics)
    values = json.loads(metrics.read_text(encoding="utf-8"))
    folds = values["cross_validation"]
    text = " ".join(page.main.get_text(" ").split())
    assert f"All {folds['images']:,} images of {folds['lesions']:,} lesions" in text
    table = page.find(attrs={"aria-label": "Result of the cross-validation, equal priors"})
    assert len(table.select("tbody tr")) == len(folds["models"])
    metrics.write_text(json.dumps(values | {"cross_validation": None}))
    assert "Cross-validation" not in make_index(tmp_path, metrics).get_text()


def test_index_leads_to_every_report_with_its_question_and_its_figure(
    tmp_path, run, metrics, render_page
):
    render_page(
        TITLE, code("a", figure("First")), code("b", figure("Most telling"), tags=["headline"])
    )
    first = tmp_path / "reports" / "demo" / "03_cnn.html"
    second = first.with_name("04_vgg16.html")
    second.write_text("<h1>VGG16</h1><main><p>What does it add?</p></main>")
    cards = make_index(tmp_path, metrics, first, second).select(".cards li")
    assert [card.a["href"] for card in cards] == ["03_cnn.html", "04_vgg16.html"]
    assert [card.a.get_text() for card in cards] == ["The CNN", "VGG16"]
    assert [card.p.get_text() for card in cards] == ["How far does it go?", "What does it add?"]
    assert cards[0].img["alt"] == "Most telling"
    assert cards[1].img is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "cannot be read"),
        (None, "cannot be read"),
        ("[]", "missing or of another type: run, classes"),
        (
            '{"run": "demo", "classes": [], "images": {}, "lesions": {}}',
            "another type: titles, primary, models",
        ),
    ],
)
def test_unreadable_metrics_are_named_with_what_was_expected(
    content, fault, tmp_path, run, metrics
):
    metrics.unlink() if content is None else metrics.write_text(content)
    with pytest.raises(ValueError, match="metrics.json: .*" + fault) as error:
        make_index(tmp_path, metrics)
    assert "expected the JSON object that notebook 05 writes" in str(error.value)


def test_metrics_of_another_run_are_refused(tmp_path, run, metrics):
    run.name = "ham10000"
    with pytest.raises(ValueError, match="found run 'demo'; expected 'ham10000'"):
        make_index(tmp_path, metrics)
