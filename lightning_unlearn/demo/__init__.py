"""The embedded demo: a tiny Llama checkpoint and four small stage corpora, all generated.

`scripts/make_demo.py` writes all files from fixed seeds, in the format of real models and data
sets. The files are in the package, so that a first run downloads nothing.
"""

from pathlib import Path

PREFIX = "demo:"


def resolve(name: str) -> Path:
    """Return the path inside the package of `demo:tiny-llama`, `demo:math.jsonl` or `demo:math`.

    Raises:
        ValueError: if the name does not start with `demo:`, or no file has this name.
    """
    here = Path(__file__).parent
    available = {path.name: path for path in sorted(here.glob("*.jsonl"))}
    available |= {path.parent.name: path.parent for path in sorted(here.glob("*/config.json"))}
    wanted = name.removeprefix(PREFIX)
    found = available.get(wanted) or available.get(f"{wanted}.jsonl")
    if found is None or not name.startswith(PREFIX):
        known = ", ".join(PREFIX + key.removesuffix(".jsonl") for key in available)
        raise ValueError(
            f"found {name!r}, which is not an embedded model or data set, expected one of {known}"
        )
    return found
