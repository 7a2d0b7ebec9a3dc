"""Render an executed notebook as one HTML page for reviewers that needs no network."""

import html
import json
import os
import re
from pathlib import Path

from nbconvert import HTMLExporter
from nbformat import NotebookNode

from lib import paths
from lib.config import Config, load_config
from tools.narrow_tables import label_cells
from tools.notebook_files import read_notebook

TEMPLATES = Path(__file__).parent / "templates"
BANNER = "Synthetic images: a demonstration of the method, not medical evidence."
FOOTER = "Research software, not a medical device."
#: The notebooks whose reports are published, in reports/<run>/published.
PUBLISHED = ("05_evaluation", "06_heatmaps", "07_reliability")
#: How notebooks begin that have a target of their own, so that a run may lack them.
SEPARATE = ("08_", "09_")
#: An element that makes the browser load something, unless it carries the data itself.
LOADS = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*?"
    r"\s(?:src|href)\s*=\s*[\"']?(?!data:)([^\"'\s>]+)",
    re.IGNORECASE,
)


def render(executed: Path, output: Path, config: str | Config | None = None) -> None:
    """Render an executed notebook as one HTML file.

    Parameters
    ----------
    config : str or Config, optional
        The run that the notebook belongs to; without it the notebook is a side experiment of
        `notebooks/studies`.

    Raises
    ------
    ValueError
        The page would load an image or a script from elsewhere.
    """
    executed, output = Path(executed), Path(output)
    notebook = read_notebook(executed)
    heading = _heading(notebook)
    source_folder = paths.ROOT / "notebooks" / ("studies" if config is None else "")
    resources = {
        "metadata": {"name": executed.stem, "path": str(source_folder)},
        "report": {
            "footer": FOOTER,
            "heading": heading or executed.stem,
            "has_heading": heading is not None,
            **(_describe_study(executed.stem) if config is None else _describe_run(config)),
            **_neighbours(source_folder, executed.stem, config, _is_published(output.parent)),
        },
    }
    exporter = HTMLExporter(
        template_name="report", extra_template_basedirs=[str(TEMPLATES)], embed_images=True
    )
    exporter.register_filter(
        "prose", lambda text: _adapt_prose(text, source_folder, output.parent.resolve())
    )
    page, _ = exporter.from_notebook_node(notebook, resources=resources)
    page = label_cells(_add_contents(page))
    loaded = LOADS.search(page)
    if loaded:
        raise ValueError(
            f"{executed}: the report would load {loaded[1]!r}; expected an image or script that "
            "the notebook holds itself (an output or an attachment)"
        )
    paths.write_text(output, page)


def _describe_run(config: str | Config) -> dict:
    run = config if isinstance(config, Config) else load_config(config)
    return {
        "kind": f"Run {run.name}",
        "title": run.title,
        "banner": BANNER if run.data.synthetic else None,
        "split": _split_digest(run.name),
    }


def _describe_study(stem: str) -> dict:
    return {"kind": "Side experiment", "title": stem.replace("_", " ")}


def _heading(notebook: NotebookNode) -> str | None:
    """Return the text of the first H1."""
    for cell in notebook.cells:
        match = re.search(r"^#\s+(.+?)\s*$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and match:
            return re.sub(r"[*`]", "", match[1])
    return None


def _split_digest(run: str) -> str | None:
    """Return the SHA-256 of the run's split, which notebook 01 writes; None before it ran."""
    note = paths.run_folder(run) / "index.json"
    return json.loads(note.read_text(encoding="utf-8"))["split_sha256"] if note.is_file() else None


def _is_published(folder: Path) -> bool:
    """Return whether a folder, or the partial copy of it, holds the reports of a published run."""
    return folder.name in ("published", paths.temporary(Path("published")).name)


def _neighbours(folder: Path, stem: str, config: str | Config | None, is_published: bool) -> dict:
    """Return the notebooks to link to: the ones before and after, or other studies."""
    pattern = "*.ipynb" if config is None else "[0-9]*.ipynb"
    stems = sorted(file.stem for file in folder.glob(pattern))
    stems = [name for name in stems if name == stem or not name.startswith(SEPARATE)]
    if is_published:
        stems = list(PUBLISHED)
    if config is None:
        return {"studies": [name for name in stems if name != stem]}
    if stem not in stems:
        return {"previous": None, "next": None}
    position, padded = stems.index(stem), [None, *stems, None]
    return {"previous": padded[position], "next": padded[position + 2]}


def _adapt_prose(text: str, source_folder: Path, folder: Path) -> str:
    """Adapt rendered Markdown to a page in `folder`: links, headings, wide tables."""

    def relink(match):
        target, _, anchor = html.unescape(match[1]).partition("#")
        target = _page_of(source_folder / target, folder) + (f"#{anchor}" if anchor else "")
        return f'href="{html.escape(target)}"'

    text = re.sub(r'href="(?!#|/|[a-z][a-z0-9+.-]*:)([^"]+)"', relink, text)
    text = re.sub(r'<a class="anchor-link".*?</a>', "", text)
    scroll = '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>'
    return text.replace("<table>", scroll).replace("</table>", "</table></div>")


def _page_of(target: Path, folder: Path) -> str:
    """Return the link from a report in `folder` to a file of the repository, or to its report.

    Reports of one run are in one folder, those of the side experiments in `studies` beside it. A
    side experiment belongs to no run: it links to the demonstration's reports where they exist.
    Published reports link to each other, and to the notebooks themselves.
    """
    notebooks, target = paths.ROOT / "notebooks", Path(os.path.normpath(target))
    is_study, page = folder.name == "studies", f"{target.stem}.html"
    if _is_published(folder):
        is_page = target.parent == notebooks and target.stem in PUBLISHED
        return page if is_page else Path(os.path.relpath(target, folder)).as_posix()
    if target.suffix == ".ipynb" and target.parent == notebooks / "studies":
        return page if is_study else f"../studies/{page}"
    if target.suffix == ".ipynb" and target.parent == notebooks:
        if not is_study:
            return page
        if (folder.parent / "demo" / page).is_file():
            return f"../demo/{page}"
    return Path(os.path.relpath(target, folder)).as_posix()


def _add_contents(page: str) -> str:
    """List the `##` headings where the template has a mark for them."""
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', page, re.DOTALL)
    items = "".join(f'<li><a href="#{anchor}">{text}</a></li>' for anchor, text in headings)
    return page.replace("<!-- contents -->", f"<ol>{items}</ol>" if items else "", 1)
