"""Convert the metadata tables of Dataverse, Kaggle and ISIC into HAM10000's columns."""

import io
from pathlib import Path

import pandas as pd

from tools.registry import Dataset

#: ISIC's one-hot columns and HAM10000's names of the classes.
ISIC_CLASSES = {name.upper(): name for name in ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")}

#: ISIC's `diagnosis_confirm_type` and HAM10000's `dx_type`.
ISIC_DX_TYPES = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}

#: What to do with a table that cannot be read.
SAVE_AS = "save it as UTF-8, comma-separated"

#: Kinds of tables and the columns that identify each.
KINDS = {
    "metadata": {"image_id", "dx"},
    "ground_truth": {"image", *ISIC_CLASSES},
    "groupings": {"image", "lesion_id", "diagnosis_confirm_type"},
}


def find_metadata(files: list[Path], dataset: Dataset) -> pd.DataFrame | None:
    """Return HAM10000's columns, as text, from the tables among the files; None without a table."""
    tables = {}
    candidates = [file for file in files if file.suffix.lower() in ("", ".csv", ".tab")]
    for file in sorted(candidates, key=lambda file: file.suffix.lower() != ".csv"):
        table = read_table(file)
        left_out = table.isin(dataset.left_out).any(axis=1)
        if left_out.any():
            print(f"{file.name}: without {', '.join(dataset.left_out)} (data/registry.yaml)")
        table = table[~left_out]
        for kind, columns in KINDS.items():
            if columns <= set(table.columns):
                tables.setdefault(kind, (file.name, table))
    if "metadata" in tables:
        table = tables["metadata"][1]
        if "lesion_id" not in table and dataset.image_is_lesion:
            table = table.assign(lesion_id=table["image_id"])
        return table
    if "ground_truth" in tables:
        return _from_isic(*tables["ground_truth"], tables.get("groupings"), dataset)
    return None


def read_table(file: Path) -> pd.DataFrame:
    """Read a table separated by commas, semicolons or tabs, all columns as text.

    It may be in UTF-8, in UTF-16 with a byte order mark, or in Latin-1.
    """
    try:
        text = _decode(file.read_bytes())
        separator = max(",;\t", key=text.partition("\n")[0].count)
        return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise ValueError(f"{file.name}: not a table: {error}; {SAVE_AS}") from None


def is_plain(file: Path) -> bool:
    """Say whether a table is in UTF-8 and separated by commas, as it is used."""
    try:
        first = file.read_text(encoding="utf-8").partition("\n")[0]
    except UnicodeDecodeError:
        return False
    return not first.startswith("\ufeff") and first.count(",") > max(map(first.count, ";\t\0"))


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ValueError("it holds bytes of value 0")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _from_isic(
    name: str, truth: pd.DataFrame, groupings: tuple[str, pd.DataFrame] | None, dataset: Dataset
) -> pd.DataFrame:
    """Convert ISIC's one-hot ground truth and its lesion ids."""
    values = truth[list(ISIC_CLASSES)].apply(pd.to_numeric, errors="coerce")
    wrong = ~values.isin([0, 1]).all(axis=1) | (values.sum(axis=1) != 1)
    if wrong.any():
        row = wrong.idxmax()
        raise ValueError(
            f"{name}: row {row + 2}, {truth.loc[row, 'image']}: expected one 1 and zeros, found "
            f"{', '.join(truth.loc[row, list(ISIC_CLASSES)])}"
        )
    table = pd.DataFrame({"image_id": truth["image"], "dx": values.idxmax(axis=1)})
    table["dx"] = table["dx"].map(ISIC_CLASSES)
    if groupings:
        table = table.assign(**_lesions(table["image_id"], *groupings))
    elif dataset.image_is_lesion:
        table = table.assign(lesion_id=table["image_id"], dx_type="")
    else:
        raise ValueError(
            f"{name} has no lesion ids, and without them images of one lesion would be on both "
            "sides of a split: add ISIC2018_Task3_Training_LesionGroupings.csv to the folder "
            "(data/registry.yaml has its address)"
        )
    return table.assign(age="", sex="unknown", localization="unknown")


def _lesions(image_ids: pd.Series, name: str, groupings: pd.DataFrame) -> dict[str, pd.Series]:
    """Return lesion_id and dx_type of each image from ISIC's table of lesions."""
    lesion_ids = groupings.groupby("image")["lesion_id"].unique()
    ambiguous = lesion_ids[lesion_ids.str.len() > 1]
    if len(ambiguous):
        raise ValueError(
            f"{name}: {ambiguous.index[0]} has the lesion ids {', '.join(ambiguous.iloc[0])}; "
            "expected one"
        )
    groupings = groupings.drop_duplicates("image").set_index("image")
    missing = image_ids[~image_ids.isin(groupings.index)]
    if len(missing):
        raise ValueError(f"{name}: {len(missing)} images have no row, the first: {missing.iloc[0]}")
    groupings = groupings.loc[image_ids].reset_index().set_index(image_ids.index)
    dx_types = groupings["diagnosis_confirm_type"]
    unknown = dx_types[~dx_types.isin(ISIC_DX_TYPES)]
    if len(unknown):
        raise ValueError(
            f"{name}: diagnosis_confirm_type {unknown.iloc[0]!r}; expected one of "
            f"{', '.join(ISIC_DX_TYPES)}"
        )
    return {"lesion_id": groupings["lesion_id"], "dx_type": dx_types.map(ISIC_DX_TYPES)}
