"""How the review page reads answers: the page's own script, run by Node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
SCRIPT = FOLDER.parents[1] / "release_pipeline" / "local_workspace" / "pages" / "answer.js"
DONE = "data: [DONE]\n\n"


def message(text: str, number: str = "m1", **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, **more}]
    return {"type": "message", "id": number, "role": "assistant", "content": content}


def delta(text: str, number: str = "m1") -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": number, "delta": text}


def done(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": item}


def read(body: str = DONE, answers: list[list[dict[str, Any]]] | None = None, **trace: Any) -> dict[str, Any]:
    """What the script makes of a body cut in two at every byte, of answers, and of a trace."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node here; Debian's package is nodejs")
    asked = {"bytes": body, "cuts": len(body.encode()) + 1, "answers": answers or []}
    asked |= {"trace": {}, "spans": []} | trace
    command = [node, str(FOLDER / "answers.mjs"), json.dumps(asked)]
    ended = subprocess.run(command, input=SCRIPT.read_text(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_stream_is_read_wherever_it_is_cut() -> None:
    sent = [delta("größer 🙂\n\n"), done(message("größer 🙂\n\n"))]
    body = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in sent) + DONE
    streams = read(body)["streams"]
    assert len(streams) > 200
    assert all(each == sent for each in streams)


def test_a_stream_that_breaks_off_says_so() -> None:
    (first, *_) = read(f"data: {json.dumps(delta('a'))}\n\n")["streams"]
    assert first == [delta("a"), "The stream broke off before its end."]


def test_every_kind_of_answer_is_read() -> None:
    call = {"type": "function_call", "id": "c", "name": "look_up", "arguments": "{}"}
    output = {"type": "function_call_output", "output": "found"}
    note: dict[str, Any] = {
        "annotations": [{"type": "url_citation", "title": "A page", "url": "https://example.com/a"}]
    }
    error = {"error_code": "BAD_REQUEST", "message": "no answer"}
    chunks = [{"delta": {"id": "x", "role": "assistant", "content": text}} for text in ("one", " two")]
    answers = [
        [delta("one"), delta(" two"), done(message("one two"))],
        [done(message("at once"))],
        [delta("one"), done(message("one")), delta("two", "m2"), done(message("two", "m2"))],
        [done(call), done(output), done(message("looked", **note))],
        [delta("half"), {"databricks_output": {"error": error}}],
        chunks,
        [{"object": "response", "output": [call, message("whole")]}],
        [{"messages": [{"role": "assistant", "content": "whole", "id": "x"}]}],
    ]
    found = read(answers=answers)["read"]
    texts = ["one two", "at once", "one\n\ntwo", "looked", "half", "one two", "whole", "whole"]
    assert [each["text"] for each in found] == texts
    assert found[3]["tools"] == ["look_up({})", "→ found"]
    assert found[3]["citations"] == [{"title": "A page", "uri": "https://example.com/a", "text": ""}]
    assert [each["error"] for each in found] == ["", "", "", "", "no answer", "", "", ""]


def test_sources_go_by_the_columns_that_the_agent_has_declared() -> None:
    def span(name: str, kind: str, documents: Any) -> dict[str, Any]:
        attributes = {"mlflow.spanType": json.dumps(kind), "mlflow.spanOutputs": json.dumps(documents)}
        return {"name": name, "attributes": attributes}

    schema = [{"name": "shelves", "primary_key": "key", "text_column": "body", "doc_uri": "where"}]
    spans = [
        span("shelves", "RETRIEVER", [{"key": "k", "body": "b", "where": "https://example.com"}, {"key": "k2"}]),
        span("usual", "RETRIEVER", [{"id": "i", "page_content": "p", "metadata": {"doc_uri": "file:x"}}]),
        span("broken", "RETRIEVER", "no list"),
        span("other", "TOOL", [{"id": "no source"}]),
    ]
    assert read(trace={"tags": {"retrievers": json.dumps(schema)}}, spans=spans)["sources"] == [
        {"title": "https://example.com", "uri": "https://example.com", "text": "b"},
        {"title": "k2", "uri": "", "text": ""},
        {"title": "file:x", "uri": "file:x", "text": "p"},
    ]
