"""Print records as a baseline file, one a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from harness import program
from harness.record import RecordError, records


def main(paths: Sequence[str]) -> int:
    """Print the records of the paths, one a line, as a baseline file holds them, without tracebacks.

    All or, where something is no record, none: what was printed of the others would pass for a whole baseline.
    """
    try:
        found = records(*paths)
    except RecordError as error:
        print(f"harness.record: {error}", file=sys.stderr)
        return 2
    for record in found:
        print(json.dumps(record | {"traceback": None}))
    return 0


if __name__ == "__main__":
    program.run(lambda: main(sys.argv[1:]), failed=2)
