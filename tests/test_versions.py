"""What changes with the version of torch, against the records that it was read from."""

import itertools

import pytest

from harness.analysis.table import Analysis
from harness.analysis.versions import ALWAYS, ORDER, UNFINISHED, versions
from harness.report.command import main
from harness.report.versions import history, markdown, sections
from harness.report.web.page import page
from tests.test_report import cell, frame_of, shown, stored  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")

RELEASES = ("2.9.1", "2.13.0+cpu", "2.14.1+cu130")  # in this order, which is not that of the letters


def seen(torch, status="ok", method="func_hessian", network="norm", **changes):
    """A record of an atlas; a wrong one is off by 12 %."""
    error = {"ok": 1e-15, "wrong": 0.12}.get(status)
    zoo = {"problem": f"zoo/{network}", "problem_options": "{}", "passes": "agreement", "times_s": None}
    return cell(method, torch=torch, status=status, relative_error=error, **zoo | {"first_s": None} | changes)


def over(*statuses, **changes):
    """A record for each of RELEASES; none where the status is null."""
    return [seen(torch, status, **changes) for torch, status in zip(RELEASES, statuses, strict=True) if status]


@pytest.fixture
def found(frame_of):  # noqa: F811
    return lambda records: versions(Analysis(frame_of(records)))


def told(found):
    return [(change.kind, change.networks, change.methods, history(change)) for change in found.changes]


NEW, DROPPED = "Newly wrong or not finite", "No longer wrong, but without a result"
REFUSED, SUPPORTED = "Newly refused or failing", "Newly supported"
HISTORIES = {
    ("ok", "ok", "wrong"): (NEW, "right in 2.9.1, 2.13.0; wrong by 12% in 2.14.1"),
    ("ok", "nonfinite", "wrong"): (NEW, "right in 2.9.1; not finite in 2.13.0; wrong by 12% in 2.14.1"),
    ("error", "error", "wrong"): (
        f"{SUPPORTED}, but wrong or not finite",
        "failed in 2.9.1, 2.13.0; wrong by 12% in 2.14.1",
    ),
    ("wrong", "ok", "ok"): ("Mended", "wrong by 12% in 2.9.1; right in 2.13.0, 2.14.1"),
    ("ok", "wrong", "ok"): ("Mended", "right in 2.9.1; wrong by 12% in 2.13.0; right in 2.14.1"),
    ("wrong", "ok", None): ("Mended", "wrong by 12% in 2.9.1; right in 2.13.0; not run in 2.14.1"),
    ("wrong", "timeout", "ok"): ("Mended", "wrong by 12% in 2.9.1; out of time in 2.13.0; right in 2.14.1"),
    ("wrong", "error", "error"): (DROPPED, "wrong by 12% in 2.9.1; failed in 2.13.0, 2.14.1"),
    ("ok", "ok", "unsupported"): (REFUSED, "right in 2.9.1, 2.13.0; refused in 2.14.1"),
    ("unsupported", None, "ok"): (SUPPORTED, "refused in 2.9.1; not run in 2.13.0; right in 2.14.1"),
    ("wrong", "wrong", "wrong"): (ALWAYS, "wrong by 12% in 2.9.1, 2.13.0, 2.14.1"),
    ("wrong", None, "wrong"): (ALWAYS, "wrong by 12% in 2.9.1; not run in 2.13.0; wrong by 12% in 2.14.1"),
    ("ok", "crashed", "oom"): (UNFINISHED, "right in 2.9.1; crashed in 2.13.0; out of memory in 2.14.1"),
    ("wrong", "timeout", None): (UNFINISHED, "wrong by 12% in 2.9.1; out of time in 2.13.0; not run in 2.14.1"),
}
UNCHANGED = [("ok", "ok", "ok"), ("unsupported", None, "unsupported"), ("ok", None, "ok"), ("wrong", None, None)]


def test_histories_in_words(found) -> None:
    records = [over(*statuses, network=repr(statuses)) for statuses in (*HISTORIES, *UNCHANGED)]
    changes = told(found(list(itertools.chain(*records))))
    assert {networks[0]: (kind, words) for kind, networks, _, words in changes} == {
        repr(statuses): words for statuses, words in HISTORIES.items()
    }
    kinds = [kind for kind, *_ in changes]
    assert kinds == sorted(kinds, key=ORDER.index)


def test_methods_and_networks_of_one_history_are_one_line(found) -> None:
    records = [
        *over("ok", "ok", "wrong", method="jacrev_grad", network="cdist"),
        *over("ok", "ok", "wrong", method="vmap_hvp", network="cdist"),
        *over("ok", "ok", "wrong", method="jacrev_grad", network="pdist"),
        *over("ok", "ok", "wrong", method="vmap_hvp", network="pdist"),
        *over("ok", "ok", "wrong", method="vmap_hvp", network="alone"),
        *over("wrong", "ok", "ok", method="factored", network="cdist"),
    ]
    records[2]["relative_error"] = 1.2
    assert told(found(records)) == [
        (
            "Newly wrong or not finite",
            ("cdist", "pdist"),
            ("jacrev_grad", "vmap_hvp"),
            "right in 2.9.1, 2.13.0; wrong by 12% to 120% in 2.14.1",
        ),
        ("Newly wrong or not finite", ("alone",), ("vmap_hvp",), "right in 2.9.1, 2.13.0; wrong by 12% in 2.14.1"),
        ("Mended", ("cdist",), ("factored",), "wrong by 12% in 2.9.1; right in 2.13.0, 2.14.1"),
    ]


