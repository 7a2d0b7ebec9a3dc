"""Convert the metadata tables of Dataverse, Kaggle and ISIC into HAM10000's columns."""

import io
from pathlib import Path

import pandas as pd

from lib import paths
from lib.config import read_yaml
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

#: The names of diagnoses in ISIC's tables and HAM10000's; a user may add lines.
DIAGNOSES = paths.ROOT / "data" / "diagnoses.yaml"

#: How a text in UTF-16 begins.
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
#: What to do with a table that cannot be read.
SAVE_AS = "save it as UTF-8, comma-separated"

#: Kinds of tables and the columns that identify each, in the order of preference.
KINDS = {
    "metadata": {"image_id", "dx"},
    "ground_truth": {"image", *ISIC_CLASSES},
    "groupings": {"image", "lesion_id", "diagnosis_confirm_type"},
    "isic_2019": {"image", "MEL", "NV", "BCC", "AK", "SCC", "UNK"},
    "isic_2019_details": {"image", "age_approx", "anatom_site_general", "sex"},
    "isic_2020": {"image_name", "patient_id", "diagnosis"},
    "isic_archive": {"isic_id", "diagnosis_1"},
}
#: Columns of ISIC's tables that have HAM10000's contents under another name.
RENAMED = {
    "image": "image_id",
    "image_name": "image_id",
    "isic_id": "image_id",
    "age_approx": "age",
}
#: The columns that are taken from ISIC's tables, beside the body site.
TAKEN = "image_id dx lesion_id patient_id age sex diagnosis_confirm_type".split()
#: Where the ISIC Archive has the body site, the most detailed first.
SITES = ("anatom_site_special", "anatom_site_general", "anatom_site_general_challenge")
#: The levels of the ISIC Archive's diagnoses, the most detailed first.
LEVELS = [f"diagnosis_{level}" for level in range(5, 0, -1)]


def find_metadata(files: list[Path], dataset: Dataset) -> pd.DataFrame | None:
    """Return HAM10000's columns, as text, from the tables among the files; None without a table."""
    candidates = [file for file in files if is_table(file) or file.suffix == ""]
    candidates.sort(key=lambda f: (f.stem.casefold() not in dataset.stems, f.suffix != ".csv"))
    tables = {}
    for file in candidates:
        columns = set(columns_of(file))
        for kind in (kind for kind, needed in KINDS.items() if needed <= columns):
            tables.setdefault(kind, file)
    tables = {
        kind: (file.name, _without(read_table(file), file, dataset))
        for kind, file in tables.items()
    }
    if "metadata" in tables:
        table = tables["metadata"][1]
        if "lesion_id" not in table and dataset.image_is_lesion:
            table = table.assign(lesion_id=table["image_id"])
        return table
    if "ground_truth" in tables:
        return _from_isic_2018(*tables["ground_truth"], tables.get("groupings"), dataset)
    if "isic_2019" in tables:
        return _from_isic_2019(*tables["isic_2019"], tables.get("isic_2019_details"))
    if "isic_2020" in tables:
        name, table = tables["isic_2020"]
        return _in_ham10000_s_columns(name, table, table[["diagnosis"]])
    if "isic_archive" in tables:
        name, table = tables["isic_archive"]
        return _in_ham10000_s_columns(name, table, table[[c for c in LEVELS if c in table]])
    return None


def _without(table: pd.DataFrame, file: Path, dataset: Dataset) -> pd.DataFrame:
    left_out = table.isin(dataset.left_out).any(axis=1)
    if left_out.any():
        print(f"{file.name}: without {', '.join(dataset.left_out)} (data/registry.yaml)")
    return table[~left_out]


def is_table(file: Path | str) -> bool:
    """Decide by its name whether a file is a table."""
    name = str(file).replace("\\", "/").rpartition("/")[2].lower()
    return name.endswith((".csv", ".tab")) and not name.startswith(".")


def columns_of(file: Path) -> list[str]:
    """Return the names of a table's columns, or why it cannot be read."""
    try:
        with file.open("rb") as opened:
            start = opened.read(2**16)
        line = start if start.startswith(UTF_16) else start.partition(b"\n")[0]
        first, _, _ = _decode(line).partition("\n")
        return list(pd.read_csv(io.StringIO(first), sep=_separator(first), dtype=str))
    except ValueError as error:
        return [f"({error}; {SAVE_AS})"]


def read_table(file: Path) -> pd.DataFrame:
    """Read a table separated by commas, semicolons or tabs, all columns as text.

    It may be in UTF-8, in UTF-16 with a byte order mark, or in Latin-1.
    """
    try:
        text = _decode(file.read_bytes())
        separator = _separator(text.partition("\n")[0])
        return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise ValueError(f"{file.name}: not a table: {error}; {SAVE_AS}") from None


def _separator(line: str) -> str:
    return max(",;\t", key=line.count)


def is_plain(file: Path) -> bool:
    """Say whether a table is in UTF-8 and separated by commas, as it is used."""
    try:
        first = file.read_text(encoding="utf-8").partition("\n")[0]
    except UnicodeDecodeError:
        return False
    return not first.startswith("\ufeff") and first.count(",") > max(map(first.count, ";\t\0"))


