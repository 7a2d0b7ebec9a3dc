"""Paths of the project, and files that are written whole or not at all."""

import json
import os
import shutil
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
    """Return `path` as it is when absolute or in a home (`~`), else relative to the repository."""
    return ROOT / os.path.expanduser(path)


def relative(path: str | Path) -> str:
    """Return `path` for a reader: relative to the output folder or the repository."""
    path = Path(path)
    for base in (output_root(), ROOT):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return path.name


def run_folder(run: str) -> Path:
    """Return `runs/<run>`, created if missing: what a run computes."""
    return _created(output_root() / "runs" / run)


def report_folder(run: str) -> Path:
    """Return `reports/<run>`, created if missing: what a reviewer reads."""
    return _created(output_root() / "reports" / run)


def cache_folder() -> Path:
    """Return the user's cache folder, created if missing, for downloads that all clones share.

    `SKIN_CACHE` names another one, absolute or relative to the repository. It is `.cache` in the
    repository where the user's cannot be written.
    """
    if named := os.environ.get("SKIN_CACHE"):
        return _created(ROOT / named)
    try:
        folder = _created(Path(platformdirs.user_cache_dir("skin-lesion-notebooks")))
    except OSError:
        folder = ROOT / "there is none"
    return folder if os.access(folder, os.W_OK) else _created(ROOT / ".cache")


def require_space(folder: Path, needed: float, what: str) -> None:
    """Check the free disk space before a memory-mapped file is written.

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
    """Write a text file whole or not at all, in a folder that is created if missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(target)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, target)
    return target


def read_note(note: Path, keys: set[str], otherwise: str) -> dict:
    """Return the contents of a JSON note; empty if it is missing, or damaged, which is reported.

    Parameters
    ----------
    keys : set of str
        The keys of a complete note.
    otherwise : str
        What happens without the note, for the message.
    """
    try:
        contents = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        contents = None
    if isinstance(contents, dict) and keys <= set(contents):
        return contents
    print(f"{relative(note)}: damaged, so {otherwise}", flush=True)
    return {}


def check_note(file: Path, expected: dict, maker: str) -> None:
    """Check that the JSON note beside a file has the expected values.

    Parameters
    ----------
    maker : str
        The notebook that writes the file, for the message.

    Raises
    ------
    FileNotFoundError
        The file or its note is missing.
    ValueError
        The note is damaged, or has another value.
    """
    note = file.with_suffix(".json")
    for part in (file, note):
        if not part.is_file():
            raise FileNotFoundError(f"{relative(part)}: no such file; run {maker}, which writes it")
    try:
        contents = json.loads(note.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{relative(note)}: damaged; run {maker} again") from None
    for key, value in expected.items():
        if contents.get(key) != value:
            raise ValueError(
                f"{relative(file)} was made with other {key}: found {contents.get(key)}, expected "
                f"{value}; run {maker} again"
            )


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
