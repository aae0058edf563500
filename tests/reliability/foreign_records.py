"""Records and jobs that want to be executed: none of what they hold is, by any command that reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness import record
from harness.compare.__main__ import main as compare
from harness.job import Job, Measure
from harness.reproduce.command import main as reproduce
from tests.conftest import JOB as BASE
from tests.reliability.cases import Case

JOB = dataclasses.replace(
    BASE,
    problem="rosenbrock",
    problem_target="harness.problems.functions.rosenbrock",
    problem_options={"size": 2},
    method="func_hessian",
    target="methods.func_hessian.hessian",
    method_options={"compile": False},
    vectors=1,
    limit_s=20.0,
    passes=("time",),
    measure=Measure(0.01, 1, 2, 0.02, "autograd", 16, 1, 1),
)
LAYER = "harness.problems.zoo.layers.layer"
FUNCTION = "harness.problems.zoo.functions.function"

# Python that leaves a file EXECUTED in the current directory, and the same as a command of the shell.
TOUCH = '__import__("pathlib").Path("EXECUTED").touch()'
SHELL = "touch EXECUTED"

TEXTS = {
    "ends the docstring": f'x"""\n{TOUCH}\n"""',
    "ends a raw text": f"x'''\n{TOUCH}\n'''",
    "ends with a backslash": "x\\",
    "ends with a quote": 'x"',
    "quotes after a backslash": f'x\\"""\n{TOUCH}\n"""',
    "braces": f"{{{TOUCH}}} {{0}} %s",
    "lines of all kinds": "\n".join(
        f"x{end}{TOUCH}" for end in ("\r", "\x0b", "\x0c", "\x1e", "\x85", "\u2028", "\u2029")
    ),
    "a null byte": f"x\0{TOUCH}",
    "half a surrogate": "x\ud800",
    "reversed writing": f"x\u202e{TOUCH}\u2066",
}
KEYS = {
    "an argument": f"compile={TOUCH}, size",
    "a line": f"size)\n{TOUCH}\n(",
    "a keyword": "lambda",
    "a constant": "__debug__",
    "a double star": "**size",
    "nothing": "",
    "a space": "si ze",
    "what the script gives": "loss",
    "what normalises to that": "\uff4coss",
    "a private name": "__class__",
}
# Functions and options of a problem. `package.module` is in the current directory, and leaves the file on import.
PROBLEMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "a command": ("subprocess.getoutput", {"cmd": SHELL}),
    "a deletion": ("shutil.rmtree", {"path": "victim"}),
    "a builtin": ("builtins.exec", {"source": TOUCH}),
    "a package": ("package.module.build", {}),
    "a package with a colon": ("package.module:build", {}),
    "a module": ("package", {}),
    "a relative path": (".package.module.build", {}),
    "spaces and dashes": ("package .mod-ule.build", {}),
    "lines": (f"package.module.build\n{TOUCH}", {}),
    "a builder of builders": (
        "harness.problems.builders.returned",
        {"target": "os.system", "options": {"command": SHELL}},
    ),
    "another function of ours": ("harness.compare.git.git", {"command": "init"}),
    "the entry point": ("harness.__main__.main", {}),
    "what a builder's module imports": ("harness.problems.zoo.layers.pkgutil.resolve_name", {"name": "package"}),
    "an attribute of a builder": ("harness.problems.functions.rosenbrock.__globals__", {}),
    "a layer that is a command": (LAYER, {"name": "subprocess.getoutput", "arguments": {"cmd": SHELL}, "shape": [2]}),
    "a layer with a colon": (LAYER, {"name": "os:system", "arguments": {"command": SHELL}, "shape": [2]}),
    "a layer from the net": (LAYER, {"name": "torch.hub.load", "arguments": {"repo_or_dir": "a/b"}, "shape": [2]}),
    "a layer of ours that builds": (LAYER, {"name": "harness.problems.builders.build", "shape": [2]}),
    "a function that is a package": (FUNCTION, {"name": "package", "shape": [2]}),
    "a function that writes": (FUNCTION, {"name": "torch.save", "arguments": {"f": "EXECUTED"}, "shape": [2]}),
    "a name that is a list": (LAYER, {"name": ["package.module"], "shape": [2]}),
    "an option that is a path": ("harness.problems.networks.mlp", {"activation": "package.module"}),
    "an option of ours that is a path": ("harness.problems.networks.mlp", {"activation": "harness.compare.git.git"}),
    "an option within options": (LAYER, {"name": "LayerNorm", "arguments": {"x": [{"y": "os:system"}]}, "shape": [2]}),
}
METHODS = {
    "a package": "package.module.hessian",
    "a command": "os.system",
    "no module": "hessian",
    "the package of methods": "methods.__init__",
    "what is no method": "methods.ravel.ravel",
    "a method's helper": "methods.vmap_hvp.torch",
    "an absent library's method": "methods.peers.package.hessian",
    "another package of that name": "methods.peers..package.module",
    "lines": f"methods.func_hessian.hessian\n{TOUCH}",
    "spaces": "methods.func_hessian. hessian",
}
JOBS: dict[str, Mapping[str, Any]] = {
    "an interpreter": {"interpreter": "./interpreter"},
    "an interpreter by its whole path": {"interpreter": "/tmp/../{folder}/interpreter"},
    "a link to this interpreter": {"interpreter": "{folder}/link"},
    "code": {"code": "{folder}/code"},
    "code by a relative path": {"code": "code"},
    "code behind a link": {"code": "{folder}/linked"},
    "a builder": {"problem_target": "subprocess.getoutput", "problem_options": {"cmd": SHELL}},
    "a package's builder": {"problem_target": "package.module.build"},
    "a layer": {"problem_target": LAYER, "problem_options": {"name": "package.module.build", "shape": [2]}},
    "a method": {"target": "package.module.hessian"},
    "a method's option": {"method_options": {"compile": "package.module"}},
}
BROKEN_JOBS: dict[str, Any] = {
    "a list": [],
    "a text": {"limit_s": "20"},
    "another pass": {"passes": ["time", TOUCH]},
    "a number as a function": {"target": 1},
    "a text as options": {"problem_options": "{}"},
    "another field": {"environment": {"LD_PRELOAD": "x"}},
    "a device": {"device": f"cpu; {SHELL}"},
    "measuring forever": {"measure": {"budget_s": "inf"}},
}


@contextlib.contextmanager
def nothing_executed(folder: Path) -> Iterator[io.StringIO]:
    """A folder as the current directory, with a package, an interpreter and code that want to be executed.

    Gives what is printed to stderr.
    """
    touch = f"open({str(folder / 'EXECUTED')!r}, 'w')\n"
    for place in ("package", "code/methods", "victim"):
        (folder / place).mkdir(parents=True)
        (folder / place / "__init__.py").write_text(touch)
    for place in ("package/module.py", "code/methods/func_hessian.py"):
        (folder / place).write_text("def build(): pass\ndef hessian(loss, theta): pass\n")
    (folder / "interpreter").write_text(f"#!/bin/sh\ntouch {folder}/EXECUTED\n")
    (folder / "interpreter").chmod(0o755)
    (folder / "link").symlink_to(sys.executable)
    (folder / "linked").symlink_to(folder / "code")
    modules = set(sys.modules)
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()) as printed:
        sys.path.insert(0, str(folder))
        try:
            yield printed
        finally:
            sys.path.remove(str(folder))
            found = {name for name in set(sys.modules) - modules if name.split(".")[0] == "package"}
            for name in found:
                del sys.modules[name]
    assert not (folder / "EXECUTED").exists(), "executed"
    assert not found, f"imported {found}"
    assert (folder / "victim").exists(), "deleted"


def write_record(folder: Path, job: Job = JOB, **fields: Any) -> Path:
    """The record of a job with some of its fields replaced."""
    seen = job.fields() | {"status": "ok", "torch": "2.0", "cell_s": 0.1} | fields
    record.write(seen, folder / "record.json")
    return folder / "record.json"


def reproduced(folder: Path, **fields: Any) -> None:
    """A script is written of the record, and executes nothing but the method."""
    with nothing_executed(folder):
        file = write_record(folder / "run", **fields)
        with contextlib.redirect_stdout(io.StringIO()) as script:
            assert reproduce([str(file)]) == 0
        with contextlib.redirect_stdout(io.StringIO()) as found:
            exec(compile(script.getvalue(), "script", "exec"), {"__name__": "script"})
        assert "relative distance" in found.getvalue()


def refused(folder: Path, words: str = "--trust", **fields: Any) -> None:
    """No script is written of the record: one line says so."""
    with nothing_executed(folder) as printed, contextlib.redirect_stdout(io.StringIO()) as script:
        assert reproduce([str(write_record(folder / "run", **fields))]) == 2
    assert script.getvalue() == ""
    require_one_line(printed.getvalue(), words)


def require_one_line(text: str, words: str) -> None:
    """Raise AssertionError unless a text is one line that can be printed, with these words."""
    assert text.endswith("\n"), text
    assert text[:-1].isprintable(), text
    assert words in text, text


def with_job(folder: Path, changes: Mapping[str, Any]) -> Job:
    """The job with some fields replaced; `{folder}` in them is the folder."""
    texts = {key: value.replace("{folder}", str(folder)) for key, value in changes.items() if isinstance(value, str)}
    return dataclasses.replace(JOB, **{**changes, **texts})


def undecided(folder: Path, job: Job, content: str) -> None:
    """Two run folders whose comparison is undecided; the jobs of the candidate are replaced by a text."""
    for number in range(3):
        for side, text in (("base", json.dumps(dataclasses.asdict(JOB))), ("candidate", content)):
            started = f"2026-01-01T00:00:0{number}+00:00"
            cell = folder / side / str(number)
            cell_s = 0.1 if side == "base" else 0.2  # equal ones would be the same records
            times_s = [0.005 + 0.001 * number]
            write_record(cell, job, round=number, times_s=times_s, first_s=0.005, started=started, cell_s=cell_s)
            (cell / "job.json").write_text(text)


def not_confirmed(folder: Path, changes: Mapping[str, Any]) -> None:
    """Undecided cells are not run again as the candidate's jobs say."""
    with nothing_executed(folder) as printed, contextlib.redirect_stdout(io.StringIO()):
        undecided(folder, JOB, json.dumps(dataclasses.asdict(with_job(folder, changes))))
        assert compare(["base", "candidate", "--confirm", "60"]) == 3
    require_one_line(printed.getvalue(), "--trust")


