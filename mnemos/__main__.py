"""`python -m mnemos` is the command `mnemos`."""

import sys

from mnemos.cli import main

sys.exit(main())