def _decode(data: bytes) -> str:
    if data.startswith(UTF_16):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ValueError("it holds bytes of value 0")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _one_hot(name: str, truth: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Return the name of the column with a 1 in each row; the others must be 0."""
    values = truth[columns].apply(pd.to_numeric, errors="coerce")
    wrong = ~values.isin([0, 1]).all(axis=1) | (values.sum(axis=1) != 1)
    if wrong.any():
        row = wrong.idxmax()
        raise ValueError(
            f"{name}: row {row + 2}, {truth.loc[row, 'image']}: expected one 1 and zeros, found "
            f"{', '.join(truth.loc[row, columns])}"
        )
    return values.idxmax(axis=1)


def _from_isic_2018(
    name: str, truth: pd.DataFrame, groupings: tuple[str, pd.DataFrame] | None, dataset: Dataset
) -> pd.DataFrame:
    """Convert ISIC's one-hot ground truth and its lesion ids."""
    dx = _one_hot(name, truth, list(ISIC_CLASSES)).map(ISIC_CLASSES)
    table = pd.DataFrame({"image_id": truth["image"], "dx": dx})
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


def _from_isic_2019(
    name: str, truth: pd.DataFrame, details: tuple[str, pd.DataFrame] | None
) -> pd.DataFrame:
    """Convert the one-hot ground truth of 2019; its other table has the lesion ids."""
    if details is None or "lesion_id" not in details[1]:
        raise ValueError(
            f"{name} has no lesion ids, and without them images of one lesion would be on both "
            "sides of a split: add ISIC_2019_Training_Metadata.csv to the folder"
        )
    labels = truth.drop(columns="image").columns.tolist()
    table = truth[["image"]].assign(label=_one_hot(name, truth, labels))
    table = table.merge(details[1], on="image", how="left", validate="1:1").fillna("")
    return _in_ham10000_s_columns(name, table, table[["label"]])


def _in_ham10000_s_columns(name: str, table: pd.DataFrame, diagnoses: pd.DataFrame) -> pd.DataFrame:
    """Convert a table of ISIC, and print what was mapped and what was left out.

    Parameters
    ----------
    diagnoses : DataFrame of str
        One row an image, the most detailed diagnosis first. The first that `DIAGNOSES` has counts.
    """
    known = read_diagnoses()
    keys = diagnoses.apply(lambda column: column.str.strip().str.casefold())
    first = keys.where(keys.isin(known.keys())).bfill(axis=1).iloc[:, 0]
    shown = diagnoses.where(diagnoses != "").bfill(axis=1).iloc[:, 0].fillna("no diagnosis")
    dx = first.map(known)
    _count(f"{name}: diagnoses mapped", (shown + " to " + dx).dropna())
    _count(f"{name}: left out ({DIAGNOSES.name} maps them to no class)", shown[dx.isna()])
    table = table.rename(columns=RENAMED).assign(dx=dx, shown=shown)
    keep = dx.notna()
    if "image_type" in table:
        is_other = keep & ~table["image_type"].isin(["", "dermoscopic"])
        _count(f"{name}: left out, no dermoscopic images", table.loc[is_other, "image_type"])
        keep &= ~is_other
    table = table[keep].reindex(columns=[*TAKEN, *SITES], fill_value="")
    without = table["lesion_id"] == ""
    if without.any():
        print(
            f"{name}: {without.sum()} images have no lesion_id; each counts as a lesion of its own"
        )
        table.loc[without, "lesion_id"] = table.loc[without, "image_id"]
    several = table.groupby("lesion_id")["dx"].transform("nunique") > 1
    _count(f"{name}: left out, lesions with two diagnoses", table.loc[several, "lesion_id"])
    site = table[SITES[0]]
    for column in SITES[1:]:
        site = site.where(site != "", table[column])
    table = table.assign(
        localization=site.replace("", "unknown"),
        sex=table["sex"].replace("", "unknown"),
        dx_type=table["diagnosis_confirm_type"].map(ISIC_DX_TYPES).fillna(""),
    )
    columns = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "patient_id"]
    return table.loc[~several, columns].reset_index(drop=True)


def _count(what: str, values: pd.Series) -> None:
    """Print how many there are, and the ten most frequent values; nothing if there are none."""
    counts = values.value_counts()
    if len(counts):
        listed = ", ".join(f"{n:,} {value}" for value, n in counts.head(10).items())
        more = f" and {len(counts) - 10} others" if len(counts) > 10 else ""
        print(f"{what}: {len(values):,} images: {listed}{more}")


def read_diagnoses() -> dict[str, str]:
    """Return HAM10000's name for each diagnosis of `DIAGNOSES`, in lower case; None: left out."""
    file = paths.relative(DIAGNOSES)
    table = read_yaml(DIAGNOSES, file)
    if not isinstance(table, dict):
        raise ValueError(f"{file}: expected a line `name: dx` for each diagnosis")
    wrong = {
        k: v for k, v in table.items() if not (isinstance(k, str) and isinstance(v, str | None))
    }
    if wrong:
        raise ValueError(f"{file}: expected text or null; found {wrong}")
    return {name.strip().casefold(): dx for name, dx in table.items()}
