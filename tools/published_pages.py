"""The pages of a published run, without any photograph: notebooks 05 to 07, an index, a README."""

import base64
import io
from pathlib import Path

from nbformat import NotebookNode
from PIL import Image

from lib import paths
from lib.config import Config
from tools import index_page, render, result_tables
from tools.notebook_files import read_notebook, write_notebook

#: A cell with this tag shows a diagram and no photograph; pictures of other cells are left out.
TAG = "no-photographs"
OMITTED = "*Not published: this figure shows photographs. `make reproduce` draws it.*"
LARGEST = 3  # megabytes, all pages of a run together


def write_pages(config: Config, results: dict, folder: Path) -> None:
    """Write the pages of a finished run into the folder that holds what is published of it.

    Parameters
    ----------
    results : dict
        Its `metrics.json`, which lies in the folder.

    Raises
    ------
    ValueError
        The pages would be larger than `LARGEST` megabytes.
    """
    pages = [folder / f"{name}.html" for name in render.PUBLISHED]
    for page in pages:
        executed = paths.run_folder(config.name) / "notebooks" / f"{page.stem}.ipynb"
        copy = page.with_suffix(".ipynb")
        write_notebook(without_photographs(read_notebook(executed)), copy)
        render.render(copy, page, config)
        copy.unlink()
    index_page.index(config, folder / "index.html", folder / "metrics.json", pages)
    figures = sorted(file.name for file in folder.glob("*.png"))
    text = result_tables.published_readme(results, [page.name for page in pages], figures)
    paths.write_text(folder / "README.md", text)
    size = sum(page.stat().st_size for page in folder.glob("*.html"))
    if size > LARGEST * 10**6:
        raise ValueError(f"the pages take {size:,} bytes together; expected at most {LARGEST} MB")


def smaller(png: bytes) -> bytes:
    """Return a diagram with the 256 colours that suit it best, compressed as far as PNG allows."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def without_photographs(notebook: NotebookNode) -> NotebookNode:
    """Replace the pictures of every cell that is not tagged as free of photographs by a note.

    A JPEG is always replaced: `figures.show` makes one of every figure with images of the data.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kinds = [kind for kind in data if kind.startswith("image/")]
            is_diagram = kinds == ["image/png"] and TAG in cell.metadata.get("tags", [])
            if is_diagram:
                png = smaller(base64.b64decode(data["image/png"]))
                data["image/png"] = base64.b64encode(png).decode()
            elif kinds:
                output["data"] = {"text/markdown": OMITTED, "text/plain": OMITTED}
                output["metadata"] = {}
        if "attachments" in cell:
            del cell["attachments"]
    return notebook
