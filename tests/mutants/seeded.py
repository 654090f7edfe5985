"""Known bugs of proxies, each as one change of one file, and the tests that must notice it.

Each is a class of mistakes that gateways and proxies were reported for. `python -m tests.mutants` applies them one by one to a copy
of the repository; what survives is a hole in the tests, not in the product.
"""

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]


EXCHANGE, CLIENT, UPSTREAM = "proxy/relay/exchange.py", "proxy/relay/client.py", "proxy/relay/upstream.py"
WORKER, POOL, OUTBOX, ROUTE = (
    "proxy/relay/worker.py",
    "proxy/relay/pool.py",
    "proxy/relay/outbox.py",
    "proxy/relay/route.py",
)
HTTP1 = "proxy/wire/http1.py"


def _relay(module: str, words: str) -> tuple[str, ...]:
    """Tests of one module of the relay, on the loop that every machine has."""
    return (f"tests/relay/test_{module}.py", "-k", f"({words}) and not uvloop")


MUTANTS = (
    Mutant(
        "a broken upstream looks complete",
        EXCHANGE,
        '            self._break(End.BROKEN, at_ns, "upstream_reset")\n        elif (',
        '            self.response_data(b"", True, at_ns)\n        elif (',
        _relay("exchange", "invariant_2"),
    ),
    Mutant(
        "a broken stream gets its terminator",
        EXCHANGE,
        "        self._client.keep_alive = False\n        # Without chunks or a length",
        "        self._client.keep_alive = False\n        self._client.write(LAST_CHUNK)\n        # Without chunks or a length",
        _relay("exchange", "invariant_2"),
    ),
    Mutant(
        "a broken body without a length ends in a FIN",
        EXCHANGE,
        "        self._client.reset = response is None or not (",
        "        self._client.reset = response is None and not (",
        _relay("exchange", "invariant_2"),
    ),
    Mutant(
        "a client that leaves does not cancel its upstream",
        EXCHANGE,
        "            else:\n                upstream.abort()\n\n    def _record(",
        "            else:\n                upstream.exchange = None\n\n    def _record(",
        _relay("exchange", "invariant_3"),
    ),
    Mutant(
        "a half-closed client is not leaving",
        CLIENT,
        "        if self._exchange is not None:\n            self._exchange.client_left()\n\n    def connection_lost(",
        "        return True\n\n    def connection_lost(",
        _relay("exchange", "half_closes"),
    ),
    Mutant(
        "a connection with bytes behind its answer is used again",
        UPSTREAM,
        "            and not self._unclean\n",
        "",
        ("tests/conformance/test_answers.py", "-k", "behind"),
    ),
    Mutant(
        "a connection whose request was not read whole is used again",
        UPSTREAM,
        "            request_sent\n            and response is not None",
        "            response is not None",
        _relay("upstream", "before_the_end_of_its_request"),
    ),
    Mutant(
        "an expired connection is used again",
        POOL,
        "if not connection.transport.is_closing() and connection.expires_ns > now_ns:",
        "if not connection.transport.is_closing():",
        _relay("pool", "expired"),
    ),
    Mutant(
        "a POST that was sent is sent again",
        EXCHANGE,
        "            and self._head.method in _IDEMPOTENT\n            and not self._head.chunked\n            and not self._content_length\n",
        "",
        _relay("pool", "stale"),
    ),
    Mutant(
        "a request is repeated after its answer began",
        EXCHANGE,
        "            and not upstream.answered\n",
        "",
        _relay("pool", "repeated_once"),
    ),
    Mutant(
        "the extra usage event reaches the client",
        EXCHANGE,
        'if self._usage_asked and upstream.upstream.usage == "inject" and head',
        'if self._usage_asked and upstream.upstream.usage == "observe" and head',
        _relay("exchange", "injected_usage"),
    ),
    Mutant(
        "a length that is too long by the event that was cut",
        EXCHANGE,
        "elif head.content_length is not None and self._cutter is None:",
        "elif head.content_length is not None:",
        _relay("exchange", "cut_has_another_framing"),
    ),
    Mutant(
        "a hop-by-hop header leaks",
        HTTP1,
        'b"proxy-connection", b"te", b"trailer"',
        'b"proxy-connection", b"trailer"',
        ("tests/conformance/test_requests.py", "-k", "hop"),
    ),
    Mutant(
        "a header that Connection names leaks",
        HTTP1,
        "            forward = [pair for pair in forward if pair[0].lower() not in connection]\n            # What",
        "            # What",
        ("tests/conformance/test_requests.py", "-k", "nominated"),
    ),
    Mutant(
        "the client's credential is sent beside ours",
        ROUTE,
        "            drop |= set(CREDENTIALS)\n",
        "",
        _relay("exchange", "credential"),
    ),
    Mutant(
        "the URL of a request chooses the host",
        HTTP1,
        '        return path if path[:1] == b"/" else b"/" + path\n',
        "        return target\n",
        ("tests/conformance/test_requests.py", "-k", "URL"),
    ),
    Mutant(
        "a coding before chunked is taken for chunked",
        HTTP1,
        'if chunked or http10 or pair[1].strip(b" \\t").lower() != b"chunked":',
        'if chunked or http10 or not pair[1].strip(b" \\t").lower().endswith(b"chunked"):',
        ("tests/conformance/test_requests.py", "-k", "Transfer"),
    ),
    Mutant(
        "chunk framing is read leniently",
        HTTP1,
        '_CHUNK_END = re.compile(rb"\\r\\n")',
        '_CHUNK_END = re.compile(rb"\\r?\\n")',
        ("tests/conformance/test_requests.py", "-k", "chunks"),
    ),
    Mutant(
        "a known head is taken for one with more digits",
        HTTP1,
        "                if end < 0 or not digits.isdigit():\n",
        "                if end < 0:\n",
        ("tests/wire/test_http1.py",),
    ),
    Mutant(
        "a protocol that nobody asked for is switched to",
        UPSTREAM,
        "        if status == 101 and not (self._parser.should_upgrade() and _names_websocket(headers)):",
        "        if status == 101 and not self._parser.should_upgrade():",
        _relay("tunnel", "101_to_another"),
    ),
    Mutant(
        "a client that does not read does not stop its upstream",
        EXCHANGE,
        "                self._upstream.pause_reading()\n",
        "                pass\n",
        _relay("exchange", "does_not_read_pauses"),
    ),
    Mutant(
        "what a pipelining client sends is held without bound",
        CLIENT,
        "            self.pause_reading()\n\n    def _read_held",
        "            pass\n\n    def _read_held",
        _relay("client", "more_pipelined"),
    ),
    Mutant(
        "a head may be endless",
        CLIENT,
        "        if (end if end >= 4 else len(raw)) > limit:",
        "        if end > limit:",
        _relay("client", "oversized"),
    ),
    Mutant(
        "an observer's mistake reaches the stream",
        "proxy/observe/observer.py",
        "        except Exception:  # noqa: BLE001 -- the observer cannot hurt: a mistake of ours costs facts, never the stream",
        "        except KeyError:",
        ("tests/observe/test_observer.py", "-k", "mistake_of_ours"),
    ),
    Mutant(
        "an event is observed before it is written",
        EXCHANGE,
        "        out = self._pending_head\n        if forward:",
        "        if body:\n            observer.feed(body, at_ns)\n        out = self._pending_head\n        if forward:",
        _relay("exchange", "written_before"),
    ),
    Mutant(
        "an exchange is recorded by both of its ends",
        EXCHANGE,
        "        if self.phase is _OVER:\n            return\n        answered",
        "        answered",
        _relay("exchange", "two_ends"),
    ),
    Mutant(
        "a record that does not fit is not counted",
        OUTBOX,
        "            self.records_dropped += 1\n            return\n        if texts:",
        "            return\n        if texts:",
        _relay("outbox", "bounded"),
    ),
    Mutant(
        "what a dead recorder had not acknowledged is not counted",
        OUTBOX,
        "        self._transport = None\n        self.records_dropped += self.unacknowledged\n",
        "        self._transport = None\n",
        _relay("outbox", "dead_recorder"),
    ),
    Mutant(
        "a role is taken for the first token",
        "proxy/observe/observer.py",
        "                    if dialect.read_event(event, reading):\n",
        "                    if dialect.read_event(event, reading) or True:\n",
        ("tests/observe/test_observer.py", "-k", "role"),
    ),
    Mutant(
        "a cap raises a limit",
        "proxy/policy/decide.py",
        "        forwarded = cap if requested is None else min(requested, cap)\n",
        "        forwarded = cap\n",
        ("tests/policy/test_decide.py",),
    ),
    Mutant(
        "a body that cannot be judged passes a cap",
        "proxy/relay/judge.py",
        "        raise unjudged(facts)\n",
        "        pass\n",
        _relay("judge", "cannot_be_judged"),
    ),
    Mutant(
        "a silent stream is never given up",
        EXCHANGE,
        "        elif not self._blocked_since_ns:\n            self._client.set_deadline(self._worker.idle_ns, at_ns)\n",
        "        else:\n            self._client.clear_deadline()\n",
        _relay("exchange", "falls_silent"),
    ),
    Mutant(
        "a stream has the whole of its time to end",
        EXCHANGE,
        "        elif not self._blocked_since_ns:\n            self._client.set_deadline(self._worker.idle_ns, at_ns)\n",
        "",
        _relay("exchange", "slow_stream"),
    ),
    Mutant(
        "what is shed is not told when to come back",
        EXCHANGE,
        '            headers.append((b"Retry-After", b"1"))\n',
        "            pass\n",
        _relay("exchange", "is_shed"),
    ),
    Mutant(
        "a drain waits for nobody",
        WORKER,
        "        if not self.exchanges_active and not any(",
        "        if True or not any(",
        _relay("worker", "invariant_11"),
    ),
    Mutant(
        "small writes wait for an acknowledgement",
        WORKER,
        "        sock = socket.socket(fileno=listener.detach())\n",
        "        sock = listener\n",
        _relay("worker", "acknowledgement"),
    ),
    Mutant(
        "connections are kept in cycles",
        UPSTREAM,
        "        del self._parser  # it holds",
        "        # it holds",
        _relay("worker", "nothing_to_collect"),
    ),
    Mutant(
        "a reason quotes what it was told",
        POOL,
        "    return type(error).__name__\n\n\ndef _insert_field",
        "    return str(error)\n\n\ndef _insert_field",
        _relay("pool", "without_its_credential or without_the_name"),
    ),
    Mutant(
        "every model is a label",
        "proxy/recorder/metrics.py",
        "        if len(self._known) >= self._most or len(name) > _LONGEST_NAME:\n",
        "        if len(name) > _LONGEST_NAME:\n",
        ("tests/recorder/test_metrics.py", "-k", "up_to_a_bound"),
    ),
    Mutant(
        "a text with escapes is taken as it stands",
        "proxy/wire/dialects/alike.py",
        """ and '"' not in text and "\\\\" not in text else None""",
        """ and '"' not in text else None""",
        ("tests/wire/dialects/test_alike.py",),
    ),
    Mutant(
        "a name is taken for an event's text",
        "proxy/wire/dialects/alike.py",
        "        is_alike = orjson.loads(before + other + after) == chunk\n",
        "        is_alike = bool(orjson.loads(before + other + after))\n",
        ("tests/wire/dialects/test_alike.py",),
    ),
    Mutant(
        "the usual event has no bound",
        "proxy/observe/observer.py",
        "            alike.most_bytes = splitter.event_bytes\n",
        "            alike.most_bytes = 1 << 30\n",
        ("tests/wire/dialects/test_alike.py", "-k", "parsing_every"),
    ),
    Mutant(
        "a head of another connection brings that one's trace",
        CLIENT,
        "            self._begin(route, content_length, traceparent or route.traceparent, rest, at_ns)\n",
        "            self._begin(route, content_length, route.traceparent, rest, at_ns)\n",
        _relay("client", "known_from_other"),
    ),
)
