"""The choices of a run: one YAML file, validated strictly."""

import difflib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

from lib import paths

#: The seven diagnoses of HAM10000 (Tschandl et al., Sci. Data 5:180161, 2018).
CLASS_NAMES = {
    "akiec": "actinic keratosis / Bowen's disease",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32 - 7)]  # up to seed + 7 are used as well
Rate = Annotated[float, Field(gt=0, le=1)]
CLASS_BALANCES = ("logit_adjusted", "weights", "sampling", "none")
ClassBalance = Literal[CLASS_BALANCES]
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]  # names files and columns
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # names folders and files
Title = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Synthetic(_Section):
    """How the synthetic images are drawn."""

    lesions: Annotated[int, Field(ge=30)]
    seed: Seed


class Data(_Section):
    """Which images: a folder in HAM10000's layout."""

    folder: str
    #: source of the images, added to the caption of every figure that shows any
    attribution: Annotated[str, Field(min_length=1)]
    #: present: the images are drawn by a program; absent: they are real
    synthetic: Synthetic | None = None
    #: at most this many images per class, whole lesions drawn at random; absent: all
    images_per_class: Annotated[int, Field(ge=10)] | None = None
    #: largest proportion of images that may be dropped because they cannot be used
    max_dropped: Annotated[float, Field(ge=0, le=1)] = 0.01


class Split(_Section):
    """Proportions of the lesions, not of the images."""

    validation: Fraction
    test: Fraction
    #: for cross-validation, beside the single split
    folds: Annotated[int, Field(ge=2)]
    seed: Seed
    #: images that stay together: those of a patient, where the metadata name patients, or of a
    #: lesion only
    group_by: Literal["patient_id", "lesion_id"] = "patient_id"
    #: lesions that share a near-duplicate image stay together, too; false: `group_by` alone decides
    duplicates: bool = True
    #: a table of images with their groups, splits and folds, such as a published split.csv, to use
    #: these and no others; absent: all images are used, and divided by the settings above
    file: str | None = None

    @model_validator(mode="after")
    def _leaves_training_lesions(self):
        if self.validation + self.test >= 0.9:
            raise ValueError("validation + test must be below 0.9, to leave lesions to train on")
        return self


class Preprocessing(_Section):
    """Steps applied to every image once, in the order of lib/preprocessing/pipeline.py."""

    #: pixels; larger images are reduced to this side first, like the copy of HAM10000 that results
    #: are published from; 0: never
    stored_size: Annotated[int, Field(ge=0, le=1024)] = 0
    #: pixels; eight poolings by two need at least 2**8 = 256
    image_size: Annotated[int, Field(ge=256, le=1024)]
    remove_hair: bool
    #: also detect hair at a second scale: strands twice as wide
    thick_hair: bool = False
    remove_bubbles: bool
    #: side of the median filter in pixels; 0: no filter
    median_kernel: Literal[0, 3, 5]
    #: side of the mean filter in pixels, for comparison; 0: no filter
    mean_kernel: Literal[0, 3, 5] = 0
    color_constancy: bool
    equalize_contrast: bool

    @model_validator(mode="after")
    def _looks_for_hair_to_remove_it(self):
        if self.thick_hair and not self.remove_hair:
            raise ValueError("thick_hair = true needs remove_hair = true")
        return self


class ColorJitter(_Section):
    """Random colour changes of each training image.

    The limits follow from how much light and camera vary. On 983 images of HAM10000 the standard
    deviations between images are 0.079 in brightness and 44 % of the mean in saturation for the
    skin around the lesion, and 39 % in contrast for the whole image. The median difference in hue
    between lesion and skin is 8.7 degrees, so hue changes by less.
    """

    #: largest value added to or subtracted from every pixel (black 0, white 1)
    brightness: Annotated[float, Field(ge=0, le=0.1)] = 0.0
    #: largest relative change of the distance to the mean colour of the image
    contrast: Annotated[float, Field(ge=0, le=0.3)] = 0.0
    #: largest relative change of saturation (HSV)
    saturation: Annotated[float, Field(ge=0, le=0.3)] = 0.0
    #: largest rotation of hue, in degrees
    hue_degrees: Annotated[float, Field(ge=0, le=8)] = 0.0
    #: largest relative change of each channel by itself, as from light of another colour
    channels: Annotated[float, Field(ge=0, le=0.1)] = 0.0


