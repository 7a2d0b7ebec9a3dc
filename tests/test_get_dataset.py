"""`make data`: a folder in `data/` is complete and checked, or it does not exist."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image
from test_download import Server

from lib import paths
from lib.config import read_yaml
from lib.data import datasets
from tools import download, get_dataset, registry, source_tables

DX = ["nv"] * 30 + ["mel"] * 6 + ["bcc"] * 3 + ["df"]
METADATA = pd.DataFrame(
    {
        "lesion_id": [f"HAM_{i // 2 if i < 20 else i:03d}" for i in range(len(DX))],
        "image_id": [f"ISIC_{i:03d}" for i in range(len(DX))],
        "dx": DX,
        "dx_type": "histo",
        "age": ["50.0", ""] * 20,
        "sex": "female",
        "localization": "back",
    }
)
SIDE = 72  # pixels
IDS = list(METADATA["image_id"])
CONFIRMED = "single image expert consensus"
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
MASKS = "HAM10000_segmentations_lesion_tschandl"


def jpeg(seed, side=SIDE):
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


JPEGS = {image_id: jpeg(i) for i, image_id in enumerate(IDS)}
MASK = cv2.imencode(".png", np.full((SIDE, SIDE), 255, np.uint8))[1].tobytes()
CSV = METADATA.to_csv(index=False).encode()


def images(ids, folder=""):
    return {f"{folder}{image_id}.jpg": JPEGS[image_id] for image_id in ids}


def masks(ids, folder=""):
    return {f"{folder}{image_id}_segmentation.png": MASK for image_id in ids}


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def one_hot(metadata=METADATA):
    table = pd.DataFrame({"image": metadata["image_id"]})
    for column, dx in source_tables.ISIC_CLASSES.items():
        table[column] = (metadata["dx"] == dx).astype(float)
    return table


def groupings():
    table = METADATA.rename(columns={"image_id": "image"})[["image", "lesion_id"]]
    return table.assign(diagnosis_confirm_type=CONFIRMED)


def csv(table):
    return table.to_csv(index=False).encode()


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


#: What the two sources serve.
SERVED = {
    "meta": CSV,
    "part1": zipped(images(IDS[:20])),
    "part2": zipped(images(IDS[20:])),
    "masks": zipped(masks(IDS, f"{MASKS}/") | {f"__MACOSX/._{IDS[0]}.jpg": b"of a Mac"}),
    "groups": csv(groupings()),
    "truth": zipped({"Truth/ISIC2018_Task3_Training_GroundTruth.csv": csv(one_hot())}),
    "input": zipped(images(IDS, "ISIC2018_Task3_Training_Input/") | {"x/LICENSE.txt": b"CC"}),
    "test_truth": csv(one_hot()),
}


def md5(content):
    return "md5:" + hashlib.md5(content).hexdigest()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with both sources, a registry that names it, and a data folder of its own."""
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    monkeypatch.setattr(get_dataset, "DATA", tmp_path / "data")
    monkeypatch.setattr(registry, "REGISTRY", tmp_path / "registry.yaml")
    site = Server()
    site.files |= SERVED
    register(site, tmp_path / "registry.yaml")
    yield site
    site.close()


def register(site, target):
    def file(name, role, path, checksum=None, **options):
        urls = {site.url(path): checksum}
        size = len(site.files.get(path, b"?"))
        return {"name": name, "role": role, "about_bytes": size, "urls": urls, **options}

    masks = file(f"{MASKS}.zip", "masks", "masks", md5(SERVED["masks"]), optional=True)
    dataverse = [
        file("HAM10000_metadata.csv", "metadata", "meta", md5(CSV)),
        file(f"{PARTS[0]}.zip", "images", "part1", md5(SERVED["part1"])),
        file(f"{PARTS[1]}.zip", "images", "part2", md5(SERVED["part2"])),
        masks,
    ]
    training = "ISIC2018_Task3_Training"
    isic = [
        file(f"{training}_LesionGroupings.csv", "groupings", "groups"),
        file(f"{training}_GroundTruth.zip", "ground_truth", "truth"),
        file(f"{training}_Input.zip", "images", "input"),
        masks,
    ]
    test = [
        file("ISIC2018_Task3_Test_GroundTruth.csv", "ground_truth", "test_truth"),
        file("ISIC2018_Task3_Test_Input.zip", "images", "input"),
    ]

    def source(name, files):
        return {"name": name, "page": f"https://doi.org/{name}", "files": files}

    ham10000 = {
        "title": "HAM10000",
        "sources": [source("dataverse", dataverse), source("isic", isic)],
    }
    isic2018_test = {
        "title": "ISIC 2018 test",
        "image_is_lesion": True,
        "left_out": [IDS[0]],
        "sources": [source("isic", test)],
    }
    content = {"datasets": {"ham10000": ham10000, "isic2018_test": isic2018_test}}
    target.write_text(json.dumps(content))


def edit(change):
    content = read_yaml(registry.REGISTRY, "")
    change(content["datasets"]["ham10000"]["sources"])
    registry.REGISTRY.write_text(json.dumps(content))


def target():
    return get_dataset.DATA / "ham10000"


def read():
    return pd.read_csv(target() / datasets.METADATA, dtype=str, keep_default_na=False)


