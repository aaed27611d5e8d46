"""Answers of any server that speaks OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

import email.utils
import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lightning_unlearn.errors import InputError
from lightning_unlearn.prepare.budget import worst
from lightning_unlearn.prepare.generators import TransientError
from lightning_unlearn.prepare.requests import Reply, Request, Usage

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types.chat import ChatCompletion

EXTRA = "pip install 'lightning-unlearn[prepare]'"
# What servers call a prompt or an answer that they refuse to handle.
_FILTERED = ("content_filter", "content_policy_violation", "responsible_ai_policy_violation")
_TOO_LONG = ("context_length_exceeded", "string_above_max_length")


class Endpoint:
    """A model behind an endpoint.

    Args:
        url: base address, such as https://api.openai.com/v1 or http://localhost:8000/v1.
        model: name of the model there.
        key_from: name of the environment variable that holds the key; None for no key. The key
            itself is sent to the endpoint and written nowhere.
        concurrency: calls in flight at once.
        timeout: seconds for one call.
        limit_name: what the endpoint calls the limit of an answer's tokens: max_tokens, or
            max_completion_tokens for OpenAI's reasoning models.

    Raises:
        InputError: the client is not installed, the address is none, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_from: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        limit_name: str = "max_tokens",
    ) -> None:
        _check_url(url)
        if not model:
            raise InputError("--model: found no name, expected the model's name at the endpoint.")
        try:
            import openai
        except ImportError:
            raise InputError(
                f"--endpoint needs the package openai, which is not installed: {EXTRA}"
            ) from None
        self.url = url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self._limit_name = limit_name
        # Retries are ours: this client's own honor at most 60 s of Retry-After.
        self._client = openai.OpenAI(
            base_url=self.url, api_key=_read_key(key_from), timeout=timeout, max_retries=0
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"endpoint": self.url, "model": self.model}

    def generate(self, request: Request) -> Reply:
        """Make one call.

        Raises:
            TransientError: 408, 409, 429, 5xx, a timeout, a lost connection or a broken reply.
            InputError: 401, 403, 404 and every other refusal that is not of this row alone.
        """
        import openai

        sampling = request.sampling
        options: dict[str, Any] = {self._limit_name: sampling.max_tokens}
        messages: Any = [dict(message) for message in request.messages]
        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=sampling.temperature,
                extra_body=dict(sampling.extra) or None,
                **options,
            )
        except openai.APITimeoutError:
            raise TransientError("no answer in time", may_cost=True) from None
        except openai.APIConnectionError as error:
            raise TransientError(
                f"no connection: {error.__cause__ or error}", may_cost=True
            ) from None
        except openai.APIStatusError as error:
            return self._of_status(error, request)
        except (openai.APIError, ValueError) as error:
            raise TransientError(f"a reply that is no JSON: {error}", may_cost=True) from None
        return _reply(completion, request)

    def _of_status(self, error: APIStatusError, request: Request) -> Reply:
        """Turn an error status into a skipped row, or raise what it means."""
        status, code, words = error.status_code, str(error.code or ""), _words(error)
        if status in (408, 409, 429) or status >= 500:
            if code == "insufficient_quota":
                raise InputError(f"--endpoint {self.url}: the account has no quota left: {words}")
            raise TransientError(f"{status} {words}", retry_after(error.response.headers))
        if status in (400, 422):
            if code in _FILTERED or "content_filter" in words:
                return _skipped(f"refused by the content filter: {words}", Usage(0, 0))
            if code in _TOO_LONG or "context length" in words:
                return _skipped(f"too long for the model: {words}", Usage(0, 0))
        advice = {
            401: "set the environment variable that --api-key-env names to a valid key",
            403: "ask for access to the model, or name another --model",
            404: "check --endpoint (it often ends in /v1) and --model",
        }.get(status, "change what the endpoint names")
        raise InputError(
            f"--endpoint {self.url}, model {self.model}: found the answer {status} ({words}), "
            f"expected a completion; {advice}."
        )


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Read how many seconds a server asks to wait; None if it does not say.

    Args:
        headers: of its reply: `retry-after-ms`, or `retry-after` as seconds or as a date.
        now: current time as seconds since 1970; None for the clock.
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name)
        try:
            seconds = float(text) / scale if text is not None else math.nan
        except ValueError:
            parsed = email.utils.parsedate_tz(str(text))
            if parsed is None:
                continue
            seconds = email.utils.mktime_tz(parsed) - (time.time() if now is None else now)
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None


def _reply(completion: ChatCompletion, request: Request) -> Reply:
    """Read a completion.

    Raises:
        TransientError: it has no choice, as broken servers send.
    """
    counted = getattr(completion, "usage", None)
    usage = worst(request)
    if counted is not None and counted.prompt_tokens is not None:
        usage = Usage(counted.prompt_tokens, counted.completion_tokens or 0)
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise TransientError("a reply without an answer", may_cost=True)
    choice = choices[0]
    if choice.finish_reason == "content_filter":
        return _skipped("the content filter cut the answer", usage)
    text = (choice.message.content or "").strip()
    if not text:
        refusal = getattr(choice.message, "refusal", None)
        return _skipped(f"refused: {refusal}" if refusal else "an empty answer", usage)
    return Reply(text, usage, "length" if choice.finish_reason == "length" else "stop")


def _skipped(reason: str, usage: Usage) -> Reply:
    return Reply("", usage, "skip", " ".join(reason.split())[:300])


def _words(error: APIStatusError) -> str:
    """The server's own sentence on an error, in one line."""
    body = error.body
    found = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(found or error.message).split())[:300]


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"--endpoint: found {url!r}, expected an address such as http://localhost:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        # The address is part of keys and of the manifest.
        raise InputError(
            "--endpoint: found a user name, password or query in the address, expected none: put "
            "the key into an environment variable, and name that with --api-key-env."
        )


def _read_key(name: str | None) -> str:
    if name is None:
        return "none"
    key = os.environ.get(name, "")
    if not key.strip():
        raise InputError(
            f"--api-key-env {name}: found no such environment variable, or an empty one; expected "
            f"the key in it: export {name}=..."
        )
    if not key.isascii() or any(ord(letter) < 33 for letter in key.strip()):
        raise InputError(
            f"--api-key-env {name}: found characters in its value that no key has, expected ASCII "
            "without spaces."
        )
    return key.strip()