def test_a_missing_cell_is_not_mended(found) -> None:
    only = found([*over("wrong", None, None), *over("ok", "ok", None, network="relu")])
    assert (told(only), only.alone) == ([], 1)
    assert found(over("wrong", None, None)) is None
    assert found([*over("wrong", None, None), *over(None, "ok", None, network="relu")]) is None


def test_a_package_that_is_not_installed_says_nothing(found) -> None:
    absent = "methods.peers.asdl needs the package asdl, which is not installed: pip install '.[peers]'"
    records = over("wrong", "unsupported", "ok", method="asdl")
    records[1]["message"] = absent
    assert told(found(records))[0][3] == "wrong by 12% in 2.9.1; not installed in 2.13.0; right in 2.14.1"
    records = over("wrong", "unsupported", None, method="asdl")
    records[1]["message"] = absent
    assert found(records) is None


@pytest.mark.parametrize(
    "change", [{"dtype": "float64"}, {"method_options": '{"n": 2}'}, {"problem_options": '{"n": 2}'}, {"threads": 2}]
)
def test_other_settings_are_not_compared(found, change) -> None:
    records = over("wrong", "ok", None, network="relu")
    assert len(found(records).changes) == 1
    records[0] |= change
    assert found(records) is None


def test_a_network_that_was_edited_is_another(found) -> None:
    records = over("wrong", "wrong", "ok")
    for entry, source in zip(records, ("old", "new", "new"), strict=True):
        entry["problem_hash"] = source
    edited = found(records)
    assert told(edited)[0][3] == "of another source in 2.9.1; wrong by 12% in 2.13.0; right in 2.14.1"
    assert edited.totals.loc["of another source"].tolist() == [1, 0, 0]
    records[1]["problem_hash"] = "old"
    assert found(records) is None
    records[1] |= {"problem_hash": None}
    records += [seen("2.9.1", network="relu", problem_hash="new"), seen("2.13.0", "crashed", network="relu")]
    assert found(records).unsourced == ("2.13.0",)
    records[1] |= {"problem_hash": "new"}
    assert found(records).unsourced == ()


def test_what_else_may_have_changed_a_result_is_named(found, frame_of) -> None:  # noqa: F811
    records = over("wrong", "wrong", "ok", method="curvlinops")
    records[0]["packages"], records[2]["packages"] = "curvlinops 1.0", "curvlinops 2.0"
    records[0]["method_hash"], records[1]["method_hash"] = "old", "new"
    both = found(records)
    assert (both.packages, both.edited) == (("curvlinops",), ("curvlinops",))
    assert markdown(Analysis(frame_of(records))).count("not the same with every version: curvlinops.") == 2


def test_two_builds_are_one_version_and_the_worse_counts(found) -> None:
    builds = [seen("2.13.0+cpu"), seen("2.13.0+cu130", "wrong")]
    assert found(builds) is None
    ((_, _, _, text),) = told(found([*builds, seen("2.14.1")]))
    assert text == "wrong by 12% in 2.13.0; right in 2.14.1"


def test_an_unknown_version_is_left_out(found) -> None:
    records = [seen("2.13.0", "wrong"), seen(None, "wrong"), seen("trunk"), seen("2.14.0.dev20260101+cpu")]
    assert told(found(records))[0][3] == "wrong by 12% in 2.13.0; right in 2.14.0.dev20260101"
    assert found([seen(None), seen("trunk")]) is None


def test_settings_are_part_of_a_method_s_name(found) -> None:
    records = [*over("wrong", "ok", "ok"), *over("ok", "ok", "ok", dtype="float64")]
    ((_, _, methods, _),) = told(found(records))
    assert methods == ("func_hessian float32",)


def test_the_page_and_the_terminal_show_them_and_those_of_one_version_nothing(frame_of) -> None:  # noqa: F811
    records = over("ok", "ok", "wrong", network="<b>cdist")
    frame = frame_of([*records, *over("ok", "ok", "ok", network="relu")])
    shown_page = page(Analysis(frame), {})
    assert "<h2>Versions of torch: newly wrong or not finite</h2>" in shown_page
    assert "<li>&lt;b&gt;cdist: func_hessian: right in 2.9.1, 2.13.0; wrong by 12% in 2.14.1.</li>" in shown_page
    assert r"| \<b>cdist" in markdown(Analysis(frame))
    assert "Newly wrong or not finite" in shown(frame)
    one = frame_of([*records[:1], seen("2.9.1", network="relu")])
    assert markdown(Analysis(one)) is None
    assert sections(Analysis(one)) == []
    assert "Versions of torch" not in page(Analysis(one), {})


def test_the_terminal_shows_a_few_of_many(frame_of) -> None:  # noqa: F811
    networks = (over("ok", "ok", "wrong", network=f"n{n}", method=f"m{n}") for n in range(6))
    text = shown(frame_of(list(itertools.chain(*networks))))
    assert "Newly wrong or not finite (the first 4 of 6)\n" in text


def test_files_of_several_versions_make_a_file(tmp_path) -> None:
    for record, name in zip(over("ok", "ok", "wrong"), "abc", strict=True):
        stored(tmp_path / name, [record])
    assert main([*(str(tmp_path / name) for name in "abc"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "versions.md").read_text()
    assert text.startswith("# Which results change with torch 2.9.1, 2.13.0, 2.14.1\n")
    assert "| right |        |" not in text
