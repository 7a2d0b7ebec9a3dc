"""Tables of ISIC 2019, 2020 and of the ISIC Archive: what is mapped, and what is left out."""

# ruff: noqa: E501

import cv2
import numpy as np
import pandas as pd
import pytest

from lib.data import datasets, duplicates, splits
from tools import get_dataset, registry, source_tables

NO_PAIRS = pd.DataFrame(columns=["lesion_id_1", "lesion_id_2"])
HAM10000 = registry.load_registry()["ham10000"]

ISIC_2019 = {
    "ISIC_2019_Training_GroundTruth.csv": """\
image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK
ISIC_1,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_2,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_3,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0
ISIC_4,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0
ISIC_5,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
""",
    "ISIC_2019_Training_Metadata.csv": """\
image,age_approx,anatom_site_general,lesion_id,sex
ISIC_1,55.0,anterior torso,BCN_1,female
ISIC_2,30.0,,MSK_2,male
ISIC_3,,upper extremity,,
ISIC_4,80.0,head/neck,BCN_4,male
ISIC_5,35.0,lower extremity,MSK_2,male
""",
}

ISIC_2020 = {
    "ISIC_2020_Training_GroundTruth_v2.csv": """\
image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target
ISIC_1,IP_7,IL_1,male,45.0,head/neck,nevus,benign,0
ISIC_2,IP_7,IL_2,male,45.0,torso,melanoma,malignant,1
ISIC_3,IP_8,IL_3,female,50.0,torso,unknown,benign,0
ISIC_4,IP_9,IL_4,female,,,seborrheic keratosis,benign,0
ISIC_5,IP_9,IL_5,female,,,lentigo NOS,benign,0
""",
}

ARCHIVE = {
    "metadata.csv": """\
isic_id,attribution,age_approx,anatom_site_general,anatom_site_special,diagnosis_1,diagnosis_2,diagnosis_3,diagnosis_4,diagnosis_confirm_type,image_type,lesion_id,patient_id,sex
ISIC_1,Us,50,lower extremity,,Benign,Benign melanocytic proliferations,Nevus,"Nevus, Spitz",histopathology,dermoscopic,IL_1,IP_1,male
ISIC_2,Us,60,,,Malignant,Malignant melanocytic proliferations (Melanoma),"Melanoma, NOS",,histopathology,dermoscopic,IL_2,IP_1,female
ISIC_3,Us,70,head/neck,oral or genital,Benign,Benign soft tissue proliferations - Vascular,,,,dermoscopic,IL_3,,female
ISIC_4,Us,65,,,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma metastasis,,histopathology,dermoscopic,IL_4,IP_4,male
ISIC_5,Us,65,,,Benign,Benign melanocytic proliferations,Nevus,,,clinical: overview,IL_5,IP_4,male
ISIC_6,Us,65,,,Benign,Benign melanocytic proliferations,Nevus,,single image expert consensus,dermoscopic,IL_6,IP_4,male
ISIC_7,Us,65,,,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma in situ,,,dermoscopic,IL_6,IP_4,male
ISIC_8,Us,65,,,,,,,,dermoscopic,IL_8,IP_4,male
""",
}


@pytest.fixture
def read(tmp_path):
    """Write tables into a folder, and return HAM10000's columns, indexed by image_id."""

    def read_tables(tables):
        files = []
        for name, text in tables.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
            files.append(tmp_path / name)
        return source_tables.find_metadata(files, HAM10000).set_index("image_id")

    return read_tables


def test_isic_2019_has_ak_as_akiec_and_leaves_scc_out(read, capsys):
    table = read(ISIC_2019)
    assert table["dx"].to_dict() == {
        "ISIC_1": "mel",
        "ISIC_2": "nv",
        "ISIC_3": "akiec",
        "ISIC_5": "nv",
    }
    assert table.loc["ISIC_5", ["lesion_id", "age", "sex", "localization"]].tolist() == [
        *("MSK_2", "35.0", "male", "lower extremity")
    ]
    assert table.loc["ISIC_3", ["lesion_id", "sex"]].tolist() == ["ISIC_3", "unknown"]
    text = capsys.readouterr().out
    assert "diagnoses mapped: 4 images: 2 NV to nv, 1 MEL to mel, 1 AK to akiec" in text
    assert "left out (diagnoses.yaml maps them to no class): 1 images: 1 SCC" in text
    assert "1 images have no lesion_id; each counts as a lesion of its own" in text


