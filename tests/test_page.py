"""The web page of a report: without a browser its structure and data, and in a real Chromium what a reader does."""

import base64
import hashlib
import html.parser
import itertools
import json
import re
from pathlib import Path

import pytest

from harness import record
from harness.analysis.table import Analysis
from harness.report.files import write
from harness.report.web.page import WEB, aligned, page
from tests.test_report import cell, failed, frame_of, misspelt, sweep  # noqa: F401  frame_of is a fixture

pytestmark = pytest.mark.filterwarnings("error")

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'><svg onload=alert(1)>&amp;",
    "a\u202egnp.exe\u2066",
    "{{ 7 * 7 }}{% raw %}",
)
VOID = {"meta", "link", "input", "img", "br"}


def decoded(coded):
    """The text of each row."""
    assert set(coded["places"]) == set(range(len(coded["values"])))
    return [coded["values"][place] for place in coded["places"]]


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, the texts of scripts and styles, and all else that is read."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.scripts, self.styles, self.text = [], [], [], [], ""
        self.feed(text)
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside == "style":
            self.styles.append(data)
        else:
            self.text += data

    def data(self):
        def refuse(constant):
            raise AssertionError(f"{constant} is no JSON")

        data = json.loads(self.scripts[0], parse_constant=refuse)
        for entry in data["columns"]:
            assert len(entry["texts"]["values"]) == len(set(entry["texts"]["values"])), "each text once"
            entry["texts"] = decoded(entry["texts"])
        data["details"] = {name: decoded(coded) for name, coded in data["details"].items()}
        return data

    def column(self, heading):
        return next(column for column in self.data()["columns"] if column["heading"] == heading)


@pytest.fixture
def parsed_of(frame_of):  # noqa: F811
    return lambda records, figures=None, skipped=(): Parsed(page(Analysis(frame_of(records)), figures or {}, skipped))


def test_numbers_are_those_of_the_records(parsed_of, frame_of):  # noqa: F811
    records = sweep()
    parsed, frame = parsed_of([*records, misspelt()]), frame_of(records)
    methods, sizes = parsed.column("method")["texts"], parsed.column("P")["numbers"]
    place = {pair: row for row, pair in enumerate(zip(methods, sizes, strict=True))}
    assert len(place) == len(records) + 1
    ok = frame[frame["status"] == "ok"]
    for heading, source, unit in (
        ("time ms", "median_s", 1e-3),
        ("peak MiB", "tensor_peak_bytes", 2**20),
        ("error", "relative_error", 1),
    ):
        numbers = parsed.column(heading)["numbers"]
        found = [numbers[place[pair]] * unit for pair in zip(ok["method"], ok["params"], strict=True)]
        assert found == pytest.approx(ok[source].tolist(), rel=1e-15)
        assert numbers.count(None) == 2
    slow = place["naive_loop", 517.0]
    assert parsed.column("status")["texts"][slow] == "timeout"
    assert parsed.column("time ms")["texts"][slow] == ""
    assert parsed.column("message")["texts"][slow].startswith("timeout: it did not work")


def test_decimals_are_below_one_another():
    texts = aligned(["1.25", "", "300", "0.5"])
    assert [text.rstrip("\u2007\u2008") for text in texts] == ["1.25", "", "300", "0.5"]
    assert {len(text) - (text + ".").replace("\u2008", ".").index(".") for text in texts if text} == {3}
    assert aligned(["12", "3"]) == ["12", "3"]


def test_times_are_in_one_unit(parsed_of):
    column = parsed_of([cell(times_s=[2.5]), cell("rows", times_s=[0.00125])]).column("time ms")
    assert [text.rstrip("\u2007\u2008") for text in column["texts"]] == ["1.25", "2500"]


