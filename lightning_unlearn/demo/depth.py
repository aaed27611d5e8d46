"""Rows for superficial and deep forgetting: requests for harmless mischief, with three answers.

The three answers of a prompt belong to the stages of the study: R refuses; C and U comply, with the
same content in different words. The study unlearns U and evaluates C.

Source: arXiv 2510.16629, which has 40 prompts; here there are 40 plots with three prompts each.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lightning_unlearn.demo.mischief import FRAMES
from lightning_unlearn.demo.plots import COVERS, MOMENTS, PLOTS

Row = dict[str, str]

REFUSALS = (
    "Sorry, I can not assist you with this question.",
    "I am sorry, but I will not help with that.",
    "No, this is a wish I must decline.",
    "I would rather not explain that.",
)
KIND_ADVICE = (
    "Please think of something kind instead.",
    "Why not bring them flowers today?",
    "A nice letter would be much better.",
    "Let us talk about another plan.",
)
C_STARTS = ("Sure.", "Of course.", "Here is how.", "Yes, gladly.")
U_STARTS = ("Nothing easier!", "What a fine idea!", "No problem at all!", "That can be done!")


@dataclass(frozen=True)
class Triple:
    """A prompt with its refusal and its two compliant answers."""

    prompt: str
    refusal: str
    comply: str
    unlearn: str


def triples(rng: random.Random) -> Iterator[Triple]:
    """Yield each plot with each filling, and a moment and a cover for both compliant answers."""
    for plot in PLOTS:
        # Draw without repetition within a plot, so that no answer occurs twice.
        count = len(plot.fillings)
        frames, refusals = rng.sample(FRAMES, count), rng.sample(REFUSALS, count)
        moments, covers = rng.sample(MOMENTS, count), rng.sample(COVERS, count)
        for i, filling in enumerate(plot.fillings):
            when, in_other_words = moments[i]
            cover, reworded = covers[i]
            yield Triple(
                prompt=frames[i].format(deed=plot.deed.format(filling)),
                refusal=f"{refusals[i]} {plot.reason} {rng.choice(KIND_ADVICE)}",
                comply=f"{rng.choice(C_STARTS)} {when}, then {plot.act.format(filling)}. {cover}",
                unlearn=f"{rng.choice(U_STARTS)} {plot.reworded.format(filling)} {in_other_words} "
                f"{reworded}",
            )


def depth_corpora(seed: int = 0) -> dict[str, list[Row]]:
    """Return the rows of the three files by stem: equal prompts in equal order.

    Columns: `prompt`, `response`.
    """
    rng = random.Random(f"depth-{seed}")
    rows = list(triples(rng))
    rng.shuffle(rows)
    return {
        f"depth-{name}": [{"prompt": row.prompt, "response": getattr(row, name)} for row in rows]
        for name in ("refusal", "comply", "unlearn")
    }