class Augmentation(_Section):
    """Random changes of training images only; the paper names the kinds, not the amounts."""

    #: largest rotation in either direction
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    #: largest relative change of size
    zoom: Annotated[float, Field(ge=0, lt=0.5)]
    flip: Literal["none", "horizontal", "vertical", "horizontal_and_vertical"]
    #: not in the paper: the largest sideways movement of the top and the bottom edge, relative to
    #: half the height
    shear: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    #: not in the paper: the largest shift along each axis, as a proportion of the side
    shift: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    #: not in the paper: the largest relative change of the ratio of width to height
    aspect: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    #: not in the paper; absent: colours are not changed
    color_jitter: ColorJitter | None = None


class Training(_Section):
    """Number format and devices, the same for every network of the run."""

    #: number format of the layers in training; auto: bfloat16 where the GPU or the processor
    #: computes it natively, else float32. Predictions are always made in float32.
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    #: all: each batch is divided among the GPUs of this machine
    devices: Literal["one", "all"] = "one"


class Stage(_Section):
    """One training."""

    epochs: Positive
    learning_rate: Rate
    #: of the learning rate after the warm-up: constant, or half a cosine down to zero
    schedule: Literal["constant", "cosine"] = "constant"
    #: epochs over which the learning rate rises from zero; only with `schedule: cosine`
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    #: of AdamW, times the learning rate; 0: Adam (Loshchilov and Hutter, ICLR 2019)
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: gradients of a larger norm are scaled down to it; 0: none (Pascanu et al., ICML 2013). With
    #: `devices: all` TensorFlow does so on each device, before it adds them up.
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    #: momentum of a moving average of the weights, in every step; 0: no average (Polyak and
    #: Juditsky, SIAM J. Control Optim. 30:838, 1992). Validation scores are those of the average.
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: the weights to keep: those of the epoch with the best validation balanced accuracy, or the
    #: last, so that no epoch is chosen
    keep: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _leaves_epochs_after_the_warm_up(self):
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} must be less than epochs = {self.epochs}"
            )
        if self.warmup_epochs and self.schedule == "constant":
            raise ValueError(f"warmup_epochs = {self.warmup_epochs:g} needs schedule = cosine")
        return self


class Handcrafted(_Section):
    """A classifier on hand-crafted features."""

    kind: Literal["handcrafted"]
    name: ModelName
    title: Title
    classifier: Literal["svm", "random_forest"]
    #: false: without the features that need a mask of the lesion
    masks: bool = True


class Network(Stage):
    """A network trained from scratch."""

    kind: Literal["network"]
    name: ModelName
    title: Title
    #: a name of `BUILDERS` in lib/networks/building.py
    builder: str
    #: arguments of the builder, which checks them
    options: dict[str, Any] = {}
    #: by default that of the run
    augmentation: Augmentation | None = None
    batch_size: Positive
    #: weights: rare classes have larger loss weights; sampling: they are drawn more often;
    #: logit_adjusted: training multiplies the outputs by the class prior (Menon et al., ICLR 2021)
    class_balance: ClassBalance
    #: false: `make publish-models` leaves its weights out
    publish: bool = True


class FineTune(Stage):
    """The second stage: one layer of the backbone and all layers after it are trained."""

    from_layer: str
    #: true: features before that layer are computed once per view and cached;
    #: false: computed in every epoch, with new augmentation
    cached: bool = True
    #: of the layers after the backbone; by default `learning_rate`, which is the last block's
    head_learning_rate: Rate | None = None
    #: the learning rate of a block of the backbone, relative to that of the block after it (Howard
    #: and Ruder, ACL 2018)
    block_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class Transfer(_Section):
    """A pretrained backbone with a new head: frozen, then fine-tuned."""

    kind: Literal["transfer"]
    name: ModelName
    #: in tables; by default the name of the backbone
    title: Title | None = None
    #: a network of keras.applications
    backbone: str = "VGG16"
    #: none: the backbone starts from random weights
    weights: Literal["imagenet", "none"] = "imagenet"
    #: pixels; VGG16 was trained at 224 and accepts any size from 32
    input_size: Annotated[int, Field(ge=32, le=1024)]
    #: layers of the backbone whose pooled feature maps are the input of the head
    feature_layers: Annotated[list[str], Field(min_length=1)]
    dense_units: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    #: cached views of each training image: the plain image and augmented ones
    views: Positive
    #: of the views and of fine-tuning; by default that of the run
    augmentation: Augmentation | None = None
    #: number of flips and quarter turns over which predictions are averaged
    test_time_views: Literal[1, 2, 4, 8] = 1
    batch_size: Positive
    class_balance: ClassBalance
    frozen: Stage
    fine_tune: FineTune
    publish: bool = True