def note():
    return json.loads((target() / get_dataset.NOTE).read_text())


def downloads():
    return list((get_dataset.DATA / ".downloads").rglob("*"))


def no_data_set():
    """Nothing that a later step could take for a data set, and nothing half built."""
    files = get_dataset.DATA.iterdir() if get_dataset.DATA.exists() else []
    return [file.name for file in files if file.name not in (".downloads", ".linked")] == []


# --------------------------------------------------------------------------------- the registry


def test_the_registry_names_both_data_sets_and_their_sources():
    known = registry.load_registry()
    assert list(known) == ["ham10000", "isic2018_test"]
    for dataset in known.values():
        assert [source.name for source in dataset.sources] == ["dataverse", "isic"]
        for source in dataset.sources:
            assert "images" in [file.role for file in source.files]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[0].update(pages="x"), r"ham10000\.sources\.0\.pages: Extra inputs"),
        (lambda s: s[1]["files"][0].update(role="x"), r"sources\.1\.files\.0\.role: .*'images'"),
        (lambda s: s[0]["files"][0].update(urls={"http://x": "md5:1"}), r"urls.*: String should"),
        (lambda s: s[0]["files"][0].update(urls={}), r"files\.0\.urls: .*at least 1"),
        (lambda s: s[0]["files"][0].update(name="../x"), r"files\.0\.name: String should match"),
        (lambda s: s[0]["files"][0].update(about_bytes="1"), r"about_bytes: .*valid integer"),
        (lambda s: s[0].pop("page"), r"sources\.0\.page: Field required"),
    ],
)
def test_a_faulty_registry_is_refused_by_file_and_key(server, change, message, capsys):
    edit(change)
    assert get_dataset.main([]) == 1
    error = capsys.readouterr().err
    assert "registry.yaml: not valid" in error
    assert pd.Series([error]).str.contains(message, regex=True).all(), error


def test_an_unknown_data_set_is_refused_with_those_there_are(server, capsys):
    assert get_dataset.main(["--dataset", "isic2020"]) == 1
    assert "no data set 'isic2020'; there are: ham10000, isic2018" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- downloads


def test_the_whole_data_set_is_downloaded_checked_and_noted(server, capsys):
    assert get_dataset.main([]) == 0
    assert "40 images from dataverse" in capsys.readouterr().out
    assert read().equals(METADATA)
    assert len(datasets.find_masks(target(), IDS)) == len(IDS)
    assert note()["source"] == "dataverse" and note()["sample"] is None
    first = note()["files"][0]
    assert first["published"] == md5(CSV)
    assert first["sha256"] == hashlib.sha256(CSV).hexdigest()
    assert downloads() == []
    assert sorted(p.name for p in target().iterdir() if p.is_file()) == [
        "HAM10000_metadata.csv",
        "source.json",
    ]


def test_a_data_set_that_is_there_is_left_alone(server, capsys):
    get_dataset.main([])
    server.log.clear()
    assert get_dataset.main([]) == 0
    assert "nothing to do" in capsys.readouterr().out and server.log == []


def test_the_next_source_is_tried_and_says_that_no_checksum_is_published(server, capsys):
    server.faults["part2"] = [404]
    assert get_dataset.main([]) == 0
    output = capsys.readouterr()
    sha256 = hashlib.sha256(SERVED["input"]).hexdigest()
    assert (
        "no published checksum for ISIC2018_Task3_Training_Input.zip; checked: the CRC-32 of each "
        "member as it is unpacked, and its size if the server sent one; its SHA-256 is "
        f"{sha256}\n"
    ) in output.out
    assert "LesionGroupings.csv; checked: its columns, and its size if the" in output.out
    assert [file["published"] for file in note()["files"]] == [None] * 3 + [md5(SERVED["masks"])]
    assert note()["files"][2]["sha256"] == sha256
    assert "dataverse: " in output.err and "HTTP 404 Not Found" in output.err
    assert note()["source"] == "isic"
    assert read()["lesion_id"].equals(METADATA["lesion_id"])
    assert set(read()["dx_type"]) == {"consensus"}


def test_wrong_bytes_go_to_the_next_source(server):
    server.files["part1"] = zipped(images(IDS[:19]))
    assert get_dataset.main([]) == 0
    assert note()["source"] == "isic" and server.ranges_of("part1") == [None, None]


def test_a_damaged_archive_without_a_checksum_goes_to_the_next_source(server):
    edit(lambda sources: sources.reverse())
    data = bytearray(SERVED["input"])
    data[5_000] ^= 1
    server.files["input"] = bytes(data)
    assert get_dataset.main([]) == 0
    assert note()["source"] == "dataverse"


def test_an_archive_that_reaches_outside_is_never_used(server, capsys, tmp_path):
    edit(lambda sources: sources.pop(0))
    server.files["input"] = zipped(images(IDS, "x/") | {"../evil.jpg": b"evil"})
    assert get_dataset.main([]) == 1
    assert "member '../evil.jpg' would leave the folder" in capsys.readouterr().err
    assert no_data_set() and not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.rglob("ISIC2018_Task3_Training_Input.zip")), "fetched anew next time"


