"""Sentences about the contents of `reliability.json`: every number in them comes from the file."""

from lib.evaluation import conformal, refusal, subgroups
from lib.evaluation.bootstrap import format_interval


def groups(reliability: dict) -> str:
    """Return the subgroups with the lowest and the highest balanced accuracy."""
    rows = [row for row in reliability["subgroups"] if row["group"] != subgroups.MISSING]
    scored = [row for row in rows if row["balanced_accuracy"]]
    scored.sort(key=lambda row: row["balanced_accuracy"]["value"])
    ends = [
        f"for *{subgroups.ATTRIBUTES[row['attribute']]}: {row['group']}* ({row['lesions']} lesions)"
        f" with {format_interval(row['balanced_accuracy'])}"
        for row in scored[:1] + scored[-1:]
    ]
    return "Balanced accuracy is lowest {} and highest {}; ".format(*(ends or ["–", "–"])) + (
        f"{len(rows) - len(scored)} of {len(rows)} subgroups have fewer than {subgroups.FEWEST} "
        "lesions or lack a class."
    )


def histopathology(reliability: dict) -> str:
    """Return the scores of the lesions whose diagnosis histopathology has confirmed."""
    rows = {(row["attribute"], row["group"]): row for row in reliability["subgroups"]}
    row, other = (rows.get(("diagnosis", k), {"lesions": 0}) for k in ("histopathology", "other"))
    if not row["lesions"] + other["lesions"]:
        return "How the diagnoses were made is not recorded."
    return (
        f"Of the test lesions {row['lesions']} are confirmed by histopathology; on these accuracy "
        f"under equal priors is **{format_interval(row.get('accuracy'))}**, on the others "
        f"{format_interval(other.get('accuracy'))}; balanced accuracy on the confirmed ones is "
        f"{format_interval(row.get('balanced_accuracy'))}."
    )


def shortcuts(reliability: dict) -> str:
    """Return what the networks still predict when the lesion is hidden."""
    chance, texts = 1 / len(reliability["classes"]), []
    for network in reliability["hidden"].values():
        scores = network["balanced_accuracy"]
        for kind in ("background only", "lesion covered") if scores else ():
            texts.append(f"*{network['title']}*, {kind} **{format_interval(scores[kind])}**")
    text = "; ".join(texts) or "no image has a lesion mask"
    if box := reliability.get("lesion_box"):
        text += f"; from size and place of the lesion's box alone {format_interval(box)}"
    return f"Balanced accuracy without the lesion (chance {chance:.3f}): {text}."


def coverage(reliability: dict) -> str:
    """Return how often the prediction sets contain the actual class, and how large they are."""
    texts = []
    for level in conformal.LEVELS:
        rows = {(r["attribute"], r["group"]): r for r in reliability["conformal"][f"{level:.2f}"]}
        whole, classes = rows["all", "all"], reliability["classes"]
        listed = [f"{n} {format_interval(rows['class', n]['coverage'], 2)}" for n in classes]
        share = format_interval(whole["coverage"], 2)
        size = "–" if whole["size"] is None else f"{whole['size']:.2f}"
        texts.append(f"at {level:.0%} **{share}** ({', '.join(listed)}; {size} classes)")
    return f"Proportion of prediction sets that contain the actual class: {'; '.join(texts)}."


def strangers(reliability: dict) -> str:
    """Return by which scores the network refuses, and how much of what it refuses."""
    result = reliability["refusal"]
    scores = " or ".join(refusal.SCORES[name] for name in result["thresholds"])
    share = {kind: f"{value:.1%}" for kind, value in result["refused"].items()}
    listed = ", ".join(f"{share[kind]} of *{kind}*" for kind in result["reported_on"])
    return (
        f"Images with a high {scores} are refused: {share['test']} of the test images and, of the "
        f"kinds of strange images that were not used to select these scores, **{listed}**."
    )


def worst_error(reliability: dict) -> str:
    """Return the most confident error."""
    ranked = sorted(reliability["errors"], key=lambda row: row["probability"])
    text = (
        "The most confident error is {image_id}, {label} predicted as {predicted} with a "
        "probability of **{probability:.2f}**."
    )
    return text.format(**ranked[-1]) if ranked else "The network makes 0 errors."
