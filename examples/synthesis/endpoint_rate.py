"""How near the endpoint's client comes to the rate that it is allowed, against a local server that takes its time.

    python examples/synthesis/endpoint_rate.py --seconds 60 --output examples/synthesis/endpoint_rate.json

The server is a process of its own: it answers after a drawn latency, and counts requests and tokens where they arrive. The
cases are limits of requests, of tokens, of both, and none; the rate is that between the first and the last request to arrive.
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from model.endpoint.client import ChatRequest, Client
from model.endpoint.config import EndpointConfig

LATENCY = (0.2, 0.6)  # seconds, drawn evenly
REPLY_TOKENS = (20, 180)
CASES = (  # requests and tokens a minute, and requests under way at a time
    {"requests_per_minute": 120, "concurrency": 4},
    {"requests_per_minute": 1200, "concurrency": 16},
    {"requests_per_minute": 6000, "concurrency": 64},
    {"tokens_per_minute": 120_000, "concurrency": 32},
    {"requests_per_minute": 1200, "tokens_per_minute": 90_000, "concurrency": 32},
    {"concurrency": 32},
)


class Handler(BaseHTTPRequestHandler):
    """A completion of drawn length after a drawn time; GET tells when requests came, and their tokens."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    came: list[tuple[float, int]] = []  # noqa: RUF012 (of the process, which serves one case)
    lock = threading.Lock()

    def log_message(self, format: str, *arguments: object) -> None: ...

    def do_POST(self) -> None:
        now = time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        draw = random.Random(text)
        prompt, reply = len(text) // 4, draw.randint(*REPLY_TOKENS)
        with self.lock:
            self.came.append((now, prompt + reply))
        time.sleep(draw.uniform(*LATENCY))
        message = {"message": {"content": "word " * reply}, "finish_reason": "stop"}
        self.answer({"choices": [message], "usage": {"prompt_tokens": prompt, "completion_tokens": reply}})

    def do_GET(self) -> None:
        self.answer(self.came)

    def answer(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def serve() -> None:
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def measure(case: dict[str, int], seconds: float) -> dict[str, object]:
    """Asks for so long, and reads from the server what came."""
    from urllib.request import urlopen

    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            end, prompts = time.monotonic() + seconds, random.Random(0)
            with Client(EndpointConfig(url=url, model="m", max_tokens=200, **case)) as client:
                requests = (
                    ChatRequest(({"role": "user", "content": f"{number} " + "word " * prompts.randint(10, 90)},))
                    for number in range(10**9)
                )
                for _ in client.ask(requests, should_stop=lambda: time.monotonic() > end):
                    pass
            came = sorted(json.load(urlopen(url)))
        finally:
            process.kill()
    times, tokens = [time for time, _ in came], [count for _, count in came]
    span = (times[-1] - times[0]) / 60
    row: dict[str, object] = {
        **case,
        "seconds": round(span * 60, 2),
        "requests": len(came),
        "retries": client.counts.retries,
    }
    rates = {"requests_per_minute": (len(came) - 1) / span, "tokens_per_minute": sum(tokens[:-1]) / span}
    for name, rate in rates.items():
        row[f"measured_{name}"] = round(rate, 1)
        if name in case:
            row[f"share_of_allowed_{name}"] = round(rate / case[name], 4)
    if span * 60 > 60:
        row["busiest_minute_requests"] = max(sum(start <= time < start + 60 for time in times) for start in times)
    if "requests_per_minute" not in case and "tokens_per_minute" not in case:
        row["most_possible_requests_per_minute"] = round(case["concurrency"] / (sum(LATENCY) / 2) * 60, 1)
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each case")
    parser.add_argument("--output", type=Path, help="write the rows to this JSON file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve()
        return
    rows = []
    for case in CASES:
        rows.append(measure(case, options.seconds))
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        about = {"python": platform.python_version(), "latency_seconds": LATENCY, "reply_tokens": REPLY_TOKENS}
        options.output.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
