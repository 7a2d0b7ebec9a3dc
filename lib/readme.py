"""The README's results table, written from published metrics: `python -m lib.readme METRICS`."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from lib import metrics, paths, splits, tables

PUBLISHED = paths.ROOT / "reports" / "published"
README = paths.ROOT / "README.md"
MARKS = "<!-- results: make publish writes this -->", "<!-- end of results -->"


def publish(file: Path) -> Path:
    """Keep a run's `metrics.json` under reports/published and write the README's table anew.

    Its split is kept beside it, `<run>_split.csv`: ids only.

    Raises
    ------
    ValueError
        `index.csv`, beside the metrics, has another split than they were computed on.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{paths.relative(file)}: no such file; `make reproduce` writes it")
    results = json.loads(file.read_text(encoding="utf-8"))
    index = pd.read_csv(file.with_name("index.csv"), dtype=str)
    if splits.digest(index) != results["split_sha256"]:
        raise ValueError(
            f"{paths.relative(file)}: computed on split {results['split_sha256']}; index.csv has "
            f"{splits.digest(index)}; run it again"
        )
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    tables.write_table(index[splits.COLUMNS], PUBLISHED / f"{results['run']}_split.csv")
    kept = metrics.write_json(results, PUBLISHED / f"{results['run']}.json")
    paths.write_part(README, MARKS, results_tables(PUBLISHED))
    return kept


def current_tables() -> str:
    """Return the results that stand in the README now."""
    return paths.read_part(README, MARKS)


def results_tables(folder: Path) -> str:
    """Return one Markdown table for each published run, real images first."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    runs.sort(key=lambda run: (run["synthetic"], run["run"]))
    return "\n" + "\n".join(_table(run) for run in runs)


def _table(run: dict) -> str:
    kind = "synthetic images, no medical evidence" if run["synthetic"] else "real images"
    images, lesions = run["images"]["test"], run["lesions"]["test"]
    head = " | ".join(metrics.SCORES.values())
    lines = [
        f"**{run['title']}** (`CONFIG={run['run']}`; {kind}; "
        f"{images} test images of {lesions} lesions)",
        "",
        f"| Model | {head} |",
        "|---" * (1 + len(metrics.SCORES)) + "|",
    ]
    for model in run["models"].values():
        scores = " | ".join(metrics.format_interval(model[score]) for score in metrics.SCORES)
        lines.append(f"| {model['title']} | {scores} |")
    return "\n".join([*lines, "", f"In brackets: {run['interval']}.", ""])


def main(arguments: list[str] | None = None) -> int:
    """Publish a run's metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path, help="a run's metrics.json")
    try:
        print(paths.relative(publish(parser.parse_args(arguments).metrics.resolve())))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
