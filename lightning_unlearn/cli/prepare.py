"""``lightning-unlearn prepare``: data sets for stages, converted or written by a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.cli.prepare_convert import add_convert, run_convert
from lightning_unlearn.cli.prepare_options import (
    Parser,
    add_source,
    count,
    number,
    positive,
    whole,
)
from lightning_unlearn.errors import InputError

if TYPE_CHECKING:
    from lightning_unlearn.prepare.budget import Budget, Prices
    from lightning_unlearn.prepare.calls import Item
    from lightning_unlearn.prepare.generators import Generator
    from lightning_unlearn.prepare.jobs import Job
    from lightning_unlearn.prepare.requests import Sampling
    from lightning_unlearn.prepare.tables import Source

DOLLARS = "US dollars for a million tokens"


def prepare(arguments: list[str]) -> int:
    """Run a verb of the prepare command.

    Args:
        arguments: the verb and its options.

    Returns:
        0.

    Raises:
        InputError: for options, rows or a generator that can't be used.
        StorageError: if a file can't be written.
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:  # after --help
        return 0
    if options.verb != "convert" and getattr(options, "list", None) is None:
        _check_generator(options)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="lightning-unlearn prepare", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (about, add, run) in _verbs().items():
        verb = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        add(verb)
        verb.set_defaults(run=run)
    return parser


_Verb = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]


def _verbs() -> dict[str, _Verb]:
    """What each verb does, its options and its function."""
    right = "Write answers to mathematics questions; keep those with the right number."
    other = "Write other answers to every prompt, by a model or from a list."
    any_rows = "Write rows of any shape as JSON lines of one shape; no model is needed."
    return {
        "convert": (any_rows, add_convert, run_convert),
        "refusals": (
            "Write a refusal to every prompt: one label, then a reason.",
            _add_refusals,
            _refusals,
        ),
        "solutions": (right, _add_solutions, _solutions),
        "paraphrases": ("Write every answer in other words.", _add_paraphrases, _paraphrases),
        "alternates": (other, _add_alternates, _alternates),
        "paper": ("Make the four stages of arXiv 2510.16629.", _add_paper, _paper),
    }


