"""Records: written whole, kept exactly, loaded with what is derived, and documented."""

import json
import math
import os
import stat
from pathlib import Path

import pytest

from harness import record
from harness.compare.jobs import read_job
from harness.compare.verdicts import compare
from harness.record.__main__ import main
from harness.record.files import LARGEST
from harness.report.command import main as report

ROOT = Path(__file__).parent.parent
TIMED = ("list[float]", "s")


def write(folder: Path, **fields) -> Path:
    path = folder / "record.json"
    record.write({"status": "ok", "method": "m", **fields}, path)
    return path


def test_floats_survive_exactly_and_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    times = [0.1, 1 / 3, 1e-12, 1e12]
    path = write(tmp_path, times_s=times, warmup_s=[0.1, math.inf], relative_error=math.nan, first_s=1e300)
    seen = record.read(path)
    assert seen["times_s"] == times
    assert [seen[name] for name in ("warmup_s", "relative_error", "first_s")] == [None, None, None]
    json.loads(path.read_text(), parse_constant=pytest.fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"], "no temporary file is left"


def test_a_field_outside_the_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(record.RecordError, match="color"):
        write(tmp_path, color="red")


def test_load_derives(tmp_path: Path) -> None:
    write(
        tmp_path / "a",
        times_s=[3.0, 1.0, 2.0],
        first_s=9.0,
        gradient_s=[0.5, 0.1, 0.25],
        tensor_peak_bytes=30,
        process_peak_bytes=60,
        output_bytes=20,
    )
    write(tmp_path / "b", first_s=9.0)
    frame = record.load(tmp_path)
    a, b = frame.to_dict("records")
    assert (a["median_s"], a["fastest_s"], a["gradients"]) == (2.0, 1.0, 8.0)
    assert (a["tensor_peak_outputs"], a["process_peak_outputs"]) == (1.5, 3.0)
    assert b["median_s"] == 9.0
    assert math.isnan(b["gradients"])
    assert set(frame.columns) == {*record.NAMES, *(name for name, *_ in record.DERIVED)}


def test_labels_tell_rows_of_one_method_apart(tmp_path: Path) -> None:
    for chunk in (8, None):
        write(tmp_path / str(chunk), method="vmap_hvp", method_options=json.dumps({"chunk_size": chunk, "same": 1}))
    write(tmp_path / "c", method="other", method_options='{"x": 1}')
    assert sorted(record.load(tmp_path)["label"]) == ["other", "vmap_hvp chunk_size=8", "vmap_hvp chunk_size=None"]


def line(**fields) -> str:
    return json.dumps({"schema_version": record.SCHEMA_VERSION, "status": "ok", **fields})


def test_what_is_no_record_is_named_and_skipped(tmp_path: Path) -> None:
    write(tmp_path / "good")
    for name, text in {
        "torn": '{"status": "o',
        "foreign": '{"a": 1}',
        "list": "[1]",
        "older": '{"schema_version": 0}',
        "binary": "\x00\x01",
        "type": line(params="many"),
        "list of texts": line(times_s=["a"]),
        "bool": line(seed=True),
        "options": line(method_options="no json"),
        "option list": line(problem_options="[1]"),
        "status": line(status="fine"),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    frame = record.load(tmp_path)
    assert len(frame) == 1
    assert len(frame.attrs["skipped"]) == 11
    assert all(str(tmp_path) in line for line in frame.attrs["skipped"])


def test_baseline_files_hold_a_record_a_line(tmp_path: Path, capsys) -> None:
    for number in range(2):
        write(tmp_path / str(number), seed=number, times_s=[1 / 3])
    assert main([str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == record.read(tmp_path / "0" / "record.json")
    baseline = tmp_path / "base.jsonl"
    baseline.write_text(f"{first}\n\n{second}\n")
    frame = record.load(baseline)
    assert list(frame["seed"]) == [0, 1]
    assert list(frame["path"]) == [f"{baseline}:1", f"{baseline}:3"]


def test_a_record_reached_twice_counts_once(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    for number in range(2):
        write(folder / str(number), seed=number)
    (tmp_path / "LAST").symlink_to("run")
    single = folder / "1" / "record.json"
    frame = record.load(folder, tmp_path / "LAST", single, folder)
    assert (frame["seed"].tolist(), frame.attrs["skipped"]) == ([0, 1], [])
    assert main([str(folder), str(single)]) == 0
    lines = capsys.readouterr().out
    assert len(lines.splitlines()) == 2
    baseline = tmp_path / "base.jsonl"
    baseline.write_text(2 * lines)
    assert record.load(baseline, baseline)["seed"].tolist() == [0, 1]


def test_copies_of_a_record_count_once_and_are_counted(tmp_path: Path, capsys) -> None:
    first = write(tmp_path / "run" / "a", seed=1, times_s=[1.0, 2.0], traceback="in line 3")
    write(tmp_path / "run" / "b", seed=1, times_s=[1.0, 2.5])
    copied = tmp_path / "copy" / "record.json"
    copied.parent.mkdir()
    copied.write_bytes(first.read_bytes())
    assert main([str(first)]) == 0
    baseline = tmp_path / "base.jsonl"
    baseline.write_text(2 * capsys.readouterr().out)
    places = [tmp_path / "run", copied, baseline]
    frame = record.load(*places)
    assert frame["path"].tolist() == [str(first), str(tmp_path / "run" / "b" / "record.json")], "the first is kept"
    assert record.left_out(frame) == ["records that are copies of others were left out: 3"]
    assert [seen["times_s"] for seen in record.records(*places)] == [[1.0, 2.0], [1.0, 2.5]]
    assert record.left_out(record.load(tmp_path / "run")) == []
    assert report([str(first), str(copied)]) == 0
    assert "copies of others were left out: 1" in capsys.readouterr().err
    verdicts = compare(record.load(first), record.load(copied, baseline))
    assert verdicts.attrs["notes"][0] == "candidate: records that are copies of others were left out: 2"
    assert verdicts["candidate_processes"].tolist() == [1]


def test_cells_that_could_not_be_composed_are_no_copies(tmp_path: Path) -> None:
    """Their records lack the options in which they differ."""
    for name in ("a", "b"):
        record.write({"status": "error", "method": "absent", "message": "why"}, tmp_path / name / "record.json")
    assert len(record.load(tmp_path)) == len(record.records(tmp_path)) == 2


def test_links_to_runs_are_followed_and_files_keep_their_names(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "run" / "cell")
    (tmp_path / "LAST").symlink_to("run")
    (tmp_path / "base.jsonl").symlink_to("object")
    (tmp_path / "object").write_text(line())
    monkeypatch.chdir(tmp_path)
    frame = record.load("LAST", tmp_path / "LAST" / "cell" / "record.json", "base.jsonl")
    assert frame["path"].tolist() == ["run/cell/record.json", "base.jsonl:1"]
    assert frame.attrs["asked"] == ["run", str(tmp_path / "run" / "cell" / "record.json"), "base.jsonl"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "good")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    frame = record.load(tmp_path)
    assert len(frame) == 1
    (skipped,) = frame.attrs["skipped"]
    assert skipped.startswith(f"{tmp_path / 'closed'} ")


def test_extremes_are_kept(tmp_path: Path) -> None:
    huge = int(1e12)
    (tmp_path / "record.json").write_text(line(round=-(2**62), params=2**62 - 1, first_s=huge, times_s=[huge, 1e-12]))
    frame = record.load(tmp_path)
    assert frame[["round", "params"]].iloc[0].tolist() == [-(2**62), 2**62 - 1]
    assert frame["first_s"].iloc[0] == 1e12
    (tmp_path / "none.jsonl").write_text(line())
    with_null = record.load(tmp_path / "record.json", tmp_path / "none.jsonl")["round"].astype("Int64")
    assert with_null.isna().tolist() == [False, True]
    assert frame["first_s"].dtype == "float64"
    assert frame["median_s"].iloc[0] == 5e11


@pytest.mark.parametrize("spoiled", ["torn", "folder", "none"])
def test_a_baseline_is_printed_whole_or_not_at_all(tmp_path: Path, capsys, spoiled: str) -> None:
    write(tmp_path / "run" / "a")
    (tmp_path / "run" / "b").mkdir()
    bad = tmp_path / "run" / "b" / "record.json"
    bad.write_text('{"schema_version": 5') if spoiled == "torn" else bad.mkdir() if spoiled == "folder" else None
    paths = [str(tmp_path / "run"), *([str(tmp_path / "none")] if spoiled == "none" else [])]
    assert main(paths) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (named,) = said.err.splitlines()
    assert str(tmp_path / "none" if spoiled == "none" else bad) in named


def test_a_folder_without_records_makes_no_baseline(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_line_of_a_baseline_ends_where_json_says(tmp_path: Path) -> None:
    """A line separator within a string is text."""
    one, two = (
        json.dumps(
            {"schema_version": 5, "status": "error", "message": "a\u2028b\x85c", "seed": seed}, ensure_ascii=False
        )
        for seed in (1, 2)
    )
    (tmp_path / "base.jsonl").write_text(f"{one}\r\n{two}", encoding="utf-8", newline="")
    assert record.load(tmp_path / "base.jsonl")["message"].tolist() == 2 * ["a\u2028b\x85c"]


def test_nothing_to_load_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(record.RecordError, match="no record was found"):
        record.load(tmp_path)
    for absent in ("absent", 300 * "long"):
        with pytest.raises(record.RecordError, match=absent):
            record.load(tmp_path / absent)


def test_the_documentation_names_every_field_with_its_type_and_unit() -> None:
    rows = [line.split("|") for line in (ROOT / "results" / "README.md").read_text().splitlines() if line[:2] == "| "]
    documented = {row[1].strip().strip("`"): tuple(cell.strip() for cell in row[2:5]) for row in rows}
    for field in record.FIELDS:
        assert documented.pop(field.name) == (field.type, field.unit, field.meaning)
    for name, unit, meaning in record.DERIVED:
        assert documented.pop(name) == ("derived", unit, meaning)
    assert set(documented) <= {"field", "status", *record.STATUSES}


def test_records_of_the_schema_before_are_read(tmp_path: Path) -> None:
    """Schema 3 only added fields."""
    (tmp_path / "old.jsonl").write_text(line(schema_version=2, method="old") + "\n" + line(method="new"))
    frame = record.load(tmp_path / "old.jsonl")
    assert frame["method"].tolist() == ["old", "new"]
    assert frame["hessian_distance"].isna().all()


def test_the_folder_of_a_record_is_flushed_where_the_file_system_can(tmp_path: Path, monkeypatch) -> None:
    flushed, flush = [], os.fsync

    def refuse_folders(descriptor: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if flushed[-1]:
            raise OSError(22, os.strerror(22))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert record.read(write(tmp_path))["method"] == "m"
    assert flushed == [False, True]


def test_numbers_that_are_not_finite_become_null_wherever_they_are(tmp_path: Path) -> None:
    record.write_json({"a": {"b": [math.inf, 1.0], "c": {"d": math.nan}}}, tmp_path / "file")
    assert json.loads((tmp_path / "file").read_text()) == {"a": {"b": [None, 1.0], "c": {"d": None}}}


def test_what_is_no_regular_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    pipe, large, link = tmp_path / "pipe", tmp_path / "large", tmp_path / "link"
    os.mkfifo(pipe)
    with large.open("wb") as stream:
        stream.truncate(LARGEST + 1)
    link.symlink_to(large)
    for file, why in ((pipe, "no regular file"), (tmp_path, "directory"), (large, "more than"), (link, "more than")):
        with pytest.raises(OSError, match=why):
            record.content(file)
        with pytest.raises(record.RecordError, match=f"{file}.*{why}"):
            record.read(file)
        with pytest.raises(record.RecordError, match=f"{file} is no job.*{why}"):
            read_job(file)
    with pytest.raises(OSError, match="symbolic links"):
        record.content(link, os.O_NOFOLLOW)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path, method="before")

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(record.StorageError, match=f"{path} cannot be written: No space left on device; free space"):
        write(tmp_path, method="after")
    assert record.read(path)["method"] == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("encoding", "held"), [("utf-8-sig", True), ("utf-16", False), ("utf-16-le", False), ("latin-1", False)]
)
@pytest.mark.parametrize("name", ["record.json", "base.jsonl"])
def test_a_file_of_another_encoding_is_read_or_named(tmp_path: Path, encoding: str, held: bool, name: str) -> None:
    text = line(method="ü").replace(r"\u00fc", "ü")
    (tmp_path / name).write_bytes(text.encode(encoding))
    if held:
        assert record.load(tmp_path / name)["method"].tolist() == ["ü"]
        return
    with pytest.raises(record.RecordError, match="UTF-16" if encoding == "utf-16" else "no record") as raised:
        record.load(tmp_path / name)
    assert name in str(raised.value)


@pytest.mark.parametrize("name", [field.name for field in record.FIELDS if field.unit == "JSON"])
@pytest.mark.parametrize("text", ["5", "[]", "null", '"x"', "", "{", "[" * 10**5])
def test_every_field_of_json_holds_an_object(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "base.jsonl"
    path.write_text(line(**{name: text}))
    with pytest.raises(record.RecordError, match=f"{name} should be a JSON object"):
        record.load(path)


@pytest.mark.parametrize("name", [field.name for field in record.FIELDS if (field.type, field.unit) == TIMED])
def test_a_clock_gives_no_zero(tmp_path: Path, name: str) -> None:
    path = tmp_path / "base.jsonl"
    path.write_text(line(**{name: [0.1, 0.0]}))
    with pytest.raises(record.RecordError, match=f"{name} should be"):
        record.load(path)
    assert record.read(write(tmp_path, **{name: [0.0]}))[name] is None


def replaced(folder: Path, *records: dict) -> tuple[list[str], list[str]]:
    """The methods of the records that count and the sentences on the others, for records of one job, oldest first."""
    for number, fields in enumerate(records, 1):
        place = folder / ("key" if number == 1 else f"key.{number}")
        write(place, **({"started": f"2026-09-01T02:00:{number:02}+00:00", "method": str(number)} | fields))
    frame = record.load(folder)
    assert list(frame["method"]) == [seen["method"] for seen in record.records(folder)]
    assert record.left_out(record.load(folder)) == record.left_out(frame)
    return list(frame["method"]), record.left_out(frame)


def test_records_of_an_older_source_do_not_count(tmp_path: Path) -> None:
    a, b = {"method_hash": "a", "problem_hash": "p"}, {"method_hash": "b", "problem_hash": "p"}
    other_problem, unknown = {"method_hash": "a", "problem_hash": "q"}, {"status": "error"}
    one = ["records of an older source of method or problem were left out: 1"]
    assert replaced(tmp_path / "method", a, b) == (["2"], one)
    assert replaced(tmp_path / "problem", a, other_problem) == (["2"], one)
    assert replaced(tmp_path / "failed", unknown, a) == (["2"], one)
    assert replaced(tmp_path / "several", a, a) == (["1", "2"], [])
    assert replaced(tmp_path / "fails now", a, unknown) == (["1", "2"], [])
    assert replaced(tmp_path / "again", a, b, a) == (["1", "3"], one)
    late = {"started": "2026-09-01T03:00:00+00:00"}
    assert replaced(tmp_path / "retried", a | late, b) == (["1"], one)
    assert replaced(tmp_path / "at once", a | late, b | late) == (["2"], one)


def test_records_of_other_jobs_runs_and_schemas_replace_nothing(tmp_path: Path) -> None:
    for place, number in (("run/key", 1), ("run/another", 2), ("other/key", 3), ("other/key.x", 4)):
        write(tmp_path / place, method_hash=str(number))
    assert len(record.load(tmp_path)) == 4
    lines = tmp_path / "base.jsonl"
    lines.write_text(line(method_hash="a") + "\n" + line(method_hash="b") + "\n")
    assert len(record.load(lines)) == 2
    old = record.read(write(tmp_path / "old" / "key", method_hash="a")) | {"schema_version": 6}
    record.write_json(old, tmp_path / "old" / "key" / "record.json")
    write(tmp_path / "old" / "key.2", method_hash="a", problem_hash="p")
    assert len(record.load(tmp_path / "old")) == 2
