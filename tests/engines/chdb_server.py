"""ClickHouse, embedded, behind its HTTP interface: a view of a ledger's rows. Run by chdb's own environment.

`chdb_server.py ROWS` reads one JSON object a line (a ledger's row), makes the view `lengthwise_exchange` of it in the
database `default`, prints the port, and answers queries until it is killed.
"""

import http.server
import sys

from chdb import session

INTEGERS = [
    "stream",
    "status",
    "cut",
    "requested_max_tokens",
    "forwarded_max_tokens",
    "choices",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "decoded_tokens",
]
REALS = ["ttfc_s", "ttft_s", "ttfa_s", "last_token_s", "e2e_s", "tpot_s", "client_blocked_s", "overhead_s"]
WORDS = [
    "upstream",
    "provider",
    "dialect",
    "model",
    "response_model",
    "app",
    "key_name",
    "end",
    "finish",
    "limit_field",
    "rule",
    "action",
    "arm",
    "arm_unit",
    "shadow",
    "usage_source",
    "checkpoints",
    "degraded",
    "error_type",
    "trace_id",
]


def main(path: str) -> None:
    """Serve."""
    database = session.Session()
    columns = ", ".join(
        ["id String", "started_at Float64"]
        + [f'"{name}" Nullable(Int64)' for name in INTEGERS]
        + [f'"{name}" Nullable(Float64)' for name in REALS]
        + [f'"{name}" Nullable(String)' for name in WORDS]
    )
    database.query(f"CREATE TABLE default.rows ({columns}) ENGINE = MergeTree ORDER BY id")
    database.query(f"INSERT INTO default.rows SELECT * FROM file('{path}', JSONEachRow, '{columns}')")
    database.query("CREATE VIEW default.lengthwise_exchange AS SELECT * FROM default.rows")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query, _, form = self.rfile.read(int(self.headers["Content-Length"])).decode().rpartition(" FORMAT ")
            settings = "SETTINGS output_format_json_quote_64bit_integers = 0, output_format_json_quote_denormals = 0"
            answer = bytes(database.query(f"{query} {settings}", form).bytes())
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
