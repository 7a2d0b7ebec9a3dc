"""Synthetic data sets in HAM10000's layout, to run and test the code; no medical evidence.

Every image is drawn from random numbers (`tools/synthetic_images.py`); none contains a pixel of a
patient. Hair, bubbles, reflections, ruler, dark corners, illuminant and skin tone are drawn without
knowledge of the class.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy import ndarray
from numpy.random import Generator

from lib import paths
from lib.config import Config, load_config
from lib.data import datasets
from tools.command_line import run_command
from tools.synthetic_images import draw_view_images, generator

CLASSES = ("bcc", "mel", "nv")
LESION_PROPORTIONS = {"bcc": 0.14, "mel": 0.22}  # the rest are nevi (HAM10000: 0.05 and 0.10)
LESIONS_PER_CLASS = 10  # at least
IMAGE_COUNTS = {  # proportions of lesions with one, two and three images
    "bcc": (0.52, 0.36, 0.12),
    "mel": (0.40, 0.40, 0.20),
    "nv": (0.79, 0.17, 0.04),
}
METADATA_COLUMNS = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
TRUTH_COLUMNS = ["image_id", "gain_r", "gain_g", "gain_b", "skin_tone"]
TRUTH_COLUMNS += ["hairs", "bubbles", "reflections", "ruler", "dark_corners"]
# Ages (mean and deviation, years), dx_type, sex and site: rounded from HAM10000's metadata
# (Tschandl et al., Sci. Data 5:180161, 2018). HAM10000 has confocal diagnoses too, but only of
# benign keratoses, which are not drawn here.
AGES = {"bcc": (67, 13), "mel": (61, 15), "nv": (47, 14)}
DX_TYPES = {
    "bcc": {"histo": 1.0},
    "mel": {"histo": 1.0},
    "nv": {"follow_up": 0.69, "histo": 0.25, "consensus": 0.06},
}
SEXES = {
    "bcc": {"male": 0.62, "female": 0.38},
    "mel": {"male": 0.61, "female": 0.39},
    "nv": {"male": 0.515, "female": 0.48, "unknown": 0.005},
}
SITES = {
    "bcc": {"back": 38, "face": 18, "lower extremity": 12, "chest": 11, "upper extremity": 10},
    "mel": {"back": 28, "upper extremity": 18, "lower extremity": 17, "face": 11, "chest": 6},
    "nv": {"lower extremity": 24, "trunk": 22, "back": 20, "abdomen": 14, "upper extremity": 10},
}


def generate(
    folder: Path | str,
    *,
    lesions: int = 600,
    seed: int = 7,
    workers: int | None = None,
    elsewhere: bool = False,
) -> Path:
    """Write a synthetic data set in HAM10000's layout and return its folder.

    The files depend on `lesions`, `seed` and `elsewhere` only, not on `workers`. They are written
    beside `folder` and renamed at the end, so that an interrupted run never looks finished.

    Parameters
    ----------
    folder : Path or str
        Created here; may exist only if it is empty.
    lesions : int
        At least 30, of which at least 10 of each class.
    seed : int
        Zero or more.
    workers : int, optional
        Number of processes; by default one for each processor.
    elsewhere : bool
        As another clinic would photograph them (`from_elsewhere`).

    Raises
    ------
    FileExistsError
        `folder` is a file or not empty; it is left unchanged.
    ValueError
        Too few lesions or workers, or a negative seed.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(
            f"{folder}: found existing content, expected no folder or an empty one"
        )
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers: found {workers}, expected at least 1")
    plan = image_plan(lesions, seed)
    plan = from_elsewhere(plan, seed) if elsewhere else plan
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial_folder.chmod(0o755)
        for name in ("images", "masks", "truth"):
            (partial_folder / name).mkdir()
        _write_images(partial_folder, plan, seed, workers)
        plan[METADATA_COLUMNS].to_csv(partial_folder / "HAM10000_metadata.csv", index=False)
        plan[TRUTH_COLUMNS].to_csv(partial_folder / "truth" / "truth.csv", index=False)
        note = {"lesions": lesions, "seed": seed, "version": datasets.SYNTHETIC_VERSION}
        note |= {"elsewhere": True} if elsewhere else {}
        note_file = partial_folder / datasets.SYNTHETIC_NOTE
        note_file.write_text(json.dumps(note) + "\n", encoding="utf-8")
        (partial_folder / "README.md").write_text(_readme(plan, lesions, seed), encoding="utf-8")
        partial_folder.replace(folder)
    except BaseException:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    return folder


