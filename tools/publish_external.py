"""Publish the numbers of an external test: `python -m tools.publish_external CONFIG`."""

import json
import sys
from pathlib import Path

from lib import paths, tables
from lib.config import Config
from tools import external_test, publish, result_tables, whole_files
from tools.command_line import run_on_config


def publish_external(config: Config) -> Path:
    """Copy what notebook 08 found to reports/<run>/external, and update the pages of results.

    Raises
    ------
    FileNotFoundError
        The run is not published, or notebook 08 has not been executed.
    ValueError
        Another network was tested than the one whose results are published.
    """
    source = paths.run_folder(config.name) / external_test.FOLDER / "results.json"
    published = publish.REPORTS / config.name / "published" / "metrics.json"
    for file, command in (source, "external-test"), (published, "publish"):
        if not file.is_file():
            raise FileNotFoundError(
                f"{paths.relative(file)}: no such file; `make {command}` writes it"
            )
    results, run = (json.loads(file.read_text(encoding="utf-8")) for file in (source, published))
    if not result_tables.is_of_network(results, run):
        raise ValueError(
            f"{paths.relative(source)} is of another network than {paths.relative(published)}; "
            "run make external-test again"
        )
    result_tables.build_pages(publish.REPORTS, run)  # raises before anything is replaced
    target = published.parents[1] / "external" / f"{results['source']['folder']}.json"
    tables.write_json(results, target)
    for part in result_tables.build_pages(publish.REPORTS, run):
        whole_files.write_part(*part)
    return target


def main(arguments: list[str] | None = None) -> int:
    """Publish an external test."""
    return run_on_config(__doc__, publish_external, arguments)


if __name__ == "__main__":
    sys.exit(main())
