"""Replace a folder, or a marked part of a text file, whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from lib import paths


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` at the end of the block.

    If the block fails, `target` stays as it was and the new folder is removed. The old contents
    are deleted only after the new folder has its name.
    """
    partial, old = (
        paths.temporary(target),
        paths.temporary(target.with_name(f"{target.name}_before")),
    )
    if old.exists() and not target.exists():  # a kill came between the two renamings
        old.rename(target)
    for folder in (partial, old):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_part(file: Path, marks: tuple[str, str]) -> str:
    """Return the part of a text file between two marks, each on a line of its own.

    Raises
    ------
    ValueError
        A mark is missing or occurs twice.
    """
    return _around(file, marks)[1]


def expect_part(file: Path, marks: tuple[str, str]) -> None:
    """Check the marks of a file before long work; raise ValueError as `write_part` would."""
    if file.is_file():
        _around(file, marks)


def write_part(file: Path, marks: tuple[str, str], part: str) -> Path:
    """Replace the part between two marks; a missing file is created with the marks only."""
    if not file.is_file():
        paths.write_text(file, "\n".join([*marks, ""]))
    before, _, after = _around(file, marks)
    return paths.write_text(file, before + part + after)


def _around(file: Path, marks: tuple[str, str]) -> tuple[str, str, str]:
    text = file.read_text(encoding="utf-8")
    begin, end = f"{marks[0]}\n", marks[1]
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise ValueError(
            f"{paths.relative(file)}: expected one {marks[0]!r} with nothing after it on "
            f"its line, and one {end!r} below"
        )
    before, rest = text.split(begin)
    part, after = rest.split(end)
    return before + begin, part, end + after
