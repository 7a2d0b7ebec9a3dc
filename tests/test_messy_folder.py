"""A messy folder: notebook 01 says of each of its 40 images what happened to it, and why."""

import io
import json

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import config, paths
from lib.data import datasets, quality
from tools import get_dataset


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(pixels, (60, 50), interpolation=cv2.INTER_CUBIC))


def saved(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def changed(mode):
    return lambda seed: saved(picture(seed).convert(mode), "PNG")


#: For images that are not simply read: the id in the table, the file, its contents (a function of
#: the row's number), what happens to it, and why.
MESS = [
    ("m00.jpg", "m00.jpg", None, "matched", "nearly this name"),
    ("M01", "m01.jpg", None, "matched", "nearly this name"),
    (" m02 ", "m02.JPG", None, "matched", "nearly this name"),
    ("photos/m03", "m03.jpeg", None, "matched", "nearly this name"),
    ("m04", "m04_downsampled.jpg", None, "matched", "nearly this name"),
    ("m05\u00e9", "m05e\u0301.jpg", None, "matched", "nearly this name"),
    ("c00", "c00.png", changed("L"), "converted", "from grey PNG"),
    ("c01", "c01.png", changed("P"), "converted", "from palette PNG"),
    ("c02", "c02.png", changed("RGBA"), "converted", "from RGB with transparency PNG"),
    ("c03", "c03.jpg", lambda i: saved(picture(i).convert("L")), "converted", "from grey JPEG"),
    ("c04", "c04.webp", lambda i: saved(picture(i), "WEBP"), "converted", "from RGB WEBP"),
    ("c05", "c05.tif", lambda i: saved(picture(i), "TIFF"), "converted", "from RGB TIFF"),
    ("c06", "c06.bmp", lambda i: saved(picture(i), "BMP"), "converted", "from RGB BMP"),
    (
        "c07",
        "c07.png",
        lambda i: cv2.imencode(".png", np.array(picture(i)).astype(np.uint16) * 257)[1].tobytes(),
        "converted",
        "from 16-bit PNG",
    ),
    ("C08", "c08.tiff", lambda i: saved(picture(i), "TIFF"), "matched", "from RGB TIFF; a file of"),
    ("r00", None, None, "refused", "missing: no file; files without a row: images/preview.jpg"),
    ("r01", "r01.jpg", lambda i: b"", "refused", "unreadable: .* 0 bytes"),
    ("r02", "r02.jpg", lambda i: saved(picture(i))[:-300], "refused", "truncated: "),
    ("r03", "r03.jpg", lambda i: saved(picture(i).resize((20, 20))), "refused", "20 x 20 pixels"),
    ("r04", "r04.jpg", lambda i: saved(picture(i).point(lambda v: 7)), "refused", "blank: a span"),
    ("r05", "r05.jpg", lambda i: b"<html>no such image", "refused", "unreadable: not an image"),
    ("r06", "r06.jpg", lambda i: saved(picture(i).convert("CMYK")), "refused", "mode CMYK"),
]
READ = [f"read{i:02}" for i in range(40 - len(MESS))]


@pytest.fixture
def messy(tmp_path):
    """Write the folder: its table has semicolons and is in UTF-16, and some files have no row."""
    folder = tmp_path / "messy"
    for name in ("images", "other images", "@eaDir"):
        (folder / name).mkdir(parents=True)
    for i, name in enumerate(READ):
        (folder / ("images", "other images")[i % 2] / f"{name}.jpg").write_bytes(saved(picture(i)))
    for i, (_, name, contents, *_) in enumerate(MESS, start=len(READ)):
        if name:
            data = contents(i) if contents else saved(picture(i))
            (folder / "images" / name).write_bytes(data)
    (folder / "images" / "preview.jpg").write_bytes(saved(picture(99)))
    (folder / "@eaDir" / "._read00.jpg").write_bytes(b"of a network drive")
    ids = [*READ, *(row[0] for row in MESS)]
    table = pd.DataFrame({"image_id": ids, "dx": ["bcc", "mel", "nv", "nv"] * 10})
    table.insert(0, "lesion_id", [f"L{i:02}" for i in range(40)])
    text = table.to_csv(index=False, sep=";")
    (folder / "HAM10000_metadata.csv").write_bytes(text.encode("utf-16"))
    return folder


def quality_section(file):
    """Execute notebook 01 from its imports to the end of its section on quality."""
    cells = nbformat.read(paths.ROOT / "notebooks/01_data_survey.ipynb", as_version=4).cells
    end = next(i for i, cell in enumerate(cells) if cell.source.startswith("## 3. "))
    code = "\n".join(cell.source for cell in cells[:end] if cell.cell_type == "code")
    shown = []
    exec(code.replace("configs/demo.yaml", str(file)), variables := {"display": shown.append})
    return shown, variables


def test_notebook_01_shows_what_happened_to_each_image_of_a_messy_folder(
    messy, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(get_dataset, "DATA", tmp_path / "data")
    assert get_dataset.main(["--from", str(messy), "--convert"]) == 1
    assert "7 of 40 images cannot be used" in (error := capsys.readouterr().err)
    assert "FAULTY=1 imports the others" in error
    assert get_dataset.main(["--from", str(messy), "--convert", "--faulty"]) == 0
    out = capsys.readouterr().out
    assert "7 images were matched although names differ" in out
    assert "40 images, 7 of them cannot be used" in out
    values = config.read_yaml(paths.ROOT / "configs/ham10000_lite.yaml", "")
    folder = str(tmp_path / "data" / "ham10000")
    values["data"] = {"folder": folder, "attribution": "Ours.", "max_dropped": 0.2}
    (tmp_path / "messy.yaml").write_text(json.dumps(values), encoding="utf-8")
    shown, variables = quality_section(tmp_path / "messy.yaml")
    report, lines = variables["report"], shown[-1].set_index("image_id")
    assert [report[name] for name in quality.TREATMENTS] == [18, 8, 7, 7]
    assert report["files_without_a_row"] == 0, "make data leaves them out"
    for image_id, _, _, treatment, why in MESS:
        assert lines.loc[image_id, "treatment"] == treatment, image_id
        if image_id != "r00":
            assert pd.Series([lines.loc[image_id, "why"]]).str.contains(why).all(), (image_id, why)
    assert len(lines) == 40, "one line an image, also of those that were simply read"
    assert (lines.loc[READ, ["treatment", "why"]] == ["read", ""]).all(axis=None)
    assert len(variables["metadata"]) == 33


def test_a_configuration_may_name_a_messy_folder_itself(messy, tmp_path):
    """Then nothing is converted; names are matched, and stray files are shown."""
    table = pd.read_csv(messy / "HAM10000_metadata.csv", sep=";", encoding="utf-16", dtype=str)
    table.to_csv(messy / "HAM10000_metadata.csv", index=False)
    metadata = datasets.read_metadata(messy)
    lines = quality.treatments(quality.inspect(messy, metadata), messy).set_index("image_id")
    assert lines["treatment"].value_counts().to_dict() == {"read": 18, "refused": 16, "matched": 6}
    assert lines.loc["r00", "why"].startswith("missing: no file; files without a row: images/prev")
    assert lines.loc["c04", "why"].startswith("missing: no file")
    assert lines.loc["c00", "why"] == "wrong mode: mode L"
