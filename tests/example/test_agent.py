"""The example agent, logged and loaded by MLflow as a release logs and loads it."""

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest
import yaml

import release_pipeline.defs

AGENT = Path(release_pipeline.defs.__file__).parent / "python_docs_agent"
CONFIGS = ("baseline", "tuned", "phrases")

# Both are MLflow's own: importing its types of the Responses API, and reading from its SQL store.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning"),
]


def read_config(name: str) -> dict[str, Any]:
    return yaml.safe_load((AGENT / f"{name}.yaml").read_text())


def ask(question: str, **more: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": question}], **more}


def text_of(answer: dict[str, Any]) -> str:
    return "".join(part["text"] for item in answer["output"] for part in item["content"])


def log_agent(config: dict[str, Any]) -> Any:
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="agent",
            python_model=str(AGENT / "agent.py"),
            model_config=config,
            input_example=ask("How do I write an anonymous function?"),
            pip_requirements=["mlflow", "bm25s", "numpy"],
        )
    return mlflow.pyfunc.load_model(info.model_uri)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("tracking")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    experiment = mlflow.create_experiment("agent", artifact_location=(store / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    yield experiment
    mlflow.flush_trace_async_logging()
    # Unset and not set back: a default that is set would win over the environment of later tests.
    mlflow.set_tracking_uri(None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="module")
def agents(tracking: str) -> dict[str, Any]:
    return {name: log_agent(read_config(name)) for name in CONFIGS}


@pytest.fixture(scope="module")
def code(tracking: str) -> ModuleType:
    """The module agent.py itself, for what cannot be seen through a loaded model."""
    spec = importlib.util.spec_from_file_location("python_docs_agent", AGENT / "agent.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def accuracy(agents: dict[str, Any]) -> dict[str, float]:
    rows = [json.loads(line) for line in (AGENT / "evaluation.jsonl").read_text().splitlines()]
    assert len(rows) >= 40

    def score(agent: Any) -> float:
        mlflow.tracing.disable()  # see untraced
        topics = [agent.predict(row["inputs"])["custom_outputs"]["topic"] for row in rows]
        mlflow.tracing.enable()
        return sum(
            topic == row["expectations"]["expected_topic"] for topic, row in zip(topics, rows, strict=True)
        ) / len(rows)

    return {name: score(agent) for name, agent in agents.items()}


@pytest.fixture
def untraced() -> Iterator[None]:
    """Keeps hundreds of traces of one test out of the store, which takes long to write them."""
    mlflow.tracing.disable()
    yield
    mlflow.tracing.enable()


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return (AGENT / "questions.txt").read_text().splitlines()


def test_answer_holds_the_passage_and_its_topic(agents: dict[str, Any]) -> None:
    answer = agents["tuned"].predict(ask("How are anonymous functions created in one expression?"))
    assert answer["custom_outputs"]["topic"] == "lambda"
    assert answer["custom_outputs"]["score"] > 0
    assert "Lambdas (topic lambda)" in text_of(answer)
    assert "anonymous functions" in " ".join(text_of(answer).split())


def test_stream_has_one_item_id_and_agrees_with_predict(agents: dict[str, Any]) -> None:
    question = ask("How do I catch several types of exceptions with one except clause?")
    *deltas, done = list(agents["tuned"].predict_stream(question))
    answer = agents["tuned"].predict(question)

    assert len(deltas) > 1
    assert {event["type"] for event in deltas} == {"response.output_text.delta"}
    assert done["type"] == "response.output_item.done"
    assert {event["item_id"] for event in deltas} == {done["item"]["id"]}
    assert "".join(event["delta"] for event in deltas) == done["item"]["content"][0]["text"] == text_of(answer)
    assert done["custom_outputs"] == answer["custom_outputs"]


def test_last_message_of_the_user_is_the_question(agents: dict[str, Any]) -> None:
    conversation = {
        "input": [
            {"role": "user", "content": "How do decorators get applied to a function definition?"},
            {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "..."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "And the assert statement?"}]},
        ]
    }
    assert agents["tuned"].predict(conversation)["custom_outputs"]["topic"] == "assert"


def test_custom_inputs_come_back_and_passages_is_obeyed(agents: dict[str, Any]) -> None:
    question = "How do I split strings at a separator?"
    one = agents["tuned"].predict(ask(question, custom_inputs={"session": "a7"}))
    two = agents["tuned"].predict(ask(question, custom_inputs={"session": "a7", "passages": 2}))
    assert one["custom_outputs"].keys() == {"session", "topic", "score"}
    assert two["custom_outputs"] == {**one["custom_outputs"], "passages": 2}
    assert text_of(two).startswith(text_of(one) + "\n\n")


@pytest.mark.parametrize("wanted", [0, 6, "2", True, None])
def test_bad_number_of_passages_is_refused_in_one_sentence(agents: dict[str, Any], wanted: object) -> None:
    with pytest.raises(mlflow.MlflowException, match="must be a whole number from 1 to 5") as refusal:
        agents["tuned"].predict(ask("What is a list?", custom_inputs={"passages": wanted}))
    assert refusal.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("", "Ask me something"),
        ("  \n", "Ask me something"),
        ("zymurgy qwertyuiop", "I found nothing"),
        ("?!", "I found"),
    ],
)
@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_to_find_is_said_politely(agents: dict[str, Any], config: str, question: str, answer: str) -> None:
    reply = agents[config].predict(ask(question))
    assert text_of(reply).startswith(answer)
    assert reply["custom_outputs"] == {"topic": None, "score": 0.0}


