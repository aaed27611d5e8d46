"""The embedded default: a tiny Llama checkpoint and four small stage corpora, all generated.

Everything here is written by `scripts/make_demo.py` from fixed seeds, is in the layout that real
models and data sets have, and lies inside the package, so that a first run downloads nothing.
"""

from pathlib import Path

PREFIX = "demo:"


def resolve(name: str) -> Path:
    """Return the path inside the package of `demo:tiny-llama`, `demo:math.jsonl` or `demo:math`.

    Raises:
        ValueError: the name has no `demo:` in front, or nothing here is called so.
    """
    here = Path(__file__).parent
    available = {path.name: path for path in sorted(here.glob("*.jsonl"))}
    available |= {path.parent.name: path.parent for path in sorted(here.glob("*/config.json"))}
    wanted = name.removeprefix(PREFIX)
    found = available.get(wanted) or available.get(f"{wanted}.jsonl")
    if found is None or not name.startswith(PREFIX):
        known = ", ".join(PREFIX + key.removesuffix(".jsonl") for key in available)
        raise ValueError(f"no embedded model or data set is called {name!r}; there are: {known}")
    return found
