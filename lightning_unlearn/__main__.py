"""Run the command line as ``python -m lightning_unlearn``."""

import sys

from lightning_unlearn.cli.main import main

sys.exit(main())
