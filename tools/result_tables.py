"""The tables of published results in README.md and docs/results.md.

The columns are the scores of `lib.evaluation.scores`; what an older run lacks is a dash.
"""

import json
from pathlib import Path

import pandas as pd

from lib import paths
from lib.evaluation import (
    bootstrap,
    findings,
    metrics,
    priors,
    reliability_findings,
    score_tables,
    variance,
)
from lib.evaluation.scores import SCORES
from tools import whole_files

README = paths.ROOT / "README.md"
RESULTS = paths.ROOT / "docs" / "results.md"
MARKS = "<!-- results: make publish writes this -->", "<!-- end of results -->"
DEMO_MARKS = "<!-- demo: make publish writes this -->", "<!-- end of demo -->"
#: The run of the README's table; before it is published, the first published run.
MAIN_RUN = "ham10000"
PRIMARY_SCORE = "balanced_accuracy"


def build_pages(reports: Path, results: dict) -> list[tuple]:
    """Return what all published runs show in both pages, with new results of one run.

    Returns
    -------
    list of tuple
        For each part of a page the page, the marks around the part, and its text.

    Raises
    ------
    ValueError
        A page lacks the marks between which its tables are written.
    """
    runs = [run for run in read_published(reports) if run["run"] != results["run"]]
    runs = _ordered([*runs, _with_files(results, reports)])
    parts = [
        (README, DEMO_MARKS, demo_sentence(runs)),
        (README, MARKS, headline_section(runs)),
        (RESULTS, MARKS, result_tables(runs)),
    ]
    for page, marks, _ in parts:
        whole_files.expect_part(page, marks)
    return parts