def test_isic_2019_without_its_second_table_names_it(read):
    del (tables := dict(ISIC_2019))["ISIC_2019_Training_Metadata.csv"]
    with pytest.raises(ValueError, match=r"no lesion ids.*add ISIC_2019_Training_Metadata\.csv"):
        read(tables)


def test_isic_2020_keeps_patients_together(read, capsys):
    table = read(ISIC_2020)
    assert table["dx"].to_dict() == {"ISIC_1": "nv", "ISIC_2": "mel", "ISIC_4": "bkl"}
    assert table["patient_id"].tolist() == ["IP_7", "IP_7", "IP_9"]
    assert "2 images: 1 unknown, 1 lentigo NOS" in capsys.readouterr().out
    groups = duplicates.join(table.reset_index(), NO_PAIRS, "patient_id")
    assert groups.to_dict() == {"ISIC_1": "IL_1", "ISIC_2": "IL_1", "ISIC_4": "IL_4"}
    assert duplicates.join(table.reset_index(), NO_PAIRS, "lesion_id").nunique() == 3


def test_the_archive_s_most_detailed_known_diagnosis_counts(read, capsys):
    table = read(ARCHIVE)
    assert table["dx"].to_dict() == {"ISIC_1": "nv", "ISIC_2": "mel", "ISIC_3": "vasc"}
    assert table["dx_type"].tolist() == ["histo", "histo", ""]
    assert table["localization"].tolist() == ["lower extremity", "unknown", "oral or genital"]
    text = capsys.readouterr().out
    assert "1 Nevus, Spitz to nv" in text and "1 Melanoma metastasis" in text
    assert "1 no diagnosis" in text
    assert "left out, no dermoscopic images: 1 images: 1 clinical: overview" in text
    assert "left out, lesions with two diagnoses: 2 images: 2 IL_6" in text


def test_a_user_s_own_line_maps_a_diagnosis(read, tmp_path, monkeypatch):
    own = tmp_path / "diagnoses.yaml"
    own.write_text(source_tables.DIAGNOSES.read_text().replace("SCC: null", "SCC: akiec"))
    monkeypatch.setattr(source_tables, "DIAGNOSES", own)
    assert read(ISIC_2019).loc["ISIC_4", "dx"] == "akiec"
    own.write_text("[mel]\n")
    with pytest.raises(ValueError, match=r"diagnoses\.yaml: expected a line `name: dx`"):
        read(ISIC_2019)
    own.write_text("MEL: 1\n")
    with pytest.raises(ValueError, match=r"expected text or null; found {'MEL': 1}"):
        read(ISIC_2019)


@pytest.mark.parametrize("tables", [ISIC_2019, ISIC_2020, ARCHIVE], ids=["2019", "2020", "archive"])
def test_a_folder_as_it_is_downloaded_becomes_a_data_set(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(get_dataset, "DATA", tmp_path / "data")
    folder = tmp_path / "download"
    (folder / "images").mkdir(parents=True)
    for i in range(1, 9):
        noise = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"ISIC_{i}.jpg"), noise)
    for name, text in tables.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert get_dataset.main(["--from", str(folder)]) == 0
    metadata = datasets.read_metadata(tmp_path / "data" / "ham10000")
    assert len(metadata) in (3, 4)
    files = datasets.find_images(tmp_path / "data" / "ham10000", metadata["image_id"])
    assert len(files) == len(metadata)


def test_lesions_of_one_patient_are_on_one_side_of_the_split(run):
    """Also if a near-duplicate joins two patients; an image without patient is a group by lesion."""
    n = 300
    metadata = {
        "image_id": [f"I{i:03}" for i in range(n)],
        "lesion_id": [f"L{i:03}" for i in range(n)],
    }
    metadata = pd.DataFrame(metadata).assign(label=["nv", "mel", "bcc"] * (n // 3))
    metadata["patient_id"] = [f"P{i // 3:03}" if i % 7 else None for i in range(n)]
    pairs = pd.DataFrame({"lesion_id_1": ["L001"], "lesion_id_2": ["L299"]})
    groups = duplicates.join(metadata, pairs, "patient_id")
    index = metadata.assign(group_id=metadata["image_id"].map(groups))
    split = splits.split_groups(splits.group_labels(index), run.split)
    index["split"] = index["group_id"].map(split)
    assert (index.dropna().groupby("patient_id")["split"].nunique() == 1).all()
    assert index.loc[1, "group_id"] == index.loc[299, "group_id"]
    assert (index[index["patient_id"].isna()].groupby("group_id").size() == 1).all()