def not_tested(folder: Path, changes: Mapping[str, Any]) -> None:
    """The cells of a run folder are not taken for a selftest."""
    with nothing_executed(folder) as printed, contextlib.redirect_stdout(io.StringIO()):
        undecided(folder, JOB, json.dumps(dataclasses.asdict(with_job(folder, changes))))
        assert compare(["candidate", "--selftest", "1"]) == 3
    require_one_line(printed.getvalue(), "--trust")


def no_job(folder: Path, value: Any) -> None:
    """A job.json that holds no job ends the confirmation with one line."""
    with nothing_executed(folder) as printed, contextlib.redirect_stdout(io.StringIO()):
        undecided(folder, JOB, json.dumps(value if isinstance(value, list) else dataclasses.asdict(JOB) | value))
        assert compare(["base", "candidate", "--confirm", "60"]) == 3
    require_one_line(printed.getvalue(), "is no job")


def pipe_as_job(folder: Path) -> None:
    """A named pipe in place of job.json is not waited for."""
    with nothing_executed(folder) as printed, contextlib.redirect_stdout(io.StringIO()):
        undecided(folder, JOB, "")
        for file in (folder / "candidate").rglob("job.json"):
            file.unlink()
            os.mkfifo(file)
        assert compare(["base", "candidate", "--confirm", "60"]) == 3
    require_one_line(printed.getvalue(), "is no job")


