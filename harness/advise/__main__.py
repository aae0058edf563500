"""`python -m harness.advise`."""

from harness import program
from harness.advise.command import main

program.run(main, failed=2)
