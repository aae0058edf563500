"""`python -m harness.advise`."""

import sys

from harness.advise.command import main

sys.exit(main())
