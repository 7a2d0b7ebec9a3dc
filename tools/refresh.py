"""Copy the outputs of an executed notebook into the committed one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from lib import paths
from tools.notebook_files import first_line, read_notebook, source_cells, write_notebook

#: Metadata in which papermill, JupyterLab and their extensions record one execution.
EXECUTION_METADATA = ("papermill", "execution", "ExecuteTime", "executionInfo")
#: Lines about what an earlier attempt left in runs/, which another machine does not have.
LEFT_BEHIND = re.compile(r"^.*(damaged, so|is from another training|was cut short).*\n", re.M)
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


def refresh(source: Path, executed: Path) -> None:
    """Copy the outputs of an executed copy into the committed notebook.

    Whatever differs from one execution to the next without a change in content (timings, paths,
    execution metadata, counts, what an earlier attempt left) is left out, so that a second refresh
    changes nothing.

    Raises
    ------
    ValueError
        The notebooks differ in a cell; or a cell was not executed, ends in an error, writes to
        stderr, or shows an absolute path of this machine. The message names the cell.
    """
    notebook, copy = read_notebook(Path(source)), read_notebook(Path(executed))
    cells = source_cells(copy)
    if len(cells) != len(notebook.cells):
        raise ValueError(
            f"{executed}: {len(cells)} cells; expected {len(notebook.cells)}, as in {source}"
        )
    count = 0
    for number, (cell, ran) in enumerate(zip(notebook.cells, cells, strict=True), start=1):
        fault = _fault(cell, ran)
        if fault:
            raise ValueError(f"{executed}: cell {number} (`{first_line(ran)}`) {fault}")
        for key in EXECUTION_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            empty = not cell.source.strip()
            count += not empty
            cell.execution_count = None if empty else count
            cell.outputs = _without_attempts(ran.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    write_notebook(notebook, Path(source))


def _fault(cell: NotebookNode, ran: NotebookNode) -> str | None:
    """Return why the outputs of `ran` cannot be committed with `cell`; None if they can."""
    if (cell.cell_type, cell.source) != (ran.cell_type, ran.source):
        return "differs from the source: execute the notebook again"
    if cell.cell_type != "code":
        return None
    if cell.source.strip() and ran.execution_count is None:
        return "was not executed"
    for output in ran.outputs:
        if output.output_type == "error":
            return f"ends in an error: {output.ename}: {output.evalue}"
        if output.get("name") == "stderr":
            return f"writes to stderr: {first_line(output, 'text')}"
        for text in _texts(output):
            for folder in (str(paths.ROOT), str(Path.home())):
                if len(folder) > 1 and folder in text:
                    return f"shows an absolute path of this machine: {folder}"
    return None


def _without_attempts(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs without the lines of `LEFT_BEHIND`."""
    for output in outputs:
        if output.output_type == "stream":
            output.text = LEFT_BEHIND.sub("", output.text)
    return [output for output in outputs if output.get("text") != ""]


def _texts(output: NotebookNode) -> Iterator[str]:
    """Yield the parts of an output that a reader can read."""
    yield output.get("text", "")
    for kind, content in output.get("data", {}).items():
        if kind not in ("image/png", "image/jpeg"):
            yield content if isinstance(content, str) else json.dumps(content)
