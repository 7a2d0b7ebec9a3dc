"""Read and write notebook files."""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lib import paths

#: Tags of the cells that papermill adds to its copy of a notebook.
ADDED_TAGS = {"injected-parameters", "papermill-error-cell-tag"}


def read_notebook(file: Path) -> NotebookNode:
    """Read a notebook; the message of an error names the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not found; expected a Jupyter notebook")
    try:
        return nbformat.read(file, as_version=4)
    except nbformat.reader.NotJSONError as error:
        raise ValueError(f"{file}: not JSON ({error}); expected a Jupyter notebook") from error


def write_notebook(notebook: NotebookNode, target: Path) -> None:
    """Write a notebook, complete or not at all."""
    paths.write_text(target, nbformat.writes(notebook).rstrip("\n") + "\n")


def source_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells of an executed copy that its source has too."""
    return [cell for cell in notebook.cells if not ADDED_TAGS & set(cell.metadata.get("tags", []))]


def first_line(node: NotebookNode, key: str = "source") -> str:
    """Return the first line of a cell's source, or of an output's text."""
    return node[key].strip().partition("\n")[0]
