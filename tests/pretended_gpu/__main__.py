"""Prints the table of method rows on a pretended GPU, in a process of its own: `python -m tests.pretended_gpu`.

A row of the table is a row of conf/method. The table gives its cells (problem and quantity), how many equal those on
the CPU, how many are refused on both, and how often at most the CPU waits for the GPU in one call of each quantity.
`--quick` leaves out other libraries and the largest problem. Ends with 1 where a cell differs, or where waits are not
as `table.WAITS` states.
"""

import argparse
import sys
import warnings

from tests.pretended_gpu import gpu


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pretended_gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="without other libraries and the largest problem")
    arguments = parser.parse_args()
    gpu.begin()
    warnings.simplefilter("ignore")
    from tests.pretended_gpu import table

    return table.show(quick=arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
