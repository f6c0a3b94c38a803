"""`python -m mplug_owl` is the command `owl`; it knows nothing else."""

import sys

from mplug_owl.cli import main

if __name__ == "__main__":
    sys.exit(main())
