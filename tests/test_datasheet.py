"""What data/README.md says of the data is what the data are."""

import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest

from lib import config, paths
from lib.data import datasets
from lib.preprocessing import decode
from tools import synthetic

TEXT = (paths.ROOT / "data" / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))


def table(section):
    """Return the table of a section that begins with the column Class."""
    lines = re.search(r"^\| Class(.*\n)(\|.*\n)+", section, flags=re.MULTILINE)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = pd.DataFrame(cells[2:], columns=cells[0]).set_index("Class")
    return rows.map(lambda cell: int(cell.replace(",", "")) if re.match(r"[\d,]+$", cell) else cell)


@pytest.fixture(scope="module")
def whole():
    """The metadata of the whole of HAM10000."""
    there = [os.environ.get("HAM10000_DIR"), paths.ROOT.parent / "shared" / "ham10000_thumbs"]
    for folder in filter(None, there):
        if (Path(folder) / datasets.METADATA).is_file():
            metadata = datasets.read_metadata(Path(folder))
            if len(metadata) == 10_015:
                return metadata
    pytest.skip("no whole HAM10000: neither HAM10000_DIR nor ../shared/ham10000_thumbs has it")


def test_the_synthetic_counts_are_those_that_are_drawn():
    settings = config.load_config("configs/demo.yaml").data.synthetic
    plan = synthetic.image_plan(settings.lesions, settings.seed)
    counts = plan.groupby("dx").agg(Images=("image_id", "size"), Lesions=("lesion_id", "nunique"))
    section = SECTIONS["Synthetic: `data/synthetic/`"]
    assert table(section).to_dict() == counts.to_dict()
    assert f"{len(plan)} images" in section
    assert f"{settings.lesions} lesions" in section


def test_the_counts_of_ham10000_are_its_own(whole):
    section = SECTIONS["HAM10000: datasheet"]
    said = table(section)
    found = whole.groupby("dx").agg(Images=("image_id", "size"), Lesions=("lesion_id", "nunique"))
    histology = (whole["dx_type"] == "histo").groupby(whole["dx"]).sum()
    assert said[["Images", "Lesions"]].to_dict() == found.to_dict()
    assert said["Images confirmed by histopathology"].to_dict() == histology.to_dict()
    assert said["Diagnosis"].to_dict() == config.CLASS_NAMES
    how = whole["dx_type"].value_counts()
    per_lesion = whole["lesion_id"].value_counts()
    for sentence in (
        f"{len(whole):,} dermoscopic images of {len(per_lesion):,} lesions",
        f"{(per_lesion > 1).sum():,} lesions have more than one image, up to six",
        f"Age is missing for {whole['age'].isna().sum()} images",
        f"sex unknown for {(whole['sex'] == 'unknown').sum()}",
        f"body site unknown for {(whole['localization'] == 'unknown').sum()}",
        f"histopathology for {how['histo']:,} images, by follow-up for {how['follow_up']:,}",
        f"experts for {how['consensus']}, by confocal microscopy for {how['confocal']}",
    ):
        assert sentence in section
    assert per_lesion.max() == 6


def test_the_near_duplicates_are_as_many_as_were_published():
    file = paths.ROOT / "reports" / "studies" / "leakage" / "leakage.json"
    search = json.loads(file.read_text(encoding="utf-8"))["near_duplicates"]
    assert search["pairs_of_different_lesions"] == 6
    assert search["pairs_of_different_classes"] == 0
    assert (
        f"only the {search['pairs_of_one_lesion']} of "
        f"{search['possible_pairs_of_one_lesion']:,} that are nearly the same view"
        in SECTIONS["HAM10000: datasheet"]
    )
    assert "Six pairs of near-duplicates" in SECTIONS["HAM10000: datasheet"]
    assert "none has two diagnoses" in SECTIONS["HAM10000: datasheet"]


def test_the_limits_of_an_image_are_those_that_are_checked():
    assert f"| a side below {decode.SMALLEST_SIDE} pixels | refused |" in TEXT
    assert f"| more than {decode.LARGEST_AREA // 10**6} million pixels | refused" in TEXT


def test_the_columns_are_those_of_the_schema():
    listed = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, flags=re.MULTILINE)
    names = [name for cell in listed for name in re.findall(r"\w+", cell)]
    assert set(names) == set(datasets.metadata_schema().columns)
