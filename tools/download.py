"""Download files and extract zip archives: complete, verified, and only into their folder."""

import errno
import itertools
import json
import lzma
import shutil
import stat
import struct
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PureWindowsPath

import pooch
import requests
import urllib3
from remotezip import RangeNotSupported, RemoteZip, RemoteZipError
from tqdm import tqdm

from lib import paths

ATTEMPTS = 5
BACKOFF = 1.0  # seconds; doubled from one attempt to the next
LONGEST_WAIT = 60  # seconds; caps a server's Retry-After
TIMEOUT = (10, 60)  # seconds to connect, and to wait for the next byte
PIECE = 1 << 16  # bytes read and written at a time
LINE_EVERY = 30  # seconds between lines of progress where stderr is not a terminal
CONNECTIONS = 4  # parallel connections to a remote archive

#: Caps on an archive; HAM10000's have 10,015 members and 2.8 GB, and hardly compress.
MAX_MEMBERS = 50_000
MAX_BYTES = 20 * 10**9
MAX_MEMBER_BYTES = 4 * 10**9
MAX_RATIO = 100

#: How a member may be packed.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)

#: Errors of a broken connection.
BROKEN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    RemoteZipError,
    zipfile.BadZipFile,
)

#: Errors of zipfile and its decompressors at damaged bytes; bzip2 raises a bare OSError.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
)


class Unavailable(OSError):
    """An address does not serve the file, or serves wrong bytes; another address may work."""


class DiskFull(OSError):
    """The disk is full, so no other address can help."""


class BadArchive(ValueError):
    """A zip archive is damaged or has forbidden contents."""


class DamagedMember(BadArchive):
    """A member of an archive is damaged; another download may be complete."""


def open_session() -> requests.Session:
    """Return a session that retries after 429, 50x or no response, with growing waits."""
    retry = urllib3.Retry(
        total=ATTEMPTS - 1,
        connect=1,  # no network: waiting hardly helps
        backoff_factor=BACKOFF,
        status_forcelist=(429, 500, 502, 503, 504),
        retry_after_max=LONGEST_WAIT,
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    session.headers["Accept-Encoding"] = "identity"  # ranges count the file's own bytes
    session.headers["User-Agent"] = "skin-lesion-notebooks"
    return session


# ------------------------------------------------------------------------------------ whole files


def fetch(
    url: str,
    target: Path,
    session: requests.Session,
    checksum: str | None = None,
    size: int | None = None,
) -> Path:
    """Download a file; `target` exists only when it is complete and its checksum is correct.

    An incomplete download is `<target>.part`, with a note of the address and the server's
    validator beside it, and a later call resumes it. Wrong bytes are fetched once more.

    Parameters
    ----------
    checksum : str, optional
        `md5:<hex>` or `sha256:<hex>`.
    size : int, optional
        Expected size in bytes.

    Raises
    ------
    Unavailable, DiskFull
        After `DiskFull` or too many broken connections, the next call resumes the download.
    """
    part, note = (target.with_name(target.name + suffix) for suffix in (".part", ".part.json"))
    if target.exists():
        if not _mismatch(target, checksum, size):
            return target
        target.unlink()
    for _ in range(2):
        _receive(url, part, note, session)
        note.unlink()
        mismatch = _mismatch(part, checksum, size)
        if not mismatch:
            return part.rename(target)
        part.unlink()
    raise Unavailable(f"{url}: wrong bytes, twice: {mismatch}")


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise `DiskFull` unless `needed` bytes are free where `folder` is or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFull(
            f"no space to {what}: {_size(needed)} needed in {existing}, {_size(free)} free"
        )


def progress(name: str, total: int | None, **options) -> tqdm:
    """Return a progress bar on stderr, or a line every half minute without a terminal."""
    if not sys.stderr.isatty():
        options |= {"file": _Lines(), "mininterval": LINE_EVERY, "maxinterval": LINE_EVERY}
        options["bar_format"] = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left"
    return tqdm(desc=name, total=total, dynamic_ncols=True, **options)


def _receive(url, part, note, session):
    """Download `part` completely, over as many connections as necessary."""
    fruitless, most = 0, _length(part)
    while True:
        try:
            return _receive_once(url, part, note, session)
        except BROKEN as error:
            fruitless = 0 if _length(part) > most else fruitless + 1
            most = max(most, _length(part))  # a server without ranges starts over
            if fruitless == ATTEMPTS:
                raise Unavailable(f"{url}: {_reason(error)}") from None
        time.sleep(_pause(fruitless))


def _receive_once(url, part, note, session):
    known = _resumable(url, part, note)
    start = part.stat().st_size if known else 0
    if known and start == known["bytes"]:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and known["validator"]:
        headers["If-Range"] = known["validator"]
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:  # the session has retried already
        raise Unavailable(f"{url}: {_reason(error)}") from None
    with response:
        status, answered = response.status_code, response.headers.get("Content-Range", "")
        if status == 416 or (status == 206 and not answered.startswith(f"bytes {start}-")):
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the server does not have this range")
        if status not in (200, 206):
            raise Unavailable(f"{url}: HTTP {status} {response.reason}{_explanation(response)}")
        _save(url, response, part, note, start if status == 206 else 0)


def _explanation(response: requests.Response) -> str:
    """Return the message of a JSON answer, such as that a form has to be filled in first."""
    try:
        message = json.loads(response.raw.read(PIECE, decode_content=True))["message"]
    except (ValueError, KeyError, TypeError, *BROKEN):
        return ""
    return f": {' '.join(str(message).split())[:300]}"


def _save(url, response, part, note, start):
    length, etag = response.headers.get("Content-Length"), response.headers.get("ETag", "")
    total = start + int(length) if length else None
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    part.parent.mkdir(parents=True, exist_ok=True)
    scale = {"initial": start, "unit": "B", "unit_scale": True}
    try:
        with part.open("ab" if start else "wb") as file, progress(part.stem, total, **scale) as bar:
            origin = {"url": url, "validator": validator, "bytes": total}
            paths.write_text(note, json.dumps(origin) + "\n")
            for piece in response.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))
    except OSError as error:
        raise _full(
            error, f"free some space and repeat the command: it resumes from {part}"
        ) from None
    if total and part.stat().st_size != total:
        raise requests.ConnectionError(f"{part.stat().st_size} of {total} bytes received")


