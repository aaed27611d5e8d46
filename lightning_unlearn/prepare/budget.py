"""Tokens and money: what calls cost, and the limit that they never pass."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from lightning_unlearn.errors import InputError
from lightning_unlearn.prepare.requests import Request, Usage

PER = 1_000_000


class OverBudget(InputError):
    """The next call could cost more than what is left."""


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens.

    Attributes:
        prompt: of requests.
        answer: of answers.
    """

    prompt: float
    answer: float

    def of(self, usage: Usage) -> float:
        """Return what a call costs, in US dollars."""
        return (usage.prompt * self.prompt + usage.answer * self.answer) / PER


@dataclass(frozen=True)
class Spent:
    """Sums over calls.

    Attributes:
        calls: number of calls.
        prompt: tokens of requests.
        answer: tokens of answers.
        estimated: calls whose tokens the generator did not count; upper bounds are in the sums.
        cost: US dollars; None without prices.
    """

    calls: int = 0
    prompt: int = 0
    answer: int = 0
    estimated: int = 0
    cost: float | None = None

    def since(self, before: Spent) -> Spent:
        """Return the sums over the calls after those of `before`."""
        cost = None if self.cost is None else self.cost - (before.cost or 0.0)
        return Spent(
            self.calls - before.calls,
            self.prompt - before.prompt,
            self.answer - before.answer,
            self.estimated - before.estimated,
            cost,
        )


def worst(request: Request) -> Usage:
    """Return the most tokens that a request and its answer can have."""
    return Usage(request.most_prompt_tokens, request.sampling.max_tokens, reported=False)


class Budget:
    """Sums tokens and cost of calls, and refuses a call that could pass the limit.

    A call is reserved with the most that it can cost before it is made; the reservation is
    replaced by the real cost when the answer is there. So the limit holds for calls in parallel.

    Args:
        prices: of tokens; None to count tokens only.
        most: limit in US dollars; None for none.

    Raises:
        InputError: for a limit without prices.
    """

    def __init__(self, prices: Prices | None, most: float | None = None) -> None:
        if most is not None and prices is None:
            raise InputError(
                "--max-cost: found a limit without prices, expected --price-in and --price-out "
                "too, in US dollars for a million tokens."
            )
        self.prices = prices
        self.most = most
        self.prompt = 0
        self.answer = 0
        self.cost = 0.0
        self.calls = 0
        self.estimated = 0
        self._reserved = 0.0
        self._in_flight = 0
        self._changed = threading.Condition()

    def reserve(self, request: Request) -> float:
        """Reserve the most that a call can cost; return it for `settle`.

        Where calls in flight hold what is missing, wait until they are settled.

        Raises:
            OverBudget: if the limit could be passed with no call in flight.
        """
        amount = self.prices.of(worst(request)) if self.prices is not None else 0.0
        with self._changed:
            while self.most is not None and self.cost + self._reserved + amount > self.most:
                if not self._in_flight:
                    raise OverBudget(
                        f"--max-cost {self.most:g}: {self.cost:.4f} $ are spent and the next call "
                        f"can cost {amount:.4f} $. The answers so far are in the journal; raise "
                        "--max-cost and run the same command again to make only the missing calls."
                    )
                self._changed.wait()
            self._reserved += amount
            self._in_flight += 1
        return amount

    def settle(self, reserved: float, usage: Usage | None) -> None:
        """Replace a reservation by what the call used; None for a call that cost nothing."""
        with self._changed:
            # Sums of floats may leave a rest that would look like a call in flight.
            self._in_flight -= 1
            self._reserved = self._reserved - reserved if self._in_flight else 0.0
            if usage is not None:
                self._add(usage)
            self._changed.notify_all()

    def count(self, usage: Usage) -> None:
        """Count a call of an earlier run, read from the journal."""
        with self._changed:
            self._add(usage)

    def spent(self) -> Spent:
        """Return the sums over all calls so far."""
        with self._changed:
            cost = None if self.prices is None else self.cost
            return Spent(self.calls, self.prompt, self.answer, self.estimated, cost)

    def _add(self, usage: Usage) -> None:
        self.calls += 1
        self.prompt += usage.prompt
        self.answer += usage.answer
        self.estimated += not usage.reported
        if self.prices is not None:
            self.cost += self.prices.of(usage)