def read_published(reports: Path) -> list[dict]:
    """Return the `metrics.json` of each published run, real images first.

    Each gets `reliability`, and `external`, its external tests by folder.

    A file of another version is named and left out, until its run is published again.
    """
    runs = []
    for file in reports.glob("*/published/metrics.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        version = run.get("schema_version", 1)
        if version == metrics.SCHEMA_VERSION:
            runs.append(_with_files(run, reports))
        else:
            print(
                f"{paths.relative(file)} is of version {version}, expected "
                f"{metrics.SCHEMA_VERSION}: its run is left out until it is published again"
            )
    return _ordered(runs)


def _with_files(run: dict, reports: Path) -> dict:
    folder = reports / run["run"]
    files = [*folder.glob("published/reliability.json"), *sorted(folder.glob("external/*.json"))]
    contents = {file: json.loads(file.read_text(encoding="utf-8")) for file in files}
    reliability = contents.pop(folder / "published" / "reliability.json", None)
    return run | {
        "reliability": reliability,
        "external": [part for part in contents.values() if is_of_network(part, run)],
    }


def is_of_network(external: dict, run: dict) -> bool:
    """Say whether an external test is of the network whose results are published."""
    source = external["source"]
    trained = run["manifest"].get(source["model"], {})
    return source["weights_sha256"] == trained.get("weights_sha256")


def _ordered(runs: list[dict]) -> list[dict]:
    return sorted(runs, key=lambda run: (run["synthetic"], run["run"]))


def demo_sentence(runs: list[dict]) -> str:
    """Return what to expect of `make reproduce`, with the demonstration's headline number."""
    run = next((run for run in runs if run["run"] == "demo"), None)
    if run is None:
        return "The demonstration has not been published yet.\n"
    model, baseline = (
        run["models"][name]["rules"][priors.PRIMARY_RULE][PRIMARY_SCORE]
        for name in (run["primary"], "majority")
    )
    return (
        f"Expect a balanced accuracy of about {model['value']:.2f} (interval {model['low']:.2f} to "
        f"{model['high']:.2f}) for the fine-tuned VGG16 on {run['images']['test']} test images, "
        f"against {baseline['value']:.2f} for the majority-class baseline.\n"
    )


def headline_section(runs: list[dict]) -> str:
    """Return the README's results: the main run under the primary rule, and its limits."""
    run = next((run for run in runs if run["run"] == MAIN_RUN), next(iter(runs), None))
    if run is None:
        return "\nNo run has been published yet.\n"
    table = score_tables.classifier_table(run, [priors.PRIMARY_RULE]).droplevel("rule")
    note = (
        "Each row is one classifier: a model that decides under equal priors. Each probability is "
        "divided by the class frequency in training, and the most probable class is predicted. "
        f"This finds more of the rare classes and costs accuracy. {findings.rules(run)} Macro AUC "
        f"needs no decision. In brackets: {run['interval']}. Both rules: "
        "[docs/results.md](docs/results.md)."
    )
    against = findings.unflattering(run)
    if reliability := run.get("reliability"):
        against.append(reliability_findings.histopathology(reliability))
        against.append(reliability_findings.shortcuts(reliability))
    against = [f"- {sentence}" for sentence in against]
    first = [findings.headline(run), *map(external_sentence, run.get("external", []))]
    lines = ["", _describe(run), "", " ".join(first), "", *_table(table, "Model"), "", note, ""]
    if against:
        lines += [
            "What speaks against the networks (differences with their intervals; detectable: p < "
            "0.05 after Holm's correction for the number of pairs):",
            "",
            *against,
            "",
        ]
    return "\n".join([*lines, *_variance_section(run)])


def external_sentence(external: dict) -> str:
    """Return how good a network is on images from elsewhere, beside its test images."""
    source, model = external["source"], external["source"]["model"]
    texts = []
    for score in ("balanced_accuracy", "macro_auc"):
        outside, inside = (
            external["scores"][part]["models"][model]["rules"][priors.PRIMARY_RULE][score]
            for part in ("outside", "inside")
        )
        texts.append(
            f"{SCORES[score].label} of {bootstrap.format_interval(outside)} instead of "
            f"{inside['value']:.3f}"
        )
    text = (
        f"On {source['images']:,} images of {source['lesions']:,} lesions outside the run "
        f"(`{source['folder']}`), *{source['title']}* reaches a {texts[0]} and a {texts[1]}."
    )
    title, level = findings.TARGET_TITLE, findings.PRIMARY_SPECIFICITY
    if title in external["operating_points"]:
        point = findings.operating_point(external, model, title)
        text += (
            f" The threshold with a specificity of {level:.0%} on validation images finds "
            f"{point['sensitivity']['value']:.0%} of the melanomas there, at a specificity of "
            f"{point['specificity']['value']:.0%}."
        )
    return text


def _variance_section(run: dict) -> list[str]:
    """Return the primary score's spread over trainings beside its interval over lesions."""
    texts = []
    for row in run.get("variance", []):
        if model := run["models"].get(row["model"]):
            score = model["rules"][priors.PRIMARY_RULE][PRIMARY_SCORE]
            texts.append(
                f"*{model['title']}* {variance.format_spread(row[PRIMARY_SCORE])} over "
                f"{row['trainings']} {row['varied']}s, {bootstrap.format_interval(score)}"
            )
    if not texts:
        return []
    note = (
        f"How the {SCORES[PRIMARY_SCORE].label} varies with the seed of a training or, where "
        "nothing is random, from fold to fold (mean ± standard deviation), beside its interval "
        "over the test lesions: "
    )
    end = (
        "A fold is scored on its own images, so its mean does not compare with the score beside it."
    )
    return [f"{note}{'; '.join(texts)}. {end} Models that are not listed were trained once.", ""]


def result_tables(runs: list[dict]) -> str:
    """Return one table for each published run, with all models under both rules."""
    return "\n" + ("\n".join(map(_run_section, runs)) or "No run has been published yet.\n")


def published_readme(run: dict, pages: list[str], figures: list[str]) -> str:
    """Return the README of a published run: its tables and diagrams for hosts that show no HTML."""
    links = ", ".join(f"[{page}]({page})" for page in ["index.html", *pages])
    against = [f"- {sentence}" for sentence in findings.unflattering(run)]
    lines = [
        f"# {run['title']}",
        "",
        f"`make publish CONFIG={run['run']}` writes this folder from a finished run. It holds no "
        f"photograph. Pages for a browser: {links}. The files are described in "
        "[reports/README.md](../../README.md).",
        "",
        f"{findings.headline(run)} {findings.rules(run)}",
        "",
        *against,
        "",
        _run_section(run),
        *(f"![{name}]({name})" for name in figures),
    ]
    return "\n".join(lines) + "\n"


def _run_section(run: dict) -> str:
    lines = [f"### {run['title']}", "", _describe(run), "", *_both_rules(run)]
    if folds := run.get("cross_validation"):
        lines += [
            "",
            f"{folds['folds']}-fold cross-validation on all {folds['images']:,} images, each "
            "predicted by models trained without its fold. This experiment differs from the "
            "table above: it trains on more images, some of them test images, and uses one view "
            "of each image.",
            "",
            *_both_rules(folds),
        ]
    for external in run.get("external", []):
        tested = {"models": {}}
        for part, scores in external["scores"].items():
            (model,) = scores["models"].values()
            tested["models"][part] = model | {"title": f"{model['title']}, {part}"}
        lines += ["", external_sentence(external), "", *_both_rules(tested)]
    return "\n".join([*lines, "", f"In brackets: {run['interval']}.", ""])


def _both_rules(part: dict) -> list[str]:
    table = score_tables.classifier_table(part).reset_index("rule")
    return _table(table.rename(columns={"rule": "Decides under"}), "Model")


def _describe(run: dict) -> str:
    kind = "synthetic images, no medical evidence" if run["synthetic"] else "real images"
    return (
        f"Run `{run['run']}` ({kind}): {run['images']['test']:,} test images of "
        f"{run['lesions']['test']:,} lesions that no model was trained on."
    )


def _table(table: pd.DataFrame, corner: str) -> list[str]:
    """Return a table in Markdown."""
    rows = [[name, *cells] for name, cells in zip(table.index, table.to_numpy(), strict=True)]
    lines = [[corner, *table.columns], ["---"] * (1 + table.shape[1]), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
