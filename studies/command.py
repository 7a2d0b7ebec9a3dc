"""What every study needs around its measurement: a command line, folders, the machine's name."""

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lib import paths

PACKAGES = ("keras", "numba", "numpy", "opencv-python-headless", "scikit-learn", "tensorflow-cpu")


def main(
    description: str,
    measure: Callable[[Path], Iterable[Path]],
    arguments: list[str] | None = None,
    argument: tuple[str, str] = ("folder", "images in HAM10000's layout"),
) -> int:
    """Measure on what the command line names and print the files that were written.

    Parameters
    ----------
    measure : callable
        From a folder in HAM10000's layout, or from a configuration, to the files it wrote.
    argument : tuple of str
        What the command line names, and its description.

    Returns
    -------
    int
        The exit code: 1 after an error, which is printed in one line.
    """
    parser = argparse.ArgumentParser(description=description)
    name, text = argument
    parser.add_argument(name, type=Path, help=text)
    path = getattr(parser.parse_args(arguments), name).resolve()
    try:
        for file in measure(path):
            print(paths.relative(file))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def results_folder(study: str) -> Path:
    """Return the folder of a study's committed results, `reports/studies/<study>`."""
    return paths.ROOT / "reports" / "studies" / study


def work_folder(study: str) -> Path:
    """Return the folder of what a killed study needs to resume, `runs/studies/<study>`."""
    return paths.run_folder(f"studies/{study}")


def describe_machine() -> dict:
    """Return date, processor, cores, system and the versions of what computes."""
    from lib.networks.backend import processor

    distributions = {d.name.lower().replace("_", "-") for d in importlib.metadata.distributions()}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES if name in distributions},
    }
