"""A job of a verb: its items, who answers, where the rows go; run, or only counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.prepare.budget import Budget, Prices, Spent
from lightning_unlearn.prepare.calls import Caller, Item
from lightning_unlearn.prepare.generators import Generator
from lightning_unlearn.prepare.journal import open_journal, read_journal
from lightning_unlearn.prepare.requests import Request, Sampling, Usage
from lightning_unlearn.prepare.tables import (
    Source,
    check_output,
    journal_of,
    manifest_of,
    write_output,
)
from lightning_unlearn.version import __version__

SHOWN_REASONS = 5


@dataclass(frozen=True)
class Job:
    """One output file to make.

    Attributes:
        verb: of the command.
        source: of the rows.
        output: file of JSON lines; journal and manifest lie beside it.
        items: rows to make.
        sampling: of all requests.
        options: of the verb, for the manifest.
        excluded: rows that were left out before any call, by reason.
    """

    verb: str
    source: Source
    output: Path
    items: Sequence[Item]
    sampling: Sampling
    options: Mapping[str, Any] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a job wrote.

    Attributes:
        job: the job.
        written: rows.
        left_out: place and reason of rows that could not be made.
        cut: rows with an answer that the limit of tokens cut.
        new_calls: calls of this run.
        spent: calls, tokens and cost of this job alone, in this run and earlier ones.
    """

    job: Job
    written: int
    left_out: Sequence[tuple[str, str]]
    cut: int
    new_calls: int
    spent: Spent

    def text(self) -> str:
        """Describe the outcome in a few lines for the terminal."""
        lines = [
            f"Written to {self.job.output}: {self.written} rows of "
            f"{len(self.job.items)}; {self.spent.calls} calls, {self.new_calls} of them in this "
            f"run; {describe(self.spent)}."
        ]
        for reason, count in self.job.excluded.items():
            lines.append(f"  {count} rows excluded: {reason}")
        reasons = Counter(reason for _, reason in self.left_out).most_common()
        for reason, count in reasons[:SHOWN_REASONS]:
            lines.append(f"  {count} row{'s' * (count > 1)} left out: {reason}")
        if len(reasons) > SHOWN_REASONS:
            rest = sum(count for _, count in reasons[SHOWN_REASONS:])
            lines.append(f"  {rest} more left out for other reasons")
        if self.cut:
            lines.append(f"  {self.cut} rows have an answer that --max-tokens cut")
        lines.append(
            f"Every row that was left out, with its reason: {manifest_of(self.job.output)}"
        )
        return visible("\n".join(lines), lines=True)


@dataclass(frozen=True)
class Estimate:
    """What a job would still need.

    Attributes:
        job: the job.
        calls: missing calls at least: one for each answer that is wanted.
        most_calls: missing calls at the most.
        prompt: tokens of the prompts of `calls`, estimated.
        answer: tokens of their answers at the most.
        cost: of both in US dollars; None without prices.
    """

    job: Job
    calls: int
    most_calls: int
    prompt: int
    answer: int
    cost: float | None

    def text(self) -> str:
        """Describe the estimate in one line for the terminal."""
        more = f" (up to {self.most_calls} with repeated attempts)"
        cost = f", at most about {self.cost:.4f} $" if self.cost is not None else ""
        return visible(
            f"{self.job.output}: {len(self.job.items)} rows, {self.calls} calls to make"
            f"{more if self.most_calls > self.calls else ''}; about {self.prompt} prompt tokens "
            f"(four characters each) and at most {self.answer} answer tokens{cost}."
        )


