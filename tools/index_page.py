"""Write the page that reviewers open first: the result, the data, and a card for each report."""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import jinja2
import pandas as pd
from bs4 import BeautifulSoup
from ruamel.yaml import YAML

from lib import paths
from lib.config import Config, load_config
from lib.evaluation import findings, priors, score_tables
from tools.narrow_tables import label_cells
from tools.render import BANNER, FOOTER, TEMPLATES

#: The decision rules of `lib.evaluation.priors`, in words.
RULES = {rule: f"Most probable class under {findings.WITH_ARTICLE[rule]}" for rule in priors.RULES}


def index(config: str | Config, output: Path, metrics: Path, reports: Iterable[Path]) -> None:
    """Write the index of a run's reports, and copy `metrics` beside it.

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
    output, metrics = Path(output), Path(metrics)
    run = config if isinstance(config, Config) else load_config(config)
    values = _read_metrics(metrics, run.name)
    folds = values.get("cross_validation")
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
        rules=RULES,
        primary_rule=priors.PRIMARY_RULE,
        sentences=[_plain(findings.headline(values)), _plain(findings.rules(values))],
        tables={
            rule: score_tables.classifier_table(values, [rule]).droplevel("rule") for rule in RULES
        },
        class_tables={rule: score_tables.class_table(values, rule) for rule in RULES},
        folds=folds and score_tables.classifier_table(folds, [priors.PRIMARY_RULE]).droplevel(0),
        rows=_rows,
        cards=[_card(Path(report), output.parent) for report in reports],
        provenance=_provenance(values),
        configuration=_configuration(values),
    )
    paths.write_text(output, label_cells(page))
    copy = output.with_name(metrics.name)
    if copy.resolve() != metrics.resolve():
        paths.write_text(copy, metrics.read_text(encoding="utf-8"))


def _read_metrics(file: Path, run: str) -> dict:
    required = {"run": str, "classes": list, "images": dict, "lesions": dict, "titles": dict}
    required |= {"primary": str, "models": dict, "operating_points": dict, "manifest": dict}
    expected = f"expected the JSON object that notebook 05 writes, with {', '.join(required)}"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read: {error}; {expected}") from error
    values = values if isinstance(values, dict) else {}
    wrong = [key for key, kind in required.items() if not isinstance(values.get(key), kind)]
    if wrong:
        raise ValueError(f"{file}: missing or of another type: {', '.join(wrong)}; {expected}")
    if values["run"] != run:
        raise ValueError(f"{file}: found run {values['run']!r}; expected {run!r}")
    return values


def _rows(table: pd.DataFrame) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the rows of a table: the name, and each cell as value and interval."""
    cells = [[str(cell).partition(" (")[::2] for cell in row] for row in table.to_numpy()]
    return list(zip(table.index, cells, strict=True))


def _plain(sentence: str) -> str:
    """Return a sentence without Markdown's emphasis."""
    return sentence.replace("*", "")


def _card(report: Path, folder: Path) -> dict[str, str | None]:
    """Return a report's heading, question, answer and most telling figure."""
    page = BeautifulSoup(report.read_text(encoding="utf-8"), "html.parser")
    if page.h1 is None:
        raise ValueError(
            f"{report}: no <h1>; expected a page made by `python -m tools.reports render`"
        )
    question, answer = page.h1.find_next("p"), page.select_one(".answer")
    image = page.select_one(".headline img") or page.select_one("main img") or {}
    return {
        "link": Path(os.path.relpath(report, folder)).as_posix(),
        "heading": page.h1.get_text().strip(),
        "question": question.get_text().strip() if question else None,
        "answer": " ".join(answer.get_text().split()).removeprefix("Answer. ") if answer else None,
        "image": image.get("src"),
        "alt": image.get("alt", ""),
    }


def _provenance(metrics: dict) -> list[tuple[str, str]]:
    """Return what metrics.json records about the origin of its values, as names and texts."""
    rows = [
        ("Split (SHA-256)", metrics.get("split_sha256")),
        ("Intervals", metrics.get("interval")),
    ]
    for name, value in (metrics.get("manifest") or {}).items():
        if name == "configuration":
            continue  # has a section of its own
        if isinstance(value, dict):
            rows += [(f"{name}: {part}", inner) for part, inner in value.items()]
        else:
            rows.append((name, value))
    return [(name, "–" if value is None else str(value)) for name, value in rows]


def _configuration(metrics: dict) -> str | None:
    """Return the run's configuration as YAML."""
    values = (metrics.get("manifest") or {}).get("configuration")
    if not values:
        return None
    text = io.StringIO()
    YAML().dump(values, text)
    return text.getvalue()
