"""Arrays in files: read back as they were, whole or not at all, damage found."""

import errno
import os

import numpy as np
import pytest

from lib import paths
from lib.networks import array_files

#: Every kind of array that a checkpoint may hold.
KINDS = {
    "number": np.float32(1.5),
    "count": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "none_of_many": np.zeros((2, 0), np.uint8),
    "yes_or_no": np.array([[True, False], [False, False]]),
    "half": np.array([1.5, -2.0, np.inf, np.nan], np.float16),
    "turned": np.arange(12, dtype=np.int64).reshape(3, 4).T,
    "every_second": np.arange(10, dtype=np.uint16)[::2],
    "text": np.array(["Ångström", ""]),
}


@pytest.fixture
def file(tmp_path):
    return array_files.write_arrays(
        tmp_path / "new" / "kept.npz", KINDS, {"epoch": 3, "rows": ["a"]}
    )


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_array_is_read_back_as_it_was(file, name):
    found, note = array_files.read_arrays(file)
    assert sorted(found) == sorted(KINDS)
    wanted = np.asarray(KINDS[name])
    assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found[name], wanted)
    assert note == {"epoch": 3, "rows": ["a"]}


def test_a_file_of_no_arrays_is_read_back(tmp_path):
    file = array_files.write_arrays(tmp_path / "kept.npz", {}, {})
    assert array_files.read_arrays(file) == ({}, {})


@pytest.mark.parametrize("name", [array_files.NOTE, array_files.DIGEST])
def test_an_array_under_one_of_our_own_names_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"kept\.npz: .*'{name}'"):
        array_files.write_arrays(tmp_path / "kept.npz", {name: np.zeros(2)}, {})
    assert not list(tmp_path.iterdir())


def test_an_array_that_would_need_pickle_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"kept\.npz: .*thing.* object"):
        array_files.write_arrays(tmp_path / "kept.npz", {"thing": np.array([{}])}, {})
    assert not list(tmp_path.iterdir())


def test_the_file_is_the_same_for_the_same_arrays_in_another_order(tmp_path):
    file = array_files.write_arrays(tmp_path / "a.npz", {"a": np.ones(2), "b": np.zeros(2)}, {})
    other = array_files.write_arrays(tmp_path / "b.npz", {"b": np.zeros(2), "a": np.ones(2)}, {})
    digests = [str(np.load(each)[array_files.DIGEST]) for each in (file, other)]
    assert digests[0] == digests[1]


def test_an_altered_byte_is_found_wherever_it_changes_what_is_read(tmp_path):
    """Bytes that nothing reads (dates, zip's spare fields) may change; values, names, types not."""
    kept = {"values": np.arange(6, dtype=np.float32), "flags": np.array([True])}
    file = array_files.write_arrays(tmp_path / "kept.npz", kept, {"epoch": 3})
    whole, found = file.read_bytes(), 0
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 255
        file.write_bytes(altered)
        try:
            read, note = array_files.read_arrays(file)
        except array_files.DamagedFile:
            found += 1
        else:
            assert note == {"epoch": 3}
            assert sorted(read) == sorted(kept)
            for name, values in kept.items():
                np.testing.assert_array_equal(read[name], values)
                assert read[name].dtype == values.dtype
    assert found > len(whole) / 3


def test_one_value_exchanged_for_another_is_found_where_zip_finds_nothing(tmp_path):
    file = array_files.write_arrays(tmp_path / "kept.npz", {"values": np.ones(3)}, {})
    with np.load(file) as kept:
        contents = {name: kept[name] for name in kept.files}
    for changed in (np.array([1.0, 1.0, 2.0]), np.ones(3, np.float32), np.ones((3, 1)), np.ones(2)):
        np.savez(file, **contents | {"values": changed})
        with pytest.raises(
            array_files.DamagedFile, match=r"kept\.npz: SHA-256 is .*; written with"
        ):
            array_files.read_arrays(file)
    np.savez(file, **contents | {array_files.NOTE: np.array('{"epoch": 4}')})
    with pytest.raises(array_files.DamagedFile, match="SHA-256"):
        array_files.read_arrays(file)


