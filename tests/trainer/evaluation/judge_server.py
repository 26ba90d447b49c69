"""An OpenAI-compatible endpoint on this machine, whose judge is a function."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Messages = list[dict[str, str]]
Judge = Callable[[dict[str, str]], str]
"""From the parts that a request shows, by name, to the reply."""


class JudgeServer:
    """Answers each request by the judge; `failures` are sent first: status, headers, body."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.failures: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[dict[str, Any]] = []
        """Bodies of all requests."""
        self.keys: list[str | None] = []
        self.refuses: dict[str, str] = {}
        """Parameters that the model does not take, with what is said then."""
        self.finish = "stop"
        self.lock = threading.Lock()
        self.url = ""

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][1]["content"] for request in self.requests]

    def reply(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body."""
        if path != "/v1/chat/completions":
            return 404, {}, {"error": {"message": f"no {path}"}}
        return self._answer(body, key)

    def _answer(self, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, str], Any]:
        with self.lock:
            self.requests.append(body)
            self.keys.append(key)
            if self.failures:
                return self.failures.pop(0)
        for name, refusal in self.refuses.items():
            if name in body:
                return 400, {}, {"error": {"message": refusal}}
        text = self.judge(parts(body["messages"]))
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return 200, {}, {"choices": [{"message": message, "finish_reason": self.finish}], "usage": usage}


def parts(messages: Messages) -> dict[str, str]:
    """What stands between tags with the code that the instructions name."""
    found = re.search(r"carries the code (\w+)", messages[0]["content"])
    assert found
    shown = rf"<(?P<name>[\w ]+) {found[1]}>\n(?P<text>.*?)\n</(?P=name) {found[1]}>"
    return {match["name"]: match["text"] for match in re.finditer(shown, messages[1]["content"], re.DOTALL)}


@contextlib.contextmanager
def judge_server(judge: Judge) -> Iterator[JudgeServer]:
    """A server that runs while inside."""
    state = JudgeServer(judge)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, answer = state.reply(self.path, body, self.headers["Authorization"])
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def longer(shown: dict[str, str]) -> str:
    """Prefers the longer answer."""
    a, b = len(shown["answer of A"]), len(shown["answer of B"])
    return f"One has {max(a, b)} characters.\n[[{'A' if a > b else 'B' if b > a else 'C'}]]"


def always_first(shown: dict[str, str]) -> str:
    """Prefers what it is shown first, whatever it is."""
    return "The first one.\n[[A]]"