def image_plan(lesions: int, seed: int) -> pd.DataFrame:
    """Draw metadata, camera and distractors of every image, before any pixel.

    Returns
    -------
    pandas.DataFrame
        One row per image, ordered by image_id: `METADATA_COLUMNS`, `TRUTH_COLUMNS`, the numbers
        of lesion and view that seed the drawing, and the camera (rotation in radians, mirrored,
        scale, shift in half frame heights).
    """
    if lesions < len(CLASSES) * LESIONS_PER_CLASS:
        raise ValueError(
            f"lesions: found {lesions}, expected at least {len(CLASSES) * LESIONS_PER_CLASS}"
            f" ({LESIONS_PER_CLASS} of each class)"
        )
    if seed < 0:
        raise ValueError(f"seed: found {seed}, expected zero or more")
    rng = generator(seed)
    counts = {
        dx: max(LESIONS_PER_CLASS, round(lesions * p)) for dx, p in LESION_PROPORTIONS.items()
    }
    counts["nv"] = lesions - sum(counts.values())
    labels = rng.permutation(np.repeat(list(counts), list(counts.values())))
    rows = []
    for lesion, dx in enumerate(labels):
        patient_rng = generator(seed, lesion, 0)
        patient = {
            "lesion": lesion,
            "lesion_id": f"SYN_L{lesion + 1:06d}",
            **draw_metadata(str(dx), patient_rng),
            **draw_skin(patient_rng),
        }
        for view in range(1 + patient_rng.choice(3, p=IMAGE_COUNTS[dx])):
            view_rng = generator(seed, lesion, 2 + view)
            rows.append(patient | {"view": view} | draw_view(view_rng, patient))
    numbers = rng.permutation(len(rows)) + 1  # images of one lesion are not neighbours
    plan = (
        pd.DataFrame(rows).drop(columns="gains").assign(image_id=[f"SYN_{n:07d}" for n in numbers])
    )
    return plan.sort_values("image_id", ignore_index=True)


def from_elsewhere(plan: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return a plan as another clinic would photograph it, for the external test.

    The light is warmer, the focus softer, the skin darker; there is more hair and there are more
    rulers. The lesions are drawn in the same way. Ids begin with `EXT_`.
    """
    rng, n = generator(seed, len(plan)), len(plan)
    return plan.assign(
        gain_r=(1.08 * plan["gain_r"]).round(4),
        gain_b=(0.88 * plan["gain_b"]).round(4),
        skin_tone=plan["skin_tone"] + 0.25,
        blur=plan["blur"] + 0.5,
        hairs=plan["hairs"] + rng.integers(0, 8, n),
        ruler=plan["ruler"] | (rng.random(n) < 0.3),
        image_id=plan["image_id"].str.replace("SYN_", "EXT_"),
        lesion_id=plan["lesion_id"].str.replace("SYN_", "EXT_"),
    )


def draw_metadata(dx: str, rng: Generator) -> dict:
    """Draw dx_type, age in years, sex and localization, distributed as in HAM10000's class."""
    mean, deviation = AGES[dx]
    age = float(np.clip(5 * np.round(rng.normal(mean, deviation) / 5), 5, 85))
    return {
        "dx": dx,
        "dx_type": _choice(rng, DX_TYPES[dx]),
        "age": age if rng.random() > 0.01 else np.nan,
        "sex": _choice(rng, SEXES[dx]),
        "localization": _choice(rng, SITES[dx]),
    }


def draw_skin(rng: Generator) -> dict:
    """Draw skin tone (melanin density) and mean illuminant, independent of the class."""
    return {
        "skin_tone": float(0.05 + (0.35 if rng.random() < 0.93 else 1.0) * rng.beta(1.5, 2.5)),
        "flush": float(rng.uniform(0.08, 0.46)),
        "skin_texture": float(rng.uniform(0.3, 1.0)),
        "gains": np.exp(rng.normal(0, 0.06) + rng.normal(0, [0.04, 0.05, 0.06])),
    }


def draw_view(rng: Generator, patient: dict) -> dict:
    """Draw the camera and the distractors of one image, independent of the class."""
    gains = np.round(patient["gains"] * np.exp(rng.normal(0, 0.02, 3)), 4)
    hairiness = rng.choice(3, p=[0.40, 0.38, 0.22])
    return {
        "rotation": float(rng.uniform(0, 2 * np.pi)),
        "mirrored": bool(rng.random() < 0.5),
        "scale": float(rng.uniform(0.88, 1.14)),
        "shift_x": float(rng.normal(0, 0.10)),
        "shift_y": float(rng.normal(0, 0.07)),
        "gain_r": gains[0],
        "gain_g": gains[1],
        "gain_b": gains[2],
        "blur": float(rng.uniform(0.3, 1.0)),
        "hairs": int([0, rng.integers(1, 9), rng.integers(9, 38)][hairiness]),
        "bubbles": int(rng.poisson(5) + 1 if rng.random() < 0.22 else 0),
        "reflections": int(rng.poisson(8) + 1 if rng.random() < 0.30 else 0),
        "ruler": bool(rng.random() < 0.12),
        "dark_corners": bool(rng.random() < 0.11),
    }


def _choice(rng: Generator, weights: dict[str, float]) -> str:
    values = np.array(list(weights.values()), float)
    return str(rng.choice(list(weights), p=values / values.sum()))


# Files --------------------------------------------------------------------------------------------


def _write_images(folder: Path, plan: pd.DataFrame, seed: int, workers: int) -> None:
    views = plan.to_dict("records")
    write = partial(_write_view, folder=folder, seed=seed)
    if workers == 1:
        for view in views:
            write(view)
        return
    context = multiprocessing.get_context("spawn")  # forking breaks OpenCV and TensorFlow
    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
        for _ in pool.map(write, views, chunksize=8):
            pass


def _write_view(view: dict, folder: Path, seed: int) -> None:
    arrays, name = draw_view_images(view, seed), view["image_id"]
    _write(folder / "images" / f"{name}.jpg", arrays["image"], quality=92)
    _write(folder / "truth" / f"{name}_clean.jpg", arrays["clean"], quality=95)
    _write(folder / "masks" / f"{name}_segmentation.png", arrays["lesion"])
    _write(folder / "truth" / f"{name}_hair.png", arrays["hair"])
    _write(folder / "truth" / f"{name}_bubbles.png", arrays["bubbles"])


def _write(path: Path, array: ndarray, quality: int = 0) -> None:
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), array, options):
        raise OSError(f"{path}: the image could not be written")


