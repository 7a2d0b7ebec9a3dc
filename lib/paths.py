"""Where things lie: every absolute path of the project comes from here."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]


def output_root() -> Path:
    """Return the folder that holds `runs/` and `reports/`.

    The repository, unless the environment variable `SKIN_OUTPUT` names another folder (tests
    use it to leave the reader's own runs alone).
    """
    return (ROOT / os.environ.get("SKIN_OUTPUT", "")).resolve()


def resolve(path: str | Path) -> Path:
    """Return `path` as it is when absolute, else relative to the repository."""
    return ROOT / path


def relative(path: str | Path) -> str:
    """Return `path` for a reader: relative to the output folder or the repository."""
    path = Path(path)
    for base in (output_root(), ROOT):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return path.name


def run_folder(run: str) -> Path:
    """Return `runs/<run>`, made if need be: what a run computes."""
    return _made(output_root() / "runs" / run)


def report_folder(run: str) -> Path:
    """Return `reports/<run>`, made if need be: what a reviewer reads."""
    return _made(output_root() / "reports" / run)


def cache_folder() -> Path:
    """Return the user's cache folder, made if need be: downloads that every clone shares.

    `SKIN_CACHE` names another one, absolute or relative to the repository.
    """
    named = os.environ.get("SKIN_CACHE")
    return _made(ROOT / (named or platformdirs.user_cache_dir("skin-lesion-notebooks")))


def require_space(folder: Path, needed: float, what: str) -> None:
    """Refuse to begin what would not fit on the disk: a mapped file would end the process.

    Raises
    ------
    OSError
        Fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{relative(folder)}: {what} needs {tqdm.format_sizeof(needed, 'B')} more; "
            f"{tqdm.format_sizeof(free, 'B')} are free on that disk"
        )


def temporary(target: Path) -> Path:
    """Return a name beside `target` to write to before renaming; the suffix is kept."""
    return target.with_name(f".{target.stem}.partial{target.suffix}")


def write_text(target: Path, text: str) -> Path:
    """Write a text file whole or not at all, in a folder that is made if need be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(target)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, target)
    return target


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` at the end of the block.

    Where the block fails, `target` stays as it was, and the new folder is removed. What `target`
    held before goes only when the new folder has its name.
    """
    partial, old = temporary(target), temporary(target.with_name(f"{target.name}_before"))
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
    """Return what stands in a text file between two marks, each a line of its own.

    Raises
    ------
    ValueError
        A mark is missing or there twice.
    """
    return _around(file, marks)[1]


def expect_part(file: Path, marks: tuple[str, str]) -> None:
    """Raise what `write_part` would: a check before long work, not after it."""
    if file.is_file():
        _around(file, marks)


def write_part(file: Path, marks: tuple[str, str], part: str) -> Path:
    """Replace what stands between two marks; where there is no file yet, make one of them."""
    if not file.is_file():
        write_text(file, "\n".join([*marks, ""]))
    before, _, after = _around(file, marks)
    return write_text(file, before + part + after)


def read_note(note: Path, keys: set[str], otherwise: str) -> dict:
    """Return what a JSON note says; nothing if there is none, or a damaged one, which is named.

    Parameters
    ----------
    keys : set of str
        What every whole note has.
    otherwise : str
        What happens without it, for the reader.
    """
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        said = None
    if isinstance(said, dict) and keys <= set(said):
        return said
    print(f"{relative(note)}: damaged, so {otherwise}", flush=True)
    return {}


def check_note(file: Path, expected: dict, maker: str) -> None:
    """Check that a file's `.json` note, written beside it, says what is expected.

    Parameters
    ----------
    maker : str
        What writes the file; goes into the message.

    Raises
    ------
    FileNotFoundError
        The file or its note is not there.
    ValueError
        A value of the note is another one.
    """
    note = file.with_suffix(".json")
    if not file.is_file() or not note.is_file():
        raise FileNotFoundError(f"{relative(file)}: no such file; run {maker}, which writes it")
    found = json.loads(note.read_text(encoding="utf-8"))
    for key in expected:
        if found.get(key) != expected[key]:
            raise ValueError(
                f"{relative(file)} was made with other {key}: found {found.get(key)}, expected "
                f"{expected[key]}; run {maker} again"
            )


def _around(file: Path, marks: tuple[str, str]) -> tuple[str, str, str]:
    text = file.read_text(encoding="utf-8")
    begin, end = f"{marks[0]}\n", marks[1]
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise ValueError(
            f"{relative(file)}: expected one {marks[0]!r} with nothing after it on its line, and "
            f"one {end!r} below"
        )
    before, rest = text.split(begin)
    part, after = rest.split(end)
    return before + begin, part, end + after


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