def _add_columns(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group(title)
    group.add_argument("--prompt", default="question", metavar="COLUMN", help="question")
    group.add_argument("--answer", default="answer", metavar="COLUMN", help="answer")
    return group


def _add_generator(parser: argparse.ArgumentParser, sampled: bool = True) -> None:
    add = parser.add_argument_group("generator").add_argument
    add("--endpoint", metavar="URL", help="server with /chat/completions; the part up to /v1")
    add("--model", default="", metavar="NAME", help="model at the endpoint")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the key")
    add("--local-model", metavar="NAME", help="Hugging Face model on this machine instead")
    if sampled:
        add("--temperature", type=number, metavar="T")
        add("--max-tokens", type=count, metavar="N", help="of an answer")
    add("--extra", action="append", default=[], metavar="KEY=JSON", help="field of each request")
    add("--token-limit-name", default="max_tokens", help="what the endpoint calls --max-tokens",
        choices=("max_tokens", "max_completion_tokens"))  # fmt: skip
    add("--concurrency", type=count, default=8, metavar="N", help="calls at once; 8")
    add("--timeout", type=positive, default=120.0, metavar="S", help="seconds of a call; 120")
    add("--retries", type=whole, default=6, metavar="N", help="of a call that failed; 6")
    add = parser.add_argument_group("limits").add_argument
    add("--dry-run", action="store_true", help="count the missing calls and tokens, and stop")
    add("--price-in", type=number, metavar="P", help=f"of prompts, {DOLLARS}")
    add("--price-out", type=number, metavar="P", help=f"of answers, {DOLLARS}")
    add("--max-cost", type=positive, metavar="P", help="US dollars that are never passed")


def _add_refusals(parser: argparse.ArgumentParser) -> None:
    from lightning_unlearn.prepare.refusals import EXCLUDED, LABEL

    add_source(parser)
    add = parser.add_argument_group("refusals").add_argument
    add("--prompt", default="turns", metavar="COLUMN", help="of the prompts; turns")
    add("--exclude-styles", default=",".join(EXCLUDED), metavar="A,B",
        help=f"values of prompt_style that are left out; {','.join(EXCLUDED)}")  # fmt: skip
    add("--label", default=LABEL, metavar="TEXT", help=f"first sentence of a refusal; {LABEL}")
    add("--attempts", type=count, default=3, metavar="N", help="for a prompt; 3")
    _add_generator(parser)


def _add_solutions(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    group = _add_columns(parser, "solutions")
    group.add_argument("--attempts", type=count, default=5, metavar="N", help="for a question; 5")
    _add_generator(parser)


def _add_paraphrases(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add = _add_columns(parser, "paraphrases").add_argument
    add("--column", default="paraphrased_answer", metavar="NAME", help="paraphrased_answer")
    add("--attempts", type=count, default=3, metavar="N", help="for a row; 3")
    _add_generator(parser)


def _add_alternates(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add = _add_columns(parser, "alternates").add_argument
    add("--column", default="alternates", metavar="NAME", help="alternates")
    add("--count", type=count, default=5, metavar="N", help="for a row; 5")
    add("--list", metavar="FILE", help="choose from these texts, one a line; no generator")
    add("--seed", type=whole, default=0, metavar="N", help="of the choice from --list; 0")
    _add_generator(parser)


def _add_paper(parser: argparse.ArgumentParser) -> None:
    from lightning_unlearn.prepare.paper import PLACES

    add = parser.add_argument_group("rows").add_argument
    for name, place in PLACES.items():
        add(
            f"--{name}",
            metavar="SOURCE",
            default=place.source,
            help=f"{place.about}; {place.source}",
        )
    add("--output", type=Path, default=Path("data/paper"), metavar="FOLDER", help="data/paper")
    add("--limit", type=count, metavar="N", help="only the first N rows of each")
    _add_generator(parser, sampled=False)


def _refusals(options: argparse.Namespace) -> int:
    from lightning_unlearn.prepare.refusals import SAMPLING, refusal_items

    source = _source(options)
    styles = [style for style in options.exclude_styles.split(",") if style]
    items, excluded = refusal_items(source, options.prompt, styles, options.label, options.attempts)
    return _run(options, [_job(options, source, items, SAMPLING, excluded)])


def _solutions(options: argparse.Namespace) -> int:
    from lightning_unlearn.prepare.solutions import SAMPLING, solution_items

    source = _source(options)
    items = solution_items(source, options.prompt, options.answer, options.attempts)
    return _run(options, [_job(options, source, items, SAMPLING)])


def _paraphrases(options: argparse.Namespace) -> int:
    from lightning_unlearn.prepare.rewordings import PARAPHRASE_SAMPLING, paraphrase_items

    source = _source(options)
    items = paraphrase_items(
        source, options.prompt, options.answer, options.column, options.attempts
    )
    return _run(options, [_job(options, source, items, PARAPHRASE_SAMPLING)])


def _alternates(options: argparse.Namespace) -> int:
    from lightning_unlearn.prepare.rewordings import (
        ALTERNATE_SAMPLING,
        alternate_items,
        listed_alternates,
    )

    source = _source(options)
    columns = options.prompt, options.answer, options.column, options.count
    if options.list is None:
        items = alternate_items(source, *columns)
        return _run(options, [_job(options, source, items, ALTERNATE_SAMPLING)])
    if options.endpoint or options.local_model:
        raise InputError("--list: found it beside a generator, expected one of them.")
    from lightning_unlearn.prepare.tables import check_output, read_lines, write_listed

    check_output(options.output)
    texts = read_lines(options.list, "--list")
    rows = listed_alternates(source, texts, *columns, options.seed)
    write_listed(options.output, source, rows, {"list": options.list, "seed": options.seed})
    print(f"Written to {options.output}: {len(rows)} rows.")
    return 0


def _paper(options: argparse.Namespace) -> int:
    from lightning_unlearn.prepare.paper import PLACES, converted, paper_jobs, write_converted

    sources = {name: getattr(options, name.replace("-", "_")) for name in PLACES}
    jobs = paper_jobs(sources, options.output, options.limit)
    # Read before the first call, so that all sources are checked.
    unchanged = converted(sources, options.limit)
    jobs = [replace(job, sampling=_sampling(options, job.sampling)) for job in jobs]
    code = _run(options, jobs)
    if not options.dry_run:
        for line in write_converted(unchanged, sources, options.output, options.limit):
            print(line)
        print("Train on them with --config configs/paper.yaml and a file of configs/models.")
    return code


def _source(options: argparse.Namespace) -> Source:
    from lightning_unlearn.prepare.tables import Source, check_output

    check_output(options.output)
    return Source(options.input, split=options.split, subset=options.subset, limit=options.limit)


def _job(
    options: argparse.Namespace,
    source: Source,
    items: Sequence[Item],
    sampling: Sampling,
    excluded: Mapping[str, int] | None = None,
) -> Job:
    from lightning_unlearn.prepare.jobs import Job

    named = ("prompt", "answer", "column", "count", "attempts", "label", "exclude_styles")
    used = {name: getattr(options, name) for name in named if hasattr(options, name)}
    sampling = _sampling(options, sampling)
    return Job(options.verb, source, options.output, items, sampling, used, excluded or {})


def _sampling(options: argparse.Namespace, default: Sampling) -> Sampling:
    """The sampling of a verb with what the options change."""
    extra = {}
    for text in options.extra:
        key, equals, value = text.partition("=")
        try:
            extra[key] = json.loads(value)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise InputError(
                f"--extra: found {text!r}, expected KEY=JSON such as reasoning_effort='\"low\"'"
            )
        if key in ("model", "messages", "temperature", "max_tokens", "stream", "n"):
            raise InputError(f"--extra: found the field {key}, expected one that has no option.")
    changes: dict[str, Any] = {"extra": extra}
    if getattr(options, "temperature", None) is not None:
        changes["temperature"] = options.temperature
    if getattr(options, "max_tokens", None) is not None:
        changes["max_tokens"] = options.max_tokens
    return replace(default, **changes)


def _run(options: argparse.Namespace, jobs: Sequence[Job]) -> int:
    from lightning_unlearn.prepare.jobs import estimate, run

    prices = _prices(options)
    budget = _budget(options, prices)
    generator = _generator(options)
    if options.dry_run:
        for job in jobs:
            print(estimate(job, generator.identity, prices).text())
        return 0
    for job in jobs:
        print(run(job, generator, budget, options.retries).text())
    return 0


def _check_generator(options: argparse.Namespace) -> None:
    """Refuse wrong options of the generator before rows are read, perhaps from the hub."""
    if (options.endpoint is None) == (options.local_model is None):
        found = "neither" if options.endpoint is None else "both"
        raise InputError(
            f"prepare {options.verb}: found {found} of --endpoint and --local-model, expected one, "
            "such as --endpoint http://localhost:8000/v1 --model NAME."
        )
    _budget(options, _prices(options))


def _generator(options: argparse.Namespace) -> Generator:
    if options.local_model is not None:
        from lightning_unlearn.prepare.local_model import LocalModel

        return LocalModel(options.local_model)
    from lightning_unlearn.prepare.endpoint import Endpoint

    return Endpoint(
        options.endpoint,
        options.model,
        options.api_key_env,
        options.concurrency,
        options.timeout,
        options.token_limit_name,
    )


def _prices(options: argparse.Namespace) -> Prices | None:
    from lightning_unlearn.prepare.budget import Prices

    if (options.price_in is None) != (options.price_out is None):
        missing = "--price-out" if options.price_out is None else "--price-in"
        raise InputError(f"{missing}: found none, expected both prices or neither.")
    return None if options.price_in is None else Prices(options.price_in, options.price_out)


def _budget(options: argparse.Namespace, prices: Prices | None) -> Budget:
    from lightning_unlearn.prepare.budget import Budget

    return Budget(prices, options.max_cost)
