"""What must not break the harness, tried: `python -m tests.reliability`.

Each module holds one kind of fault: kills, descendants, streams, disks, hostile methods, hostile records. Its `CASES`
are attempts by their names. An attempt is called with an empty folder, and raises AssertionError with what was seen
where the harness did not hold.
"""
