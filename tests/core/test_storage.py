import os
import pickle
import threading

import pytest

from raydc.core.settings import SettingsError
from raydc.core.storage import Store, alone, sealed, unsealed


def test_files_come_back_and_are_listed(tmp_path):
    store = Store(tmp_path / "out")
    assert store.list() == [] and not store.exists("a/b")
    store.write_text("a/b", "one")
    store.write_bytes("c", b"two")
    assert store.read_text("a/b") == "one" and store.list() == ["a/b", "c"] and store.list("a") == ["a/b"]
    store.delete("a")
    store.delete("a")
    assert store.list() == ["c"]


def test_a_relative_directory_is_the_same_for_a_process_that_works_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = Store("runs/a")
    store.write_text("b", "one")
    sent = pickle.dumps(store)
    monkeypatch.chdir("elsewhere")
    there = pickle.loads(sent)
    assert (
        there.read_text("b") == "one"
        and there.root == str(tmp_path / "runs/a")
        and (there / "c").root == f"{there.root}/c"
    )


def test_names_stay_inside(tmp_path):
    for name in ("../x", "/x", "a/../../x", ""):
        with pytest.raises(ValueError, match="inside"):
            Store(tmp_path).write_bytes(name, b"")


def test_a_reader_never_sees_half_a_file(tmp_path):
    store, sizes = Store(tmp_path), set()
    store.write_bytes("f", b"x" * 100_000)
    stop = threading.Event()

    def read():
        while not stop.is_set():
            sizes.add(len(store.read_bytes("f")))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(30):
        store.write_bytes("f", os.urandom(100_000))
    stop.set()
    thread.join()
    assert sizes == {100_000}


def test_a_folder_of_a_uri_keeps_its_options():
    store = Store("mock://bucket/run?region=here") / "deep"
    assert store.root == "mock://bucket/run/deep?region=here" and store.path == "run/deep"


def test_a_uri_is_opened_by_pyarrow(tmp_path):
    store = Store(f"file://{tmp_path}/run") / "deep"
    store.write_text("x", "y")
    assert (tmp_path / "run" / "deep" / "x").read_text() == "y"


def test_a_flipped_bit_of_what_is_sealed_is_noticed():
    said = {"format": 1, "bytes": 40, "meta": {"loss": 0.1 + 0.2, "who": "\u00e9"}, "none": None}
    data = sealed(said)
    assert unsealed(data) == said
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            unsealed(bytes(flipped))
    for other in (b"", b"[]", b"{}", b"3", data[:-1]):
        with pytest.raises(ValueError):
            unsealed(other)


def test_a_lock_that_was_left_is_no_other_file(tmp_path):
    store = Store(str(tmp_path / "out"))
    with alone(store):
        assert store.only() is store
        store.write_text("mine", "")
        with pytest.raises(SettingsError, match=r"holds other files \(mine\)"):
            store.only()
        assert store.only("mine") is store