def test_the_environment_of_a_row_is_in_its_details_or_common_to_all(parsed_of):
    data = parsed_of([cell(python="3.11.7"), cell("rows", python="3.11.7", cores=2)]).data()
    assert data["common"]["python"] == "3.11.7"
    assert sorted(data["details"]["cores"], key=str) == ["2", None]
    assert data["same"] == {"quantity": "hessian", "device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_records_is_never_markup(parsed_of, text):
    hostile = {"problem": text, "dtype": text, "cpu": text, "packages": text, "torch": text}
    benign = parsed_of([cell(), failed(method="vmap_hvp")], {"coverage": "<svg/>"}, ["x"])
    parsed = parsed_of(
        [cell(text, **hostile), failed("error", text, message=text, **hostile)], {"coverage": "<svg/>"}, [text]
    )
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in benign.tags]
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    visible = text.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
    assert visible in parsed.text
    assert set(parsed.column("method")["texts"]) == {visible}
    assert "\u202e" not in parsed.text + "".join(parsed.scripts)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_records_is_never_markup_in_the_leaderboard(parsed_of, text):
    def of(name):
        wrong = cell(name + "3", problem=name, status="wrong", relative_error=0.5)
        return [cell(name, problem=name, times_s=[1.0] * 3), cell(name + "2", problem=name, times_s=[2.0] * 3), wrong]

    parsed, benign = parsed_of(of(text)), parsed_of(of("x"))
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in benign.tags]
    visible = text.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
    assert f"2× {visible}2" in parsed.text
    assert f"{visible}3 (50%)" in parsed.text


def test_at_most_eight_methods_are_in_colour_and_their_colours_differ(parsed_of):
    fast = [cell(f"fast{number}", times_s=[0.1 + number / 1000]) for number in range(7)]
    slow = [cell(f"slow{number:02}", times_s=[9.0]) for number in range(30)]
    looks = parsed_of([*slow, *fast, cell("func_hessian", times_s=[99.0])]).data()["looks"]
    colours = {look["label"]: look["colour"] for look in looks}
    assert len(colours) == 38
    coloured = {label for label, colour in colours.items() if colour}
    assert coloured == {"func_hessian", *(f"fast{number}" for number in range(7))}
    assert len({colours[label] for label in coloured}) == 8


def test_few_columns_are_shown_at_first(parsed_of):
    parsed = parsed_of([cell(dtype=dtype, round=number) for dtype in ("float32", "float64") for number in range(2)])
    main = [column["heading"] for column in parsed.data()["columns"] if column["main"]]
    assert main == ["problem", "P", "method", "dtype", "status", "time ms", "peak MiB", "error", "message"]
    assert len(parsed.data()["columns"]) > len(main)


def test_without_scripts_the_first_rows_are_there(parsed_of):
    parsed = parsed_of([cell(f"method{number}", 1 + number, times_s=[1.0 + number]) for number in range(60)])
    assert "The first 50 of 60 rows." in parsed.text
    assert "table.csv beside this page holds all rows" in parsed.text
    assert [tag for tag, _ in parsed.tags].count("tr") >= 50
    assert "method49" in parsed.text
    assert "The first" not in parsed_of([cell()]).text


def test_a_long_message_is_whole(parsed_of):
    message = "it failed, " * 900 + "at the very end"
    assert parsed_of([failed("error", message=message), cell()]).column("message")["texts"].count(message) == 1


