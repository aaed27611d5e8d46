"""What a generator is asked, and what it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Sampling:
    """How a generator chooses its words.

    Attributes:
        temperature: 0 for the most likely token each time.
        max_tokens: of the answer.
        extra: further fields of the request, as the endpoint names them.
    """

    temperature: float = 0.0
    max_tokens: int = 150
    extra: Mapping[str, Any] = field(default_factory=dict)

    def key(self) -> dict[str, Any]:
        """Return the values that a request's key contains."""
        return {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            **({"extra": dict(self.extra)} if self.extra else {}),
        }


@dataclass(frozen=True)
class Request:
    """One call of a generator.

    Attributes:
        messages: the chat, each with "role" and "content"; the last one is the user's.
        sampling: how the answer is chosen.
        attempt: number of the call among those with the same messages, from 0.
    """

    messages: Sequence[Mapping[str, str]]
    sampling: Sampling
    attempt: int = 0

    def key(self, generator: Mapping[str, Any]) -> str:
        """Return the SHA-256 of everything that the answer depends on.

        Args:
            generator: identity of the generator, `Generator.identity`.
        """
        content = {
            "generator": dict(generator),
            "messages": [dict(message) for message in self.messages],
            "sampling": self.sampling.key(),
            "attempt": self.attempt,
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @property
    def most_prompt_tokens(self) -> int:
        """Upper bound of the prompt's tokens: a token has at least one byte.

        Sixteen more for each message and for the whole are more than any chat template writes.
        """
        written = sum(len(message["content"].encode("utf-8")) for message in self.messages)
        return written + 16 * (len(self.messages) + 1)

    @property
    def likely_prompt_tokens(self) -> int:
        """Estimate of the prompt's tokens: four characters each, four tokens for each message."""
        written = sum(len(message["content"]) for message in self.messages)
        return -(-written // 4) + 4 * len(self.messages)


@dataclass(frozen=True)
class Usage:
    """Tokens of one call.

    Attributes:
        prompt: of the request.
        answer: of what was written, hidden reasoning included.
        reported: whether the generator counted them; False for our upper bound.
    """

    prompt: int
    answer: int
    reported: bool = True


@dataclass(frozen=True)
class Reply:
    """The end of one call.

    Attributes:
        text: what was written; "" if the row is skipped.
        usage: tokens of the call.
        finish: "stop", "length" if `max_tokens` cut the text, or "skip".
        reason: why there is no text, for a skipped row.
    """

    text: str
    usage: Usage
    finish: Literal["stop", "length", "skip"] = "stop"
    reason: str = ""
