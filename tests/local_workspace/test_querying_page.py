"""The clients of docs/querying.md, run as they stand there, against endpoints of the kinds that they say."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.local_workspace.conftest import AGENT, CHAT, PLAIN

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "querying.md"
BLOCK = re.compile(
    r"<!-- run: (?P<kind>[^>]+) -->\n\n```(?P<language>\w+)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE
)
MODELS = {"a ResponsesAgent": AGENT, "a ChatAgent": CHAT, "a classical model": PLAIN}
# By the order on the page: what stands in the output of each.
SHOWN = [
    ["echo: hello\n", "echo: hello{'tenant': 'north'}"],
    ["echo: hello"],
    ["'text': 'echo: hello'", "response.output_text.delta\n", "response.output_item.done\n"],
    ["[100.0]"],
    ['"text": "echo: hello"'],
]


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_a_client_of_the_page_gets_its_answer(number: int, shared_endpoint: Callable[[str], str]) -> None:
    blocks = list(BLOCK.finditer(PAGE.read_text(encoding="utf-8")))
    assert len(blocks) == len(SHOWN)
    block = blocks[number]
    code = block["code"].replace("my-agent", shared_endpoint(MODELS[block["kind"]]))
    command = {"python": [sys.executable, "-c"], "sh": ["bash", "-c"]}[block["language"]]
    done = subprocess.run([*command, code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert [each for each in SHOWN[number] if each not in done.stdout] == [], done.stdout
