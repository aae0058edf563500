"""What the atlas found: methods that are silently wrong, under which operators and with which versions of torch.

`python -m harness.findings ATLAS.jsonl... > harness/findings.json` learns them from the records of `+sweep=atlas`, of
one version of torch or of several; every table warns where a result was computed under such operators.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from harness import program, record
from harness.record.identity import JSON, fields_of, ordered
from harness.record.outcomes import OUTCOMES, VERDICTS, is_same_network, outcome
from harness.record.torch_version import release_of, version_of

FILE = Path(__file__).parent / "findings.json"
NOT_LEARNED_FROM = ("eigenvalues", "trace", "spectrum", "ihvp")  # they depend on linear algebra too
ALIKE = fields_of("problem", "setting")  # in which records of one test network and one set of settings agree

Seen = Mapping[Any, Any]  # a record


def learn(records: Iterable[Seen]) -> list[dict[str, Any]]:
    """The findings in the records of an atlas: methods, each with operators under which it is wrong.

    On a test network where a method is wrong, the suspects are the operators of no network where it is right with that
    version of torch; where there are none, all operators of the network together. A finding holds the network with the
    fewest operators (`case`), and what the method did on it with each version that was tried: `wrong` the versions with
    the error (null where it has none: a result that is not finite, or of another shape), `right` and `no_result` (it
    refused or failed) lists of versions. A crash, a limit or a missing package is no try. Only records in float64
    without a mode are read.
    """
    methods: dict[tuple[str, str], dict[Version, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    for seen in records:
        version = version_of(seen["torch"])
        if version is not None and _left_out(seen) is None:
            methods[seen["target"], json.dumps(_words(seen), sort_keys=True)][version].append(seen)
    findings: list[dict[str, Any]] = []
    for (target, options), by_version in sorted(methods.items()):
        method = {"target": target, "options": json.loads(options)}
        own: list[dict[str, Any]] = []
        for version, group in sorted(by_version.items()):
            for suspected, seen in _suspected(group):
                wrong_alike = (known["operators"] for known in own if str(version) in known["wrong"])
                if not any(map(suspected.issuperset, wrong_alike)):
                    case = {"operators": sorted(suspected), "case": seen["problem"]}
                    own.append(method | case | _outcomes(seen, by_version))
        findings += own
    return findings


def _left_out(seen: Seen) -> str | None:
    """Why a record is none to learn from, if so: in another dtype or in a mode, right and wrong have other causes."""
    if seen["dtype"] != "float64":
        return f"dtype={seen['dtype']}, not float64"
    if seen["mode"] is not None:
        return f"mode={seen['mode']}"
    if seen["quantity"] in NOT_LEARNED_FROM:
        return f"quantity={seen['quantity']}, which may be wrong for more than the derivatives' sake"
    if any(seen[name] is not None for name in ("standard_error", "stated_error")):
        return "estimates, which are wrong or right by chance too"
    if version_of(seen["torch"]) is None or not seen["target"]:
        return "they name no version of torch, or no method"
    return None


def _suspected(group: Iterable[Seen]) -> Iterator[tuple[set[str], Seen]]:
    """The suspects of each record that is wrong, among those of one method and version; few operators first."""
    judged = [seen for seen in group if seen["operators"] and (seen["status"] == "ok" or _is_wrong(seen))]
    safe = {name for seen in judged if seen["status"] == "ok" for name in _operators(seen)}
    for seen in sorted(judged, key=lambda seen: (len(_operators(seen)), seen["problem"])):
        if _is_wrong(seen):
            yield _operators(seen) - safe or _operators(seen), seen


def _outcomes(of: Seen, by_version: Mapping[Version, Iterable[Seen]]) -> dict[str, Any]:
    """What a method did on one record's network: `wrong` errors by version, `right` and `no_result` versions.

    Of several records of one version, such as of two builds, the worst counts.
    """
    found: dict[str, Any] = {"wrong": {}, "right": [], "no_result": []}
    for version, group in sorted(by_version.items()):
        same = [seen for seen in group if _is_alike(seen, of)]
        outcomes = [outcome(seen["status"], seen["message"]) for seen in same]
        verdict = VERDICTS.get(min(outcomes, key=OUTCOMES.index, default=""))
        if verdict == "wrong":
            errors = [seen["relative_error"] for seen in same if _is_wrong(seen)]
            found["wrong"][str(version)] = max(errors, default=None)
        elif verdict is not None:
            found["right" if verdict == "right" else "no_result"].append(str(version))
    return found


def _is_wrong(seen: Seen) -> bool:
    return seen["status"] == "wrong" and seen["relative_error"] is not None


def _is_alike(one: Seen, other: Seen) -> bool:
    """Whether two records are of one test network, in the same settings."""
    return is_same_network(one, other) and all(_value(one, name) == _value(other, name) for name in ALIKE)


def _value(seen: Seen, name: str) -> Any:
    return ordered(seen[name]) if name in JSON and seen[name] else seen[name]


JUDGED = ("status", "operators", "target", "method_options", "torch")  # the fields that `warning` looks at


def warning(seen: Seen) -> str | None:
    """What is known against a result that looks right: the atlas has its method wrong under operators met here.

    What was seen with the record's release of torch (2.13 of `2.13.0+cpu`) counts before what was seen with others. If
    the method was right there with this release, nothing is known against it. If the release was not tried, or gave no
    result, the warning says so.
    """
    if seen["status"] != "ok" or not isinstance(seen["operators"], str) or not isinstance(seen["target"], str):
        return None
    module, words, met = seen["target"].rpartition(".")[0], _words(seen), _operators(seen)
    version = version_of(seen["torch"])
    untried = None
    for finding in _known():
        same = finding["target"].rpartition(".")[0] == module and finding["options"].items() <= words.items()
        if not same or not met.issuperset(finding["operators"]):
            continue
        tried = _of_release(version, [*finding["wrong"], *finding["right"], *finding["no_result"]])
        errors = [error for text, error in finding["wrong"].items() if text in tried]
        if errors:
            return _unsafe(finding, errors)
        if untried is None and not any(text in finding["right"] for text in tried):
            name = ".".join(map(str, release_of(version))) if version else "of unknown version"
            ending = f"torch {name} {'gave no result there' if tried else 'was not tried'}"
            untried = f"{_unsafe(finding, finding['wrong'].values())}; {ending}"
    return untried


def _of_release(version: Version | None, tried: Iterable[str]) -> list[str]:
    """Those of the versions tried that stand for this one: itself, or else all of its release.

    A pre-release stands for its release only where nothing else of it was tried.
    """
    release = [text for text in tried if version is not None and release_of(Version(text)) == release_of(version)]
    final = [text for text in release if not Version(text).is_prerelease]
    return [text for text in release if Version(text) == version] or final or release


def _unsafe(finding: Mapping[str, Any], errors: Collection[float | None]) -> str:
    known = [error for error in errors if error is not None]
    wrong = f"wrong by {100 * max(known):.2g} %" if known else "wrong or not finite"
    right = f" (right with {', '.join(finding['right'])})" if finding["right"] else ""
    return (
        f"unsafe: this method was {wrong} on {finding['case']} with torch {', '.join(finding['wrong'])}{right}; "
        f"this network has the same operators: {', '.join(finding['operators'])}"
    )


def _words(seen: Seen) -> dict[str, str | bool]:
    """The options that say what is computed, not how much of it at once: words, and what is switched on."""
    options = json.loads(seen["method_options"] or "{}")
    return {
        name: value for name, value in options.items() if value is True or (isinstance(value, str) and value != "auto")
    }


def _operators(seen: Seen) -> set[str]:
    return set(seen["operators"].split(", "))


@functools.cache
def _known() -> list[dict[str, Any]]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def main(paths: Sequence[str]) -> int:
    """Print the findings of an atlas as JSON; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.findings",
        description="Print what the records of +sweep=atlas show to be silently wrong, as JSON. Exit status 2 if that "
        "is nothing.",
    )
    parser.add_argument("records", metavar="RECORDS", nargs="+", help="run folders, or files of committed records")
    try:
        records = record.records(*parser.parse_args(paths).records)
    except record.RecordError as error:
        print(f"harness.findings: {error}", file=sys.stderr)
        return 2
    left_out = [reason for reason in map(_left_out, records) if reason]
    for reason, count in Counter(left_out).items():
        print(f"harness.findings: {count} of {len(records)} records are not read: {reason}", file=sys.stderr)
    found = learn(records)
    if not found:
        print("harness.findings: nothing is printed, since the records show no method to be wrong", file=sys.stderr)
        return 2
    print("[\n" + ",\n".join(json.dumps(finding) for finding in found) + "\n]")
    return 0


if __name__ == "__main__":
    program.run(lambda: main(sys.argv[1:]), failed=2)
