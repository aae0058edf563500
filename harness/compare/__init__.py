"""A verdict on each cell of a candidate beside a baseline, from their records. `python -m harness.compare -h`."""
