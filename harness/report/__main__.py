"""`python -m harness.report RUN... [--out DIR]`."""

import sys

from harness.report.command import main

sys.exit(main())
