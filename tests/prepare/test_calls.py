"""Calls of an endpoint that misbehaves: retried, ended, skipped, resumed, limited."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer
from prepare_desk import LABEL, Desk, refuses

from lightning_unlearn.prepare import calls

TRANSIENT = {
    "429": Answer(status=429, error={"message": "slow down"}),
    "429 with a time": Answer(status=429, error={"message": "x"}, headers={"Retry-After": "0.01"}),
    "500": Answer(status=500, error={"message": "oops"}),
    "503 without JSON": Answer(status=503, raw=b"<html>busy</html>"),
    "hang up": Answer(hang_up=True),
    "no JSON": Answer(raw=b"{broken"),
    "no choices": Answer(choices=False),
    "timeout": Answer(delay=0.6),
}


@pytest.mark.parametrize("first", TRANSIENT.values(), ids=TRANSIENT)
def test_a_call_that_may_succeed_later_is_made_again(desk: Desk, first: Answer) -> None:
    desk.answers(lambda number, request: first if number < 2 else refuses(number, request))
    done = desk.run("refusals", "--timeout", "0.3", "--concurrency", "1")
    assert done.code == 0, done.err
    assert [row["prompt"] for row in desk.rows()] == [f"prompt {n}" for n in range(6)]
    assert len(desk.server.requests) == 8


def test_waits_follow_the_server_or_double(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_WAIT", 1.0)
    waits: list[float] = []

    def sleep(caller: Any, seconds: float) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(calls.Caller, "_pause", sleep)
    asked = Answer(status=429, error={"message": "x"}, headers={"Retry-After": "120"})
    plain = Answer(status=503, error={"message": "x"})
    desk.answers(
        lambda number, request: (
            [asked, plain, plain, plain][number] if number < 4 else refuses(number, request)
        )
    )
    assert desk.run("refusals", "--concurrency", "1").code == 0
    assert 120 <= waits[0] <= 132.2
    for number, wait in enumerate(waits[1:], start=1):
        assert 2**number / 2 <= wait <= 2**number


def test_a_server_that_stays_down_ends_the_run_and_loses_nothing(desk: Desk) -> None:
    desk.answers(
        lambda number, request: (
            refuses(number, request)
            if number < 3
            else Answer(status=500, error={"message": "oops"})
        )
    )
    done = desk.run("refusals", "--concurrency", "1", "--retries", "2")
    assert done.code == 2
    assert "a call failed 3 times, the last time with: 500 oops." in done.err
    assert not Path("out.jsonl").exists()
    desk.answers(refuses)
    before = len(desk.server.requests)
    assert desk.run("refusals").code == 0
    assert len(desk.server.requests) - before == 3
    assert len(desk.rows()) == 6


@pytest.mark.parametrize("status", [401, 403, 404, 400, 422])
def test_what_no_call_can_mend_ends_the_run_at_once(desk: Desk, status: int) -> None:
    error = {"message": "not for you", "code": "nope"}
    desk.answers(lambda number, request: Answer(status=status, error=error))
    done = desk.run("refusals", "--concurrency", "1")
    assert done.code == 2 and len(desk.server.requests) == 1
    assert f"found the answer {status} (not for you), expected a completion" in done.err
    assert not Path("out.jsonl").exists()


FILTERED = {
    "status": Answer(status=400, error={"message": "bad words", "code": "content_filter"}),
    "finish": Answer("half an ans", finish="content_filter"),
    "empty": Answer(None),
    "too long": Answer(status=400, error={"message": "x", "code": "context_length_exceeded"}),
}


@pytest.mark.parametrize("answer", FILTERED.values(), ids=FILTERED)
def test_a_filtered_row_is_left_out_with_its_reason(desk: Desk, answer: Answer) -> None:
    def answers(number: int, request: dict[str, Any]) -> Answer:
        asked = request["messages"][-1]["content"]
        return answer if asked == "prompt 2" else refuses(number, request)

    desk.answers(answers)
    done = desk.run("refusals")
    assert done.code == 0
    assert [row["prompt"][-1] for row in desk.rows()] == ["0", "1", "3", "4", "5"]
    left = desk.manifest()["left out"]
    assert [row["place"] for row in left] == ["row 3, line 3"] and left[0]["reason"]
    assert "1 row left out: " in done.out
    # It is in the journal: the call is not made again.
    before = len(desk.server.requests)
    assert desk.run("refusals").code == 0 and len(desk.server.requests) == before


def test_calls_are_made_at_once_and_rows_keep_their_order(desk: Desk) -> None:
    def answers(number: int, request: dict[str, Any]) -> Answer:
        last = int(request["messages"][-1]["content"][-1])
        return Answer(f"{LABEL} Reason {last}.", delay=0.05 * (6 - last))

    desk.answers(answers)
    assert desk.run("refusals", "--concurrency", "3").code == 0
    assert 2 <= desk.server.most_at_once <= 3
    assert [row["response"][-2] for row in desk.rows()] == list("012345")


def test_the_same_command_makes_no_call_twice(desk: Desk) -> None:
    desk.write([{"turns": ["same"], "prompt_style": "base"}] * 3)
    assert desk.run("refusals").code == 0
    first = Path("out.jsonl").read_bytes(), Path("out.jsonl.manifest.json").read_bytes()
    assert len(desk.server.requests) == 1 and len(desk.rows()) == 3
    assert desk.run("refusals").code == 0
    assert len(desk.server.requests) == 1
    assert first == (Path("out.jsonl").read_bytes(), Path("out.jsonl.manifest.json").read_bytes())
    # Another temperature is another call.
    assert desk.run("refusals", "--temperature", "1").code == 0
    assert len(desk.server.requests) == 2


def test_after_a_kill_only_the_missing_calls_are_made(desk: Desk) -> None:
    desk.answers(lambda number, request: Answer(f"{LABEL} No.", delay=0.1))
    command = [sys.executable, "-m", "lightning_unlearn", "prepare", "refusals"]
    command += ["--input", "rows.jsonl", "--output", "out.jsonl", "--concurrency", "1"]
    command += ["--endpoint", desk.server.url, "--model", "tiny"]
    journal = Path("out.jsonl.journal.jsonl")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not Path("out.jsonl").exists()
    # A line that the kill cut.
    with journal.open("ab") as stream:
        stream.write(b'{"key": "half')
    known = journal.read_bytes().count(b"\n")
    before = len(desk.server.requests)
    assert desk.run("refusals").code == 0
    assert len(desk.server.requests) - before == 6 - known
    assert len(desk.rows()) == 6
    assert len(journal.read_bytes().splitlines()) == 6


def test_a_damaged_journal_is_refused_with_its_line(desk: Desk) -> None:
    assert desk.run("refusals").code == 0
    journal = Path("out.jsonl.journal.jsonl")
    data = journal.read_bytes()
    journal.write_bytes(data.replace(b"harm", b"help", 1))
    done = desk.run("refusals")
    assert done.code == 2 and "out.jsonl.journal.jsonl, line 1: found a damaged line" in done.err


def test_the_limit_of_cost_is_never_passed(desk: Desk) -> None:
    price = ("--price-in", "1000", "--price-out", "1000")
    estimate = desk.run("refusals", *price, "--dry-run")
    assert estimate.code == 0 and "6 calls to make" in estimate.out and " $." in estimate.out
    assert not desk.server.requests and not list(Path().glob("out*"))
    # The most that one call can cost: bytes of the messages and 150 tokens, at 1000 $ a million.
    done = desk.run("refusals", *price, "--max-cost", "0.7", "--concurrency", "4")
    assert done.code == 2 and "--max-cost 0.7: " in done.err and "$ are spent" in done.err
    made = len(desk.server.requests)
    assert 0 < made < 6
    spent = sum(
        sum(len(m["content"].split()) for m in request["messages"]) + 12
        for request in desk.server.requests
    )
    assert spent / 1000 <= 0.7
    assert desk.run("refusals", *price, "--max-cost", "9").code == 0
    assert len(desk.server.requests) == 6
    assert desk.manifest()["cost"] == pytest.approx(
        sum(desk.manifest()["tokens"][kind] for kind in ("prompt", "answer")) / 1000
    )


def test_calls_without_a_count_cost_their_most(desk: Desk) -> None:
    desk.answers(lambda number, request: Answer(f"{LABEL} No.", usage=False))
    done = desk.run("refusals", "--price-in", "1", "--price-out", "1")
    assert done.code == 0 and "6 calls without a count: upper bounds" in done.out
    assert desk.manifest()["tokens"]["answer"] == 6 * 150


def test_the_key_is_sent_and_written_nowhere(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    done = desk.run("refusals", "--api-key-env", "MY_KEY")
    assert done.code == 0 and set(desk.server.keys) == {"Bearer sk-very-secret"}
    written = b"".join(path.read_bytes() for path in Path().iterdir() if path.is_file())
    assert b"very-secret" not in written + (done.out + done.err).encode()


def test_two_processes_do_not_share_a_journal(desk: Desk) -> None:
    from lightning_unlearn.prepare.journal import open_journal

    with open_journal(Path("out.jsonl.journal.jsonl")):
        done = desk.run("refusals")
    assert done.code == 2 and "found it in use by another process" in done.err


WRONG: dict[str, tuple[list[str], str]] = {
    "limit without prices": (["--max-cost", "1"], "--max-cost: found a limit without prices"),
    "one price": (["--price-in", "1"], "--price-out: found none, expected both prices"),
    "no variable": (["--api-key-env", "NOT_THERE"], "--api-key-env NOT_THERE: found no such"),
    "negative": (["--retries", "-1"], "found -1, expected a whole number of 0 or more"),
    "nan": (["--temperature", "nan"], "found nan, expected a number of 0 or more"),
    "no number": (["--timeout", "soon"], "argument --timeout: invalid"),
    "extra": (["--extra", "a"], "--extra: found 'a', expected KEY=JSON"),
    "extra of ours": (["--extra", "model=1"], "--extra: found the field model"),
    "both": (["--local-model", "demo:tiny-llama"], "found both of --endpoint and --local-model"),
    "option": (["--colour", "1"], "unrecognized arguments: --colour 1"),
    "no output": (["--output", "out.txt"], "--output: found out.txt, expected a name that ends in"),
    "no input": (["--input", "none.jsonl"], "--input: none.jsonl: found no such file"),
    "column": (["--prompt", "ask"], "found the columns 'turns', 'prompt_style', expected 'ask'"),
    "all styles": (["--exclude-styles", "base"], "found only prompts of the styles base"),
}


@pytest.mark.parametrize(("arguments", "expected"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_sentence_before_any_call(
    desk: Desk, arguments: list[str], expected: str
) -> None:
    done = desk.run("refusals", *arguments)
    assert done.code == 2 and expected in done.err, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not desk.server.requests and not list(Path().glob("out*"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8000", "expected an address such as http://localhost:8000/v1"),
        ("http://me:pass@localhost/v1", "found a user name, password or query in the address"),
        ("http://127.0.0.1:9/v1", "a call failed 1 times, the last time with: no connection"),
    ],
)
def test_wrong_addresses(desk: Desk, url: str, expected: str) -> None:
    options = ("--endpoint", url, "--model", "m", "--retries", "0")
    done = desk.run("refusals", *options, endpoint=False)
    assert done.code == 2 and expected in done.err
    assert "pass@" not in done.err


def test_no_file_of_others_is_overwritten(desk: Desk) -> None:
    Path("out.jsonl").write_text("mine\n")
    done = desk.run("refusals")
    assert done.code == 2 and "which this command did not write" in done.err
    assert Path("out.jsonl").read_text() == "mine\n"


def test_extra_fields_and_the_name_of_the_limit_reach_the_server(desk: Desk) -> None:
    options = ("--extra", 'reasoning_effort="low"', "--token-limit-name", "max_completion_tokens")
    assert desk.run("refusals", *options, "--max-tokens", "40").code == 0
    request = desk.server.requests[0]
    assert request["reasoning_effort"] == "low" and request["max_completion_tokens"] == 40
    assert "max_tokens" not in request and request["temperature"] == 0
    assert json.loads(Path("out.jsonl.manifest.json").read_text())["sampling"]["max_tokens"] == 40


def test_an_interrupt_keeps_the_answers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_unlearn.prepare.jobs import ProgressBar

    interrupted: list[int] = []
    update = ProgressBar.update

    def interrupt(bar: ProgressBar) -> None:
        update(bar)
        if bar.caller.progress.done >= 2 and not interrupted:
            interrupted.append(bar.caller.progress.made)
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "update", interrupt)
    assert desk.run("refusals", "--concurrency", "1").code == 130
    assert not Path("out.jsonl").exists()
    known = len(Path("out.jsonl.journal.jsonl").read_bytes().splitlines())
    assert 2 <= known < 6
    before = len(desk.server.requests)
    assert before == known
    assert desk.run("refusals").code == 0
    assert len(desk.server.requests) - before == 6 - known
