"""What is around the tests and must not decide how they end; imported before anything else."""

import os
import tempfile
from pathlib import Path

# Widths and colors of the terminal in which they happen to be started.
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)
os.environ["TERM"] = "xterm"


def is_home() -> bool:
    """Whether there is a home in which libraries can keep something."""
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:
        return False


if not is_home():
    _own = Path(tempfile.gettempdir()) / f"lightning-unlearn-tests-{os.getuid()}"
    for variable in ("HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"):
        (_own / variable).mkdir(parents=True, exist_ok=True)
        os.environ.setdefault(variable, str(_own / variable))
