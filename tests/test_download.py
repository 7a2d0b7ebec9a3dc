"""Downloads from a faulty server: complete and verified, or nothing."""

import contextlib
import errno
import hashlib
import http.server
import io
import json
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

from lib import paths
from tools import download

CONTENT = os.urandom(400_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves `files` (path to bytes) on 127.0.0.1; `faults` (path to list) are used up in order.

    A fault is a status code, one with an answer (a dict), `("cut", n)`, `("stall", n)`, or bytes
    to send in place of the file.
    """

    def __init__(self):
        self.files, self.faults, self.log = {}, defaultdict(list), []
        self.ranges, self.retry_after, self.etags = True, None, True
        self.stalled = threading.Event()
        handler = type("Handler", (_Handler,), {"site": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # a client that hangs up is no fault
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.http.server_port}/{path}"

    def ranges_of(self, path):
        """Return the range of each request for a path; None is the whole file."""
        return [entry["range"] for entry in self.log if entry["path"] == path]

    def sent(self):
        return sum(entry["sent"] for entry in self.log)

    def close(self):
        self.http.shutdown()
        self.http.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path, requested = self.path.lstrip("/"), self.headers.get("Range")
        entry = {
            "path": path,
            "range": requested,
            "if_range": self.headers.get("If-Range"),
            "sent": 0,
        }
        self.site.log.append(entry)
        fault = self.site.faults[path].pop(0) if self.site.faults[path] else None
        if isinstance(fault, dict):
            ((status, answer),) = fault.items()
            return self._answer(status, answer)
        if isinstance(fault, int) or path not in self.site.files:
            return self._answer(fault or 404, b"")
        content = fault if isinstance(fault, bytes) else self.site.files[path]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": etag} if self.site.etags else {}
        status, start, end = 200, 0, len(content)
        if requested and self.site.ranges and entry["if_range"] in (None, etag):
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", requested).groups()
            start = int(first) if first else max(0, len(content) - int(last))
            end = min(int(last) + 1, len(content)) if first and last else len(content)
            if start >= len(content):
                return self._answer(416, b"")
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{len(content)}"
        self._answer(status, content[start:end], headers, entry, fault)

    def _answer(self, status, body, headers=(), entry=None, fault=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if self.site.retry_after and status >= 400:
            self.send_header("Retry-After", self.site.retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if isinstance(fault, tuple):
            body = body[: fault[1]]
            self.close_connection = True
        if entry is not None:
            entry["sent"] = len(body)
        with contextlib.suppress(ConnectionError):  # remotezip hangs up when it has enough
            self.wfile.write(body)
        if isinstance(fault, tuple) and fault[0] == "stall":
            self.wfile.flush()
            self.site.stalled.set()
            time.sleep(20)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    site = Server()
    site.files["file.bin"] = CONTENT
    yield site
    site.close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "down" / "file.bin"


@pytest.fixture
def fetch(server, target):
    def fetch_file(checksum=MD5, **options):
        url = server.url("file.bin")
        return download.fetch(url, target, download.open_session(), checksum, **options)

    return fetch_file


@pytest.fixture
def half(fetch, server):
    """The first half exists, from a run that gave up."""
    server.faults["file.bin"] = [("cut", 250_000), 404]
    with pytest.raises(download.Unavailable, match=r"file\.bin: HTTP 404 Not Found"):
        fetch()
    server.log.clear()


def fill(monkeypatch, room):
    """Simulate a disk that has room for `room` bytes of a file."""
    usual = Path.open

    class Small(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def small(file, mode="r", *arguments, **options):
        return (
            Small(file, mode) if mode in ("ab", "wb") else usual(file, mode, *arguments, **options)
        )

    monkeypatch.setattr(Path, "open", small)


def files_in(folder):
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


# ------------------------------------------------------------------------------------ whole files


def test_a_file_is_complete_and_leaves_no_traces(fetch, server, target):
    assert fetch().read_bytes() == CONTENT
    assert files_in(target.parent) == ["file.bin"]
    fetch()
    assert len(server.log) == 1, "a verified file is not fetched again"


def test_an_interrupted_download_fetches_the_missing_bytes_only(fetch, server):
    server.faults["file.bin"] = [("cut", 250_000)]
    assert fetch().read_bytes() == CONTENT
    _, second = server.log
    start = int(re.fullmatch(r"bytes=(\d+)-", second["range"]).group(1))
    assert 0 < start <= 250_000
    assert second["sent"] == len(CONTENT) - start
    assert second["if_range"] == f'"{MD5[4:]}"'


def test_the_next_run_resumes_the_part(half, fetch, server, target):
    assert files_in(target.parent) == ["file.bin.part", "file.bin.part.json"]
    size = target.with_name("file.bin.part").stat().st_size
    assert fetch().read_bytes() == CONTENT
    assert server.ranges_of("file.bin") == [f"bytes={size}-"]
    assert server.sent() == len(CONTENT) - size


def test_a_complete_part_is_only_checked(fetch, server, target):
    server.faults["file.bin"] = [("cut", 400_000)]
    fetch(None)
    part = target.rename(target.with_name("file.bin.part"))
    note = {"url": server.url("file.bin"), "validator": None, "bytes": len(CONTENT)}
    part.with_name("file.bin.part.json").write_text(json.dumps(note))
    assert fetch().read_bytes() == CONTENT and len(server.log) == 1


def test_a_file_that_changed_between_is_fetched_from_the_start(half, fetch, server):
    new = os.urandom(400_000)
    server.files["file.bin"] = new
    assert fetch("md5:" + hashlib.md5(new).hexdigest()).read_bytes() == new
    assert [entry["sent"] for entry in server.log] == [len(new)]
    assert server.log[0]["if_range"] == f'"{MD5[4:]}"'


def test_a_range_that_the_server_does_not_have_starts_over(half, fetch, server):
    server.faults["file.bin"] = [416]
    assert fetch().read_bytes() == CONTENT
    assert server.ranges_of("file.bin")[1] is None


def test_without_range_support_a_cut_download_starts_over(half, fetch, server):
    server.ranges = False
    assert fetch().read_bytes() == CONTENT
    assert server.sent() == len(CONTENT)


def test_wrong_bytes_are_fetched_once_more(fetch, server):
    server.faults["file.bin"] = [b"x" * 400_000]
    assert fetch().read_bytes() == CONTENT
    assert server.ranges_of("file.bin") == [None, None]


@pytest.mark.parametrize("options", [{}, {"checksum": None, "size": 400_000}])
def test_wrong_bytes_twice_are_refused_and_nothing_is_left(fetch, server, target, options):
    server.files["file.bin"] = b"<html>please log in</html>"
    with pytest.raises(download.Unavailable, match="wrong bytes, twice: .*, expected"):
        fetch(**options)
    assert files_in(target.parent) == [] and len(server.log) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_tried_again(fetch, server, status):
    server.faults["file.bin"] = [status, status]
    assert fetch().read_bytes() == CONTENT
    assert len(server.log) == 3


def test_a_server_that_stays_busy_is_given_up_after_five_attempts(fetch, server):
    server.faults["file.bin"] = [503] * 9
    with pytest.raises(download.Unavailable, match="HTTP 503"):
        fetch()
    assert len(server.log) == 5


def test_retry_after_is_honoured_up_to_a_cap(fetch, server, monkeypatch):
    monkeypatch.setattr(download, "LONGEST_WAIT", 0.3)
    server.faults["file.bin"], server.retry_after = [503], "3600"
    start = time.monotonic()
    assert fetch().read_bytes() == CONTENT
    assert 0.3 <= time.monotonic() - start < 5


def test_a_connection_that_breaks_without_a_byte_is_given_up(fetch, server):
    server.faults["file.bin"] = [("cut", 0)] * 20
    with pytest.raises(download.Unavailable, match=r"file\.bin"):
        fetch()
    assert len(server.log) == 5


def test_a_server_without_ranges_that_cuts_at_other_places_is_given_up(fetch, server):
    server.ranges = False
    server.faults["file.bin"] = [("cut", 70_000), ("cut", 150_000)] * 20
    with pytest.raises(download.Unavailable, match=r"file\.bin"):
        fetch()
    assert len(server.log) == 7, "two that got further than all before, and five"


@pytest.mark.parametrize("status", [403, 404])
def test_an_address_without_the_file_is_given_up_at_once(fetch, server, status):
    server.faults["file.bin"] = [status]
    with pytest.raises(download.Unavailable, match=f"HTTP {status}"):
        fetch()
    assert len(server.log) == 1


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (
            b'{"status":"ERROR","message":"Guestbook response\\nrequired."}',
            ": Guestbook response required.",
        ),
        (b"<html>Bad Request</html>", ""),
        (b'{"message":', ""),
        (b"[1, 2]", ""),
        (b"", ""),
    ],
)
def test_a_server_that_says_why_is_quoted(fetch, server, answer, shown):
    server.faults["file.bin"] = [{400: answer}]
    with pytest.raises(download.Unavailable) as error:
        fetch()
    assert str(error.value) == f"{server.url('file.bin')}: HTTP 400 Bad Request{shown}"


def test_no_server_at_all_is_given_up_soon(target):
    with pytest.raises(download.Unavailable, match="refused"):
        download.fetch("http://127.0.0.1:9/x", target, download.open_session())


def test_a_killed_download_resumes(server, fetch, target):
    server.faults["file.bin"] = [("stall", 250_000)]
    code = (
        "import sys, pathlib; from tools import download as d;"
        "d.fetch(sys.argv[1], pathlib.Path(sys.argv[2]), d.open_session())"
    )
    command = [sys.executable, "-c", code, server.url("file.bin"), str(target)]
    with subprocess.Popen(command, cwd=paths.ROOT, stderr=subprocess.DEVNULL) as process:
        part = target.with_name("file.bin.part")
        while not (part.exists() and part.stat().st_size > 100_000):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert not target.exists()
    size = part.stat().st_size
    assert fetch().read_bytes() == CONTENT
    assert server.ranges_of("file.bin")[-1] == f"bytes={size}-"


def test_a_full_disk_keeps_the_part(fetch, server, target, monkeypatch):
    """On a disk of one megabyte where the tests may mount one, else with a write that fails."""
    server.files["file.bin"] = os.urandom(3_000_000)
    target.parent.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target.parent], capture_output=True
    )
    if mounted.returncode:
        fill(monkeypatch, 1_000_000)
    try:
        with pytest.raises(
            download.DiskFull, match=r"no space left .*resumes from .*file\.bin\.part"
        ):
            fetch(None)
        assert target.with_name("file.bin.part").stat().st_size > 500_000
        assert not target.exists()
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", target.parent], check=True)


def test_after_a_full_disk_the_next_run_resumes(fetch, server, target, monkeypatch):
    with monkeypatch.context() as patch:
        fill(patch, 300_000)
        with pytest.raises(
            download.DiskFull, match=r"no space left on the disk; .*resumes from .*part"
        ):
            fetch()
    assert files_in(target.parent) == ["file.bin.part", "file.bin.part.json"]
    size = target.with_name("file.bin.part").stat().st_size
    assert 200_000 < size <= 300_000
    assert fetch().read_bytes() == CONTENT
    assert server.ranges_of("file.bin") == [None, f"bytes={size}-"]


def test_missing_disk_space_is_an_error(tmp_path):
    with pytest.raises(download.DiskFull, match=r"no space to move in: 1\.00EB needed in .* free"):
        download.require_space(tmp_path / "not" / "yet", 10**18, "move in")


def test_progress_is_printed_as_lines_without_a_terminal(fetch, capfd):
    fetch()
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 2 and lines[-1].startswith("file.bin: 400k of 400k")
    assert not any("\r" in line for line in lines)


# --------------------------------------------------------------------------------------- archives


def write_zip(file, members, **options):
    """Write an archive from a mapping of names, or ZipInfos, to bytes."""
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def unpack(file, folder, members=None):
    with zipfile.ZipFile(file) as archive:
        download.extract(archive, file.name, folder, members)


def entry(name, mode=0, flags=0):
    info = zipfile.ZipInfo(name)
    info.external_attr, info.flag_bits = mode << 16, flags
    return info


def test_an_archive_is_extracted_with_its_folders(tmp_path):
    file = write_zip(tmp_path / "a.zip", {"x/": b"", "x/1.jpg": b"one", "2.jpg": b"two"})
    unpack(file, tmp_path / "out")
    assert (tmp_path / "out" / "x" / "1.jpg").read_bytes() == b"one"
    assert files_in(tmp_path / "out") == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (entry("../evil.jpg"), "would leave the folder"),
        (entry("x/../../evil.jpg"), "would leave the folder"),
        (entry("/tmp/evil.jpg"), "would leave the folder"),
        (entry("C:/evil.jpg"), "would leave the folder"),
        (entry("..\\evil.jpg"), "would leave the folder"),
        (entry("evil.jpg", stat.S_IFLNK | 0o777), "is a link or a device"),
        (entry("evil.jpg", stat.S_IFCHR | 0o666), "is a link or a device"),
    ],
)
def test_an_archive_that_reaches_outside_is_refused_whole(tmp_path, member, reason):
    file = write_zip(tmp_path / "a.zip", {"good.jpg": b"good", member: b"/etc/passwd"})
    with pytest.raises(download.BadArchive, match=rf"a\.zip: member .*evil.* {reason}; nothing"):
        unpack(file, tmp_path / "out", ["good.jpg"])
    assert files_in(tmp_path) == ["a.zip"]


def test_a_colon_in_a_name_is_no_drive(tmp_path):
    file = write_zip(tmp_path / "a.zip", {"good.jpg": b"good", "notes 10:30.txt": b"late"})
    unpack(file, tmp_path / "out", ["good.jpg"])
    assert files_in(tmp_path / "out") == ["good.jpg"]


def test_an_encrypted_member_is_refused(tmp_path):
    file = write_zip(tmp_path / "a.zip", {"good.jpg": b"good"})
    data = bytearray(file.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(data)
    with pytest.raises(download.BadArchive, match=r"good\.jpg is encrypted; unpack it yourself"):
        unpack(file, tmp_path / "out")


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (93, "unknown"), (99, "unknown")])
def test_a_method_that_python_lacks_is_named(tmp_path, method, name):
    file = write_zip(tmp_path / "a.zip", {"good.jpg": b"good"})
    data = bytearray(file.read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\1\2") + 10, method)
    file.write_bytes(data)
    message = rf"good\.jpg is packed with method {method} \({name}\), which Python cannot read"
    with pytest.raises(download.BadArchive, match=message):
        unpack(file, tmp_path / "out")


def test_backslashes_in_names_are_read_as_slashes(tmp_path):
    file = write_zip(tmp_path / "a.zip", {entry("x/1.jpg"): b"one"})
    file.write_bytes(file.read_bytes().replace(b"x/1.jpg", b"x\\1.jpg"))
    unpack(file, tmp_path / "out")
    assert (tmp_path / "out" / "x" / "1.jpg").read_bytes() == b"one"


def test_a_zip_bomb_is_refused_from_its_directory(tmp_path):
    options = {"compression": zipfile.ZIP_DEFLATED}
    file = write_zip(tmp_path / "a.zip", {"bomb.jpg": bytes(20_000_000)}, **options)
    with pytest.raises(download.BadArchive, match=r"bomb\.jpg would grow from 19\.\dkB to 20\.0MB"):
        unpack(file, tmp_path / "out")
    assert files_in(tmp_path) == ["a.zip"]


def test_a_bomb_whose_header_lies_writes_no_more_than_the_header_says(tmp_path, monkeypatch):
    options = {"compression": zipfile.ZIP_DEFLATED}
    file = write_zip(tmp_path / "a.zip", {"bomb.jpg": bytes(20_000_000)}, **options)
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 5_000)
    file.write_bytes(data)
    written = []
    copy = download.shutil.copyfileobj
    monkeypatch.setattr(
        download.shutil,
        "copyfileobj",
        lambda source, file, size: (copy(source, file, size), written.append(file.tell())),
    )
    with pytest.raises(download.BadArchive, match=r"member bomb\.jpg is damaged: Bad CRC-32"):
        unpack(file, tmp_path / "out")
    assert files_in(tmp_path) == ["a.zip"] and sum(written) <= 5_000


@pytest.mark.parametrize(
    ("cap", "reason"),
    [("MAX_MEMBERS", "3 members"), ("MAX_BYTES", "unpacked"), ("MAX_MEMBER_BYTES", "would grow")],
)
def test_too_many_or_too_large_members_are_refused(tmp_path, monkeypatch, cap, reason):
    file = write_zip(tmp_path / "a.zip", {f"{i}.jpg": b"12" for i in range(3)})
    monkeypatch.setattr(download, cap, 1)
    with pytest.raises(download.BadArchive, match=reason):
        unpack(file, tmp_path / "out")
    assert files_in(tmp_path) == ["a.zip"]


def test_members_that_share_their_bytes_are_refused(tmp_path):
    file = write_zip(tmp_path / "a.zip", {"1.jpg": b"1" * 99, "2.jpg": b"1" * 99})
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 42, 10)
    file.write_bytes(data)
    with pytest.raises(download.BadArchive, match=r"1\.jpg and 2\.jpg overlap"):
        unpack(file, tmp_path / "out")


def test_names_that_differ_in_case_only_are_refused(tmp_path):
    file = write_zip(tmp_path / "a.zip", {"I1.jpg": b"1", "i1.JPG": b"2"})
    with pytest.raises(download.BadArchive, match=r"i1\.jpg exists twice"):
        unpack(file, tmp_path / "out")


def test_a_corrupted_member_is_named(tmp_path):
    file = write_zip(tmp_path / "a.zip", {"good.jpg": b"good", "bad.jpg": b"contents"})
    file.write_bytes(file.read_bytes().replace(b"contents", b"cXntents"))
    with pytest.raises(
        download.BadArchive, match=r"a\.zip: member bad\.jpg is damaged: Bad CRC-32"
    ):
        unpack(file, tmp_path / "out")
    assert files_in(tmp_path / "out") == ["good.jpg"]


def test_a_bomb_that_lies_about_its_packed_size_is_refused_with_a_reason(tmp_path):
    options = {"compression": zipfile.ZIP_DEFLATED}
    file = write_zip(tmp_path / "a.zip", {"bomb.jpg": bytes(20_000_000)}, **options)
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 20, 1_000_000)
    file.write_bytes(data)
    with pytest.raises(download.BadArchive, match=r"bomb\.jpg is damaged: unexpected end of data"):
        unpack(file, tmp_path / "out")
    assert files_in(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_is_named_however_the_archive_is_packed(tmp_path, compression):
    file = write_zip(tmp_path / "a.zip", {"bad.jpg": CONTENT}, compression=compression)
    data = bytearray(file.read_bytes())
    data[40:600] = bytes(byte ^ 0x5A for byte in data[40:600])
    file.write_bytes(data)
    with pytest.raises(download.BadArchive, match=r"a\.zip: member bad\.jpg is damaged: \w"):
        unpack(file, tmp_path / "out")
    assert files_in(tmp_path) == ["a.zip"]


def test_a_disk_that_fills_up_while_unpacking_leaves_no_half_member(tmp_path, monkeypatch):
    file = write_zip(tmp_path / "a.zip", {"1.jpg": CONTENT[:9], "2.jpg": CONTENT})
    fill(monkeypatch, 300_000)
    with pytest.raises(download.DiskFull, match=r"no space left .*; a\.zip could not be unpacked"):
        unpack(file, tmp_path / "out")
    assert files_in(tmp_path) == ["1.jpg", "a.zip"]


# ------------------------------------------------------------------------------- remote archives


@pytest.fixture
def members(server):
    contents = {f"x/{i}.jpg": os.urandom(50_000) for i in range(40)}
    server.files["a.zip"] = write_zip(io.BytesIO(), contents).getvalue()
    return contents


def test_members_are_taken_out_of_a_remote_archive_and_little_else(server, members, tmp_path):
    url, session = server.url("a.zip"), download.open_session()
    assert download.list_remote(url, session) == list(members)
    wanted = ["x/3.jpg", "x/17.jpg", "x/39.jpg"]
    download.extract_remote(url, "a.zip", tmp_path / "out", wanted, session)
    assert files_in(tmp_path / "out") == sorted(name.removeprefix("x/") for name in wanted)
    for name in wanted:
        assert (tmp_path / "out" / name).read_bytes() == members[name]
    assert server.sent() < 0.25 * len(server.files["a.zip"])


def test_a_connection_that_breaks_within_a_member_is_tried_again(server, members, tmp_path):
    server.faults["a.zip"] = [None, ("cut", 100), None, ("cut", 30_000)]
    names = list(members)[:8]
    session = download.open_session()
    download.extract_remote(server.url("a.zip"), "a.zip", tmp_path, names, session)
    assert all((tmp_path / name).read_bytes() == members[name] for name in names)


def test_a_remote_archive_that_reaches_outside_is_not_tried_again(server, tmp_path):
    contents = {"good.jpg": b"good", "../evil.jpg": b"evil"}
    server.files["a.zip"] = write_zip(io.BytesIO(), contents).getvalue()
    url, session = server.url("a.zip"), download.open_session()
    with pytest.raises(download.BadArchive, match="would leave the folder"):
        download.extract_remote(url, "a.zip", tmp_path, ["good.jpg"], session)
    assert len(server.log) == 1 and files_in(tmp_path) == []


def test_a_damaged_member_is_fetched_again_and_not_waited_for_in_the_end(
    server, tmp_path, monkeypatch
):
    data = write_zip(io.BytesIO(), {"bad.jpg": b"contents"}).getvalue()
    server.files["a.zip"] = data.replace(b"contents", b"cXntents")
    waits = []
    monkeypatch.setattr(download, "_pause", lambda attempt: waits.append(attempt) or 0.01)
    url, session = server.url("a.zip"), download.open_session()
    with pytest.raises(download.Unavailable, match=r"member bad\.jpg is damaged: Bad CRC-32"):
        download.extract_remote(url, "a.zip", tmp_path, ["bad.jpg"], session)
    assert waits == [0, 1, 2, 3], "of five attempts"


def test_a_full_disk_stops_all_connections(server, members, tmp_path, monkeypatch):
    names, taken = [f"{i}.jpg" for i in range(400)], []

    def extract(archive, name, folder, part, done):
        if names[3] in part:
            raise download.DiskFull("no space left on the disk")
        for member in part:
            time.sleep(0.02)
            taken.append(member)
            done(1)

    monkeypatch.setattr(download, "extract", extract)
    url, session = server.url("a.zip"), download.open_session()
    with pytest.raises(download.DiskFull):
        download.extract_remote(url, "a.zip", tmp_path, names, session)
    assert len(taken) < 100


def test_a_remote_archive_on_a_server_without_ranges_is_not_fetched(server, members):
    server.ranges = False
    with pytest.raises(
        download.Unavailable, match="the server sends complete files only, no ranges"
    ):
        download.list_remote(server.url("a.zip"), download.open_session())


def test_a_missing_remote_archive_is_named(server):
    with pytest.raises(download.Unavailable, match=r"nothing\.zip: .*404"):
        download.list_remote(server.url("nothing.zip"), download.open_session())
