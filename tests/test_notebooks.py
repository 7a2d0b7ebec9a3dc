"""The form of the committed notebooks, and that they hold nothing of the machine they ran on."""

import ast
import re
import statistics
from itertools import pairwise

import nbformat
import pytest

from lib import paths
from tools.refresh import LEFT_BEHIND

#: Limits of a notebook, in one place.
MAX_CELLS = 45
MAX_WORDS = 1200
MAX_WORDS_IN_A_PARAGRAPH = 80
MAX_MEDIAN_LINES_OF_A_CODE_CELL = 6
MAX_LINES_OF_A_CODE_CELL = 20
MAX_LINES_OF_PRINTED_OUTPUT = 40
MAX_BYTES = 3_000_000
BULLETS_IN_RESULTS = 3

NOTEBOOKS = paths.ROOT / "notebooks"
NUMBERED = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
STUDIES = sorted((NOTEBOOKS / "studies").glob("*.ipynb"))
IMAGES = ("image/png", "image/jpeg")


@pytest.fixture(params=[*NUMBERED, *STUDIES], ids=lambda file: file.stem)
def file(request):
    return request.param


@pytest.fixture
def notebook(file):
    return nbformat.read(file, as_version=4)


def markdown_cells(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def ending(notebook):
    """Return the cells from the heading `Results` on."""
    starts = [
        place
        for place, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown" and re.search(r"^## (\d+\. )?Results$", cell.source, re.M)
    ]
    assert len(starts) == 1
    return notebook.cells[starts[0] :]


def test_every_file_in_the_folder_is_a_numbered_notebook():
    assert NUMBERED
    assert sorted(NOTEBOOKS.glob("*.ipynb")) == NUMBERED
    assert [file.stem[:3] for file in NUMBERED] == [
        f"{i:02d}_" for i in range(1, len(NUMBERED) + 1)
    ]


def test_it_opens_with_its_title_and_its_question(notebook, file):
    lines = notebook.cells[0].source.splitlines()
    number = re.match(r"\d\d_", file.stem)
    assert re.match(rf"# {number[0][:2]} · \w" if number else r"# \w", lines[0])
    assert re.match(r"\*\*.+\?\*\*", lines[2])
    assert (
        sum(source.count("\n# ") + source.startswith("# ") for source in markdown_cells(notebook))
        == 1
    )


def test_its_overview_lists_its_sections(notebook):
    opening, _, rest = "\n".join(markdown_cells(notebook)).partition("\n## ")
    overview = re.findall(r"^(\d+\. .+)$", opening, flags=re.MULTILINE)
    assert overview == re.findall(r"^## (\d+\. .+)$", f"## {rest}", flags=re.MULTILINE)
    assert overview


def test_it_ends_with_results_limitations_and_what_comes_next(notebook):
    cells = ending(notebook)
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    displayed = "\n".join(
        output.get("data", {}).get("text/markdown", "") for output in outputs(cells)
    )
    results = prose.partition("Limitations")[0]
    bullets = re.findall(r"^- .+(?:\n(?!- ).+)*", f"{results}\n{displayed}", flags=re.MULTILINE)
    assert len(bullets) == BULLETS_IN_RESULTS
    for bullet in bullets:
        assert re.search(r"\d", bullet), f"no number in: {bullet}"
    limitations = re.search(r"Limitations[.:]?\**\s*\n+- ", prose)
    assert limitations, "expected Limitations as bullets"
    assert re.search(r"\*\*Next[.:]?\*\*", prose)


def test_it_has_one_parameters_cell_with_one_literal(notebook, file):
    tagged = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    expected = f'STUDY = "{file.stem}"' if file in STUDIES else 'CONFIG = "configs/demo.yaml"'
    assert [cell.source for cell in tagged] == [expected]


def test_it_is_short(notebook, file):
    assert len(notebook.cells) <= MAX_CELLS
    assert sum(len(source.split()) for source in markdown_cells(notebook)) <= MAX_WORDS
    assert file.stat().st_size < MAX_BYTES
    for source in markdown_cells(notebook):
        for paragraph in re.split(r"\n\s*\n", source):
            assert len(paragraph.split()) <= MAX_WORDS_IN_A_PARAGRAPH, paragraph


def test_its_code_cells_are_short_and_parse(notebook):
    sizes = [len(lines(cell)) for cell in code_cells(notebook)]
    assert min(sizes) > 0, "an empty cell"
    assert statistics.median(sizes) <= MAX_MEDIAN_LINES_OF_A_CODE_CELL
    for cell in code_cells(notebook):
        ast.parse(cell.source)
        assert len(lines(cell)) <= MAX_LINES_OF_A_CODE_CELL, cell.source


def test_it_imports_what_it_may(notebook, file):
    """Numbered notebooks use lib; side experiments may use the code that measured them."""
    ours = {
        name.split(".")[0]
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse(cell.source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if (paths.ROOT / name.split(".")[0]).is_dir()
    }
    assert ours <= ({"lib", "studies"} if file in STUDIES else {"lib"})


def test_it_was_executed_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_its_outputs_hold_no_error_no_warning_and_no_path_of_a_machine(notebook):
    for output in outputs(code_cells(notebook)):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
        text = str({k: v for k, v in output.get("data", {}).items() if k not in IMAGES})
        text += output.get("text", "")
        assert "WARNING" not in text
        assert not LEFT_BEHIND.search(output.get("text", "")), "missing in a clone without runs/"
        assert " at 0x" not in text, "an address: another one in each execution"
        assert not re.search(r"/(home|root|Users|tmp|work)/|C:\\", text), text
        assert output.get("text", "").count("\n") <= MAX_LINES_OF_PRINTED_OUTPUT


def test_every_figure_has_an_alternative_text_and_a_caption(notebook):
    shown = outputs(code_cells(notebook))
    for output, following in pairwise([*shown, None]):
        for kind in set(IMAGES) & set(output.get("data", {})):
            assert len(output.metadata[kind]["alt"]) > 20
            assert following.data["text/markdown"].startswith("**Figure ")


def test_it_has_a_figure_for_the_index_page(notebook):
    tagged = [c for c in code_cells(notebook) if "headline" in c.metadata.get("tags", [])]
    assert len(tagged) == 1


def test_its_metadata_is_free_of_one_execution(notebook):
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}


def test_its_links_lead_somewhere(notebook, file):
    sources = [
        *markdown_cells(notebook),
        *(o.get("data", {}).get("text/markdown", "") for o in outputs(code_cells(notebook))),
    ]
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(sources)):
        assert re.match(r"https?://", target) or (file.parent / target).exists(), target
