"""`python -m harness.advise`."""

import sys

from harness.advise import main

sys.exit(main())
