"""The command `mnemos`, as installed: settles how threads wait, then hands over to `mnemos.cli`.

The threads of a matrix product spin while they wait for each other, by default for so long that on a machine whose
cores have other work too each wait can last a whole time slice: beside one busy process, training on 2 cores ran at a
fortieth of its speed. Spinning for 2,000 rounds and then sleeping keeps most of the speed in both cases (docs/log.md).
That has to be said before PyTorch is loaded, hence this file, which is imported before the package.
"""

import os
import sys


def main() -> int:
    """Run `mnemos.cli.main` with threads that soon sleep while they wait, unless the environment says otherwise."""
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    from mnemos.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
