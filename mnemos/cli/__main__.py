"""`python -m mnemos.cli` is `mnemos`."""

import sys

from mnemos.cli import main

sys.exit(main())
