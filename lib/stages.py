"""What each stage of a run depends on: for make's keys and for those of the files that it keeps.

Make executes a notebook again when the configuration of one of its stages, or a module that it
imports, has changed (`tools/stages.py`). Files in runs/<run> that take long to compute have keys of
their own: these hold only the code that decides about the numbers in the file, so that a notebook
which is executed again takes over what is still valid.
"""

import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lib import paths, source_code


class Dependencies(NamedTuple):
    """What a stage depends on, beside the files of the stages before it."""

    notebook: str
    #: of a configuration, as `tools.stages.read_sections` names them
    sections: tuple[str, ...]
    #: what decides about the files that the stage keeps: for each source file, the names of
    #: functions and classes, or nothing for the whole file
    code: Mapping[str, str] = MappingProxyType({})


_PIXELS = {
    file.relative_to(paths.ROOT).as_posix(): ""
    for file in sorted((paths.ROOT / "lib" / "preprocessing").glob("*.py"))
    if file.stem not in ("image_array", "threads", "quality_scores")
}
_FEATURES = {
    "lib/networks/feature_cache.py": "_compute _outputs _FeatureFile",
    "lib/networks/inference.py": "turned call",
}
_TRAINING = {
    "lib/networks/batching.py": "Batches balanced_order PaddedBatches",
    "lib/networks/epoch_scores.py": "Scores Accuracy",
    "lib/networks/logit_adjustment.py": "LogitAdjusted",
    "lib/networks/optimizer.py": "AdamW",
    "lib/networks/training.py": "fit _Training _optimizer _learning_rate",
}

#: The stages, in their order; `handcrafted`, `network` and `transfer` train models of that kind.
#: The layers of a network are in the keys of its features and its training by themselves.
STAGES = {
    "index": Dependencies("01_data_survey", ("classes", "class_names", "seed", "data", "split")),
    "images": Dependencies("02_preprocessing", ("preprocessing",), _PIXELS),
    "augmented_views": Dependencies("02_preprocessing", ("augmentation",)),
    "handcrafted": Dependencies("03_baseline_cnn", ("handcrafted",)),
    "network": Dependencies("03_baseline_cnn", ("training", "network", "roles"), _TRAINING),
    "relu_output": Dependencies("03_baseline_cnn", ("relu_output_epochs",), _TRAINING),
    "features": Dependencies("04_vgg16_transfer", ("training", "transfer"), _FEATURES),
    "transfer": Dependencies("04_vgg16_transfer", ("training", "transfer"), _TRAINING),
    "metrics": Dependencies("05_evaluation", ("evaluation", "models", "roles")),
    "heatmaps": Dependencies("06_heatmaps", ("heatmaps",)),
    "reliability": Dependencies("07_reliability", ("evaluation", "models", "roles")),
}


def code_of(stage: str) -> dict[str, str]:
    """Return the syntax tree of each part of a stage's code, as it is in the files now.

    A module that keeps files calls this when it is imported: that code is the code that runs.
    """
    trees = {}
    for file, names in STAGES[stage].code.items():
        if not names:
            source = (paths.ROOT / file).read_text(encoding="utf-8")
            trees[file] = source_code.syntax_tree(source)
        for name in names.split():
            part = pkgutil.resolve_name(f"{file.removesuffix('.py').replace('/', '.')}:{name}")
            trees[f"{file} {name}"] = source_code.syntax_tree_of(part)
    return trees
