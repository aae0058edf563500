"""Prints the table of method rows on a pretended GPU, in a process of its own: `python -m tests.pretended_gpu`.

A row of the table is a row of conf/method. The table gives its cells (problem and quantity), how many equal those on
the CPU, how many are refused on both, and how often at most the CPU waits for the GPU in one call of each quantity.
`--own` leaves other libraries out. Ends with 1 where a cell differs, or where waits are not as `table.WAITS` states.
"""

import argparse
import sys

from tests.pretended_gpu import gpu


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pretended_gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--own", action="store_true", help="without the rows of other libraries")
    arguments = parser.parse_args()
    gpu.begin()
    from tests.pretended_gpu import table

    return table.show(own=arguments.own)


if __name__ == "__main__":
    sys.exit(main())