def test_a_page_in_place_of_an_archive_is_refused(server, capsys):
    edit(lambda sources: sources.pop(0))
    server.files["input"] = b"<html>please log in</html>"
    assert get_dataset.main([]) == 1
    assert "not a zip archive" in capsys.readouterr().err and no_data_set()


@pytest.mark.parametrize("page", [b"<html>please log in</html>", b"<p>\n<a>a, b, c</a>\n", b""])
def test_a_page_in_place_of_a_table_is_refused_and_not_kept(server, capsys, page):
    edit(lambda sources: sources.pop(0))
    server.files["groups"] = page
    assert get_dataset.main([]) == 1
    assert "groups: " in (error := capsys.readouterr().err) and "not a table" in error
    assert no_data_set() and server.ranges_of("truth") == []
    server.files["groups"] = SERVED["groups"]
    assert get_dataset.main([]) == 0


def test_after_a_page_in_place_of_a_table_the_next_address_is_tried(server):
    edit(lambda sources: sources.pop(0))
    edit(lambda sources: sources[0]["files"][0]["urls"].update({server.url("mirror"): None}))
    server.files["groups"], server.files["mirror"] = b"<html></html>", SERVED["groups"]
    assert get_dataset.main([]) == 0
    assert note()["files"][0]["url"] == server.url("mirror")


def test_a_faulty_table_without_a_checksum_is_fetched_anew_and_the_images_are_not(server, capsys):
    edit(lambda sources: sources.pop(0))
    server.files["groups"] = csv(groupings().iloc[1:])
    assert get_dataset.main([]) == 1
    assert "1 images have no row" in capsys.readouterr().err
    server.files["groups"] = SERVED["groups"]
    server.log.clear()
    assert get_dataset.main([]) == 0
    assert server.ranges_of("groups") and not server.ranges_of("input")


def test_missing_masks_are_reported_and_left_out(server, capsys):
    server.faults["masks"] = [404]
    assert get_dataset.main([]) == 0
    assert f"continuing without {MASKS}.zip" in capsys.readouterr().err
    assert len(datasets.find_masks(target(), IDS)) == 0


def test_an_image_too_few_is_an_error_that_counts_and_names(server, capsys):
    edit(lambda sources: sources.pop(0))
    server.files["input"] = zipped(images(IDS[1:]))
    assert get_dataset.main([]) == 1
    error = capsys.readouterr().err
    assert "1 of 40 images cannot be used" in error and "missing" in error and IDS[0] in error
    assert no_data_set()


def test_an_older_tab_separated_table_serves_as_well(server):
    def only_the_older(sources):
        sources[0]["files"][0]["urls"] = {server.url("none"): md5(CSV), server.url("tab"): None}

    edit(only_the_older)
    server.files["tab"] = METADATA.to_csv(index=False, sep="\t", quoting=1).encode()
    assert get_dataset.main([]) == 0
    assert note()["source"] == "dataverse" and read().equals(METADATA)


@pytest.mark.parametrize(
    ("path", "served", "source", "published"),
    [
        ("datafile/77?format=original", CSV, "dataverse", md5(CSV)),
        ("datafile/77?format=original", CSV.replace(b"nv", b"bkl"), "isic", None),
        ("datafile/77", CSV.replace(b",", b"\t"), "dataverse", None),  # as Dataverse ingested it
    ],
)
def test_a_missing_checksum_comes_from_the_listing(server, path, served, source, published):
    url = server.url(path)

    def without(sources):
        sources[0]["listing"] = server.url("listing")
        sources[0]["files"][0]["urls"] = {url: None}

    edit(without)
    entry = {"id": 77, "filename": "HAM10000_metadata.tab", "filesize": 1}
    entry |= {"originalFileSize": len(CSV), "md5": md5(CSV)[4:]}
    listing = {"data": {"latestVersion": {"files": [{"dataFile": entry}]}}}
    server.files["listing"] = json.dumps(listing).encode()
    server.files[path] = served
    assert get_dataset.main([]) == 0
    assert note()["source"] == source and note()["files"][0]["published"] == published


def test_offline_each_source_s_error_and_the_manual_download_are_printed(server, capsys):
    server.files.clear()
    assert get_dataset.main([]) == 1
    error = capsys.readouterr().err
    error = error[error.index("error:") :]
    assert error.startswith("error: HAM10000 could not be downloaded:\n  dataverse: http://127")
    assert "\n  isic: http://127" in error
    assert f"\n  {PARTS[0]}.zip  {server.url('part1')}" in error
    assert "Download by hand from https://doi.org/dataverse" in error
    assert error.rstrip().endswith("make data FROM=<that folder>")
    assert no_data_set()


