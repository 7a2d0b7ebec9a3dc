"""Sentences about the contents of `metrics.json`, for notebooks, README and the index page.

Every number in them comes from the file, so they are true for every run.
"""

from lib.evaluation import priors
from lib.evaluation.bootstrap import format_interval
from lib.evaluation.score_tables import TARGET, TARGET_TITLE
from lib.evaluation.scores import SCORES
from lib.models import TRIVIAL

#: The specificity of the second primary result, the sensitivity to melanoma.
PRIMARY_SPECIFICITY = 0.90
NOT_DETECTABLE = "not detectably different from"
#: The rules, the primary one first.
WITH_ARTICLE = {"equal_priors": "equal priors", "training_prior": "the training prior"}


def headline(metrics: dict) -> str:
    """Return the primary result, and what the same classifier is worth in accuracy."""
    classifier, majority = (_classifier(metrics, m) for m in (metrics["primary"], "majority"))
    text = (
        f"On {metrics['images']['test']} test images of {metrics['lesions']['test']} lesions, "
        f"*{metrics['titles'][metrics['primary']]}* reaches a balanced accuracy of "
        f"**{format_interval(classifier['balanced_accuracy'])}** under equal priors; the "
        f"majority-class baseline has {majority['balanced_accuracy']['value']:.3f}."
    )
    if TARGET_TITLE in metrics.get("operating_points", {}):
        point = operating_point(metrics, metrics["primary"], TARGET_TITLE)
        text += (
            f" With a threshold of {PRIMARY_SPECIFICITY:.0%} specificity on these images it finds "
            f"**{_percent(point['roc_sensitivity'])}** of the melanomas; the threshold "
            f"chosen on validation images finds {_percent(point['sensitivity'])} at a specificity "
            f"of {point['specificity']['value']:.0%}."
        )
    ours, theirs = (scores["accuracy"]["value"] for scores in (classifier, majority))
    place = "below" if ours < theirs else "above" if ours > theirs else "as high as"
    return (
        f"{text} The same classifier has an accuracy of {format_interval(classifier['accuracy'])}, "
        f"{place} that of always predicting the majority class ({theirs:.3f})."
    )


def rules(metrics: dict) -> str:
    """Return what the training prior changes for the primary model."""
    primary = metrics["primary"]
    equal, trained = (_classifier(metrics, primary, rule) for rule in WITH_ARTICLE)
    text = (
        "Under the training prior the same network has an accuracy of "
        f"**{format_interval(trained['accuracy'])}** and a balanced accuracy of "
        f"{format_interval(trained['balanced_accuracy'])}"
    )
    if TARGET not in equal["per_class"]:
        return f"{text}."
    share, other = (rule["per_class"][TARGET]["sensitivity"]["value"] for rule in (trained, equal))
    return f"{text}; it finds {share:.0%} of the melanomas instead of {other:.0%}."


def outcome(pair: dict, score: str, confidence: float) -> str:
    """Say how a pair of models differs in a score, after correction for the number of pairs."""
    if pair[score]["p_holm"] >= round(1 - confidence, 9):
        return NOT_DETECTABLE
    return "better than" if pair[score]["value"] > 0 else "worse than"


def differences(metrics: dict) -> list[str]:
    """Return how each model compares with the others, in the score that suits each rule."""
    sentences = []
    confidence = metrics["manifest"]["configuration"]["evaluation"]["confidence"]
    for rule, score in (("equal_priors", "balanced_accuracy"), ("training_prior", "accuracy")):
        groups = {}
        for pair in metrics["differences"]:
            if pair["rule"] == rule:
                key = pair["model"], outcome(pair, score, confidence)
                value = "{value:+.3f}, {low:+.3f} to {high:+.3f}".format(**pair[score])
                text = f"{metrics['titles'][pair['less']]} ({value})"
                groups.setdefault(key, []).append(text)
        sentences += [
            f"In {SCORES[score].label} under {WITH_ARTICLE[rule]}, *{metrics['titles'][model]}* is "
            f"**{result}** {'; '.join(others)}."
            for (model, result), others in groups.items()
        ]
    return sentences


def unflattering(metrics: dict) -> list[str]:
    """Return the comparisons that are not in favour, and the models that find no melanoma."""
    sentences = [text for text in differences(metrics) if "**better than**" not in text]
    if TARGET not in metrics["classes"]:
        return sentences
    for rule in priors.RULES:
        blind = [
            f"*{model['title']}*"
            for name, model in metrics["models"].items()
            if name not in TRIVIAL
            and not model["rules"][rule]["per_class"][TARGET]["sensitivity"]["value"]
        ]
        if blind:
            sentences.append(f"Under {WITH_ARTICLE[rule]}, {', '.join(blind)} finds 0 melanomas.")
    return sentences


def most_frequent_error(metrics: dict) -> str:
    """Return the most frequent error of the primary classifier."""
    counts = _classifier(metrics, metrics["primary"])["confusion"]
    cells = [(count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j]
    count, i, j = max(cells, key=lambda cell: cell[0])
    actual, predicted = metrics["classes"][i], metrics["classes"][j]
    return f"{count} of {sum(counts[i])} {actual} images predicted as {predicted}"


def operating_point(metrics: dict, model: str, question: str) -> dict:
    """Return a model's point at the primary specificity, from `operating_points.evaluate`."""
    key = "specificity", PRIMARY_SPECIFICITY
    points = metrics["operating_points"][question][model]
    return next(point for point in points if (point["fixed"], point["level"]) == key)


def operating_points(metrics: dict) -> str:
    """Return what the primary model's threshold for the primary specificity does on test images."""
    texts = []
    for question in metrics["operating_points"]:
        point = operating_point(metrics, metrics["primary"], question)
        texts.append(
            f"{question}: sensitivity **{_percent(point['sensitivity'])}**, specificity "
            f"{_percent(point['specificity'])}, number needed to biopsy "
            f"{format_interval(point['number_needed_to_biopsy'], 1)}"
        )
    chosen = f"chosen for a specificity of {PRIMARY_SPECIFICITY:.0%} on the validation images"
    return f"With the threshold {chosen}, the test images give: {'; '.join(texts)}."


def net_benefit(metrics: dict) -> str:
    """Return where the primary model is worth more than both trivial strategies."""
    texts = []
    for question, curve in metrics["decision_curves"].items():
        better = [row["threshold"] for row in curve if row["model"]["low"] > max(row["all"], 0)]
        where = f"{min(better):.2f} to {max(better):.2f}" if better else "no threshold"
        texts.append(f"{question}: {where}")
    return (
        f"Threshold probabilities up to {curve[-1]['threshold']:.2f} at which the interval of the "
        f"net benefit is wholly above a biopsy of all lesions and of none: {'; '.join(texts)}."
    )


def calibration(metrics: dict) -> str:
    """Return the primary model's calibration error before and after calibration."""
    parts = metrics["calibration"][metrics["primary"]]
    before = "" if not parts["before"] else f" (before: {format_interval(parts['before']['ece'])})"
    return (
        f"The calibration error of *{metrics['titles'][metrics['primary']]}* is "
        f"**{format_interval(parts['after']['ece'])}**{before}, its Brier score "
        f"{format_interval(parts['after']['brier'])}."
    )


def _classifier(metrics: dict, model: str, rule: str = priors.PRIMARY_RULE) -> dict:
    return metrics["models"][model]["rules"][rule]


def _percent(score: dict) -> str:
    """Return a proportion and its interval in percent."""
    value, low, high = (100 * score[key] for key in ("value", "low", "high"))
    return f"{value:.0f}% ({low:.0f} to {high:.0f})"
