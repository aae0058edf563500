"""`python -m harness.report RUN... [--out DIR]`."""

import sys

from harness.report import main

sys.exit(main())
