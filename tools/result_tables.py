"""The tables of published results in README.md and docs/results.md.

The columns are the scores of `lib.evaluation.scores`; what an older run lacks is a dash.
"""

import json
from pathlib import Path

from lib import paths
from lib.evaluation import bootstrap, priors, variance
from lib.evaluation.scores import SCORES, rule_scores
from tools import whole_files

README = paths.ROOT / "README.md"
RESULTS = paths.ROOT / "docs" / "results.md"
MARKS = "<!-- results: make publish writes this -->", "<!-- end of results -->"
DEMO_MARKS = "<!-- demo: make publish writes this -->", "<!-- end of demo -->"
#: The run of the README's table; before it is published, the first published run.
MAIN_RUN = "ham10000"
#: Decision rule and score of the primary result, and the model where a run does not name it.
PRIMARY_RULE, PRIMARY_SCORE = "equal_priors", "balanced_accuracy"
PRIMARY_MODEL = "vgg16_fine_tuned"
#: A class whose sensitivity and specificity the README shows, where the run has it.
MELANOMA = "mel"


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
    runs = _ordered([*runs, results])
    parts = [
        (README, DEMO_MARKS, demo_sentence(runs)),
        (README, MARKS, headline_table(runs)),
        (RESULTS, MARKS, result_tables(runs)),
    ]
    for page, marks, _ in parts:
        whole_files.expect_part(page, marks)
    return parts


def read_published(reports: Path) -> list[dict]:
    """Return the `metrics.json` of each published run, real images first."""
    files = reports.glob("*/published/metrics.json")
    return _ordered([json.loads(file.read_text(encoding="utf-8")) for file in files])


def _ordered(runs: list[dict]) -> list[dict]:
    return sorted(runs, key=lambda run: (run["synthetic"], run["run"]))


def demo_sentence(runs: list[dict]) -> str:
    """Return what to expect of `make reproduce`, with the demonstration's headline number."""
    run = next((run for run in runs if run["run"] == "demo"), {"models": {}})
    model, baseline = (
        _score(run["models"].get(name, {}), PRIMARY_SCORE, PRIMARY_RULE)
        for name in (run.get("primary", PRIMARY_MODEL), "majority")
    )
    if not (model and baseline):
        return "The demonstration has not been published yet.\n"
    return (
        f"Expect a balanced accuracy of about {model['value']:.2f} (interval {model['low']:.2f} to "
        f"{model['high']:.2f}) for the fine-tuned VGG16 on {run['images']['test']} test images, "
        f"against {baseline['value']:.2f} for the majority-class baseline.\n"
    )


def headline_table(runs: list[dict]) -> str:
    """Return the README's table: the main run's models under the primary rule."""
    run = next((run for run in runs if run["run"] == MAIN_RUN), next(iter(runs), None))
    if run is None:
        return "\nNo run has been published yet.\n"
    names = sorted(SCORES, key=lambda name: name != PRIMARY_SCORE)  # the primary score first
    columns = [SCORES[name].label for name in names]
    if MELANOMA in run["classes"]:
        columns += ["melanoma sensitivity", "melanoma specificity"]
    rows = []
    for name, model in run["models"].items():
        primary, *others = (_score(model, name, PRIMARY_RULE) for name in names)
        cells = [bootstrap.format_interval(primary), *map(_value, others)]
        if MELANOMA in run["classes"]:
            melanoma = _rule(model, PRIMARY_RULE).get("per_class", {}).get(MELANOMA, {})
            cells += [_value(melanoma.get(part)) for part in ("sensitivity", "specificity")]
        rows.append([_title(name, model), *cells])
    trained = _score(
        run["models"].get(run.get("primary", PRIMARY_MODEL), {}), "accuracy", "training_prior"
    )
    note = (
        "Every model decides under equal priors: each probability is divided by the class "
        "frequency in training, and the most probable class is predicted. This finds more of the "
        "rare classes and costs accuracy; under the training prior the accuracy of the fine-tuned "
        f"network is {bootstrap.format_interval(trained)}. Macro AUC needs no decision and is "
        f"computed under the training prior. In brackets: {_interval(run)}. "
        "All scores under both rules: [docs/results.md](docs/results.md)."
    )
    lines = ["", _describe(run), "", *_table(["Model", *columns], rows), "", note, ""]
    return "\n".join([*lines, *_variance_section(run)])