def _named(kind: str, attempt: Callable[..., None], members: Mapping[str, Any]) -> dict[str, Case]:
    return {f"{kind}: {name}": partial(attempt, **member) for name, member in members.items()}


def _each(field: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {field: value} for name, value in values.items()}


def _options(value: Any) -> str:
    return json.dumps({value: 1})


NOT_TAKEN = {"code", "code by a relative path", "code behind a link", "a method"}  # by a selftest, from a job
CASES: dict[str, Case] = {
    **_named("text of the method", reproduced, _each("method", TEXTS)),
    **_named("text of the problem", reproduced, _each("problem", TEXTS)),
    **_named("text of the version", reproduced, _each("torch", TEXTS)),
    **_named(
        "key of the method",
        refused,
        {n: {"method_options": _options(k), "words": "no option"} for n, k in KEYS.items()},
    ),
    **_named(
        "key of the problem",
        refused,
        {n: {"problem_options": _options(k), "words": "and raised"} for n, k in KEYS.items()},
    ),
    **_named(
        "problem",
        refused,
        {n: {"problem_target": t, "problem_options": json.dumps(o)} for n, (t, o) in PROBLEMS.items()},
    ),
    **_named("method", refused, _each("target", METHODS)),
    **_named("job", not_confirmed, _each("changes", JOBS)),
    **_named("job of a selftest", not_tested, _each("changes", {n: c for n, c in JOBS.items() if n not in NOT_TAKEN})),
    **_named("broken job", no_job, _each("value", BROKEN_JOBS)),
    "broken job: a pipe": pipe_as_job,
}
