"""Execute a notebook from top to bottom, so that a failure never looks like a finished run."""

import ast
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import papermill
from nbformat import NotebookNode

from lib import paths
from tools import isolation
from tools.notebook_files import first_line, read_notebook, source_cells, write_notebook

PARAMETER = "CONFIG"


class NotebookFailed(RuntimeError):
    """A notebook did not run to its end."""


class _Stopped(KeyboardInterrupt):
    """Raised by a signal; as a KeyboardInterrupt, no event loop swallows it."""


def execute(
    source: Path, output: Path, config: str | None = None, timeout: float | None = None
) -> None:
    """Execute a notebook into a copy, with `CONFIG` set to `config`.

    The kernel is this environment's Python, whatever kernel the notebook names, and works in the
    notebook's own folder, as in JupyterLab. No setting in the user's home or shell reaches it
    (`isolation.isolated`). `output` exists only after a complete success; a failure removes an
    older one and leaves the partly executed copy as `<stem>.failed.ipynb`. Call it from the main
    thread.

    Parameters
    ----------
    config : str, optional
        Passed to the notebook unchanged; relative to the repository. Without it no parameter is
        set (side experiments).
    timeout : float, optional
        Limit for the whole notebook in seconds; no limit if absent or 0.

    Raises
    ------
    NotebookFailed
        A cell failed, the kernel died, the time limit passed, or SIGINT or SIGTERM arrived; the
        kernel is shut down. The message names the cell, the reason and the partly executed copy.
    ValueError
        The notebook has no parameter `CONFIG` to set.
    """
    source, output = Path(source), Path(output)
    notebook = read_notebook(source)
    output.unlink(missing_ok=True)
    if config is not None:
        _require_parameter(notebook, source)
    partial, failed = paths.temporary(output), output.with_name(f"{output.stem}.failed.ipynb")
    started = time.time()
    write_notebook(notebook, partial)
    try:
        with _stoppable(timeout), isolation.isolated():
            papermill.execute_notebook(
                str(source.resolve()),
                str(partial.resolve()),
                parameters={} if config is None else {PARAMETER: config},
                kernel_name="python3",
                language="python",
                progress_bar=sys.stderr.isatty(),
                cwd=source.resolve().parent,
                # the log of the kernel itself, which goes to the terminal; cells print elsewhere
                extra_arguments=["--log-level=CRITICAL"],
            )
        _check_and_clean(partial, source, output)
    except (Exception, _Stopped) as error:
        os.replace(partial, failed)
        raise NotebookFailed(
            f"{source} failed {_last_started(failed)}\n{_reason(error)}\n"
            f"partly executed copy: {failed}"
        ) from error
    os.replace(partial, output)
    failed.unlink(missing_ok=True)
    if source.stat().st_mtime > started:
        os.utime(output, (started, started))  # edited in the meantime, so make must run it again


def _require_parameter(notebook: NotebookNode, source: Path) -> None:
    cells = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    steps = [step for cell in cells for step in ast.parse(cell).body]
    targets = [target for step in steps for target in getattr(step, "targets", [])]
    known = [target.id for target in targets if isinstance(target, ast.Name)]
    if PARAMETER not in known:
        raise ValueError(
            f"{source}: found {', '.join(known) or 'nothing'} in a cell tagged 'parameters'; "
            f"expected an assignment to {PARAMETER}"
        )


@contextmanager
def _stoppable(timeout: float | None) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and the end of the time limit into one exception."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

    def stop(number, _frame):
        # From here on the kernel is being shut down, which a second signal must not interrupt.
        for name in signals:
            signal.signal(name, signal.SIG_IGN)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)  # tasks that lose their kernel
        limit = f"over the time limit of {timeout or 0:g} s"
        name = signal.Signals(number).name
        raise _Stopped(f"stopped: {limit if number == signal.SIGALRM else name}")

    handlers = {name: signal.signal(name, stop) for name in signals}
    signal.setitimer(signal.ITIMER_REAL, timeout or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in handlers.items():
            signal.signal(name, handler)


def _check_and_clean(partial: Path, source: Path, output: Path) -> None:
    """Refuse an executed copy that holds an error, and remove absolute paths from its metadata."""
    notebook = read_notebook(partial)
    for cell in notebook.cells:
        for item in cell.get("outputs", []):
            if item.output_type == "error":  # papermill takes exit() for success
                raise NotebookFailed(f"{item.ename}: {item.evalue}: the rest was not executed")
    notebook.metadata.papermill.update(
        environment=isolation.acting(),  # of the shell, variables that act on purpose
        input_path=paths.relative(source.resolve()),
        output_path=paths.relative(output.resolve()),
    )
    write_notebook(notebook, partial)


def _last_started(failed: Path) -> str:
    """Return where a partly executed copy stopped, in words."""
    cells = source_cells(read_notebook(failed))
    for number in range(len(cells), 0, -1):
        if cells[number - 1].metadata.get("papermill", {}).get("start_time"):
            return f"in cell {number} of {len(cells)} (`{first_line(cells[number - 1])}`)"
    return "before its first cell"


def _reason(error: BaseException) -> str:
    if isinstance(error, papermill.PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    if isinstance(error, NotebookFailed | _Stopped):
        return str(error)
    return f"{type(error).__name__}: {error}"
