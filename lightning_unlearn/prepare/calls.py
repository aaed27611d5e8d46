"""Make the calls that are missing in the journal: in parallel, with retries, within the budget."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.prepare.budget import Budget, worst
from lightning_unlearn.prepare.generators import Generator, TransientError
from lightning_unlearn.prepare.journal import Journal
from lightning_unlearn.prepare.requests import Reply, Request, Sampling

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0


class Rejected(Exception):
    """An answer that cannot be used; its text says why."""


@dataclass(frozen=True)
class Item:
    """A row to make, from one answer or several.

    Attributes:
        place: of the row it comes from, for messages: "row 3".
        messages: the chat to answer.
        accept: returns what is used of an answer, or raises `Rejected`.
        build: makes the row from the accepted answers.
        wanted: number of accepted answers.
        attempts: calls at the most.
    """

    place: str
    messages: Sequence[Mapping[str, str]]
    accept: Callable[[Reply], Any]
    build: Callable[[list[Any]], dict[str, Any]]
    wanted: int = 1
    attempts: int = 1


@dataclass(frozen=True)
class Made:
    """What became of an item.

    Attributes:
        row: the row; None if it is left out.
        reason: why it is left out.
        calls: calls that were made for it, in this run or an earlier one.
        cut: accepted answers that the limit of tokens cut.
    """

    row: dict[str, Any] | None
    reason: str = ""
    calls: int = 0
    cut: int = 0


@dataclass
class Progress:
    """Counts of a run of calls; other threads may read them at any time.

    Attributes:
        done: items that are finished.
        made: calls that this run made.
        found: calls that were in the journal.
        retried: calls that failed and were made again.
        waiting: the reason of the latest wait; "" if none.
    """

    done: int = 0
    made: int = 0
    found: int = 0
    retried: int = 0
    waiting: str = ""


@dataclass
class Caller:
    """Makes the calls of items.

    Attributes:
        generator: who answers.
        journal: of all calls so far.
        budget: of all calls so far and to come.
        sampling: of every request.
        retries: how often a call that failed is made again.
        progress: is kept up to date.
    """

    generator: Generator
    journal: Journal
    budget: Budget
    sampling: Sampling
    retries: int = 6
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._counted: set[str] = set()
        self._busy: dict[str, threading.Lock] = {}

    def run(
        self, items: Sequence[Item], on_progress: Callable[[], None] = lambda: None
    ) -> list[Made]:
        """Make all items; return what became of each, in their order.

        An interrupt or an error stops new calls. Calls in flight end first, and their answers are
        in the journal.

        Args:
            items: what to make.
            on_progress: called in this thread after each item.

        Raises:
            InputError: no call can succeed, or one failed as often as `retries` allows.
        """
        made: list[Made | None] = [None] * len(items)
        with ThreadPoolExecutor(self.generator.concurrency) as pool:
            numbers = iter(range(len(items)))
            running: dict[Future[Made], int] = {}
            try:
                while self._fill(pool, numbers, items, running):
                    done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        made[running.pop(future)] = future.result()
                        self.progress.done += 1
                    on_progress()
            except BaseException:
                self._stop.set()
                raise
        return [item for item in made if item is not None]

    def _fill(
        self,
        pool: ThreadPoolExecutor,
        numbers: Iterator[int],
        items: Sequence[Item],
        running: dict[Future[Made], int],
    ) -> bool:
        """Keep as many items in flight as may be; return whether there is any."""
        while len(running) < self.generator.concurrency:
            number = next(numbers, None)
            if number is None:
                break
            running[pool.submit(self._make, items[number])] = number
        return bool(running)

    def _make(self, item: Item) -> Made:
        accepted: list[Any] = []
        reason, cut = "", 0
        for attempt in range(item.attempts):
            reply = self._call(Request(item.messages, self.sampling, attempt))
            if reply.finish == "skip":
                return Made(None, reply.reason, attempt + 1)
            try:
                accepted.append(item.accept(reply))
                cut += reply.finish == "length"
            except Rejected as rejected:
                reason = str(rejected)
            if len(accepted) == item.wanted:
                return Made(item.build(accepted), "", attempt + 1, cut)
        few = f"{len(accepted)} of {item.wanted} answers were usable; " if item.wanted > 1 else ""
        tries = f" (after {item.attempts} attempts)" if item.attempts > 1 else ""
        return Made(None, f"{few}{reason}{tries}", item.attempts)

    def _call(self, request: Request) -> Reply:
        """Return the reply of the journal, or make the call; one at a time for one key."""
        key = request.key(self.generator.identity)
        with self._lock:
            own = self._busy.setdefault(key, threading.Lock())
        with own:
            known = self.journal.get(key)
            if known is not None:
                self._count(key, known)
                return known
            reply = self._try(request)
            with self._lock:
                self.journal.add(key, reply)
                self._counted.add(key)
                self.progress.made += 1
            return reply

    def _count(self, key: str, reply: Reply) -> None:
        """Count a call of the journal once."""
        with self._lock:
            if key in self._counted:
                return
            self._counted.add(key)
            self.progress.found += 1
        self.budget.count(reply.usage)

    def _try(self, request: Request) -> Reply:
        """Make a call, again after a wait where it may succeed later."""
        for attempt in range(self.retries + 1):
            if self._stop.is_set():
                raise InputError("stopped")
            reserved = self.budget.reserve(request)
            try:
                reply = self.generator.generate(request)
            except TransientError as error:
                self.budget.settle(reserved, worst(request) if error.may_cost else None)
                if attempt == self.retries:
                    raise InputError(
                        f"a call failed {attempt + 1} times, the last time with: {error.reason}. "
                        "The answers so far are in the journal; run the same command again to make "
                        "only the missing calls."
                    ) from error
                self._wait(error, attempt)
            except BaseException:
                self.budget.settle(reserved, None)
                raise
            else:
                self.budget.settle(reserved, reply.usage)
                return reply
        raise AssertionError("unreachable")

    def _wait(self, error: TransientError, attempt: int) -> None:
        """Wait as long as the server asks, or twice as long each time; with jitter."""
        longest = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
        # Jitter: calls that failed together do not come back together.
        seconds = random.uniform(longest / 2, longest)
        if error.wait is not None:
            seconds = error.wait + random.uniform(0.0, 0.1 * error.wait + 0.1)
        with self._lock:
            self.progress.retried += 1
            self.progress.waiting = f"waiting {seconds:.0f} s: {error.reason}"
        if self._pause(seconds):
            raise InputError("stopped")

    def _pause(self, seconds: float) -> bool:
        """Wait for seconds; return whether the run was stopped meanwhile."""
        return self._stop.wait(seconds)