def test_an_array_too_many_or_too_few_is_found(tmp_path):
    file = array_files.write_arrays(tmp_path / "kept.npz", {"a": np.ones(3), "b": np.ones(3)}, {})
    with np.load(file) as kept:
        contents = {name: kept[name] for name in kept.files}
    for changed in (contents | {"c": np.ones(1)}, {n: v for n, v in contents.items() if n != "b"}):
        np.savez(file, **changed)
        with pytest.raises(array_files.DamagedFile, match="SHA-256"):
            array_files.read_arrays(file)


def test_a_file_cut_short_anywhere_is_damaged(file):
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(array_files.DamagedFile, match=r"kept\.npz: cannot be read"):
            array_files.read_arrays(file)


def test_another_file_is_no_such_file(tmp_path):
    text, single, several = (tmp_path / name for name in ("text.npz", "one.npz", "some.npz"))
    text.write_text("nothing of the kind", encoding="utf-8")
    with open(single, "wb") as target:
        np.save(target, np.ones(3))
    np.savez(several, a=np.ones(3))
    for file in (text, single, several):
        with pytest.raises(array_files.DamagedFile, match=rf"{file.stem}\.npz: cannot be read"):
            array_files.read_arrays(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npz: no such file"):
        array_files.read_arrays(tmp_path / "gone.npz")


def test_what_was_there_stays_whole_when_the_disk_is_full(file, monkeypatch):
    def full(target, **kept):
        target.write(b"the first half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        array_files.write_arrays(file, {"a": np.ones(3)}, {})
    assert array_files.read_arrays(file)[1]["epoch"] == 3


def test_a_file_that_takes_another_s_place_is_on_the_disk_before(file, monkeypatch):
    """Otherwise a power cut may leave a name without contents."""
    said = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (said.append("on disk"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (said.append("renamed"), replace(*names)))
    array_files.write_arrays(file, {"a": np.ones(3)}, {})
    assert said == ["on disk", "renamed"]


# -------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_tells_shape_type_and_rows_apart():
    array = np.arange(24, dtype=np.int32).reshape(6, 4)
    changed = array.copy()
    changed[2, 1] += 1
    others = [array.reshape(4, 6), array.astype(np.int64), array[::-1], array[:5], changed]
    assert len({array_files.fingerprint(each) for each in [array, *others]}) == 6
    assert array_files.fingerprint(array) == array_files.fingerprint(array.copy())
    assert array_files.fingerprint(array[:0]) != array_files.fingerprint(array[:1])


def test_a_fingerprint_of_a_mapped_file_changes_with_any_value_in_it(tmp_path):
    file = tmp_path / "array.npy"
    np.save(file, np.arange(1000))
    mapped = np.load(file, mmap_mode="r")
    before = array_files.fingerprint(mapped)
    assert array_files.fingerprint(np.load(file, mmap_mode="r")) == before
    assert array_files.fingerprint(mapped[:500]) != array_files.fingerprint(mapped[500:])
    writable = np.load(file, mmap_mode="r+")
    writable[457] = -1
    writable.flush()
    os.utime(file, ns=(1, 1))  # a clock too coarse to see the change would hide it
    assert array_files.fingerprint(np.load(file, mmap_mode="r")) != before


def test_the_digest_of_a_file_is_sha256_s(tmp_path):
    file = paths.write_text(tmp_path / "abc.txt", "abc")
    published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert array_files.file_digest(file) == published


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_what_the_system_does_not_let_be_read_now_is_not_called_damaged(
    tmp_path, monkeypatch, number
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    file = array_files.write_arrays(tmp_path / "a.npz", {"x": np.ones(3)}, {})
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        array_files.read_arrays(file)
