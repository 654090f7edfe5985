"""A provider that says the same words to everybody, with a usage count that is known beforehand."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("Twelve", " words", " are", " enough", " to", " tell", " a", " story", " of", " some", " length", ".")
INPUT_TOKENS = 9
FIRST_TOKEN_S = 0.05
ROLE_S = 0.01
END_S = 0.02
"""From `[DONE]` to the end of the body. The official client closes a stream at `[DONE]` and does not wait for the end."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that has left is no error of the provider."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers a chat completion: every word is a token, the limit cuts."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        limit = request.get("max_tokens") or len(WORDS)
        words = WORDS[:limit]
        finish = "length" if limit < len(WORDS) else "stop"
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": len(words)}
        usage["total_tokens"] = sum(usage.values())
        time.sleep(ROLE_S)
        if not request.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choices = [{"index": 0, "message": message, "finish_reason": finish}]
            self._head("application/json", json.dumps(_object("chat.completion", choices, usage)).encode())
            return
        self._head("text/event-stream")
        self._event(_chunk({"role": "assistant", "content": ""}, None))
        time.sleep(FIRST_TOKEN_S - ROLE_S)
        for word in words:
            self._event(_chunk({"content": word}, None))
            time.sleep(0.002)
        self._event(_chunk({}, finish))
        if (request.get("stream_options") or {}).get("include_usage"):
            self._event(_object("chat.completion.chunk", [], usage))
        self._write(b"data: [DONE]\n\n")
        time.sleep(END_S)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"0\r\n\r\n")
            return
        self.close_connection = True

    def _head(self, media_type: str, body: bytes | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        if body is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body or b"")

    def _event(self, value: dict[str, Any]) -> None:
        self._write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _object(kind: str, choices: list[Any], usage: dict[str, int] | None = None) -> dict[str, Any]:
    value = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "scripted", "choices": choices}
    return value | ({"usage": usage} if usage else {})


def _chunk(delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return _object("chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": finish}])


@contextlib.contextmanager
def scripted() -> Iterator[str]:
    """Runs the provider in a thread until the block ends; yields its URL without `/v1`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
