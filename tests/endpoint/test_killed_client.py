"""A process that is killed with kill -9 while it asks: the next one asks for what is missing, and for nothing else."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.endpoint.journal import Journal, request_key
from tests.endpoint.server import Act, Server

ROOT = Path(__file__).parents[2]
CONCURRENCY, PROMPTS = 4, [f"question {number}" for number in range(60)]
CHILD = """
import json, sys
from pathlib import Path
from model.endpoint.client import ChatRequest, Client
from model.endpoint.config import EndpointConfig
url, journal, concurrency, prompts = json.loads(sys.argv[1])
config = EndpointConfig(url=url, model="m", concurrency=concurrency, price_in=1.0, price_out=1.0, max_tokens=5)
with Client(config, journal=Path(journal)) as client:
    for request, reply in client.ask(ChatRequest(({"role": "user", "content": p},)) for p in prompts):
        print(reply.text, flush=True)
"""


def child(server: Server, journal: Path) -> subprocess.Popen[str]:
    arguments = json.dumps([server.url, str(journal), CONCURRENCY, PROMPTS])
    return subprocess.Popen([sys.executable, "-c", CHILD, arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_no_reply_that_is_on_the_disk_is_asked_for_again(tmp_path):
    path = tmp_path / "requests.jsonl"
    kept: dict[str, int] = {}  # prompts whose replies were on the disk at a kill -> calls until then
    with Server(lambda call: Act(seconds=0.02)) as server:
        for served in (7, 23, 41):
            process = child(server, path)
            while len(server.served) < served:
                time.sleep(0.002)
            process.kill()
            process.wait()
            lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
            found = {entry["key"] for entry in lines if "key" in entry}
            on_disk = {call.prompt for call in server.calls if request_key(call.body, 0) in found}
            assert on_disk >= kept.keys() and len({prompt for _, prompt in server.served} - on_disk) <= CONCURRENCY
            kept |= {prompt: len(server.calls) for prompt in on_disk if prompt not in kept}
        process = child(server, path)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and set(output.split("\n")[:-1]) == {prompt[::-1] for prompt in PROMPTS}
    assert not [call for call in server.calls if call.number > kept.get(call.prompt, len(server.calls))]
    journal = Journal(path)
    journal.close()
    assert len(server.calls) <= len(PROMPTS) + journal.unsettled_attempts  # what was lost is counted
    assert journal.unsettled_attempts <= 3 * CONCURRENCY