def test_too_little_space_is_an_error_before_anything_is_fetched(server, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 1_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    assert get_dataset.main([]) == 1
    assert "error: no space to download dataverse's files" in capsys.readouterr().err
    assert server.log == [] and no_data_set()


def test_a_full_disk_stops_and_the_next_run_resumes(server, capsys, monkeypatch):
    def full(*arguments, **options):
        raise download.DiskFull("no space left on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(download, "extract", full)
        assert get_dataset.main([]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: no space left on the disk"
    assert no_data_set() and not server.ranges_of("input"), "no other source can help"
    server.log.clear()
    assert get_dataset.main([]) == 0 and server.log == []


def test_a_killed_run_leaves_no_data_set_and_resumes(server, tmp_path):
    server.faults["part2"] = [("stall", 70_000)]
    code = (
        "import sys, pathlib; from tools import get_dataset, registry;"
        "get_dataset.DATA, registry.REGISTRY = map(pathlib.Path, sys.argv[1:]);"
        "sys.exit(get_dataset.main([]))"
    )
    command = [sys.executable, "-c", code, get_dataset.DATA, registry.REGISTRY]
    with subprocess.Popen(command, cwd=paths.ROOT, stderr=subprocess.DEVNULL) as process:
        part = get_dataset.DATA / ".downloads/ham10000/dataverse" / f"{PARTS[1]}.zip.part"
        while not (part.exists() and part.stat().st_size >= 65_536):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert not target().exists()
    server.log.clear()
    assert get_dataset.main([]) == 0
    assert server.ranges_of("part1") == [], "complete files are not fetched again"
    assert server.ranges_of("part2")[0].startswith("bytes=")
    assert read().equals(METADATA) and downloads() == []


def test_a_half_built_folder_of_a_killed_run_is_not_used(server):
    write(get_dataset.DATA / ".ham10000.partial", images(IDS[:3], "old/"))
    assert get_dataset.main([]) == 0
    assert not (target() / "old").exists()


def test_an_interrupted_run_says_so_in_one_line(server, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(get_dataset, "_finish", interrupted)
    assert get_dataset.main([]) == 130
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("stopped; repeat the command to resume")
    )
    assert no_data_set()


def test_a_folder_of_the_user_is_left_alone(server, capsys):
    write(target(), {"HAM10000_metadata.csv": CSV})
    assert get_dataset.main([]) == 1
    assert "exists but is not from make data; move it away" in capsys.readouterr().err
    assert os.listdir(target()) == ["HAM10000_metadata.csv"]


@pytest.mark.parametrize("gone", ["copy", "copy/all"])
def test_broken_links_are_an_error_with_a_remedy(bring, tmp_path, capsys, gone):
    table = "HAM10000_metadata.csv" if gone == "copy" else "HAM10000_metadata.tab"
    assert bring({table: CSV} | images(IDS, "all/")) == 0
    assert target().is_symlink() == (gone == "copy")
    (tmp_path / gone).rename(tmp_path / "moved")
    assert get_dataset.main([]) == 1
    output = capsys.readouterr()
    error = " ".join(output.err.split())
    assert "nothing to do" not in output.out and f" to {tmp_path / gone}" in error
    assert "import the images from where they are now (make data FROM=<that folder>)" in error
    assert ("40 images" in error and "rm -r" in error) == (gone == "copy/all")


def test_the_test_set_counts_each_image_as_a_lesion(server, capsys):
    assert get_dataset.main(["--dataset", "isic2018_test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"ISIC2018_Task3_Test_GroundTruth.csv: without {IDS[0]} (data/registry.yaml)" in lines
    table = datasets.read_metadata(get_dataset.DATA / "isic2018_test")
    assert list(table["image_id"]) == IDS[1:] and table["lesion_id"].equals(table["image_id"])


# -------------------------------------------------------------------------------------- a sample


def test_a_sample_is_in_proportion_and_takes_whole_lesions():
    dx = ["nv"] * 700 + ["mel"] * 200 + ["bcc"] * 94 + ["df"] * 6
    lesions = [f"L{i // 3 if i < 90 else i}" for i in range(1000)]
    table = pd.DataFrame({"image_id": range(1000), "lesion_id": lesions, "dx": dx})
    sample = get_dataset.draw_sample(table, 100)
    assert sample["dx"].value_counts().to_dict() == {"nv": 70, "mel": 20, "bcc": 9, "df": 1}
    whole = table[table["lesion_id"].isin(sample["lesion_id"])]
    assert whole.equals(sample)
    shuffled = get_dataset.draw_sample(table.sample(frac=1, random_state=1), 100)
    assert set(shuffled["image_id"]) == set(sample["image_id"]), (
        "the order of the rows does not matter"
    )
    assert set(get_dataset.draw_sample(table, 100, 2)["image_id"]) != set(sample["image_id"])


def test_a_sample_keeps_a_lesion_of_the_rarest_class():
    sample = get_dataset.draw_sample(METADATA, 8)
    assert len(sample) == 8 and set(sample["dx"]) == set(DX)


@pytest.mark.parametrize("size", [-1, 3, 40, 99])
def test_a_sample_of_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match=f"a sample of {size} images; expected at least one"):
        get_dataset.draw_sample(METADATA, size)


@pytest.mark.parametrize("size", ["-1", "0", "3", "40"])
def test_a_sample_of_an_impossible_size_ends_at_once_in_one_line(server, capsys, size):
    assert get_dataset.main(["--sample", size]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: a sample of {size} images; expected at least ")
    requested = {entry["path"] for entry in server.log}
    assert requested == ({"meta"} if int(size) > 0 else set()) and no_data_set()


@pytest.fixture
def large(server):
    """Archives that are large compared with a few ranges of them."""
    ids, big = IDS, {image_id: jpeg(i, 300) for i, image_id in enumerate(IDS)}
    for path, chosen in (("part1", ids[:20]), ("part2", ids[20:])):
        server.files[path] = zipped({f"{name}.jpg": big[name] for name in chosen})
    mask = cv2.imencode(".png", np.full((300, 300), 255, np.uint8))[1].tobytes()
    server.files["masks"] = zipped({f"m/{name}_segmentation.png": mask for name in ids})
    return server


def test_a_sample_fetches_its_own_images_and_masks_only(large, capsys):
    assert get_dataset.main(["--sample", "8"]) == 0
    whole = sum(len(large.files[path]) for path in ("part1", "part2"))
    assert large.sent() < 0.45 * whole
    assert len(read()) == 8 and note()["sample"] == 8
    image_ids = {file.stem for file in target().rglob("*.jpg")}
    assert image_ids == set(read()["image_id"])
    assert len(datasets.find_masks(target(), IDS)) == 8
    assert "a sample of 8" in capsys.readouterr().out


def test_a_sample_must_be_deleted_before_the_complete_data_set_is_fetched(large, capsys):
    get_dataset.main(["--sample", "8"])
    assert get_dataset.main(["--sample", "8"]) == 0
    assert get_dataset.main([]) == 1
    assert "ham10000 is a sample of 8 images; delete it (rm -r" in capsys.readouterr().err


def test_a_sample_without_ranges_fetches_no_archive(large, capsys):
    large.ranges = False
    assert get_dataset.main(["--sample", "8"]) == 1
    error = capsys.readouterr().err
    assert "the server sends complete files only, no ranges" in error
    assert "the complete archives are needed" in error and "make data without SAMPLE" in error
    assert no_data_set()


# --------------------------------------------------------------------------------- a local copy


@pytest.fixture
def bring(server, tmp_path):
    def bring_files(files, name="copy", dataset="ham10000"):
        source = tmp_path / name
        if name.endswith(".zip"):
            source.write_bytes(zipped(files))
        else:
            write(source, files)
        before = {file: file.stat().st_mtime_ns for file in source.rglob("*")}
        status = get_dataset.main(["--from", str(source), "--dataset", dataset])
        assert {file: file.stat().st_mtime_ns for file in source.rglob("*")} == before
        assert server.log == [] and (status == 0 or no_data_set())
        return status

    return bring_files


def kaggle(part_1=PARTS[0], part_2=PARTS[1]):
    table = {"HAM10000_metadata.csv": CSV, "hmnist_28_28_L.csv": b"pixel0000,label\n1,2\n"}
    return table | images(IDS[:20], f"{part_1}/") | images(IDS[20:], f"{part_2}/")


ALL = {"HAM10000_metadata.csv": CSV} | images(IDS)
HALF = {"HAM10000_metadata.csv": CSV} | images(IDS[:20])


@pytest.mark.parametrize(
    "files",
    [
        {"HAM10000_metadata.csv.zip": zipped({"HAM10000_metadata.csv": CSV})} | images(IDS),
        {"truth.zip": zipped(ALL)},
        {f"{PARTS[0]}.zip": zipped({f"{PARTS[0]}.zip": zipped(ALL)})},
        HALF | {f"{PARTS[1]}.zip": zipped(ALL)},
    ],
    ids=["table alone", "hidden name", "archive in an archive of its name", "unpacked and packed"],
)
def test_archives_are_unpacked_whatever_they_are_called(bring, files):
    assert bring(files) == 0
    assert len(read()) == 40


@pytest.mark.parametrize(
    "files",
    [
        {"a.zip": zipped(ALL), "b.zip": zipped({f"{IDS[3]}.jpg": jpeg(99)})},
        HALF | {f"{PARTS[1]}.zip": zipped(images(IDS[20:]) | {f"{IDS[3]}.jpg": jpeg(99)})},
        HALF
        | {f"{PARTS[1]}.zip": zipped(images(IDS[20:]) | {"HAM10000_metadata.csv": CSV + b"\n"})},
    ],
    ids=["two archives", "folder and archive", "table"],
)
def test_a_file_in_an_archive_that_differs_from_another_is_an_error(bring, files, capsys):
    assert bring(files) == 1
    assert "exists twice, and the two differ" in capsys.readouterr().err


def test_a_checked_copy_is_linked(bring, tmp_path, capsys):
    write(get_dataset.DATA / ".ham10000.partial", {"left": b"by a run that was killed"})
    assert bring(kaggle() | masks(IDS[:3], "masks/")) == 0
    assert target().resolve() == tmp_path / "copy"
    out = capsys.readouterr().out
    assert f"a link to {tmp_path}/copy" in out and "40 images, all readable" in out
    assert get_dataset.main(["--from", str(tmp_path / "copy")]) == 0, "in place of the old link"
    assert get_dataset.main([]) == 0
    assert "a link to" in capsys.readouterr().out


def test_counts_are_of_images_lesions_and_masks(server, tmp_path):
    write(tmp_path / "copy", kaggle() | masks(IDS[:3]))
    counts = get_dataset.link(tmp_path / "copy", tmp_path / "linked")
    assert counts.loc["nv"].tolist() == [30, 20, 3, 0], "images, lesions, masks, unusable"


def test_dataverse_as_it_is_downloaded(bring):
    files = {"HAM10000_metadata": CSV, f"{MASKS}.zip": SERVED["masks"]}
    files |= {f"{PARTS[0]}.zip": SERVED["part1"], f"{PARTS[1]}.zip": SERVED["part2"]}
    assert bring(files) == 0
    assert not target().is_symlink() and read().equals(METADATA)
    assert len(datasets.find_masks(target(), IDS)) == len(IDS)
    assert not any(file.is_symlink() for file in target().rglob("*"))


def test_dataverse_unpacked_with_a_tab_table_is_linked_file_by_file(bring, tmp_path):
    table = METADATA.assign(dataset="rosendahl").to_csv(index=False, sep="\t", quoting=1).encode()
    files = {"HAM10000_metadata.tab": table, f"{PARTS[0]}.zip": SERVED["part1"]}
    assert bring(files | images(IDS, "all/") | masks(IDS[:2], "masks/")) == 0
    assert read().equals(METADATA.assign(dataset="rosendahl"))
    image = target() / "images" / f"{IDS[0]}.jpg"
    assert image.is_symlink() and image.resolve() == tmp_path / "copy" / "all" / image.name
    assert len(datasets.find_masks(target(), IDS)) == 2
    assert len(list(target().rglob("*.jpg"))) == len(IDS), "the archive adds nothing"


def test_dataverse_in_one_archive_of_archives(bring):
    files = {"HAM10000_metadata.tab": CSV, f"{PARTS[0]}.zip": SERVED["part1"]}
    assert bring(files | {f"{PARTS[1]}.zip": SERVED["part2"]}, "dataverse_files.zip") == 0
    assert read().equals(METADATA) and not list(target().rglob("*.zip"))


@pytest.mark.parametrize("name", ["copy", "archive.zip"])
def test_kaggle_with_its_folders_twice_in_another_case(bring, name):
    lower = images(IDS[:20], f"{PARTS[0].lower()}/")
    assert bring(kaggle() | lower, name) == 0
    files = datasets.find_images(target(), IDS)
    assert len(files) == len(IDS)
    assert datasets.read_metadata(target())["image_id"].tolist() == IDS
    assert not list(target().rglob("hmnist*")) or target().is_symlink()


@pytest.mark.parametrize("name", ["copy", "archive.zip"])
def test_two_images_of_one_name_that_differ_are_an_error(bring, name, capsys):
    other = {f"{PARTS[0].lower()}/{IDS[0]}.jpg": jpeg(99)}
    assert bring(kaggle() | other, name) == 1
    error = capsys.readouterr().err.lower()
    assert "isic_000" in error and "differ" in error
    assert "twice" in error or "two files" in error


@pytest.mark.parametrize("name", ["copy", "archive.zip"])
def test_other_pictures_of_one_name_decide_nothing(bring, name):
    previews = {f"{folder}/preview.jpg": jpeg(i) for i, folder in enumerate(("a", "b"))}
    assert bring(kaggle() | previews, name) == 0
    assert datasets.read_metadata(target())["image_id"].tolist() == IDS


def isic(**changed):
    training = "ISIC2018_Task3_Training"
    files = {
        f"{training}_GroundTruth/{training}_GroundTruth.csv": csv(one_hot()),
        f"{training}_LesionGroupings.csv": csv(groupings()),
    }
    return files | images(IDS, f"{training}_Input/")


@pytest.mark.parametrize("name", ["copy", "isic.zip"])
def test_isic_is_converted(bring, name):
    assert bring(isic(), name) == 0
    table = read()
    assert table[["lesion_id", "image_id", "dx"]].equals(METADATA[["lesion_id", "image_id", "dx"]])
    assert set(table["dx_type"]) == {"consensus"} and set(table["sex"]) == {"unknown"}
    assert datasets.read_metadata(target())["age"].isna().all()


def test_isic_without_lesion_ids_is_refused_with_a_remedy(bring, capsys):
    files = {name: data for name, data in isic().items() if "Groupings" not in name}
    assert bring(files) == 1
    error = capsys.readouterr().err
    assert "has no lesion ids, and without them images of one lesion" in error
    assert "add ISIC2018_Task3_Training_LesionGroupings.csv to the folder" in error


@pytest.mark.parametrize("value", [0.0, 0.5, 2.0])
def test_isic_rows_with_other_than_one_1_are_named(bring, capsys, value):
    truth = one_hot()
    truth.loc[4, "NV"] = value
    files = isic() | {"ISIC2018_Task3_Training_GroundTruth.csv": csv(truth)}
    files = {name: data for name, data in files.items() if "GroundTruth/" not in name}
    assert bring(files) == 1
    assert "row 6, ISIC_004: expected one 1 and zeros, found 0.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[1:], "1 images have no row, the first: ISIC_000"),
        (
            lambda t: pd.concat([t, t.iloc[4:5].assign(lesion_id="HAM_X")]),
            "ISIC_004 has the lesion ids HAM_002, HAM_X; expected one",
        ),
        (lambda t: t.replace(CONFIRMED, "a hunch"), "diagnosis_confirm_type 'a hunch'; expected"),
    ],
)
def test_faulty_groupings_are_named(bring, capsys, change, message):
    name = "ISIC2018_Task3_Training_LesionGroupings.csv"
    assert bring(isic() | {name: csv(change(groupings()))}) == 1
    assert f"{name}: {message}" in capsys.readouterr().err


def test_repeated_groupings_that_agree_are_fine(bring):
    twice = csv(pd.concat([groupings(), groupings()]))
    assert bring(isic() | {"ISIC2018_Task3_Training_LesionGroupings.csv": twice}) == 0
    assert read()["lesion_id"].equals(METADATA["lesion_id"])


@pytest.mark.parametrize("name", ["copy", "copy.zip"])
def test_an_unknown_layout_is_refused_with_the_known_ones(bring, name, capsys):
    assert bring(images(IDS[:3]) | {"notes.txt": b"x"}, name) == 1
    error = capsys.readouterr().err
    assert "not a layout of HAM10000; found: " in error and "expected one of" in error
    assert "Kaggle" in error and "ISIC2018_Task3_Training_GroundTruth.csv" in error


def test_a_file_that_is_no_archive_is_named(server, tmp_path, capsys):
    write(tmp_path, {"copy.zip": b"not a zip"})
    assert get_dataset.main(["--from", str(tmp_path / "copy.zip")]) == 1
    assert capsys.readouterr().err.startswith("error: copy.zip: not a zip archive")


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\x1f\x8b\x08", "a gzip or tar.gz file, not a zip archive; unpack it"),
        (b"Rar!\x1a\x07", "a RAR archive, not a zip archive; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive, not a zip archive; unpack it"),
        (b"copy/".ljust(257, b"\0") + b"ustar", "a tar archive, not a zip archive; unpack it"),
        (zipped({"a.txt": b"a" * 99})[:100], "a zip archive that is cut short or damaged"),
    ],
    ids=["gzip", "RAR", "7z", "tar", "cut zip"],
)
def test_another_archive_is_called_what_it_is(server, tmp_path, capsys, start, reason):
    write(tmp_path, {"copy.tar.gz": start})
    assert get_dataset.main(["--from", str(tmp_path / "copy.tar.gz")]) == 1
    assert capsys.readouterr().err.startswith(f"error: copy.tar.gz: {reason}")


@pytest.mark.parametrize("given", ["", "ham-00001.zip"])
def test_the_parts_of_a_download_are_read_together(server, tmp_path, given):
    everything = sorted(kaggle().items())
    parts = {f"ham-0000{i + 1}.zip": zipped(dict(everything[i::2])) for i in range(2)}
    write(tmp_path / "downloads", parts)
    assert get_dataset.main(["--from", str(tmp_path / "downloads" / given)]) == 0
    assert datasets.read_metadata(target())["image_id"].tolist() == IDS


def test_an_archive_with_backslashes_is_read(server, tmp_path):
    data = zipped(kaggle())
    for part in PARTS:
        data = data.replace(f"{part}/".encode(), f"{part}\\".encode())
    write(tmp_path, {"kaggle.zip": data})
    assert get_dataset.main(["--from", str(tmp_path / "kaggle.zip")]) == 0
    assert len(datasets.find_images(target(), IDS)) == len(IDS)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("back", "Rücken").encode("latin-1"),
        lambda text: text.encode("utf-8-sig"),
    ],
    ids=["semicolons", "tabs", "UTF-16", "Latin-1", "byte order mark"],
)
@pytest.mark.parametrize("name", ["copy", "archive.zip"])
def test_a_table_of_another_encoding_or_separator_is_read(bring, encode, name):
    assert bring(kaggle() | {"HAM10000_metadata.csv": encode(CSV.decode())}, name) == 0
    metadata = datasets.read_metadata(target())
    assert metadata[["image_id", "lesion_id", "dx"]].equals(
        METADATA[["image_id", "lesion_id", "dx"]]
    )


