"""The notebooks as they are committed: their form, and that nothing of this machine is in them."""

import ast
import re

import nbformat
import pytest

from lib import paths

FILES = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_there_are_six_numbered_ones():
    assert [file.stem[:3] for file in FILES] == [f"{i:02d}_" for i in range(1, 7)]


def test_it_opens_with_its_name_its_question_and_an_overview_of_its_sections(notebook):
    first = notebook.cells[0].source
    lines = first.splitlines()
    assert re.match(r"# \d\d · \w", lines[0])
    assert re.match(r"\*\*.+\?\*\*$", lines[2])
    overview = re.findall(r"^(\d+\. .+)$", first, flags=re.MULTILINE)
    sections = re.findall(r"^## (\d+\. .+)$", prose(notebook), flags=re.MULTILINE)
    assert overview == sections


def test_it_ends_with_results_limitations_and_files(notebook):
    last = notebook.cells[-1].source
    assert re.search(r"^## \d+\. Results$", last, flags=re.MULTILINE)
    assert len(re.findall(r"^- ", last, flags=re.MULTILINE)) == 3
    assert "**Limitations.**" in last
    assert "**Files written.**" in last


def test_it_has_one_parameters_cell_with_one_literal(notebook):
    tagged = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert [cell.source for cell in tagged] == ['CONFIG = "configs/demo.yaml"']


def test_its_cells_are_short_and_parse(notebook):
    for cell in code_cells(notebook):
        ast.parse(cell.source)
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 20, cell.source


def test_it_was_executed_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_its_outputs_hold_no_error_no_warning_and_no_path_of_a_machine(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
            text = str({k: v for k, v in output.get("data", {}).items() if k != "image/png"})
            text += output.get("text", "")
            assert "WARNING" not in text
            assert " at 0x" not in text, "an address: another one in each execution"
            assert not re.search(r"/(home|root|Users|tmp)/|C:\\", text), text


def test_every_figure_has_an_alternative_text_and_a_caption(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    for output, following in zip(outputs, [*outputs[1:], None], strict=True):
        if "image/png" in output.get("data", {}):
            assert len(output.metadata["image/png"]["alt"]) > 20
            assert following.data["text/markdown"].startswith("**Figure ")


def test_it_has_a_figure_that_stands_for_it(notebook):
    tagged = [c for c in code_cells(notebook) if "headline" in c.metadata.get("tags", [])]
    assert len(tagged) == 1


def test_its_metadata_is_free_of_one_execution(notebook):
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}


def test_its_links_lead_somewhere(notebook):
    for target in re.findall(r"\]\(([^)#]+)\)", prose(notebook)):
        assert (paths.ROOT / "notebooks" / target).exists(), target


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_small_enough_to_browse(file):
    assert file.stat().st_size < 1_500_000