def _readme(plan: pd.DataFrame, lesions: int, seed: int) -> str:
    counts = ", ".join(f"{dx} {n}" for dx, n in plan["dx"].value_counts().sort_index().items())
    return f"""# Synthetic dermoscopic images

**Synthetic: drawn by a program, not photographed.** No image shows a patient, and no result
on them is medical evidence. They serve to run and test the code.

Drawn by `python -m tools.synthetic --folder FOLDER --lesions {lesions} --seed {seed}`:
{lesions} lesions, {len(plan)} images ({counts}). The same command with the same versions of
NumPy and OpenCV gives the same files.

- `HAM10000_metadata.csv`, `images/`, `masks/`: the layout of HAM10000; ids begin with `SYN_`.
  Age, sex, site and dx_type are invented, too.
- `truth/`: for each image, masks of hair (`_hair.png`) and of bubbles and reflections
  (`_bubbles.png`), and the image without them (`_clean.jpg`); `truth.csv` has the gains of the
  illuminant, the skin tone (melanin density) and the distractors.
"""


def draw(config: Config) -> Path:
    """Draw the images of a configuration, unless they exist already; return their folder.

    Raises
    ------
    ValueError
        The configuration has no synthetic images, or the folder was drawn with other settings.
    """
    folder, settings = paths.resolve(config.data.folder), config.data.synthetic
    if settings is None:
        raise ValueError(
            f"configuration {config.name}: no section data.synthetic, so there is nothing to draw"
        )
    if not folder.exists() or not any(folder.iterdir()):
        generate(folder, **settings.model_dump())
    datasets.check_synthetic(folder, settings)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the synthetic images of a configuration, or a folder of your own."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("config", nargs="?", help="a run, such as configs/demo.yaml")
    parser.add_argument("--folder", type=Path, help="instead of a configuration")
    parser.add_argument("--lesions", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--elsewhere", action="store_true", help="as another clinic would photograph them"
    )
    options = parser.parse_args(arguments)
    if (options.config is None) == (options.folder is None):
        parser.error("expected either a configuration or --folder")

    def draw_images() -> None:
        if options.config:
            folder = draw(load_config(options.config))
        else:
            settings = {name: getattr(options, name) for name in ("lesions", "seed", "elsewhere")}
            folder = generate(options.folder, **settings)
        print(paths.relative(folder))

    return run_command(draw_images)


if __name__ == "__main__":
    sys.exit(main())
