"""Execute notebooks, render them as reports for reviewers, and refresh the committed copies.

`python -m tools.reports --help` lists the commands; each is one function here.
"""

import argparse
import html
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2
import nbformat
import papermill
import yaml
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from lib import paths
from lib.config import load_config

PARAMETER = "CONFIG"
BANNER = "Synthetic images: a demonstration of the method, not medical evidence."
FOOTER = "Research software, not a medical device."
TEMPLATES = Path(__file__).parent / "templates"
#: what papermill, JupyterLab and their extensions note down about one execution
EXECUTION_METADATA = ("papermill", "execution", "ExecuteTime", "executionInfo")
#: cells papermill adds to its copy
ADDED_TAGS = {"injected-parameters", "papermill-error-cell-tag"}
LABELS = {
    "accuracy": "Accuracy (training prior)",
    "balanced_accuracy": "Balanced accuracy (equal priors)",
    "macro_auc": "Macro AUC",
    "images": "Images",
    "lesions": "Lesions",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "auc": "AUC",
}
#: how each rule of `metrics.RULES` decides
RULES = {
    "training_prior": "Most probable class, priors as in training",
    "equal_priors": "Most probable class, priors made equal",
}
#: an element that makes the browser load something, unless it carries the data itself
LOADS = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*?"
    r"\s(?:src|href)\s*=\s*[\"']?(?!data:)([^\"'\s>]+)",
    re.IGNORECASE,
)


class NotebookFailed(RuntimeError):
    """A notebook did not run to its end."""


class _Stopped(KeyboardInterrupt):
    """Raised by a signal; as a KeyboardInterrupt no event loop swallows it."""


def execute(source: Path, config: str, output: Path, timeout: float | None = None) -> None:
    """Execute a notebook from top to bottom with `CONFIG` set to `config`.

    The kernel is this environment's Python and works in the notebook's own folder, as in
    JupyterLab. `output` exists only after a complete success; a failure removes an older one and
    keeps the partly executed copy as `<stem>.failed.ipynb`. Call it from the main thread.

    Parameters
    ----------
    config : str
        Handed to the notebook as it is; relative to the repository.
    timeout : float, optional
        Limit for the whole notebook, in seconds; none when absent or 0.

    Raises
    ------
    NotebookFailed
        A cell failed, the kernel died, the time is over, or SIGINT or SIGTERM came; the kernel
        is shut down. The message names the cell, the reason and the partly executed copy.
    ValueError
        The notebook has no parameter `CONFIG`.
    """
    source, output = Path(source), Path(output)
    notebook = _read_notebook(source)
    output.unlink(missing_ok=True)
    _require_parameter(source)
    partial, failed = paths.temporary(output), output.with_name(f"{output.stem}.failed.ipynb")
    started = time.time()
    _write_notebook(notebook, partial)
    try:
        with _stoppable(timeout):
            papermill.execute_notebook(
                str(source.resolve()),
                str(partial.resolve()),
                parameters={PARAMETER: config},
                kernel_name="python3",
                language="python",
                progress_bar=sys.stderr.isatty(),
                cwd=source.resolve().parent,
                # the kernel's own log, which goes to the terminal; what cells print is not in it
                extra_arguments=["--log-level=CRITICAL"],
            )
        _finish(partial, source, output)
    except (Exception, _Stopped) as error:
        os.replace(partial, failed)
        raise NotebookFailed(
            f"{source} failed {_last_started(failed)}\n{_reason(error)}\n"
            f"partly executed copy: {failed}"
        ) from error
    os.replace(partial, output)
    failed.unlink(missing_ok=True)
    inputs = [source, paths.resolve(config), *(paths.ROOT / "lib").rglob("*.py")]
    if any(file.is_file() and file.stat().st_mtime > started for file in inputs):
        os.utime(output, (started, started))  # edited meanwhile, so make must run it again


