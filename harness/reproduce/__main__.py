"""`python -m harness.reproduce`."""

import sys

from harness.reproduce.command import main

sys.exit(main())