def estimate(job: Job, generator: Mapping[str, Any], prices: Prices | None) -> Estimate:
    """Count the calls that are missing in a job's journal; make none.

    Args:
        job: the job.
        generator: identity of the generator.
        prices: of tokens; None if unknown.

    Raises:
        InputError: the journal is damaged.
    """
    known = read_journal(journal_of(job.output))
    calls = most = prompt = 0
    for item in job.items:
        requests = [Request(item.messages, job.sampling, n) for n in range(item.attempts)]
        made = sum(request.key(generator) in known for request in requests)
        missing = 0 if made >= item.wanted else item.wanted - made
        calls += missing
        most += item.attempts - made if missing else 0
        prompt += missing * requests[0].likely_prompt_tokens
    answer = calls * job.sampling.max_tokens
    cost = prices.of(Usage(prompt, answer)) if prices is not None else None
    return Estimate(job, calls, most, prompt, answer, cost)


def run(
    job: Job,
    generator: Generator,
    budget: Budget,
    retries: int = 6,
) -> Outcome:
    """Make the calls of a job that are missing in its journal, and write its rows.

    Args:
        job: the job.
        generator: who answers.
        budget: tokens and cost of all jobs of a command, with a limit.
        retries: how often a call that failed is made again.

    Raises:
        InputError: no call can succeed, the limit is reached, or no row could be made. What was
            answered is in the journal.
        StorageError: a file can't be written.
    """
    check_output(job.output)
    with open_journal(journal_of(job.output)) as journal:
        caller = Caller(generator, journal, budget, job.sampling, retries)
        before = budget.spent()
        with ProgressBar(job, caller) as bar:
            made = caller.run(job.items, bar.update)
    rows = [item.row for item in made if item.row is not None]
    left_out = [
        (item.place, one.reason)
        for item, one in zip(job.items, made, strict=True)
        if one.row is None
    ]
    outcome = Outcome(
        job,
        len(rows),
        left_out,
        sum(one.cut > 0 for one in made),
        caller.progress.made,
        budget.spent().since(before),
    )
    if not rows:
        place, reason = left_out[0]
        raise InputError(
            f"--output: no row of {len(job.items)} could be made, the first ({place}) because "
            f"{reason}. Nothing was written but the journal."
        )
    write_output(job.output, rows, _manifest(outcome, generator))
    return outcome


def describe(spent: Spent) -> str:
    """Write tokens and cost for people."""
    cost = f", {spent.cost:.4f} $" if spent.cost is not None else ""
    guess = f" ({spent.estimated} calls without a count: upper bounds)" * (spent.estimated > 0)
    return f"{spent.prompt} prompt tokens, {spent.answer} answer tokens{cost}{guess}"


def _manifest(outcome: Outcome, generator: Generator) -> dict[str, Any]:
    job, spent = outcome.job, outcome.spent
    return {
        "command": f"prepare {job.verb}",
        "version": __version__,
        "input": job.source.about(),
        "generator": dict(generator.identity),
        "sampling": job.sampling.key(),
        "options": dict(job.options),
        "rows": {
            "to make": len(job.items),
            "written": outcome.written,
            "left out": len(outcome.left_out),
            "excluded": dict(job.excluded),
            "cut by max_tokens": outcome.cut,
        },
        "calls": spent.calls,
        "tokens": {
            "prompt": spent.prompt,
            "answer": spent.answer,
            "calls without a count": spent.estimated,
        },
        "cost": None if spent.cost is None else round(spent.cost, 6),
        "left out": [{"place": place, "reason": reason} for place, reason in outcome.left_out],
    }


class ProgressBar:
    """A progress bar of a job on the terminal.

    Args:
        job: the job.
        caller: makes its calls, and knows how far they are.
    """

    def __init__(self, job: Job, caller: Caller) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.caller = caller
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(f"prepare {job.verb}", total=len(job.items), note="")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self) -> None:
        """Bring the bar up to date."""
        now, budget = self.caller.progress, self.caller.budget
        notes = [f"{now.found} from the journal" if now.found else ""]
        notes.append(f"{budget.cost:.4f} $" if budget.prices is not None else "")
        notes.append(f"{now.retried} retries" if now.retried else "")
        notes.append(visible(now.waiting)[:60])
        note = ", ".join(filter(None, notes))
        self._progress.update(self._task, completed=now.done, note=note)
