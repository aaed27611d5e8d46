"""``python -m lightning_unlearn``."""

import sys

from lightning_unlearn.cli import main

sys.exit(main())
