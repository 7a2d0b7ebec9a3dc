"""The pages of a published run show diagrams, and no photograph ever."""

import base64
import io
import json

import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from PIL import Image

from lib import paths
from tools import published_pages, render

PUBLISHED = sorted((paths.ROOT / "reports").glob("*/published/index.html"))


def picture():
    """Return a picture in a PNG file that is larger than it needs to be."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 9, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def cell(kind, *tags):
    data = {kind: base64.b64encode(picture()).decode(), "text/plain": "Figure"}
    metadata = {kind: {"alt": "a lesion"}}
    output = v4.new_output("display_data", data, metadata=metadata)
    return v4.new_code_cell("1", outputs=[output], metadata={"tags": list(tags)})


@pytest.mark.parametrize(
    ("kind", "tags", "stays"),
    [
        ("image/png", [published_pages.TAG], True),
        ("image/png", [], False),
        ("image/png", ["headline"], False),
        ("image/jpeg", [published_pages.TAG], False),
        ("image/svg+xml", [published_pages.TAG], False),
    ],
)
def test_only_diagrams_of_tagged_cells_stay(kind, tags, stays):
    notebook = v4.new_notebook(cells=[cell(kind, *tags)])
    (output,) = published_pages.without_photographs(notebook).cells[0].outputs
    assert (kind in output["data"]) == stays
    assert (output["data"].get("text/markdown") == published_pages.OMITTED) != stays
    assert ("a lesion" in str(output["metadata"])) == stays


def test_a_published_diagram_has_fewer_bytes_and_the_same_colours_if_they_are_few():
    grey = np.random.default_rng(0).integers(0, 256, (80, 120), dtype=np.uint8)
    pixels, buffer = np.stack([grey, grey, 255 - grey], axis=2), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    small = published_pages.smaller(buffer.getvalue())
    assert len(small) < len(buffer.getvalue())
    after = np.array(Image.open(io.BytesIO(small)).convert("RGB"))
    assert abs(after.astype(int) - pixels).max() <= 2


def test_text_stays_and_attachments_go():
    text = v4.new_output("stream", text="0.86")
    prose = v4.new_markdown_cell("text", attachments={"a.png": {"image/png": "x"}})
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1", outputs=[text]), prose])
    first, second = published_pages.without_photographs(notebook).cells
    assert first.outputs == [text]
    assert "attachments" not in second


def test_the_demonstration_has_its_pages():
    assert "demo" in [file.parent.parent.name for file in PUBLISHED]


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_the_page_of_the_evaluation_has_the_spread_that_was_measured(file):
    measured = json.loads(file.with_name("metrics.json").read_text(encoding="utf-8"))["variance"]
    page = file.with_name("05_evaluation.html").read_text(encoding="utf-8")
    assert bool(measured) != ("The spread over seeds has not been measured" in page)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_every_picture_of_a_published_page_is_a_published_diagram(file):
    folder, size = file.parent, 0
    diagrams = {base64.b64encode(png.read_bytes()).decode() for png in folder.glob("*.png")}
    names = {f"{name}.html" for name in render.PUBLISHED} | {"index.html"}
    assert {page.name for page in folder.glob("*.html")} == names
    for page in folder.glob("*.html"):
        size += page.stat().st_size
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        assert soup.h1
        for image in soup.find_all("img"):
            kind, _, data = image["src"].partition(";base64,")
            assert kind == "data:image/png" and "".join(data.split()) in diagrams
        for name in ("svg", "canvas", "picture", "object", "embed"):
            assert not [tag for tag in soup.find_all(name) if tag.find("image")], name
    assert size < 10**6 * published_pages.LARGEST


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_links_of_published_pages_lead_to_files_of_the_repository(file):
    for page in file.parent.glob("*.html"):
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        for link in soup.select("a[href]"):
            target = link["href"].partition("#")[0]
            if target and ":" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.parent.name)
def test_the_readme_shows_every_diagram(file):
    text = (file.parent / "README.md").read_text(encoding="utf-8")
    for png in file.parent.glob("*.png"):
        assert f"]({png.name})" in text