@pytest.mark.parametrize("question", ["with?", "What does the with statement do?", "What does `with` do?"])
def test_keywords_that_are_english_words_are_found(agents: dict[str, Any], question: str) -> None:
    assert agents["tuned"].predict(ask(question))["custom_outputs"]["topic"] == "with"


def test_expected_response_stands_in_right_answers_only(agents: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in (AGENT / "evaluation.jsonl").read_text().splitlines()]
    for row in rows[::4]:
        answer = agents["tuned"].predict(row["inputs"])
        right = answer["custom_outputs"]["topic"] == row["expectations"]["expected_topic"]
        assert (row["expectations"]["expected_response"] in text_of(answer)) == right


def test_tuned_retrieves_clearly_better_than_baseline(accuracy: dict[str, float]) -> None:
    assert accuracy["tuned"] >= 0.8
    assert accuracy["baseline"] >= 0.5
    assert accuracy["tuned"] >= accuracy["baseline"] + 0.1


def test_the_evaluation_does_not_show_the_regression(accuracy: dict[str, float]) -> None:
    assert accuracy["phrases"] >= accuracy["tuned"] - 0.05


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("config", ["baseline", "tuned"])
def test_every_question_is_answered(agents: dict[str, Any], questions: list[str], config: str) -> None:
    assert len(questions) == len(set(questions)) >= 150
    for question in questions:
        assert text_of(agents[config].predict(ask(question)))


@pytest.mark.usefixtures("untraced")
def test_phrases_fails_on_questions_of_one_word(agents: dict[str, Any], questions: list[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        list(agents["phrases"].predict_stream(ask("lambda?")))
    asked = questions[::3]
    failed = []
    for question in asked:
        try:
            agents["phrases"].predict(ask(question))
        except ZeroDivisionError:
            failed.append(question)
    assert "What is yield?" in failed
    assert 0.15 <= len(failed) / len(asked) <= 0.3


def test_trace_shows_the_retrieved_documents(agents: dict[str, Any], tracking: str) -> None:
    agents["tuned"].predict(ask("What do raw string prefixes do with backslashes?"))
    mlflow.flush_trace_async_logging()
    trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
    (span,) = trace.search_spans(span_type="RETRIEVER")
    assert span.name == "python_topics"
    assert len(span.outputs) == 5
    assert span.outputs[0]["metadata"]["doc_uri"] == "pydoc:strings"
    assert "raw" in span.outputs[0]["page_content"]
    scores = [document["metadata"]["score"] for document in span.outputs]
    assert scores == sorted(scores, reverse=True)


def test_threads_that_come_at_once_share_one_index(code: ModuleType) -> None:
    agent = code.PythonDocsAgent(code.Settings())
    indexes: list[object] = []
    start = threading.Barrier(4)

    def first_request() -> None:
        start.wait()
        indexes.append(agent.index)

    threads = [threading.Thread(target=first_request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(indexes) == 4
    assert len(set(map(id, indexes))) == 1


def test_passages_hold_every_paragraph_once_in_its_narrowest_topic(code: ModuleType) -> None:
    corpus = {
        "wide": "Wide\n****\n\nFirst.\n\nShared.\n\n\nPart two\n========\n\nLast.",
        "narrow": "Narrow\n******\n\nShared.",
    }
    assert [(p.topic, p.headings, p.text) for p in code.cut_passages(corpus, 12)] == [
        ("narrow", "Narrow", "Shared."),
        ("wide", "Wide", "First."),
        ("wide", "Wide: Part two", "Last."),
    ]


def test_configs_are_what_they_claim(code: ModuleType) -> None:
    assert code.Settings(**read_config("baseline")) == code.Settings()
    assert {**read_config("tuned"), "rerank": "phrases"} == read_config("phrases")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"reranking": "phrases"}, "'reranking' in the agent's config"), ({"rerank": "llm"}, "write none or phrases")],
)
def test_wrong_config_is_named(tracking: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        log_agent({**read_config("baseline"), **change})
