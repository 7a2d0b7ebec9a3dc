"""Read CSV tables against a schema; write CSV and JSON files completely or not at all."""

import json
import warnings
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
from pandera import dtypes

from lib import paths


def read_table(file: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a CSV file and check it against a schema; columns of text stay text (`0001`, `NA`).

    In a column of text only an empty cell is missing.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not CSV, or not as the schema requires: the message names the file and lists all faults
        with their rows.
    """
    name = paths.relative(file)
    if not file.is_file():
        raise FileNotFoundError(f"{name}: no such file; run the notebook that writes it")
    text = {key: str for key, column in schema.columns.items() if dtypes.is_string(column.dtype)}
    words = {key: [""] if key in text else ["", "NA", "NaN", "nan"] for key in schema.columns}
    missing = {"keep_default_na": False, "na_values": words}
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            table = pd.read_csv(file, dtype=text, index_col=False, **missing)
    except (ValueError, pd.errors.ParserWarning) as error:
        raise ValueError(f"{name}: not a readable CSV table: {error}") from None
    try:
        return schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        lines = _faults(errors.failure_cases, schema, list(table.columns))
        raise ValueError(f"{name}: not as expected\n" + "\n".join(lines)) from None


def write_table(table: pd.DataFrame, file: Path) -> Path:
    """Write a CSV file completely or not at all."""
    return paths.write_text(file, table.to_csv(index=False, lineterminator="\n"))


def _faults(cases: pd.DataFrame, schema: pa.DataFrameSchema, columns: list[str]) -> list[str]:
    """Describe every fault, one line for each column and check, with the file's row numbers."""
    lines = []
    not_numbers = set(cases.loc[cases["check"].str.startswith("coerce_dtype"), "column"])
    cases = cases[~cases["column"].isin(not_numbers) | cases["check"].str.startswith("coerce")]
    whole_rows = cases[cases["schema_context"] == "DataFrameSchema"].dropna(subset=["index"])
    for check, rows in whole_rows.groupby("check", sort=False):
        numbers = [str(int(index) + 2) for index in rows["index"].unique()]
        more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
        lines.append(f"  {check}: not so in row {', '.join(numbers[:10])}{more}")
    cases = cases.drop(whole_rows.index)
    for (column, check), rows in cases.groupby(["column", "check"], sort=False, dropna=False):
        if check == "column_in_dataframe":
            lines += [f"  no column {name}" for name in rows["failure_case"]]
        elif check == "column_in_schema":
            lines += [f"  unknown column {name}" for name in rows["failure_case"]]
        else:
            column = "all columns" if pd.isna(column) else f"column {column}"
            lines.append(f"  {column}, {check}: {_values(rows)}")
    if any(line.startswith(("  no column", "  unknown column")) for line in lines):
        optional = {name for name, column in schema.columns.items() if not column.required}
        wanted = [f"{name} (optional)" if name in optional else name for name in schema.columns]
        lines.append(f"  the columns are: {', '.join(columns)}\n  expected: {', '.join(wanted)}")
    return lines


def _values(rows: pd.DataFrame) -> str:
    """List values at fault with their rows in the file (the header is row 1), at most ten."""
    rows = rows.drop_duplicates(["failure_case", "index"])
    values = [
        repr(row.failure_case) + ("" if pd.isna(row.index) else f" in row {int(row.index) + 2}")
        for row in rows.head(10).itertuples(index=False)
    ]
    more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
    return ", ".join(values) + more


def write_json(values: dict, file: Path) -> Path:
    """Write a JSON file completely or not at all."""
    return paths.write_text(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
