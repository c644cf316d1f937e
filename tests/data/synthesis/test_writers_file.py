"""Writers and routes from a TOML file."""

import pytest

from model.data.synthesis.endpoint import EndpointWriter
from model.data.synthesis.local_config import LocalConfig
from model.data.synthesis.writers import open_writer, read_writers
from model.endpoint.config import EndpointConfig
from model.errors import ConfigError

GOOD = """
[writers.big]
kind = "endpoint"
url = "http://localhost:8000/v1"
model = "m"
requests_per_minute = 600
parameters = {seed = 1}
[writers.small]
kind = "local"
folder = "runs/first"
temperature = 0.8
[routes]
code = "big"
mathematics = "embedded"
"""


def written(tmp_path, text):
    path = tmp_path / "writers.toml"
    path.write_text(text)
    return path


def test_a_file_gives_writers_and_routes(tmp_path):
    writers = read_writers(written(tmp_path, GOOD))
    assert writers.routes == {"code": "big", "mathematics": "embedded"}
    big, small = writers.configs["big"], writers.configs["small"]
    assert isinstance(big, EndpointConfig) and big.requests_per_minute == 600 and big.parameters == {"seed": 1}
    assert isinstance(small, LocalConfig) and small.temperature == 0.8
    writer = open_writer("big", big, tmp_path)
    assert isinstance(writer, EndpointWriter) and writer.name == "big"
    writer.close()
    assert (tmp_path / "requests" / "big.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no writer"),
        ("writers = 3", "names no writer"),
        ("[writers", "is not TOML"),
        (GOOD.replace('"endpoint"', '"cloud"'), "writers.big.kind is 'cloud': choose one of endpoint, local"),
        (GOOD.replace("requests_per_minute = 600", "requests_per_minut = 6"), "did you mean 'requests_per_minute'"),
        (GOOD.replace("requests_per_minute = 600", "concurrency = 0"), "writers.big.concurrency is 0"),
        (GOOD.replace("folder", "fodler"), "writers.small.folder is missing"),
        (GOOD.replace("temperature = 0.8", "batch_size = 0"), "writers.small: batch_size of a local writer is 0"),
        (GOOD.replace('code = "big"', 'code = "bug"'), "routes to bug: there is no such writer"),
        (GOOD.replace('code = "big"', "code = 1"), "routes that are no names"),
        (GOOD.replace("writers.small", "writers.embedded"), "cannot be called 'embedded'"),
        (GOOD.replace("writers.small", 'writers."../up"'), "cannot be called '../up'"),
        (GOOD + "[router]\n", "did you mean 'routes'"),
    ],
)
def test_a_wrong_file_is_said_in_a_sentence(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read_writers(written(tmp_path, text))
    assert words in str(caught.value)