#: The rows of tables that a network with a pretrained backbone has, and the end of their titles.
TRANSFER_ROWS = {
    "linear": " features, logistic regression",
    "frozen": ", frozen",
    "fine_tuned": ", fine-tuned",
}
#: What every model must beat: predictions that look at no image, and their titles.
TRIVIAL = {"majority": "Majority-class baseline", "stratified": "Stratified guessing"}
#: Names that are not free: of folders in runs/<run>, and of keys in manifests.
RESERVED = "keys notebooks configuration run folds seeds external split_sha256".split()
#: The kinds of models that `models` may list.
KINDS = {"handcrafted": Handcrafted, "network": Network, "transfer": Transfer}
ModelSettings = Annotated[Handcrafted | Network | Transfer, Field(discriminator="kind")]


class Evaluation(_Section):
    """Bootstrap intervals, malignant classes, and example images."""

    bootstrap_draws: Annotated[int, Field(ge=100)] = 10_000
    confidence: Fraction
    #: classes that a biopsy must not miss; those that the run does not have are ignored
    malignant: list[ClassName] = ["akiec", "bcc", "mel"]
    #: correctly and wrongly predicted test images shown per class
    examples_per_class: Annotated[int, Field(ge=1, le=6)]


class Heatmaps(_Section):
    """The layers explained by Grad-CAM."""

    #: for each network to explain, the name of a convolution before its features are averaged
    layers: Annotated[dict[ModelName, str], Field(min_length=1)]
    examples_per_class: Annotated[int, Field(ge=1, le=6)]


