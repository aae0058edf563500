"""`python -m harness.report RUN... [--out DIR]`."""

from harness import program
from harness.report.command import main

program.run(main, failed=2)