def _resumable(url, part, note):
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        fits = part.stat().st_size <= (known["bytes"] or float("inf"))
    except (OSError, ValueError):
        return None
    return known if known["url"] == url and fits else None


def _mismatch(file, checksum, size):
    actual = file.stat().st_size
    if size is not None and actual != size:
        return f"{actual} bytes, expected {size}"
    if checksum is None:
        return None
    kind = checksum.split(":")[0]
    digest = f"{kind}:{pooch.file_hash(str(file), alg=kind)}"
    return None if digest == checksum else f"{digest}, expected {checksum}"


# -------------------------------------------------------------------------------------- archives


def extract(
    archive: zipfile.ZipFile,
    name: str,
    folder: Path,
    members: Iterable[str] | None = None,
    done: Callable[[int], object] = lambda n: None,
) -> None:
    """Extract members of a zip archive, each checked against its CRC-32.

    Parameters
    ----------
    name : str
        Name of the archive for messages.
    done : callable, optional
        Called with 1 after each member.

    Raises
    ------
    BadArchive
        A path outside the folder, a link, an encrypted member, more or larger members than the
        limits allow, or a damaged member (`DamagedMember`). The message names the member.
    """
    infos = (
        archive.infolist() if members is None else [archive.getinfo(member) for member in members]
    )
    infos = [info for info in infos if not info.is_dir()]
    for fault in _faults(archive.infolist(), infos):
        raise BadArchive(f"{name}: {fault}; nothing was extracted")
    require_space(folder, sum(info.file_size for info in infos), f"unpack {name}")
    for info in infos:
        target = folder / slashes(info.filename)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # zipfile reads at most file_size bytes and checks their CRC-32
            with archive.open(info) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, PIECE)
        except BaseException as error:
            target.unlink(missing_ok=True)
            if isinstance(error, DAMAGED) or (type(error) is OSError and error.errno is None):
                reason = str(error) or "unexpected end of data"
                raise DamagedMember(
                    f"{name}: member {info.filename} is damaged: {reason}"
                ) from None
            raise _full(error, f"{name} could not be unpacked") from None
        done(1)


def slashes(name: str) -> str:
    r"""Return a member's path with slashes; some programs write backslashes.

    >>> slashes("images\\ISIC_0024306.jpg")
    'images/ISIC_0024306.jpg'
    """
    return name.replace("\\", "/")


def kind_of_archive(file: Path) -> str:
    """Say in words what a file is that zipfile cannot open, and what to do."""
    with file.open("rb") as opened:
        start = opened.read(300)
    kinds = {b"\x1f\x8b": "a gzip or tar.gz file", b"Rar!": "a RAR archive"}
    kinds |= {b"7z\xbc\xaf": "a 7z archive"}
    kind = next((kind for magic, kind in kinds.items() if start.startswith(magic)), None)
    if start[257:262] == b"ustar":
        kind = "a tar archive"
    if kind:
        return f"{kind}, not a zip archive; unpack it and give its folder"
    if start.startswith(b"PK"):
        return "a zip archive that is cut short or damaged; download it again"
    return "not a zip archive"


