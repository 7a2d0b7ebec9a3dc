"""The commands that turn notebooks into reports: execute, render, index and refresh."""

import argparse
import logging
import sys
import time
from pathlib import Path

from tools.command_line import run_command
from tools.execute import NotebookFailed, execute
from tools.index_page import index
from tools.refresh import refresh
from tools.render import render


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", type=Path, required=True, help="the file to write")
    config = {"help": "the run, such as configs/demo.yaml"}

    command = commands.add_parser("execute", parents=[output], help="run a notebook into a copy")
    command.add_argument("source", type=Path)
    command.add_argument("--config", **config)
    command.add_argument("--timeout", type=float, help="limit for the whole notebook, in seconds")
    command = commands.add_parser("render", parents=[output], help="render an executed copy")
    command.add_argument("executed", type=Path)
    command.add_argument("--config", **config)
    command = commands.add_parser("index", parents=[output], help="write the index of a run")
    command.add_argument("reports", type=Path, nargs="+", metavar="HTML")
    command.add_argument("--config", required=True, **config)
    command.add_argument("--metrics", type=Path, required=True)
    command = commands.add_parser("refresh", help="copy outputs into the committed notebook")
    command.add_argument("source", type=Path)
    command.add_argument("executed", type=Path)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = vars(_parser().parse_args(arguments))
    commands = {"execute": execute, "render": render, "index": index, "refresh": refresh}
    command = commands[options.pop("command")]
    name = (options.get("source") or options["output"]).stem
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its errors arrive as exceptions
    if command is execute and not sys.stderr.isatty():
        print(f"{name}: executing", flush=True)
    start = time.monotonic()
    status = run_command(lambda: command(**options), (NotebookFailed, ValueError, OSError))
    if status == 0:
        print(f"{name}: {command.__name__} took {time.monotonic() - start:.1f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
