"""Names and titles of the models, and the folders and notebooks that hold them."""

from lib.config import Config

#: Model names in every table, in the order of display, and their titles.
MODELS = {
    "majority": "Majority-class baseline",
    "color_texture_svm": "Hand-crafted features, SVM",
    "color_texture_forest": "Hand-crafted features, random forest",
    "baseline_cnn": "Baseline CNN (8 convolutions)",
    "alexnet": "AlexNet, from scratch",
    "vgg16_linear": "VGG16 features, logistic regression",
    "vgg16_frozen": "VGG16, frozen",
    "vgg16_fine_tuned": "VGG16, fine-tuned",
}

#: Folders under runs/<run>, and the models that each holds.
FOLDERS = {
    "traditional": ["color_texture_svm", "color_texture_forest"],
    "baseline_cnn": ["baseline_cnn"],
    "alexnet": ["alexnet"],
    "vgg16_transfer": ["vgg16_linear", "vgg16_frozen", "vgg16_fine_tuned"],
}

#: The notebook that writes each folder.
NOTEBOOKS = {
    "traditional": "03_baseline_cnn",
    "baseline_cnn": "03_baseline_cnn",
    "alexnet": "03_baseline_cnn",
    "vgg16_transfer": "04_vgg16_transfer",
}

#: Where each manifest is: folder and file. `vgg16_transfer` is the fine-tuned network.
MANIFESTS = {folder: (folder, "manifest.json") for folder in FOLDERS} | {
    "vgg16_frozen": ("vgg16_transfer", "manifest_frozen.json")
}


def titles(config: Config) -> dict[str, str]:
    """Return the title of each model, with the configured backbone in place of VGG16."""
    backbone = config.vgg16_transfer.backbone
    return {name: title.replace("VGG16", backbone) for name, title in MODELS.items()}
