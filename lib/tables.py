"""Tables on disk: each a contract, checked when it is read and written whole or not at all."""

from pathlib import Path

import pandas as pd
import pandera.pandas as pa
from pandera import dtypes

from lib import paths


def read_table(file: Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Read a CSV file and check it against a schema; columns of text stay text (`0001`).

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not CSV, a column is missing, or values are not as the schema has them: the message names
        the file and each fault with its first row.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{paths.relative(file)}: no such file; run the notebook that writes it"
        )
    name = paths.relative(file)
    text = {key: str for key, column in schema.columns.items() if dtypes.is_string(column.dtype)}
    try:
        table = pd.read_csv(file, dtype=text)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: not a readable CSV table: {error}") from None
    missing = [column for column in schema.columns if column not in table]
    if missing:
        raise ValueError(
            f"{name}: no column {', '.join(missing)}; it has: {', '.join(table.columns)}"
        )
    try:
        return schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        faults = errors.failure_cases.drop_duplicates(["column", "check"])
        lines = [
            f"  column {row.column}, {row.check}: {row.failure_case!r}"
            + ("" if pd.isna(row.index) else f" in row {int(row.index) + 2}")
            for row in faults.itertuples(index=False)
        ]
        raise ValueError(f"{name}: not as expected\n" + "\n".join(lines)) from None


def write_table(table: pd.DataFrame, file: Path) -> Path:
    """Write a CSV file whole or not at all."""
    return paths.write_text(file, table.to_csv(index=False, lineterminator="\n"))
