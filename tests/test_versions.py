"""What changes with the version of torch, against the records that it was read from."""

import itertools
import re

import pytest

from harness.analysis.table import Analysis
from harness.analysis.versions import ALWAYS, ORDER, RESUMED, UNFINISHED, Apart, versions
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
    """A record for each of RELEASES; none where the status is None."""
    return [seen(torch, status, **changes) for torch, status in zip(RELEASES, statuses, strict=True) if status]


@pytest.fixture
def found(frame_of):  # noqa: F811
    return lambda records: versions(Analysis(frame_of(records)))


def changes_of(found):
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
    ("wrong", "error", "ok"): ("Mended", "wrong by 12% in 2.9.1; failed in 2.13.0; right in 2.14.1"),
    ("unsupported", "wrong", "ok"): ("Mended", "refused in 2.9.1; wrong by 12% in 2.13.0; right in 2.14.1"),
    ("ok", "error", "wrong"): (NEW, "right in 2.9.1; failed in 2.13.0; wrong by 12% in 2.14.1"),
    ("unsupported", "ok", "error"): (REFUSED, "refused in 2.9.1; right in 2.13.0; failed in 2.14.1"),
    ("ok", "unsupported", "ok"): (RESUMED, "right in 2.9.1; refused in 2.13.0; right in 2.14.1"),
    ("wrong", "unsupported", "nonfinite"): (ALWAYS, "wrong by 12% in 2.9.1; refused in 2.13.0; not finite in 2.14.1"),
    ("ok", "ok", "unsupported"): (REFUSED, "right in 2.9.1, 2.13.0; refused in 2.14.1"),
    ("unsupported", None, "ok"): (SUPPORTED, "refused in 2.9.1; not run in 2.13.0; right in 2.14.1"),
    ("wrong", "wrong", "wrong"): (ALWAYS, "wrong by 12% in 2.9.1, 2.13.0, 2.14.1"),
    ("wrong", None, "wrong"): (ALWAYS, "wrong by 12% in 2.9.1; not run in 2.13.0; wrong by 12% in 2.14.1"),
    ("ok", "crashed", "oom"): (UNFINISHED, "right in 2.9.1; crashed in 2.13.0; out of memory in 2.14.1"),
    ("wrong", "timeout", None): (UNFINISHED, "wrong by 12% in 2.9.1; out of time in 2.13.0; not run in 2.14.1"),
}
UNCHANGED = [
    ("error", None, "unsupported"),
    ("ok", "ok", "ok"),
    ("unsupported", None, "unsupported"),
    ("ok", None, "ok"),
    ("wrong", None, None),
]


def test_histories_in_words(found) -> None:
    records = [over(*statuses, network=repr(statuses)) for statuses in (*HISTORIES, *UNCHANGED)]
    changes = changes_of(found(list(itertools.chain(*records))))
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
    assert changes_of(found(records)) == [
        (
            "Newly wrong or not finite",
            ("cdist", "pdist"),
            ("jacrev_grad", "vmap_hvp"),
            "right in 2.9.1, 2.13.0; wrong by 12% to 120% in 2.14.1",
        ),
        ("Newly wrong or not finite", ("alone",), ("vmap_hvp",), "right in 2.9.1, 2.13.0; wrong by 12% in 2.14.1"),
        ("Mended", ("cdist",), ("factored",), "wrong by 12% in 2.9.1; right in 2.13.0, 2.14.1"),
    ]


def test_versions_that_are_wrong_by_other_errors_are_apart(found) -> None:
    records = over("wrong", "wrong", "wrong")
    for record, error in zip(records, (1e15, 1.0001e15, 0.3), strict=True):
        record["relative_error"] = error
    ((_, _, _, words),) = changes_of(found(records))
    assert words == "wrong by 1e+15 in 2.9.1, 2.13.0; wrong by 30% in 2.14.1"