class Config(_Section):
    """A run."""

    #: the file's name without its suffix; names runs/<name> and reports/<name>
    name: str
    title: Title
    classes: Annotated[list[str], Field(min_length=2)]
    #: the full names of diagnoses that HAM10000 does not have
    class_names: dict[ClassName, Annotated[str, Field(min_length=1)]] = {}
    seed: Seed
    data: Data
    split: Split
    preprocessing: Preprocessing
    augmentation: Augmentation
    training: Training = Training()
    #: in the order of tables; the majority-class baseline comes first and is not listed
    models: Annotated[list[ModelSettings], Field(min_length=1)]
    #: epochs of the paper's network with its ReLU output
    relu_output_epochs: Positive
    evaluation: Evaluation
    heatmaps: Heatmaps

    @property
    def names(self) -> dict[str, str]:
        """The full name of every diagnosis that the metadata may contain."""
        return CLASS_NAMES | self.class_names

    @model_validator(mode="after")
    def _names_images_once(self):
        if self.split.file and self.data.images_per_class:
            raise ValueError(
                "split.file lists the images, so data.images_per_class cannot draw any"
            )
        return self

    @model_validator(mode="after")
    def _has_known_classes(self):
        unknown = [name for name in self.classes if name not in self.names]
        if unknown or len(set(self.classes)) < len(self.classes):
            raise ValueError(
                f"classes = {self.classes}: must be different names out of "
                f"{', '.join(self.names)}; class_names may add others"
            )
        return self

    @property
    def baseline(self) -> Network:
        """The settings of the paper's network."""
        return next(item for item in self.networks if item.builder == "baseline_cnn")

    @property
    def handcrafted(self) -> list[Handcrafted]:
        """The settings of the classifiers on hand-crafted features."""
        return [item for item in self.models if item.kind == "handcrafted"]

    @property
    def networks(self) -> list[Network]:
        """The settings of the networks that are trained from scratch."""
        return [item for item in self.models if item.kind == "network"]

    @property
    def transfers(self) -> list[Transfer]:
        """The settings of the networks with a pretrained backbone."""
        return [item for item in self.models if item.kind == "transfer"]

    @property
    def primary(self) -> str:
        """The model of the primary result: the first fine-tuned network."""
        return f"{self.transfers[0].name}_fine_tuned"

    def model(self, name: str) -> Handcrafted | Network | Transfer:
        """Return the settings of one model, an item of `models`."""
        return next(item for item in self.models if item.name == name)

    def index_settings(self) -> dict[str, Any]:
        """Return the settings that decide which images a run has and how they are split."""
        settings = {
            "classes": self.classes,
            "data": self.data.model_dump(exclude={"attribution"}),
            "split": self.split.model_dump(exclude_defaults=True),
            "seed": self.seed,
        }
        file = self.split.file and paths.resolve(self.split.file)
        if file and file.is_file():  # a server that only trains may not have it
            settings["split_file_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        return settings

    @model_validator(mode="after")
    def _lists_what_the_notebooks_compare(self):
        names = [*RESERVED, *TRIVIAL, *(item.name for item in self.models)]
        names += [f"{item.name}_{row}" for item in self.transfers for row in TRANSFER_ROWS]
        names += [f"{item.name}_relu" for item in self.networks]
        titles = [*TRIVIAL.values(), *(item.title for item in self.models if item.title)]
        for item in self.transfers:
            titles += [(item.title or item.backbone) + end for end in TRANSFER_ROWS.values()]
        for key, values in (("name", names), ("title", titles)):
            if len(set(values)) < len(values):
                raise ValueError(f"models: a {key} is there twice: {', '.join(sorted(values))}")
        missing = [kind for kind in KINDS if kind not in [item.kind for item in self.models]]
        if not any(item.builder == "baseline_cnn" for item in self.networks):
            missing.append("network with builder = baseline_cnn, the paper's")
        if missing:
            raise ValueError(
                "models: the notebooks compare models of each kind; missing: " + "; ".join(missing)
            )
        networks = [item.name for item in self.networks]
        networks += [f"{t.name}_{row}" for t in self.transfers for row in ("frozen", "fine_tuned")]
        if not {self.primary} <= set(self.heatmaps.layers) <= set(networks):
            raise ValueError(
                f"heatmaps.layers = {self.heatmaps.layers}: expected networks out of "
                f"{', '.join(networks)}, among them {self.primary}"
            )
        return self


def load_config(path: str | Path) -> Config:
    """Read and validate a run's YAML file.

    Parameters
    ----------
    path : str or Path
        Relative to the repository, or absolute.

    Raises
    ------
    FileNotFoundError
        No such file; the message lists the existing ones.
    ValueError
        Not YAML, a key that is unknown, missing or given twice, a wrong type or an impossible
        value; the message names the file, the key, the value and what is allowed.
    """
    file = paths.resolve(path)
    if not file.is_file():
        known = sorted(f"configs/{p.name}" for p in (paths.ROOT / "configs").glob("*.yaml"))
        raise FileNotFoundError(f"{path}: no such configuration; there are: {', '.join(known)}")
    values = read_yaml(file, str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(values).__name__}")
    if "name" in values:
        raise ValueError(f"{path}: unknown key 'name': the file's own name names the run")
    try:
        return Config.model_validate(values | {"name": file.stem})
    except ValidationError as error:
        faults = "\n".join(f"  {_describe(fault, values)}" for fault in error.errors())
        raise ValueError(f"{path}: not a valid configuration\n{faults}") from None


def read_yaml(file: Path, name: str) -> Any:
    """Read a file in YAML 1.2, where `no` is text and `1e-3` and `010` are decimal numbers.

    Raises
    ------
    ValueError
        Not YAML, or a key given twice; the message has the file's `name` and the line.
    """
    try:
        return YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        fault = f"line {mark.line + 1}: {error.problem}" if mark else " ".join(str(error).split())
        raise ValueError(f"{name}: not a YAML file: {fault}") from None


def _describe(fault: dict, values: dict) -> str:
    location = fault["loc"]
    if location[:1] == ("models",) and len(location) > 1:  # number, kind, key: named by its name
        item = values["models"][location[1]]
        name = item.get("name", location[1]) if isinstance(item, dict) else location[1]
        location = ("models", name, *location[3:])
    key = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        allowed = _fields(fault["loc"][:-1])
        hint = did_you_mean(str(location[-1]), allowed)
        return f"unknown key {key!r}{hint} (allowed: {', '.join(allowed)})"
    if fault["type"] == "missing":
        return f"missing key {key!r}"
    if fault["type"] == "union_tag_not_found":
        return f"missing key '{key}.kind' (allowed: {', '.join(KINDS)})"
    if fault["type"] == "union_tag_invalid":
        return f"{key}.kind = {fault['input']['kind']!r}: should be one of {', '.join(KINDS)}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message.replace("a valid boolean", "true or false")
    if not key:  # about several keys, which it names itself
        return message
    return f"{key} = {fault['input']!r}: {message}"


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the closest allowed name, or nothing.

    >>> did_you_mean("epoch", ["epochs", "filters"])
    "; did you mean 'epochs'?"
    """
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _fields(location: tuple) -> list[str]:
    """Return the keys allowed at a location, walking the sections."""
    section = Config
    if location[:1] == ("models",):
        section, location = KINDS[location[2]], location[3:]
    for part in location:
        annotation = section.model_fields[part].annotation
        options = getattr(annotation, "__args__", (annotation,))
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return [name for name in section.model_fields if section is not Config or name != "name"]
