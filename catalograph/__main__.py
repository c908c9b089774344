"""``python -m catalograph`` is the command ``catalograph``."""

import sys

from catalograph.cli import main

if __name__ == "__main__":
    sys.exit(main())
