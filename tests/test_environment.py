"""The environment: pyproject.toml, requirements.lock and environment.yml agree."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lib import paths
from lib.config import read_yaml

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = read_yaml(paths.ROOT / "environment.yml", "")
LOCK = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")

#: Values of the markers on the supported platforms.
PLATFORMS = {
    f"{system}-{machine}-{python}": {
        "sys_platform": system,
        "platform_machine": machine,
        "python_full_version": f"{python}.1",
        "python_version": python,
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
        "os_name": "nt" if system == "win32" else "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "test",
    }
    for python in ("3.11", "3.12", "3.13")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
}


def locked(platform):
    """Return the versions of the lock for a platform, by name."""
    versions = {}
    for line in re.findall(r"^[a-zA-Z0-9].*?(?= \\$)", LOCK, flags=re.MULTILINE):
        name_version, _, marker = line.partition(" ; ")
        if not marker or Marker(marker).evaluate(platform):
            name, version = name_version.split("==")
            versions[canonicalize_name(name)] = version
    return versions


def direct(platform):
    texts = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.marker is None or r.marker.evaluate(platform)]


@pytest.mark.parametrize("platform", PLATFORMS.values(), ids=PLATFORMS)
def test_the_lock_has_every_direct_dependency_in_a_required_version(platform):
    versions = locked(platform)
    for requirement in direct(platform):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in requirements.lock: make lock"
        assert versions[name] in requirement.specifier, f"{name} {versions[name]}: make lock"


def imported():
    """Return the top-level modules that lib, tools, studies, tests and notebooks import."""
    sources = [
        f.read_text(encoding="utf-8")
        for part in ("lib", "tools", "studies", "tests")
        for f in (paths.ROOT / part).rglob("*.py")
    ]
    for file in (paths.ROOT / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(file, as_version=4).cells
        sources += [cell.source for cell in cells if cell.cell_type == "code"]
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


#: Keras's other backends: imported only when they are in use, so never required.
OTHER_BACKENDS = {"jax", "torch"}


def test_every_imported_package_is_a_direct_dependency():
    tests = {file.stem for file in (paths.ROOT / "tests").glob("*.py")}
    own = {"lib", "tools", "studies", *tests, *sys.stdlib_module_names}
    known = {canonicalize_name(r.name) for r in direct(PLATFORMS["linux-x86_64-3.11"])}
    distributions = importlib.metadata.packages_distributions()
    for module in sorted(set(imported()) - own - OTHER_BACKENDS):
        names = {canonicalize_name(name) for name in distributions[module]}
        assert names & known, f"{module} is imported, but {names} is not in pyproject.toml"


def test_every_platform_that_the_readme_names_is_served_by_the_lock():
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert "on Linux (x86-64 or arm64), macOS on Apple silicon, or Windows by WSL" in readme
    assert {name.rpartition("-")[0] for name in PLATFORMS} == {
        *("linux-x86_64", "linux-aarch64", "darwin-arm64")
    }
    for name, platform in PLATFORMS.items():
        versions = locked(platform)
        assert {"tensorflow", "tensorflow-cpu"} & set(versions), name
        assert "keras" in versions and "jupyterlab" in versions, name


def test_every_line_of_the_lock_has_hashes():
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", LOCK)[1:]:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_conda_environment_installs_the_lock_on_a_supported_python():
    python, pip, pip_part = ENVIRONMENT["dependencies"]
    assert SpecifierSet(python.removeprefix("python ")) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    assert pip_part == {"pip": ["-r requirements.lock"]}
    assert ENVIRONMENT["name"] == PROJECT["name"]


def test_every_dependency_has_a_comment_with_its_use():
    text = (paths.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, flags=re.MULTILINE | re.DOTALL)[1]
    for line in block.splitlines():
        assert re.search(r",\s+# \w", line), line


def test_linux_x86_gets_tensorflow_without_cuda_and_others_get_tensorflow():
    assert "tensorflow-cpu" in locked(PLATFORMS["linux-x86_64-3.11"])
    assert "tensorflow" not in locked(PLATFORMS["linux-x86_64-3.11"])
    assert "tensorflow" in locked(PLATFORMS["darwin-arm64-3.11"])


def test_only_the_headless_opencv_is_installed():
    """Both at once overwrite each other's files, and the other one needs libGL."""
    assert "opencv-python-headless" in locked(PLATFORMS["linux-x86_64-3.11"])
    assert not re.search(r"^opencv-python==", LOCK, flags=re.MULTILINE)


#: Stands in for Python: makes itself the environment, and prints what pip is told by variables.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"-m pip"*) env | grep '^PIP_' | sort ;;
esac
"""


def test_pip_installs_into_the_environment_whatever_the_shell_says(tmp_path):
    """Once `PIP_USER=1 make env` failed: pip refuses to install into a home from a venv."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").write_text(FAKE_PYTHON, encoding="utf-8")
    (tools / "python3").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "PIP_USER": "1", "PIP_TARGET": "/elsewhere"}
    environment["PIP_INDEX_URL"] = "https://index.example/simple"
    command = ["sh", "tools/make_env.sh", str(tmp_path / "new environment")]
    done = subprocess.run(command, cwd=paths.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = set(done.stdout.splitlines())
    assert {"PIP_USER=0", "PIP_INDEX_URL=https://index.example/simple"} < lines
    assert not any("PIP_TARGET" in line for line in lines)


@pytest.mark.parametrize("name", ["CONFIG", "TIMEOUT", "SAMPLE", "MODEL"])
def test_make_takes_no_argument_from_the_shell(name):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("M")}
    command = ["make", f"PYTHON={sys.executable}", "--dry-run", "check"]
    options = {"cwd": paths.ROOT, "capture_output": True, "text": True, "check": True}
    done = subprocess.run(command, env=environment | {name: "ham10000"}, **options)
    plain = subprocess.run(command, env=environment, **options)
    assert done.stdout == plain.stdout
    assert done.stderr.splitlines()[0] == f"ignored, since they are from the shell: {name}"
    assert "ignored" not in plain.stderr
