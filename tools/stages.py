"""Say what each notebook depends on, so that make executes it again only when that has changed.

For each notebook `runs/<run>/keys/<notebook>.key` lists the sections of the configuration that its
stages depend on (`lib.stages.STAGES`; a notebook without stages there depends on all but the title)
and the modules that it imports, each with a hash of its syntax tree. A key file is rewritten only
when its contents change; make compares its time with that of the executed copy. `data.key` does the
same for the files of the data folder. The time of the file `checked` beside them says up to when
changes have been seen, and `watched` lists what make looks at beside the sources.
"""

import argparse
import ast
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lib import models, paths, source_code
from lib.config import KINDS, load_config
from lib.stages import STAGES
from tools.command_line import run_command

#: Not in the keys of a run, which hold what it makes of the configuration.
CONFIG = "lib/config.py"
#: What a rendered page shows of the configuration itself.
PAGE = ("title", "data")


def write_keys(config: Path) -> None:
    """Write the key files of a run and of the side experiments, those that have changed."""
    start, folder = time.time(), paths.output_root() / "runs"
    sections = read_sections(config)
    keys = folder / config.stem / "keys"
    for notebook in sorted(paths.ROOT.glob("notebooks/[0-9]*.ipynb")):
        names = [n for s in STAGES.values() if s.notebook == notebook.stem for n in s.sections]
        names = names or [name for name in sections if name != "title"]
        values = {name: sections.get(name) for name in names}
        _write(keys / f"{notebook.stem}.key", values | modules_of(notebook, [CONFIG]))
    _write(keys / "page.key", {name: sections.get(name) for name in PAGE})
    for notebook in sorted(paths.ROOT.glob("notebooks/studies/*.ipynb")):
        _write(folder / "studies" / "keys" / f"{notebook.stem}.key", modules_of(notebook))
    _write_data_key(keys, sections)
    (keys / "checked").touch()
    os.utime(keys / "checked", (start, start))


def read_sections(config: Path) -> dict:
    """Return all that lib/config.py makes of a configuration: its sections with their defaults.

    Beside them, the models of each kind, with the rows of tables that they are, and the `roles` of
    models. A file that is not a valid configuration is one section, its text.
    """
    try:
        run = load_config(config.resolve())
    except ValueError:
        return {"text": config.read_text(encoding="utf-8")}
    sections, rows = run.model_dump(mode="json", exclude={"name"}), models.models_of(run).values()
    for item in sections["models"]:
        named = [row for row in rows if row.settings and row.settings.name == item["name"]]
        item["rows"] = {row.name: row.title for row in named}
    items = sections["models"]
    sections |= {kind: [i for i in items if i["kind"] == kind] for kind in KINDS}
    sections["split"]["file_sha256"] = run.index_settings().get("split_file_sha256")
    roles = {"baseline": run.baseline.name, "primary": run.primary}
    return sections | {"class_names": run.names, "roles": roles}


def _write_data_key(keys: Path, sections: dict) -> None:
    """Write `data.key` and `watched`; synthetic images that are not drawn have no key."""
    folder, split_file = (
        sections.get(name, {}).get(key) for name, key in (("data", "folder"), ("split", "file"))
    )
    places = [paths.resolve(place) for place in (folder, split_file) if place]
    _write(keys / "watched", "".join(f"{place}\n" for place in places))
    files = files_of(places[0]) if folder else {}
    if files or not sections.get("data", {}).get("synthetic"):
        lines = [f"{name} {size} {changed}" for name, (size, changed) in sorted(files.items())]
        digest = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape"))
        _write(keys / "data.key", {"files": len(files), "sha256": digest.hexdigest()})
    else:
        (keys / "data.key").unlink(missing_ok=True)


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size in bytes and time in ns of each file below a folder that is not hidden."""
    files = {}
    for top, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in names:
            file = os.path.join(top, name)
            if name[0] != "." and os.path.exists(file):
                status = os.stat(file)
                files[os.path.relpath(file, folder)] = status.st_size, status.st_mtime_ns
    return files


def modules_of(notebook: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Return the modules that a notebook imports, directly or not, with a hash of each."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except ValueError:  # executing it will say so
        return {}
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    hashes, waiting = {}, _imported("\n".join(code))
    while waiting:
        file = waiting.pop()
        name = file.relative_to(paths.ROOT).as_posix()
        if name not in hashes and name not in without:
            hashes[name], imported = _read_module(file)
            waiting |= imported
    return dict(sorted(hashes.items()))


@functools.cache
def _read_module(file: Path) -> tuple[str, set[Path]]:
    """Return the hash of a module's syntax tree, and the files that it imports."""
    source = file.read_text(encoding="utf-8")
    try:
        tree = source_code.syntax_tree(source)
    except SyntaxError:  # the notebook will say so
        tree = source
    return hashlib.sha256(tree.encode()).hexdigest(), _imported(source)


def _imported(source: str) -> set[Path]:
    """Return the files of this repository that Python code imports."""
    names = set()
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = [paths.ROOT / name.replace(".", "/") for name in names if name]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return {file for file in files if file.is_file()}


def _write(file: Path, contents: dict | str) -> None:
    text = contents
    if isinstance(contents, dict):
        text = json.dumps(contents, indent=1, default=str) + "\n"
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        paths.write_text(file, text)


def main(arguments: list[str] | None = None) -> int:
    """Write the key files of a run."""
    parser = argparse.ArgumentParser(prog="python -m tools.stages", description=main.__doc__)
    parser.add_argument("config", type=Path, help="the run, such as configs/demo.yaml")
    parser.add_argument("--draw", action="store_true", help="draw synthetic images first")
    options = parser.parse_args(arguments)

    def write() -> None:
        if options.draw:
            _draw(options.config)
        write_keys(options.config)

    return run_command(write)


def _draw(config: Path) -> None:
    """Draw the synthetic images of a configuration, if it has any."""
    from tools import synthetic  # takes a second to import

    run = load_config(config.resolve())
    if run.data.synthetic:
        synthetic.draw(run)


if __name__ == "__main__":
    sys.exit(main())
