"""The pack of a run folder: what comes from it equals what comes from the files, and it never counts for more."""

import json
import os
import random
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from harness import record
from harness.record import packed, places
from tests.reliability.hostile_records import ALLOWED, good, worst

COUNT = 40
OLD_S = 1_700_000_000  # a time of change long ago


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(packed, "FEWEST", 10)


def stored(folder: Path, fields: dict, name: str, at_s: float = OLD_S) -> Path:
    path = folder / name / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields), encoding="ascii")
    os.utime(path, (at_s, at_s))
    return path


def varied(number: int) -> dict:
    """A record whose fields have the worst of the values that the schema allows."""
    draw = random.Random(number)
    fields = good("good_rows", 8, number)
    for field in draw.sample(record.FIELDS, 30):
        value = worst(field, draw)
        allowed = ALLOWED[field.name](value) if value is not None else field.name != "status"
        if allowed and field.name not in ("schema_version", "sketch") and field.unit != "JSON":
            fields[field.name] = value
    return fields | {"round": number, "limit_s": 60 if number % 2 else 60.0, "traceback": f"line {number}\nend \ud800"}


@pytest.fixture
def run(tmp_path):
    for number in range(COUNT):
        stored(tmp_path / "run", varied(number), f"cell{number:03}")
    stored(tmp_path / "run", {"schema_version": 1}, "of another schema")
    return tmp_path / "run"


def seen(run: Path) -> tuple:
    """All that loading gives, with the type of each value: equal numbers of two types differ."""
    frame = record.load(run)
    values = [[repr(value) for value in frame[column]] for column in frame]
    return list(frame.columns), list(map(str, frame.dtypes)), values, frame.attrs, repr(record.records(*cells(run)))


def cells(run: Path) -> list[Path]:
    return [path.parent for path in sorted(run.glob("cell*/record.json"))]


def reads(monkeypatch) -> list[str]:
    """The files that are read from now on."""
    read = []
    whole = places.whole
    monkeypatch.setattr(places, "whole", lambda file: read.append(file) or whole(file))
    return read


def test_a_frame_from_the_pack_is_the_frame_from_the_files(run, monkeypatch):
    from_files = seen(run)
    assert (run / packed.NAME).exists()
    read = reads(monkeypatch)
    frame = record.load(run)
    assert read == [str(run / "of another schema" / "record.json")], "what is no record is read again"
    monkeypatch.undo()
    assert seen(run) == from_files
    of_pack = repr(list(places.entries([run])))
    (run / packed.NAME).unlink()
    assert repr(list(places.entries([run]))) == of_pack
    assert list(frame["round"]) == list(range(COUNT))


def test_only_new_and_changed_files_are_read_and_removed_ones_are_gone(run, monkeypatch):
    record.load(run)
    changed = stored(run, varied(7) | {"round": 999}, "cell007", OLD_S + 1)
    new = stored(run, varied(500), "cell500")
    shutil.rmtree(run / "cell003")
    read = reads(monkeypatch)
    frame = record.load(run)
    assert sorted(read) == sorted(map(str, [changed, new, run / "of another schema" / "record.json"]))
    assert set(frame["round"]) == {*range(COUNT), 999, 500} - {3, 7}


def test_a_file_changed_just_now_is_not_packed(run, monkeypatch):
    path = stored(run, varied(600), "cell600")
    os.utime(path)
    record.load(run)
    read = reads(monkeypatch)
    record.load(run)
    assert str(path) in read


def test_few_records_get_no_pack(tmp_path):
    for number in range(packed.FEWEST - 1):
        stored(tmp_path, varied(number), f"cell{number}")
    record.load(tmp_path)
    assert not (tmp_path / packed.NAME).exists()


def rewritten(pack: Path, change) -> None:
    """The pack with its members, by name, as `change` leaves them."""
    with zipfile.ZipFile(pack) as archive:
        members = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(pack, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, json.dumps(value))


def spoiled(name: str, change):
    def spoil(pack: Path) -> None:
        rewritten(pack, lambda members: members.update({name: change(members[name])}))

    return spoil


def flipped(pack: Path) -> None:
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 255
    pack.write_bytes(content)


def bomb(pack: Path) -> None:
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("files.json", " " * 10**8)


def fifo(pack: Path) -> None:
    pack.unlink()
    os.mkfifo(pack)


SPOILED = {
    "empty": lambda pack: pack.write_bytes(b""),
    "cut": lambda pack: pack.write_bytes(pack.read_bytes()[:-100]),
    "flipped": flipped,
    "no zip": lambda pack: pack.write_text("a" * 10_000),
    "of nothing": lambda pack: rewritten(pack, dict.clear),
    "a column missing": lambda pack: rewritten(pack, lambda members: members.pop("times_s.json")),
    "a bomb": bomb,
    "a FIFO": fifo,
    "older": spoiled("files.json", lambda about: about | {"schema": 2}),
    "a list": spoiled("files.json", list),
    "fewer rows": spoiled("params.json", lambda values: values[1:]),
    "a text for a number": spoiled("params.json", lambda values: ["8", *values[1:]]),
    "NaN": spoiled("times_s.json", lambda values: [[float("nan")], *values[1:]]),
    "NaN behind a number": spoiled("times_s.json", lambda values: [[1.0, float("nan")], *values[1:]]),
    "an endless time": spoiled("first_s.json", lambda values: [float("inf"), *values[1:]]),
    "a status of its own": spoiled("status.json", lambda held: held | {"texts": ["fine"] * len(held["texts"])}),
    "no status": spoiled("status.json", lambda held: held | {"texts": [None] * len(held["texts"])}),
    "a short sketch": spoiled("sketch.json", lambda values: [[1.0], *values[1:]]),
    "options that are none": spoiled(
        "problem_options.json", lambda held: held | {"texts": ["[]"] * len(held["texts"])}
    ),
    "places that are none": spoiled("status.json", lambda held: held | {"places": [99] * COUNT}),
    "a table for a column": spoiled("params.json", lambda values: dict.fromkeys(map(str, range(COUNT)), 1)),
    "lists for names": spoiled("files.json", lambda about: about | {"names": [[name] for name in about["names"]]}),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_no_pack_of_this_schema_is_made_anew(run, name):
    from_files = seen(run)
    SPOILED[name](run / packed.NAME)
    assert seen(run) == from_files
    if name != "a FIFO":
        with zipfile.ZipFile(run / packed.NAME) as archive:
            assert archive.testzip() is None
            assert len(json.loads(archive.read("files.json"))["names"]) == COUNT


def test_a_folder_that_cannot_be_written_to_loads_without(run, monkeypatch):
    def refuse(content, path, durable=False):
        raise record.StorageError(30, "Read-only file system", str(path))

    monkeypatch.setattr(packed, "write_bytes", refuse)
    assert len(record.load(run)) == COUNT
    assert not (run / packed.NAME).exists()


def rounds(run: Path) -> list[int]:
    return sorted(record.load(run)["round"])


def test_several_processes_pack_one_folder_at_once(run):
    with ProcessPoolExecutor(3) as pool:
        found = list(pool.map(rounds, [run] * 9))
    assert found == [list(range(COUNT))] * 9
    assert sorted(path.name for path in run.iterdir() if not path.is_dir()) == [packed.NAME]
