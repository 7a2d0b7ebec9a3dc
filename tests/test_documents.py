"""The documents outside notebooks: links lead somewhere, and the README stays short."""

import re

import nbformat
import pytest

from lib import paths

PATTERNS = (
    "*.md",
    "docs/*.md",
    "data/*.md",
    "reports/*.md",
    "reports/studies/*/*.md",
    "models/*/*.md",
)
DOCUMENTS = sorted(file for pattern in PATTERNS for file in paths.ROOT.glob(pattern))


@pytest.mark.parametrize("file", DOCUMENTS, ids=paths.relative)
def test_every_link_to_a_file_leads_to_one(file):
    text = file.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"https?:", target):
            assert (file.parent / target).exists(), target


@pytest.mark.parametrize("file", DOCUMENTS, ids=paths.relative)
def test_every_picture_has_a_description(file):
    text = file.read_text(encoding="utf-8")
    assert "![](" not in text


def test_the_readme_has_at_most_120_lines():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120


def test_the_documents_name_make_targets_and_configurations_that_exist():
    makefile = (paths.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for file in DOCUMENTS:
        text = file.read_text(encoding="utf-8")
        commands = re.findall(r"(?:^|`)make ([a-z-]+)(?: (.*?))?(?=`|$|  )", text, re.MULTILINE)
        for target, options in commands:
            assert target in targets, f"{file.name}: make {target}"
            for name in re.findall(r"CONFIG=([a-z0-9_]+)", options):
                known = (paths.ROOT / "configs" / f"{name}.yaml").is_file()
                assert known or name == "mine", f"{file.name}: CONFIG={name}"


def test_every_section_that_the_table_of_the_paper_names_exists():
    text = (paths.ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    places = [line.split("|")[-2] for line in text.splitlines() if re.match(r"\| P\d", line)]
    assert len(places) == 15
    sections = {}
    for file in (paths.ROOT / "notebooks").glob("0*.ipynb"):
        cells = nbformat.read(file, as_version=4).cells
        source = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        sections[file.name[:2]] = re.findall(r"^## \d+\. (.+)$", source, flags=re.MULTILINE)
    for place in places:
        for part in place.split(";"):
            for title in re.findall(r"\*(.+?)\*", part):
                assert title in sections[part.split(",")[0].strip()], place
