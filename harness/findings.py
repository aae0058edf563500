"""What the atlas found: methods that are silently wrong, and the operators under which they are.

`python -m harness.findings results/baselines/atlas.jsonl > harness/findings.json` learns them from the records of
`+sweep=atlas`; every table warns where a result was computed under such operators.
"""

from __future__ import annotations

import functools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import program, record

FILE = Path(__file__).parent / "findings.json"


def learn(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The findings in the records of an atlas, one for each method, version of torch and set of operators.

    On a test network where a method is wrong, the suspects are the operators of no network where it is right; where
    there are none, all operators of the network together. A finding holds the network with the fewest operators and
    its error.
    """
    cases: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for seen in records:
        judged = seen["status"] == "ok" or (seen["status"] == "wrong" and seen["relative_error"] is not None)
        if judged and seen["operators"] and seen["target"]:
            cases[seen["target"], json.dumps(_told(seen), sort_keys=True), seen["torch"]].append(seen)
    findings = []
    for (target, options, torch), group in sorted(cases.items()):
        safe = {name for seen in group if seen["status"] == "ok" for name in _operators(seen)}
        found: dict[frozenset[str], dict[str, Any]] = {}
        for seen in sorted(group, key=lambda seen: (len(_operators(seen)), seen["problem"])):
            if seen["status"] != "wrong":
                continue
            suspected = frozenset(_operators(seen) - safe or _operators(seen))
            if not any(known <= suspected for known in found):
                found[suspected] = {
                    "target": target,
                    "options": json.loads(options),
                    "operators": sorted(suspected),
                    "case": seen["problem"],
                    "relative_error": seen["relative_error"],
                    "torch": torch,
                }
        findings += found.values()
    return findings


def warning(seen: Mapping[Any, Any]) -> str | None:
    """What is known against a result that looks right: the atlas has its method wrong under operators met here.

    Of a record's release of torch (2.13 of `2.13.0+cpu`), the findings with that release count. Where the atlas has
    none, all findings count, and the warning says that the release was not tried.
    """
    if seen["status"] != "ok" or not isinstance(seen["operators"], str) or not isinstance(seen["target"], str):
        return None
    module, told, met = seen["target"].rpartition(".")[0], _told(seen), _operators(seen)
    release = _release(seen["torch"])
    tried = [finding for finding in _known() if _release(finding["torch"]) == release]
    untried = "" if tried else f"; torch {release or 'of unknown version'} was not tried"
    for finding in tried or _known():
        same = finding["target"].rpartition(".")[0] == module and finding["options"].items() <= told.items()
        if same and met.issuperset(finding["operators"]):
            return (
                f"unsafe: this method was wrong by {100 * finding['relative_error']:.2g} % on {finding['case']} "
                f"(torch {finding['torch']}), whose {', '.join(finding['operators'])} this network has too{untried}"
            )
    return None


def _release(version: str | None) -> str | None:
    """`2.13` of `2.13.0+cpu`."""
    return ".".join(version.partition("+")[0].split(".")[:2]) if isinstance(version, str) else None


def _told(seen: Mapping[Any, Any]) -> dict[str, str | bool]:
    """The options that say what is computed, not how much of it at once: words, and what is switched on."""
    options = json.loads(seen["method_options"] or "{}")
    return {
        name: value for name, value in options.items() if value is True or (isinstance(value, str) and value != "auto")
    }


def _operators(seen: Mapping[Any, Any]) -> set[str]:
    return set(seen["operators"].split(", "))


@functools.cache
def _known() -> list[dict[str, Any]]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def main(paths: Sequence[str]) -> int:
    """Print the findings of an atlas as JSON; the exit status."""
    try:
        found = learn(record.records(*paths))
    except record.RecordError as error:
        print(f"harness.findings: {error}", file=sys.stderr)
        return 2
    print("[\n" + ",\n".join(json.dumps(finding) for finding in found) + "\n]")
    return 0


if __name__ == "__main__":
    program.run(lambda: main(sys.argv[1:]), failed=2)