def test_a_missing_cell_is_not_mended(found) -> None:
    only = found([*over("wrong", None, None), *over("ok", "ok", None, network="relu")])
    assert (changes_of(only), only.alone) == ([], 1)
    assert found(over("wrong", None, None)) is None


def test_a_package_that_is_not_installed_says_nothing(found) -> None:
    absent = "methods.peers.asdl needs the package asdl, which is not installed: pip install '.[peers]'"
    records = over("wrong", "unsupported", "ok", method="asdl")
    records[1]["message"] = absent
    records += over("ok", "ok", "ok", method="asdl", network="relu")
    assert changes_of(found(records))[0][3] == "wrong by 12% in 2.9.1; not installed in 2.13.0; right in 2.14.1"
    records = over("wrong", "unsupported", None, method="asdl")
    records[1]["message"] = absent
    assert found(records).apart == (Apart("2.9.1", 1, ()), Apart("2.13.0", 1, ()))


@pytest.mark.parametrize(
    "change", [{"dtype": "float64"}, {"method_options": '{"n": 2}'}, {"problem_options": '{"n": 2}'}, {"threads": 2}]
)
def test_other_settings_are_not_compared(found, change) -> None:
    records = over("wrong", "ok", None, network="relu")
    assert len(found(records).changes) == 1
    records[0] |= change
    apart = found(records)
    assert (apart.versions, apart.changes, apart.totals.shape) == ((), [], (0, 0))
    assert [(entry.version, entry.cells) for entry in apart.apart] == [("2.9.1", 1), ("2.13.0", 1)]
    assert all(set(change) <= set(entry.differing) for entry in apart.apart)


def sourced(network, **values):
    """Wrong in the first two of RELEASES and right in the third, with these values of fields."""
    records = over("wrong", "wrong", "ok", network=network)
    for field, of_each in values.items():
        for entry, value in zip(records, of_each, strict=True):
            entry[field] = value
    return records


MENDED = "wrong by 12% in 2.9.1, 2.13.0; right in 2.14.1"
ANOTHER = "another network in 2.9.1; wrong by 12% in 2.13.0; right in 2.14.1"


def test_an_edit_that_leaves_a_network_s_parameters_and_operators_is_named(found, frame_of) -> None:  # noqa: F811
    records = sourced("relu", problem_hash=("old", "new", "new"), operators=("A 1", "A 1", "A 1"))
    edited = found([*records, *sourced("gelu", problem_hash=("new", "new", "new"))])
    assert (edited.networks, edited.others, changes_of(edited)[0][3]) == (("relu",), (), MENDED)
    assert "not the same with every version: relu." in markdown(Analysis(frame_of(records)))


@pytest.mark.parametrize("edit", [{"operators": ("A 1", "B 1", "B 1")}, {"params": (9, 7, 7)}])
@pytest.mark.parametrize("source", ["old", None])
def test_a_network_of_other_parameters_or_operators_is_another(found, edit, source) -> None:
    others = over("ok", "ok", "ok", network="gelu")
    edited = found([*others, *sourced("relu", problem_hash=(source, "new", "new"), **edit)])
    assert (edited.networks, edited.others, changes_of(edited)[0][3]) == ((), ("relu",), ANOTHER)
    assert edited.totals.loc["another network"].tolist() == [1, 0, 0]
    same = found(
        sourced("relu", problem_hash=("new", "new", "new"), **edit)
    )  # as where torch has renamed the operators
    assert changes_of(same)[0][3] == MENDED


def test_a_source_that_is_not_known_is_named(found) -> None:
    records = sourced("relu", problem_hash=("new", None, "new"))
    assert (found(records).unsourced, found(records).networks) == (("2.13.0",), ())
    records[1] |= {"status": "crashed", "relative_error": None}
    assert found(records).unsourced == ()