def render(executed: Path, config: str, output: Path) -> None:
    """Render an executed notebook as one HTML file that needs no network.

    Raises
    ------
    ValueError
        The page would load something: an image or a script that lies elsewhere.
    """
    executed, output = Path(executed), Path(output)
    notebook, run = _read_notebook(executed), load_config(config)
    heading = _heading(notebook)
    resources = {
        "metadata": {"name": executed.stem, "path": str(paths.ROOT / "notebooks")},
        "report": {
            "run": run.name,
            "title": run.title,
            "banner": BANNER if run.data.synthetic else None,
            "footer": FOOTER,
            "heading": heading or executed.stem,
            "has_heading": heading is not None,
            "split": _split_digest(run.name),
            **_neighbours(executed.stem),
        },
    }
    exporter = HTMLExporter(
        template_name="report", extra_template_basedirs=[str(TEMPLATES)], embed_images=True
    )
    exporter.register_filter("prose", lambda text: _prose(text, output.parent))
    page, _ = exporter.from_notebook_node(notebook, resources=resources)
    page = _add_contents(page)
    loaded = LOADS.search(page)
    if loaded:
        raise ValueError(
            f"{executed}: the report would load {loaded[1]!r}; expected an image or script that "
            "the notebook holds itself (an output or an attachment)"
        )
    _write(output, page)


def index(config: str, output: Path, metrics: Path, reports: Iterable[Path]) -> None:
    """Write the page reviewers open first, and copy `metrics` beside it.

    Parameters
    ----------
    metrics : Path
        metrics.json of the run, as notebook 05 writes it.
    reports : iterable of Path
        Rendered notebooks, in reading order.

    Raises
    ------
    ValueError
        `metrics` is not JSON, lacks a key, or belongs to another run.
    """
    output, metrics, run = Path(output), Path(metrics), load_config(config)
    values = _read_metrics(metrics, run.name)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("index.html.j2").render(
        config=run,
        banner=BANNER if run.data.synthetic else None,
        footer=FOOTER,
        classes=[f"{run.names[name]} ({name})" for name in run.classes],
        metrics=values,
        metrics_name=metrics.name,
        labels=LABELS,
        rules=RULES,
        scores=_score_names(values["models"]),
        cards=[_card(Path(report), output.parent) for report in reports],
        provenance=_provenance(values),
        configuration=_configuration(values),
    )
    _write(output, page)
    copy = output.with_name(metrics.name)
    if copy.resolve() != metrics.resolve():
        _write(copy, metrics.read_text(encoding="utf-8"))


def refresh(source: Path, executed: Path) -> None:
    """Put the outputs of an executed copy into the committed notebook.

    What differs from one execution to the next for no reason of content (timings, paths,
    execution metadata, counts) is left out, so that a second refresh changes nothing.

    Raises
    ------
    ValueError
        The two differ in a cell; or a cell was not executed, ends in an error, writes to stderr,
        or shows an absolute path of this machine. The message names the cell.
    """
    notebook, copy = _read_notebook(Path(source)), _read_notebook(Path(executed))
    cells = _own_cells(copy)
    if len(cells) != len(notebook.cells):
        raise ValueError(
            f"{executed}: {len(cells)} cells; expected {len(notebook.cells)}, as in {source}"
        )
    count = 0
    for number, (cell, ran) in enumerate(zip(notebook.cells, cells, strict=True), start=1):
        fault = _fault(cell, ran)
        if fault:
            raise ValueError(f"{executed}: cell {number} (`{_first_line(ran)}`) {fault}")
        for key in EXECUTION_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            empty = not cell.source.strip()
            count += not empty
            cell.execution_count = None if empty else count
            cell.outputs = ran.outputs
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    _write_notebook(notebook, Path(source))


# execute


def _require_parameter(source: Path) -> None:
    known = list(papermill.inspect_notebook(str(source)))
    if PARAMETER not in known:
        raise ValueError(
            f"{source}: found {', '.join(known) or 'nothing'} in a cell tagged 'parameters'; "
            f"expected an assignment to {PARAMETER}"
        )