def list_remote(url: str, session: requests.Session) -> list[str]:
    """Return the names of the members of a zip archive on a server, without downloading it."""
    try:
        with RemoteZip(url, session=session, timeout=TIMEOUT) as archive:
            return archive.namelist()
    except RangeNotSupported:
        raise Unavailable(f"{url}: the server sends complete files only, no ranges") from None
    except (*BROKEN, OSError) as error:
        raise Unavailable(f"{url}: {_reason(error)}") from None


def extract_remote(
    url: str, name: str, folder: Path, members: list[str], session: requests.Session
) -> None:
    """Extract members of a zip archive on a server, without downloading the others."""
    stopped = threading.Event()

    def work(part: list[str]) -> None:
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt and stopped.wait(_pause(attempt - 1)):
                break
            missing = [member for member in part if not (folder / member).exists()]
            try:
                with RemoteZip(url, session=session, timeout=TIMEOUT) as archive:
                    return extract(archive, name, folder, missing, count)
            except DiskFull:
                raise
            except (*BROKEN, DamagedMember, OSError) as error:
                reason = _reason(error)
        raise Unavailable(f"{url}: {reason}")

    def count(n: int) -> None:
        bar.update(n)
        if stopped.is_set():
            raise Unavailable("stopped")

    parts = [members[i::CONNECTIONS] for i in range(min(CONNECTIONS, len(members)))]
    with progress(name, len(members), unit=" files") as bar, ThreadPoolExecutor() as pool:
        try:
            for job in as_completed([pool.submit(work, part) for part in parts]):
                job.result()
        finally:
            stopped.set()  # stop the other threads after a failure or Ctrl-C


def _faults(infos: list[zipfile.ZipInfo], chosen: list[zipfile.ZipInfo]) -> Iterator[str]:
    if len(infos) > MAX_MEMBERS:
        yield f"{len(infos)} members; the limit is {MAX_MEMBERS}"
    for info in infos:
        path, kind = PureWindowsPath(info.filename), stat.S_IFMT(info.external_attr >> 16)
        if path.anchor or ".." in path.parts or "\0" in info.filename:  # knows drives, too
            yield f"member {info.filename!r} would leave the folder"
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            yield f"member {info.filename} is a link or a device"
        if info.flag_bits & 1:
            yield f"member {info.filename} is encrypted; unpack it yourself and give its folder"
    for info in chosen:
        if info.compress_type not in METHODS:
            name = zipfile.compressor_names.get(info.compress_type, "unknown")
            yield (
                f"member {info.filename} is packed with method {info.compress_type} ({name}), "
                "which Python cannot read; unpack it yourself and give its folder"
            )
        if info.file_size > min(MAX_MEMBER_BYTES, MAX_RATIO * info.compress_size):
            yield (
                f"member {info.filename} would grow from {_size(info.compress_size)} to "
                f"{_size(info.file_size)}; the limits are {MAX_RATIO} times and "
                f"{_size(MAX_MEMBER_BYTES)}"
            )
    total = sum(info.file_size for info in chosen)
    if total > MAX_BYTES:
        yield f"{_size(total)} unpacked; the limit is {_size(MAX_BYTES)}"
    ordered = sorted(infos, key=lambda info: info.header_offset)
    for one, following in itertools.pairwise(ordered):  # the same bytes unpacked many times
        if one.header_offset + one.compress_size > following.header_offset:
            yield f"members {one.filename} and {following.filename} overlap"
    names = sorted(info.filename.casefold() for info in chosen)
    for one, following in itertools.pairwise(names):
        if one == following:
            yield f"member {one} exists twice"


class _Lines:
    """A stream that prints the states of a progress bar as lines."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def _full(error: BaseException, message: str) -> BaseException:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left on the disk; {message}")
    return error


def _pause(attempts: int) -> float:
    return min(BACKOFF * 2**attempts, LONGEST_WAIT)


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _size(number: int | None) -> str:
    return "an unknown size" if number is None else tqdm.format_sizeof(number, "B")


def _reason(error: Exception) -> str:
    while error.args and isinstance(error.args[0], Exception):  # wrapped by requests
        error = error.args[0]
    if getattr(error, "reason", None):
        return str(error.reason).split(": ", 1)[-1]
    return error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