def test_columns_that_are_not_known_are_listed(bring, capsys):
    assert bring(images(IDS[:3]) | {"HAM10000_metadata.csv": b"picture|diagnosis\n1|nv\n"}) == 1
    error = capsys.readouterr().err
    assert "picture|diagnosis" in error


def test_a_table_that_is_none_says_how_to_save_it(bring, capsys):
    assert bring(images(IDS[:3]) | {"HAM10000_metadata.csv": b"PK\3\4\0\0"}) == 1
    assert "save it as UTF-8, comma-separated" in capsys.readouterr().err


def renamed(change, of_file=lambda name: name):
    """Return Kaggle's layout with other ids in the table, and other names of files."""
    table = METADATA.assign(image_id=METADATA["image_id"].map(change))
    files = {of_file(name): data for name, data in kaggle().items() if name.endswith(".jpg")}
    return files | {"HAM10000_metadata.csv": csv(table)}


@pytest.mark.parametrize("name", ["copy", "archive.zip"])
@pytest.mark.parametrize(
    ("change", "of_file"),
    [
        (lambda i: f"{i}.jpg", str),
        (lambda i: f"{i} ", str),
        (lambda i: f"images/{i}.JPG", str),
        (str.lower, str),
        (str, lambda name: name.replace(".jpg", ".JFIF")),
        (str, lambda name: name.replace(".jpg", "_downsampled.jpg")),
        (lambda i: f"{i}é", lambda name: name.replace(".jpg", "e\u0301.jpg")),
    ],
    ids=["suffix", "space", "folder", "case", "jfif", "downsampled", "composed"],
)
def test_names_that_differ_a_little_are_matched_and_counted(bring, capsys, change, of_file, name):
    assert bring(renamed(change, of_file), name) == 0
    out = capsys.readouterr().out
    if of_file("a.jpg") != "a.JFIF":
        assert "40 images were matched although names differ: " in out
    metadata = datasets.read_metadata(target())
    files = datasets.find_images(target(), metadata["image_id"])
    assert len(files) == 40
    assert metadata["lesion_id"].tolist() == METADATA["lesion_id"].tolist()