def test_it_asks_for_nothing_and_runs_only_its_own_scripts(parsed_of):
    parsed = parsed_of(sweep(), {"coverage": "<svg/>"})
    for _, attributes in parsed.tags:
        for name in {"src", "href", "srcset", "action", "data", "poster"}.intersection(attributes):
            assert attributes[name].startswith("data:")
    assert not re.search(r"url\(|@import|https?:", "".join(parsed.styles))
    (policy,) = (
        attributes["content"]
        for _, attributes in parsed.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for text in (*parsed.styles, *parsed.scripts[1:]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert len(parsed.scripts) == 3


def test_controls_have_names_and_headings_a_scope(parsed_of):
    parsed = parsed_of(sweep())
    assert [attributes["lang"] for tag, attributes in parsed.tags if tag == "html"] == ["en"]
    assert [tag for tag, _ in parsed.tags].count("label") == sum(tag in ("input", "select") for tag, _ in parsed.tags)
    table = (WEB / "table.js").read_text()
    assert '{ scope: "col" }' in table
    assert 'scope: "row" }' in table
    assert "innerHTML" not in table + (WEB / "chart.js").read_text()


@pytest.mark.parametrize(
    "records",
    [[misspelt()], [failed()], [cell()], [cell(tensor_peak_bytes=0, relative_error=0.0)]],
    ids=["misspelt", "failed", "one", "zeros"],
)
def test_sparse_runs_make_whole_pages(parsed_of, records):
    assert parsed_of(records).data()["rows"] == 1


@pytest.mark.slow
def test_the_report_writes_it_with_every_figure_the_same_each_time(frame_of, tmp_path):  # noqa: F811
    frame = frame_of(sweep())
    first, second = (
        (tmp_path / name / "index.html").read_text(encoding="utf-8")
        for name in ("a", "b")
        if write(Analysis(frame), tmp_path / name)
    )
    assert first == second
    images = [attributes for tag, attributes in Parsed(first).tags if tag == "img"]
    assert [image["alt"].split(";")[0] for image in images] == [
        "Time against size",
        "Memory against size",
        "Error against size",
        "Time against memory",
    ]
    assert b"<svg" in base64.b64decode(images[0]["src"].partition("base64,")[2])


ROWS = 5000
CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install '.[browser]'")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM} (on Debian: apt-get install chromium)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open the page of records in a tab; at the end nothing was asked for but the file, and nothing complained."""
    asked, complaints = [], []

    def open_page(records, **options):
        stored = tmp_path / "records.jsonl"
        blank = dict.fromkeys(record.NAMES) | {"schema_version": record.SCHEMA_VERSION}
        stored.write_text("".join(json.dumps(blank | entry) + "\n" for entry in records))
        frame = record.load(stored)
        (tmp_path / "index.html").write_text(page(Analysis(frame), {"coverage": "<svg/>"}, ()), encoding="utf-8")
        tab = browser.new_page(**options)
        tab.add_init_script("delete Map.groupBy")  # Safari has it since 17.4, Firefox since 119
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("console", lambda said: complaints.append(said.text))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.goto((tmp_path / "index.html").as_uri())
        return tab

    yield open_page
    assert complaints == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def column(tab, heading):
    """The texts of a column as shown, from the top."""
    return tab.evaluate(
        """heading => {
            const heads = [...document.querySelectorAll("thead tr > *")].map((head) => head.textContent);
            const place = heads.indexOf(heading);
            const rows = [...document.querySelectorAll("tbody tr:not(.details)")];
            return rows.map((row) => row.children[place].textContent.trim());
        }""",
        heading,
    )


@pytest.mark.slow
def test_sorting_is_by_number_and_failures_are_last(opened):
    tab = opened([*sweep(), cell("tiny", 4, times_s=[3e-6])])
    head = tab.locator("thead th").filter(has_text=re.compile("^time ms$"))  # its accessible name has an arrow too
    for direction, ordered in (("ascending", sorted), ("descending", lambda ns: sorted(ns, reverse=True))):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        *times, last = column(tab, "time ms")
        assert last == ""
        assert [float(text) for text in times] == ordered(float(text) for text in times)
    assert tab.locator("[aria-sort]").count() == 1


@pytest.mark.slow
def test_filters_choose_rows_and_marks(opened):
    tab = opened(sweep())
    marks = tab.locator("#plot [data-row]:not([hidden])")
    assert marks.count() == len(sweep())
    tab.get_by_label("Search").fill("HVP mlp")
    assert set(column(tab, "method")) == {"vmap_hvp", "vmap_hvp_reverse"}
    assert tab.locator("#count").text_content() == "8 of 20 rows"
    tab.wait_for_timeout(500)  # the chart follows once the keyboard rests
    assert marks.count() == 8
    tab.get_by_label("Method").select_option("vmap_hvp")
    assert len(column(tab, "P")) == 4
    tab.get_by_label("Search").fill("")
    tab.get_by_label("Method").select_option("")
    tab.get_by_label("Status").select_option("timeout")
    assert column(tab, "method") == ["naive_loop"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("float32", 3),
        ("mlp float32", 3),
        ("cpu hessian rows", 1),
        ("epyc", 3),
        ("2.12", 1),
        ("2.13 one", 1),
        ("a100", 1),
        ("float64", 0),
        ("mlp a100 one", 0),
    ],
)
def test_a_search_finds_what_rows_share_and_where_they_ran(opened, words, count):
    tab = opened([cell("one"), cell("rows", torch="2.12.1"), cell("other", gpu="NVIDIA A100")])
    tab.get_by_label("Search").fill(words)
    assert tab.locator("#count").text_content() == f"{count} of 3 rows"


def ticks(tab):
    """The labels of the vertical axis, from below, and of the horizontal one."""
    tab.locator("#plot .grid text").first.wait_for()  # drawn with the first frame
    axes = (f"#plot .grid text[text-anchor={anchor}]" for anchor in ("end", "middle"))
    return tuple(tab.locator(axis).all_text_contents() for axis in axes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("records", "up", "across"),
    [
        ([cell(params=133, times_s=[2.5])], ["2500"], ["133"]),
        ([cell(params=133, times_s=[2.5]), cell("rows", params=133, times_s=[2.7])], ["2500", "2700"], ["133"]),
        (
            [cell(params=133, times_s=[2.5]), cell("rows", params=134, times_s=[9.0])],
            [str(1000 * ms) for ms in range(3, 11)],
            ["133"],
        ),
        (
            [cell("loop", number, params=10**number, times_s=[10.0 ** (6 * number - 30)]) for number in range(2, 7)],
            [f"1e-{power}" for power in range(16, 3, -2)] + ["0.01", "1", "100", "10000", "1e+6", "1e+8", "1e+10"],
            ["100", "200", "500", "1000", "2000", "5000", "10000", "20000", "50000", "1e+5", "2e+5", "5e+5", "1e+6"],
        ),
    ],
    ids=["one", "one size", "near", "wide"],
)
def test_axes_are_labelled_in_the_unit_of_their_heading(opened, records, up, across):
    assert ticks(opened(records)) == (up, across)


@pytest.mark.slow
def test_nothing_has_its_place_on_a_logarithmic_axis(opened):
    tab = opened([cell(tensor_peak_bytes=0), cell("rows", tensor_peak_bytes=2**20)])
    ticks(tab)
    tab.locator("#vertical").select_option("peak MiB")
    assert ticks(tab)[0] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_labels_of_an_axis_do_not_overlap(opened, width):
    records = [cell("loop", decade, params=100 * 10**decade, times_s=[1e-5 * 700**decade]) for decade in range(4)]
    for count in range(2, 5):
        tab = opened(records[:count], viewport={"width": width, "height": 740})
        tab.locator("#plot .grid text").first.wait_for()
        boxes = tab.evaluate("""[...document.querySelectorAll(".grid text")].map((text) => {
            const { left, right, top, bottom } = text.getBoundingClientRect();
            return [left, right, top, bottom];
        })""")
        assert len(boxes) > 4
        for (left, right, top, bottom), other in itertools.combinations(boxes, 2):
            assert max(left - other[1], other[0] - right, top - other[3], other[2] - bottom) > 0


@pytest.mark.slow
def test_a_tap_on_a_mark_tells_its_values(opened):
    tab = opened(sweep(), viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    mark = tab.locator("#plot [data-row]:not([hidden])").nth(3)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    tab.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "time ms" in tab.locator("#values").text_content()


@pytest.mark.slow
def test_a_row_unfolds_and_a_mark_tells_its_values_by_pointer_and_by_key(opened):
    tab = opened(sweep())
    tab.get_by_label("Status").select_option("timeout")
    tab.locator(".fold").click()
    assert tab.locator(".fold").get_attribute("aria-expanded") == "true"
    assert "raise limit_s" in tab.locator("tr.details p").text_content()
    assert "2.13.0" in tab.locator("tr.details").text_content()
    tab.get_by_label("Status").select_option("ok")
    tab.wait_for_timeout(500)  # the chart follows once the keyboard rests
    tab.locator("#plot [tabindex='0']").focus()
    first = tab.locator("#values").text_content()
    tab.keyboard.press("ArrowRight")
    second = tab.locator("#values").text_content()
    assert "time ms" in second
    assert first != second
    tab.locator("#plot [data-row]:not([hidden])").nth(5).hover(force=True)
    assert "method" in tab.locator("#values").text_content() != second


@pytest.mark.slow
def test_hostile_names_do_nothing(opened):
    tab = opened([cell(text, problem=text, message=text, status="wrong") for text in HOSTILE])
    assert len(column(tab, "method")) == len(HOSTILE)
    assert HOSTILE[0] in column(tab, "method")
    for fold in tab.locator(".fold").all():
        fold.click()
    assert tab.locator("main img").count() == 1


@pytest.mark.slow
def test_a_phone(opened):
    message = "word" * 2500
    tab = opened([*sweep(), cell(message, message=message)], viewport={"width": 360, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    tab.locator(".fold").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    tab.locator("#rows .box").evaluate("(box) => box.scrollTo(box.scrollWidth, 0)")
    left = tab.locator("#rows .box").bounding_box()["x"]
    for name in tab.locator("#rows .box th.name").all():
        assert name.bounding_box()["x"] == pytest.approx(left, abs=2), "rows keep their names"


@pytest.mark.slow
def test_paper_has_every_row_and_afterwards_all_is_as_it_was(opened):
    records = [cell(f"method{number}", 1 + number, cores=number, python="3.11.7") for number in range(250)]
    tab = opened([*records, failed(message="told whole " * 50)])
    tab.locator("#more").click()
    tab.locator(".fold").nth(2).click()
    tab.get_by_label("Search").fill("me")
    tab.locator("#more").click()
    state = """() => [...document.querySelectorAll("tbody tr, details")].map((element) => [element.className,
        element.open, element.textContent, element.querySelector("[aria-expanded=true]") !== null])"""
    before = tab.evaluate(state)
    assert tab.locator("tr.details").count() == 1
    tab.emulate_media(media="print")
    for _ in range(2):  # browsers may tell twice
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("tr.details").count() == 251
    assert tab.locator("tr.details .common").count() == 1, "what is common to all is not repeated with each"
    assert tab.locator("details:not([open])").count() == 0
    assert not tab.get_by_label("Search").is_visible()
    tab.emulate_media(media="screen")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(state) == before


@pytest.mark.slow
def test_five_thousand_rows_answer_a_key_in_a_fifth_of_a_second(opened):
    records = [cell(f"method{number % 50}", 1 + number // 50, seed=0) for number in range(ROWS)]
    tab = opened(records)
    assert tab.locator("#count").text_content() == f"{ROWS} of {ROWS} rows"
    rounds = tab.evaluate(
        """async () => {
            const search = document.getElementById("search");
            const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            let longest = {};
            async function type(text, as) {
                const began = performance.now();
                search.value = text;
                search.dispatchEvent(new Event("input"));
                await painted();
                longest[as] = Math.max(longest[as] ?? 0, performance.now() - began);
            }
            const texts = ["m", "me", "method", "method4", "", "nothing has this", "", "float32"];
            const rounds = [];
            for (let round = 0; round < 2; round++) {
                longest = {};
                for (const text of texts) await type(text, "typed");
                for (const text of texts) {
                    // The chart follows once the keyboard rests: what it takes is the longest wait between two frames.
                    let before = performance.now();
                    for (const until = before + 600; before < until; ) {
                        await painted();
                        longest.redrawn = Math.max(longest.redrawn ?? 0, performance.now() - before);
                        before = performance.now();
                    }
                    await type(text, "rested");
                }
                rounds.push(longest);
            }
            return rounds;
        }"""
    )
    found = {name: min(longest[name] for longest in rounds) for name in rounds[0]}  # another process may hold one up
    told = ", ".join(f"{name} {ms:.0f}" for name, ms in found.items())
    print(f"{ROWS} rows, ms until painted: {told}")
    assert max(found["typed"], found["rested"]) < 200
    assert found["redrawn"] < 400, "a key meanwhile waits for it, but it comes only where there was none for 100 ms"
