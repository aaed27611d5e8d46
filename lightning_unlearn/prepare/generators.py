"""Who writes answers: an endpoint, a local model or a list, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lightning_unlearn.prepare.requests import Reply, Request


class Generator(Protocol):
    """Something that writes an answer to a chat.

    A generator may be called by several threads at once, at most `concurrency` of them.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its answers depend on: part of the key of every request. No secrets."""

    @property
    def concurrency(self) -> int:
        """How many calls may be in flight at once."""

    def generate(self, request: Request) -> Reply:
        """Write one answer.

        Raises:
            TransientError: the same call may succeed later.
            InputError: no call can succeed, such as with a wrong key or an unknown model.
        """


class TransientError(Exception):
    """A call failed that may succeed later.

    Attributes:
        reason: what happened, for people.
        wait: seconds that the server asks to wait; None if it does not say.
        may_cost: whether the server may have worked on it, as after a timeout.
    """

    def __init__(self, reason: str, wait: float | None = None, may_cost: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.may_cost = may_cost