def test_masks_are_matched_in_any_case(bring):
    upper = {n.replace("_segmentation.png", "_Segmentation.PNG"): d for n, d in masks(IDS).items()}
    assert bring(kaggle() | upper) == 0
    assert len(datasets.find_masks(target(), IDS)) == len(IDS)


def test_what_could_be_two_files_is_not_matched(bring, capsys):
    files = renamed(str.lower)
    first = f"{PARTS[0]}/{IDS[0]}"
    assert bring(files | {f"{first}_downsampled.jpg": jpeg(98)}) == 1
    error = capsys.readouterr().err
    assert "1 images have no file, such as" in error and "2 files have no row: " in error
    assert f"{IDS[0]}.jpg" in error and f"{IDS[0]}_downsampled.jpg" in error


def test_a_missing_folder_is_one_clear_line(server, tmp_path, capsys):
    assert get_dataset.main(["--from", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/nowhere: no such folder or zip file\n"


@pytest.mark.parametrize("content", [b"broken", JPEGS[IDS[0]][:900]])
def test_nothing_is_linked_when_an_image_is_broken(bring, content, capsys):
    assert bring(kaggle() | {f"{PARTS[0]}/{IDS[1]}.jpg": content}) == 1
    error = capsys.readouterr().err
    assert "1 of 40 images cannot be used" in error and f"{IDS[1]}.jpg" in error


def test_a_mask_of_another_size_is_refused(bring, capsys):
    small = cv2.imencode(".png", np.full((SIDE, 40), 255, np.uint8))[1].tobytes()
    assert bring(kaggle() | {f"{IDS[0]}_segmentation.png": small}) == 1
    assert f"40 x {SIDE} pixels; expected the image's {SIDE} x {SIDE}" in capsys.readouterr().err


@pytest.mark.parametrize(("shape", "status"), [((SIDE, 40), 0), ((40, SIDE), 1)])
def test_a_mask_has_the_size_of_the_image_as_it_is_turned(bring, capsys, shape, status):
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6  # stored as 72 x 40 pixels, seen as 40 x 72
    Image.linear_gradient("L").resize((SIDE, 40)).convert("RGB").save(file, "jpeg", exif=exif)
    mask = cv2.imencode(".png", np.full(shape, 255, np.uint8))[1].tobytes()
    turned = {f"{PARTS[0]}/{IDS[0]}.jpg": file.getvalue(), f"{IDS[0]}_segmentation.png": mask}
    assert bring(kaggle() | turned) == status
    assert ("expected the image's" in capsys.readouterr().err) == bool(status)


@pytest.mark.parametrize("name", ["copy", "copy.zip", "copy/below"])
def test_synthetic_images_are_never_taken_for_real_ones(bring, name, capsys):
    name, _, below = name.partition("/")
    below = below and below + "/"
    files = {f"{below}{path}": data for path, data in kaggle().items()}
    assert bring(files | {f"{below}synthetic.json": b"{}"}, name) == 1
    assert "synthetic images (it has a synthetic.json), not HAM10000" in capsys.readouterr().err


def test_a_folder_in_the_way_of_the_link_is_left_alone(server, tmp_path, capsys):
    write(tmp_path / "copy", kaggle())
    write(target(), {"mine.txt": b"mine"})
    assert get_dataset.main(["--from", str(tmp_path / "copy")]) == 1
    assert "is a folder, not a link; move it away" in capsys.readouterr().err
    assert os.listdir(target()) == ["mine.txt"]


def test_a_link_gives_way_to_a_converted_copy_and_its_target_stays(bring, tmp_path):
    write(tmp_path / "old", kaggle())
    get_dataset.main(["--from", str(tmp_path / "old")])
    assert target().is_symlink()
    assert bring(isic(), "isic.zip") == 0
    assert not target().is_symlink() and len(list((tmp_path / "old").rglob("*.jpg"))) == len(IDS)


def test_a_sample_of_a_copy_is_refused(server, tmp_path, capsys):
    assert get_dataset.main(["--from", str(tmp_path), "--sample", "5"]) == 1
    assert "FROM or SAMPLE" in capsys.readouterr().err


def test_the_test_set_is_brought_with_the_lesion_ids_of_dataverse(bring):
    files = {"ISIC2018_Task3_Test_GroundTruth.tab": METADATA.to_csv(index=False, sep="\t").encode()}
    assert bring(files | images(IDS[1:]), dataset="isic2018_test") == 0
    table = datasets.read_metadata(get_dataset.DATA / "isic2018_test")
    assert list(table["lesion_id"]) == list(METADATA["lesion_id"][1:])


def test_real_images_are_linked(server, ham10000):
    assert get_dataset.main(["--from", str(ham10000)]) == 0
    assert target().resolve() == ham10000.resolve()