@contextmanager
def _stoppable(timeout: float | None) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and the end of the time into an exception, once."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

    def stop(number, _frame):
        # From here on the kernel is being shut down, which a second signal must not cut short.
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        name = signal.Signals(number).name
        limit = f"over the time limit of {timeout or 0:g} s"
        raise _Stopped(f"stopped: {limit if number == signal.SIGALRM else name}")

    before = {each: signal.signal(each, stop) for each in signals}
    signal.setitimer(signal.ITIMER_REAL, timeout or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in before.items():
            signal.signal(each, handler)


def _finish(partial: Path, source: Path, output: Path) -> None:
    """Check and tidy the executed copy before it takes its name."""
    notebook = _read_notebook(partial)
    for cell in notebook.cells:
        for found in cell.get("outputs", []):
            if found.output_type == "error":  # papermill lets exit() pass for success
                raise NotebookFailed(f"{found.ename}: {found.evalue}: the rest was not executed")
    notebook.metadata.papermill.update(
        input_path=paths.relative(source.resolve()), output_path=paths.relative(output.resolve())
    )
    _write_notebook(notebook, partial)


def _last_started(failed: Path) -> str:
    """Say at which cell of the source a partly executed copy stopped."""
    cells = _own_cells(_read_notebook(failed))
    for number in range(len(cells), 0, -1):
        if cells[number - 1].metadata.get("papermill", {}).get("start_time"):
            return f"in cell {number} of {len(cells)} (`{_first_line(cells[number - 1])}`)"
    return "before its first cell"


def _reason(error: BaseException) -> str:
    if isinstance(error, papermill.PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    if isinstance(error, NotebookFailed | _Stopped):
        return str(error)
    return f"{type(error).__name__}: {error}"


# render


def _heading(notebook: NotebookNode) -> str | None:
    """Return the text of the first H1."""
    for cell in notebook.cells:
        found = re.search(r"^#\s+(.+?)\s*$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and found:
            return re.sub(r"[*`]", "", found[1])
    return None


def _split_digest(run: str) -> str | None:
    """Return the SHA-256 of the run's split, which notebook 01 notes down; None before it ran."""
    note = paths.run_folder(run) / "index.json"
    return json.loads(note.read_text(encoding="utf-8"))["split_sha256"] if note.is_file() else None


def _neighbours(stem: str) -> dict[str, str | None]:
    """Return the stems of the notebooks before and after, in the order of their numbers."""
    stems = sorted(file.stem for file in (paths.ROOT / "notebooks").glob("[0-9]*.ipynb"))
    if stem not in stems:
        return {"previous": None, "next": None}
    around = [None, *stems, None]
    place = stems.index(stem)
    return {"previous": around[place], "next": around[place + 2]}


def _prose(text: str, folder: Path) -> str:
    """Adapt rendered Markdown to a page in `folder`: links, headings, wide tables."""

    def relink(match):
        target = html.unescape(match[1])
        if "/" not in target and re.search(r"\.ipynb(#|$)", target):
            return f'href="{html.escape(target.replace(".ipynb", ".html"))}"'
        moved = os.path.relpath(paths.ROOT / "notebooks" / target, folder.resolve())
        return f'href="{html.escape(Path(moved).as_posix())}"'

    text = re.sub(r'href="(?!#|/|[a-z][a-z0-9+.-]*:)([^"]+)"', relink, text)
    text = re.sub(r'<a class="anchor-link".*?</a>', "", text)
    scroll = '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>'
    return text.replace("<table>", scroll).replace("</table>", "</table></div>")


def _add_contents(page: str) -> str:
    """List the `##` headings in the place the template keeps for them."""
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', page, re.DOTALL)
    items = "".join(f'<li><a href="#{anchor}">{text}</a></li>' for anchor, text in headings)
    return page.replace("<!-- contents -->", f"<ol>{items}</ol>" if items else "", 1)


# index


def _read_metrics(file: Path, run: str) -> dict:
    wanted = {"run": str, "classes": list, "images": dict, "lesions": dict, "models": dict}
    expected = f"expected the JSON object that notebook 05 writes, with {', '.join(wanted)}"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read: {error}; {expected}") from error
    values = values if isinstance(values, dict) else {}
    wrong = [key for key, kind in wanted.items() if not isinstance(values.get(key), kind)]
    if wrong:
        raise ValueError(f"{file}: missing or of another type: {', '.join(wrong)}; {expected}")
    if values["run"] != run:
        raise ValueError(f"{file}: found run {values['run']!r}; expected {run!r}")
    return values


def _score_names(models: dict) -> list[str]:
    """Return the models' scores, the known ones first."""
    found = {
        name
        for model in models.values()
        for name, entry in model.items()
        if isinstance(entry, dict) and "value" in entry
    }
    return [name for name in LABELS if name in found] + sorted(found - set(LABELS))


def _card(report: Path, folder: Path) -> dict[str, str | None]:
    """Take a report's heading, question and most telling figure from its page."""
    page = BeautifulSoup(report.read_text(encoding="utf-8"), "html.parser")
    if page.h1 is None:
        raise ValueError(
            f"{report}: no <h1>; expected a page made by `python -m tools.reports render`"
        )
    question = page.h1.find_next("p")
    image = page.select_one(".headline img") or page.select_one("main img") or {}
    return {
        "link": Path(os.path.relpath(report, folder)).as_posix(),
        "heading": page.h1.get_text().strip(),
        "question": question.get_text().strip() if question else None,
        "image": image.get("src"),
        "alt": image.get("alt", ""),
    }


def _provenance(metrics: dict) -> list[tuple[str, str]]:
    """Flatten what metrics.json says about where its values come from."""
    rows = [
        ("Split (SHA-256)", metrics.get("split_sha256")),
        ("Intervals", metrics.get("interval")),
    ]
    for name, value in (metrics.get("manifest") or {}).items():
        if name == "configuration":
            continue  # shown by itself
        if isinstance(value, dict):
            rows += [(f"{name}: {part}", inner) for part, inner in value.items()]
        else:
            rows.append((name, value))
    return [(name, "–" if value is None else str(value)) for name, value in rows]


def _configuration(metrics: dict) -> str | None:
    """Return the run's choices as YAML."""
    values = (metrics.get("manifest") or {}).get("configuration")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else None


# refresh


def _fault(cell: NotebookNode, ran: NotebookNode) -> str | None:
    """Say why the outputs of `ran` cannot be committed with `cell`."""
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
            return f"writes to stderr: {_first_line(output, 'text')}"
        for text in _texts(output):
            for folder in (str(paths.ROOT), str(Path.home())):
                if len(folder) > 1 and folder in text:
                    return f"shows an absolute path of this machine: {folder}"
    return None


def _texts(output: NotebookNode) -> Iterator[str]:
    """Yield what a reader could read in an output."""
    yield output.get("text", "")
    for kind, content in output.get("data", {}).items():
        if kind not in ("image/png", "image/jpeg"):
            yield content if isinstance(content, str) else json.dumps(content)


# files


def _own_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells of an executed copy that its source has too."""
    return [cell for cell in notebook.cells if not ADDED_TAGS & set(cell.metadata.get("tags", []))]


def _first_line(node: NotebookNode, key: str = "source") -> str:
    return node[key].strip().partition("\n")[0]


def _read_notebook(file: Path) -> NotebookNode:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not found; expected a Jupyter notebook")
    try:
        return nbformat.read(file, as_version=4)
    except nbformat.reader.NotJSONError as error:
        raise ValueError(f"{file}: not JSON ({error}); expected a Jupyter notebook") from error


def _write_notebook(notebook: NotebookNode, target: Path) -> None:
    _write(target, nbformat.writes(notebook).rstrip("\n") + "\n")


def _write(target: Path, text: str) -> None:
    """Write to a temporary file and rename it, so that no reader sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = paths.temporary(target)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, target)


# command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("--config", required=True, help="the run, such as configs/demo.yaml")
    run.add_argument("--output", type=Path, required=True, help="the file to write")

    command = commands.add_parser("execute", parents=[run], help="run a notebook into a copy")
    command.add_argument("source", type=Path)
    command.add_argument("--timeout", type=float, help="limit for the whole notebook, in seconds")
    command = commands.add_parser("render", parents=[run], help="make a report of an executed copy")
    command.add_argument("executed", type=Path)
    command = commands.add_parser("index", parents=[run], help="make the page reviewers open first")
    command.add_argument("reports", type=Path, nargs="+", metavar="HTML")
    command.add_argument("--metrics", type=Path, required=True)
    command = commands.add_parser("refresh", help="take a copy's outputs into the committed source")
    command.add_argument("source", type=Path)
    command.add_argument("executed", type=Path)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 1 after a message on stderr."""
    options = vars(_parser().parse_args(arguments))
    commands = {"execute": execute, "render": render, "index": index, "refresh": refresh}
    command = commands[options.pop("command")]
    name = (options.get("source") or options["output"]).stem
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    os.environ.setdefault(
        "JUPYTER_PREFER_ENV_PATH", "1"
    )  # a user's own python3 kernel comes second
    if command is execute and not sys.stderr.isatty():
        print(f"{name}: executing", flush=True)
    start = time.monotonic()
    try:
        command(**options)
    except (NotebookFailed, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{name}: {command.__name__} took {time.monotonic() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
