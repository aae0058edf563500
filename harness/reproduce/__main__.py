"""`python -m harness.reproduce`."""

from harness import program
from harness.reproduce.command import main

program.run(main, failed=2)