def test_of_one_version_the_latest_run_has_the_newest_network(found) -> None:
    older = seen("2.14.1+cpu", operators="A 1", started="2026-01-01T00:00:00+00:00")
    newer = seen("2.14.1+cu130", "wrong", operators="B 1", started="2026-01-02T00:00:00+00:00")
    for runs in ([older, newer], [newer, older]):  # in whatever order they are read
        ((_, _, _, text),) = changes_of(found([seen("2.13.0", "wrong", operators="B 1"), *runs]))
        assert text == "wrong by 12% in 2.13.0, 2.14.1"


def test_another_time_limit_is_compared_and_named(found) -> None:
    limited = found(sourced("relu", limit_s=(20.0, 60.0, 60.0)))
    assert (changes_of(limited)[0][3], limited.sampling) == (MENDED, ("limit_s",))


def test_what_else_may_have_changed_a_result_is_named(found, frame_of) -> None:  # noqa: F811
    records = over("wrong", "wrong", "ok", method="curvlinops")
    records[0]["packages"], records[2]["packages"] = "curvlinops 1.0", "curvlinops 2.0"
    records[0]["method_hash"], records[1]["method_hash"] = "old", "new"
    both = found(records)
    assert (both.packages, both.methods) == (("curvlinops",), ("curvlinops",))
    assert markdown(Analysis(frame_of(records))).count("not the same with every version: curvlinops.") == 2


def test_two_builds_are_one_version_and_the_worse_counts(found) -> None:
    builds = [seen("2.13.0+cpu"), seen("2.13.0+cu130", "wrong")]
    assert found(builds) is None
    ((_, _, _, text),) = changes_of(found([*builds, seen("2.14.1")]))
    assert text == "wrong by 12% in 2.13.0; right in 2.14.1"


def test_an_unknown_version_is_left_out(found) -> None:
    records = [seen("2.13.0", "wrong"), seen(None, "wrong"), seen("trunk"), seen("2.14.0.dev20260101+cpu")]
    assert changes_of(found(records))[0][3] == "wrong by 12% in 2.13.0; right in 2.14.0.dev20260101"
    assert found(records).unknown == 2
    assert found([seen(None), seen("trunk")]) is None
    assert found([seen(None), seen("2.13.0")]) is None


def test_settings_are_part_of_a_method_s_name(found) -> None:
    records = [*over("wrong", "ok", "ok"), *over("ok", "ok", "ok", dtype="float64")]
    ((_, _, methods, _),) = changes_of(found(records))
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


def test_versions_that_share_no_cell_are_named(frame_of, tmp_path) -> None:  # noqa: F811
    records = [seen("2.9.1"), seen("2.13.0", threads=2), seen("2.13.0", threads=2, network="relu"), seen(None)]
    sentences = (
        "None of the cells of torch 2.9.1 (1) can be compared: those of other versions differ in threads.",
        "None of the cells of torch 2.13.0 (2) can be compared: those of other versions differ in threads.",
        "Cells whose records name no version of torch: 1.",
    )
    stored(tmp_path / "run", records)
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "versions.md").read_text()
    frame = frame_of(records)
    assert text.startswith("# No result can be compared over versions of torch\n")
    for place in (text, page(Analysis(frame), {}), shown(frame)):
        assert all(sentence in place for sentence in sentences)
    (section,) = sections(Analysis(frame_of([*records, *over("ok", None, "wrong", network="cdist")])))[1:]
    assert section.sentences == [sentences[1], sentences[2]]


def test_files_of_several_versions_make_a_file(tmp_path) -> None:
    for record, name in zip(over("ok", "ok", "wrong"), "abc", strict=True):
        stored(tmp_path / name, [record])
    assert main([*(str(tmp_path / name) for name in "abc"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "versions.md").read_text()
    assert text.startswith("# Which results change with torch 2.9.1, 2.13.0, 2.14.1\n")
    assert re.search(r"^\| wrong +\| +0 +\| +0 +\| +1 +\|$", text, re.MULTILINE)
    assert re.search(r"^\| right +\| +1 +\| +1 +\| +0 +\|$", text, re.MULTILINE)
