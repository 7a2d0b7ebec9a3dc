"""The structure that the README promises: a small lib, one room per notebook, imports one way."""

import ast
import io
import re
import tokenize

import nbformat
import pytest

from lib import paths

#: Lines of code: blank lines, comments and docstrings do not count.
LIB_LINES, MODULE_LINES, FUNCTION_LINES = 5300, 350, 60

#: What each package of lib may import of lib; the modules of lib itself are free to all.
MAY_IMPORT = {
    "preprocessing": set(),
    "data": {"preprocessing"},
    "evaluation": {"data", "preprocessing"},
    "networks": {"data", "preprocessing", "evaluation"},
    "features": {"data", "preprocessing", "evaluation"},
    "heatmaps": {"networks", "evaluation"},
}
SHARED = {"config", "models", "paths", "tables", "figures", "run", "source_code", "stages"}
#: `run` opens a run for the notebooks, so the packages do not import it.
FREE = SHARED - {"run"}

MODULES = sorted((paths.ROOT / "lib").rglob("*.py"))
NOT_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING),
}


def code_lines(source):
    """Return the numbers of the lines that hold code."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def imports(source):
    """Return the dotted names of all modules of this repository that a source imports.

    Imports for type checkers only (`if TYPE_CHECKING`) do not count: they never run.
    """
    names, waiting = set(), [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return {name for name in names if name.split(".")[0] in ("lib", "tools", "studies", "tests")}


def read(file):
    return file.read_text(encoding="utf-8")


def name(file):
    return file.relative_to(paths.ROOT).as_posix()


def test_code_lines_leave_out_blank_lines_comments_and_docstrings():
    source = "\n".join(
        ['"""Doc."""', "", "# comment", "X = [", "    1,", "]", "", "def f():"]
        + ['    """Doc', '    more."""', "    return X", ""]
    )
    assert code_lines(source) == {4, 5, 6, 8, 11}


def test_lib_is_small():
    assert sum(len(code_lines(read(file))) for file in MODULES) <= LIB_LINES


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_no_module_and_no_function_is_long(file):
    lines = code_lines(read(file))
    assert len(lines) <= MODULE_LINES
    for node in ast.walk(ast.parse(read(file))):
        if isinstance(node, ast.FunctionDef):
            inside = [line for line in lines if node.lineno <= line <= node.end_lineno]
            assert len(inside) <= FUNCTION_LINES, node.name


def test_lib_holds_the_rooms_and_the_shared_modules_and_nothing_else():
    top = {file.relative_to(paths.ROOT / "lib").parts[0] for file in MODULES}
    assert top == {"__init__.py", *MAY_IMPORT, *(f"{module}.py" for module in SHARED)}


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_imports_in_lib_go_one_way(file):
    room = file.relative_to(paths.ROOT / "lib").parts[0]
    allowed = (
        MAY_IMPORT.get(room, set(MAY_IMPORT)) | {room} | (FREE if room in MAY_IMPORT else SHARED)
    )
    for module in imports(read(file)):
        parts = module.split(".")
        assert parts[0] == "lib", f"{name(file)} imports {module}"
        assert parts[1] in allowed, f"{name(file)} imports {module}"


@pytest.mark.parametrize("module", ["config", "models", "paths", "tables", "figures"])
def test_shared_modules_import_no_room(module):
    for imported in imports(read(paths.ROOT / "lib" / f"{module}.py")):
        assert imported.split(".")[1] in FREE, imported


def test_only_networks_and_heatmaps_import_keras_or_tensorflow():
    for file in MODULES:
        if re.search(r"^\s*(import|from) (keras|tensorflow|jax|torch)\b", read(file), re.MULTILINE):
            assert file.parts[-2] in ("networks", "heatmaps"), name(file)


def test_numbered_notebooks_import_only_lib():
    for file in sorted((paths.ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(file, as_version=4).cells:
            if cell.cell_type == "code":
                for module in imports(cell.source):
                    assert module.split(".")[0] == "lib", f"{file.name} imports {module}"


def test_tools_and_studies_import_lib_and_not_each_other():
    for folder, other in (("tools", "studies"), ("studies", "tools")):
        for file in (paths.ROOT / folder).rglob("*.py"):
            for module in imports(read(file)):
                assert module.split(".")[0] in ("lib", folder), f"{name(file)} imports {other}"


def test_every_module_says_in_one_line_what_it_is_for():
    for file in MODULES:
        if file.name != "__init__.py":
            first = (ast.get_docstring(ast.parse(read(file))) or "").splitlines()[:1]
            assert first and first[0].endswith("."), name(file)
