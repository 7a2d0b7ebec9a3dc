"""What the commands of this folder share: a message instead of a traceback, and an exit status."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lib import paths
from lib.config import Config, load_config


def run_command(
    command: Callable[[], object],
    expected: tuple[type[Exception], ...] = (OSError, ValueError),
) -> int:
    """Run a command and return its exit status: 0, or 1 after an expected error.

    Parameters
    ----------
    command : callable
        Called without arguments.
    expected : tuple of exception types
        Errors whose message is all that a user needs; any other error keeps its traceback.
    """
    try:
        command()
    except expected as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def given_path(text: str) -> Path:
    """Return a path from the command line; a shell leaves `~` in `FROM=~/images` as it is."""
    return Path(os.path.expanduser(text))


def run_on_config(
    description: str, publish: Callable[[Config], Path], arguments: list[str] | None
) -> int:
    """Read a configuration from the command line, and print the path that a command returns."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="the run, such as configs/demo.yaml")
    options = parser.parse_args(arguments)
    return run_command(lambda: print(paths.relative(publish(load_config(options.config)))))
