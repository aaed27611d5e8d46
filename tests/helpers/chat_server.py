"""A local server of chat completions that misbehaves on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server does with one request.

    Attributes:
        text: of the answer.
        status: of HTTP.
        error: content of the key "error", for other statuses than 200.
        headers: further ones.
        finish: the finish reason.
        usage: whether tokens are counted.
        delay: seconds before the answer.
        raw: the whole body, in place of a completion.
        hang_up: close the connection without an answer.
        choices: whether the completion has any.
    """

    text: str | None = ""
    status: int = 200
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    usage: bool = True
    delay: float = 0.0
    raw: bytes | None = None
    hang_up: bool = False
    choices: bool = True


@dataclass
class ChatServer:
    """A running server.

    Attributes:
        url: base address.
        answer: decides what is done with a request: its number from 0, and its JSON.
        requests: the JSON of every request so far.
        keys: the Authorization headers.
        most_at_once: requests that were handled at the same time, at the most.
    """

    url: str
    answer: Callable[[int, dict[str, Any]], Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def questions(self) -> list[str]:
        """The last message of every request."""
        return [request["messages"][-1]["content"] for request in self.requests]


@contextmanager
def chat_server(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    """Run a server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server._lock:
                number = len(server.requests)
                server.requests.append(content)
                server.keys.append(self.headers.get("Authorization"))
                server._now += 1
                server.most_at_once = max(server.most_at_once, server._now)
            try:
                self._send(server.answer(number, content), content)
            finally:
                with server._lock:
                    server._now -= 1

        def _send(self, answer: Answer, content: dict[str, Any]) -> None:
            time.sleep(answer.delay)
            if self.path != "/v1/chat/completions":
                answer = Answer(status=404, error={"message": "no such path"})
            if answer.hang_up:
                self.close_connection = True
                return
            body = answer.raw
            if body is None:
                value = {"error": answer.error} if answer.error else _completion(answer, content)
                body = json.dumps(value).encode()
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the client gave up
                self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = ChatServer(f"http://127.0.0.1:{http.server_port}/v1", answer)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _completion(answer: Answer, content: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish}
    asked = sum(len(message["content"].split()) for message in content["messages"])
    written = len((answer.text or "").split())
    usage = {
        "prompt_tokens": asked,
        "completion_tokens": written,
        "total_tokens": asked + written,
    }
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": content["model"],
        "choices": [choice] if answer.choices else [],
        **({"usage": usage} if answer.usage else {}),
    }