def _variance_section(run: dict) -> list[str]:
    """Return the primary score's interval over lesions beside its spread over trainings."""
    rows = []
    for row in run.get("variance", []):
        if model := run["models"].get(row["model"]):
            interval = bootstrap.format_interval(_score(model, PRIMARY_SCORE, PRIMARY_RULE))
            spread, trainings = row[PRIMARY_SCORE], f"{row['trainings']} {row['varied']}s"
            extremes = f"{spread['low']:.3f} to {spread['high']:.3f}"
            cells = [variance.format_spread(spread), extremes]
            rows.append([_title(row["model"], model), interval, trainings, *cells])
    if not rows:
        return []
    label = SCORES[PRIMARY_SCORE].label
    note = (
        f"How much of a {label} is chance? The interval says how it would change with other test "
        "lesions, the spread how it changes with the seed of the training, on the same images. "
        "SVMs and linear classifiers have no random start; their spread is over folds, which also "
        "differ in their images (mean ± standard deviation)."
    )
    header = ["Model", f"{label}, interval over lesions", "trainings", "spread", "extremes"]
    return [note, "", *_table(header, rows), ""]


def result_tables(runs: list[dict]) -> str:
    """Return one table for each published run, with all models under both rules."""
    return "\n" + ("\n".join(map(_run_section, runs)) or "No run has been published yet.\n")


def _run_section(run: dict) -> str:
    header = ["Model"]
    for name, rule in _columns():
        header.append(SCORES[name].label + (f", {priors.RULES[rule]}" if rule else ""))
    lines = [f"### {run['title']}", "", _describe(run), "", *_table(header, _rows(run["models"]))]
    folds = run.get("cross_validation")
    if folds:
        lines += [
            "",
            f"{folds['folds']}-fold cross-validation on all {folds['images']:,} images, each "
            "predicted by models trained without its fold. This is another experiment than the "
            "table above: it trains on more images, some of them test images, and uses one view "
            "of each image.",
            "",
            *_table(header, _rows(folds["models"])),
        ]
    return "\n".join([*lines, "", f"In brackets: {_interval(run)}.", ""])


def _columns() -> list[tuple[str, str | None]]:
    """Return score and rule of each column: the scores of each rule, then those without one."""
    with_rule = [(name, rule) for rule in priors.RULES for name in rule_scores()]
    return with_rule + [(name, None) for name, score in SCORES.items() if not score.rule]


def _rows(models: dict) -> list[list[str]]:
    return [
        [
            _title(name, model),
            *(bootstrap.format_interval(_score(model, *column)) for column in _columns()),
        ]
        for name, model in models.items()
    ]


def _score(model: dict, name: str, rule: str | None) -> dict | None:
    """Return a score of a model; None if the run was published before the score existed."""
    return _rule(model, rule).get(name) if SCORES[name].rule else model.get(name)


def _rule(model: dict, rule: str) -> dict:
    return model.get("rules", {}).get(rule, {})


def _value(score: dict | float | None) -> str:
    """Return a score without its interval; a dash if there is none."""
    value = score.get("value") if isinstance(score, dict) else score
    return "–" if value is None else f"{value:.3f}"


def _interval(run: dict) -> str:
    return run.get("interval", "confidence intervals")


def _describe(run: dict) -> str:
    kind = "synthetic images, no medical evidence" if run["synthetic"] else "real images"
    return (
        f"Run `{run['run']}` ({kind}): {run['images']['test']:,} test images of "
        f"{run['lesions']['test']:,} lesions that no model was trained on."
    )


def _title(name: str, model: dict) -> str:
    # results published earlier have another title
    return "Majority-class baseline" if name == "majority" else model["title"]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
