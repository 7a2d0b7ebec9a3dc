"""Names and titles of all models, and the files each one writes."""

from lib.config import Config

#: Names of the models in every table, in the order in which they are shown; `titles` puts the
#: configured backbone's name in place of VGG16's.
MODELS = {
    "majority": "Always the most frequent class",
    "color_texture_svm": "Hand-crafted features, SVM",
    "color_texture_forest": "Hand-crafted features, random forest",
    "baseline_cnn": "Baseline CNN (8 convolutions)",
    "alexnet": "AlexNet, from scratch",
    "vgg16_linear": "VGG16 features, logistic regression",
    "vgg16_frozen": "VGG16, frozen",
    "vgg16_fine_tuned": "VGG16, fine-tuned",
}


#: The folders under runs/<run> and the models that each holds.
FOLDERS = {
    "traditional": ["color_texture_svm", "color_texture_forest"],
    "baseline_cnn": ["baseline_cnn"],
    "alexnet": ["alexnet"],
    "vgg16_transfer": ["vgg16_linear", "vgg16_frozen", "vgg16_fine_tuned"],
}


#: The notebook that makes each folder.
NOTEBOOKS = {
    "traditional": "03_baseline_cnn",
    "baseline_cnn": "03_baseline_cnn",
    "alexnet": "03_baseline_cnn",
    "vgg16_transfer": "04_vgg16_transfer",
}


#: How each came about: a name, the folder and the file. `vgg16_transfer` is the fine-tuned network.
MANIFESTS = {folder: (folder, "manifest.json") for folder in FOLDERS} | {
    "vgg16_frozen": ("vgg16_transfer", "manifest_frozen.json")
}


def titles(config: Config) -> dict[str, str]:
    """Return the name of each model, with the configured backbone in place of VGG16."""
    backbone = config.vgg16_transfer.backbone
    return {name: title.replace("VGG16", backbone) for name, title in MODELS.items()}
