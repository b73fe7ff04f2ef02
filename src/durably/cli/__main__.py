"""``python -m durably.cli``, the same as ``durably``."""

import sys

from . import main

sys.exit(main())
