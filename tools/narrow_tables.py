"""Prepare the tables of a page for narrow screens, where each row becomes a block of lines."""

import re

from bs4 import BeautifulSoup, Tag

#: Tables with fewer columns fit a telephone as they are.
MIN_COLUMNS = 4


def label_cells(page: str) -> str:
    """Add the column's name to every cell of a wide table, as attribute `data-label`.

    The style sheet shows it on narrow screens, where the table's head is hidden.
    """
    return re.sub(r"<table\b.*?</table>", lambda match: _label(match[0]), page, flags=re.DOTALL)


def _label(html: str) -> str:
    table = BeautifulSoup(html, "html.parser").table
    names = _column_names(table.thead) if table.thead else []
    if len(names) < MIN_COLUMNS:
        return html
    table["class"] = [*table.get("class", []), "stacked"]
    for row in table.select("tbody tr"):
        cells = row.find_all("td")
        for cell, name in zip(cells, names[len(names) - len(cells) :], strict=True):
            cell["data-label"] = name
    return str(table)


def _column_names(head: Tag) -> list[str]:
    """Return a name for each column; several header rows are joined."""
    rows = []
    for row in head.find_all("tr"):
        cells = [
            (cell.get_text().strip(), int(cell.get("colspan", 1))) for cell in row(["th", "td"])
        ]
        rows.append([text for text, span in cells for _ in range(span)])
    return [", ".join(filter(None, texts)) for texts in zip(*rows, strict=False)]
