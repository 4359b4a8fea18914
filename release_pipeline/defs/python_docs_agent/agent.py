"""An agent that answers questions about Python from the language's own documentation.

The corpus is `pydoc_data.topics`, which every Python ships: the text behind `help("lambda")`. Its
topics are cut into passages, the passages are ranked with BM25, and the best ones are the answer.
So the agent needs no language model, runs anywhere, answers in milliseconds and always says the same;
with `llm_endpoint` set, a language model words the answer from them. It is logged as
models-from-code: this file is the model, and a YAML file next to it holds the parameters of a release
(see `Settings`).
"""

import functools
import keyword
import re
import sys
import threading
import uuid
import warnings
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import bm25s
import mlflow
import numpy as np
from mlflow.deployments import get_deploy_client
from mlflow.entities import SpanType
from mlflow.exceptions import MlflowException
from mlflow.models import ModelConfig
from mlflow.pyfunc import ResponsesAgent  # type: ignore[attr-defined]
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent

RETRIEVER = "python_topics"
RETRIEVED = 5  # passages in the retriever's span, and the most that one answer shows
CANDIDATES = 20  # passages that are ranked again when `rerank` is on

INSTRUCTIONS = "Answer the question from these passages of Python's documentation alone. Name the topics you used."

GREETING = "Ask me something about the Python language, for example: what does the nonlocal statement do?"
NOTHING_FOUND = "I found nothing about that in Python's documentation. Try the name of a statement, a type or a method."

# A word, the quote before it, and the noun after it. "for", "with" and others are words of English too,
# and mean Python only in quotes or before such a noun.
WORD = re.compile(
    r"([\"'`“]?)([a-z0-9]+(?:_[a-z0-9]+)*)"
    r"(?:(?=[\"'`”]? (statement|loop|clause|keyword|operator|block|expression)s?\b))?"
)
STOP_WORDS = frozenset(
    """
    a about all also am an and any are as at be been but by can could did do does doing done else every explain for
    from get gets give got had has have help how i if in into is it its just know like let make makes many may me
    mean means might more most much must my need no not of off on one only or other our out over please python same
    see should show so some such tell than that the their them then there these they thing things this those to too
    under up use used uses using want was way we were what when where which while who why will with work works would
    you your
    """.split()  # noqa: SIM905
)
SUFFIXES = ("ations", "ation", "ments", "ment", "ings", "ing", "ions", "ion", "ers", "er", "ies", "ed", "es", "s", "e")


@dataclass(frozen=True)
class Settings:
    """The parameters of one release of the agent, read from its model config.

    Attributes:
        title_weight: How many times the words of a passage's headings count as words of the passage.
        stemming: Whether endings are cut, so that "yields" and "yielding" find "yield".
        k1: BM25's saturation of repeated words, above 0.
        b: BM25's penalty on long passages, 0 to 1.
        passage_lines: Lines after which a passage is closed at the next paragraph.
        rerank: "none", or "phrases" to prefer passages where the question's words stand close together.
        llm_endpoint: Serving endpoint of a chat model that words the answer from the passages; without one
            they are the answer. What it is called by has to be among the release's `model.resources`.
    """

    title_weight: int = 0
    stemming: bool = False
    k1: float = 1.5
    b: float = 0.75
    passage_lines: int = 12
    rerank: str = "none"
    llm_endpoint: str = ""

    def __post_init__(self) -> None:
        if self.rerank not in ("none", "phrases"):
            raise ValueError(f"rerank is {self.rerank!r} in the agent's config: write none or phrases.")

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Settings":
        """Build the settings from a config, with the defaults for what it leaves out.

        Raises:
            ValueError: A key is not a setting, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                raise ValueError(f"{key!r} in the agent's config is not a setting: use {', '.join(known)}.")
        return cls(**config)


class Passage(NamedTuple):
    """Some paragraphs of one topic, with the headings that they stand under."""

    id: str
    topic: str
    headings: str
    text: str


def read_sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Split a topic's text into (headings, paragraphs); an underlined line is a heading."""
    title = ""
    headings, paragraphs = "", list[str]()
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        first, _, rest = paragraph.partition("\n")
        if len(rest) > 2 and set(rest) <= set("*=-~^"):
            if paragraphs:
                yield headings, paragraphs
            headings, paragraphs = f"{title}: {first}" if title else first, []
            title = title or first
        else:
            paragraphs.append(paragraph)
    if paragraphs:
        yield headings, paragraphs


def cut_passages(corpus: dict[str, str], lines: int) -> list[Passage]:
    """Cut topics into passages of about `lines` lines that hold every paragraph once.

    Topics overlap: "compound" repeats "while", "for", "try" and more. A paragraph belongs to the
    shortest topic that has it; of two equal ones ("if" and "else"), to the one that its heading names.
    """
    order = sorted(corpus, key=lambda name: (len(corpus[name]), f'"{name}"' not in corpus[name][:40], name))
    passages: list[Passage] = []
    seen: set[str] = set()
    for topic in order:
        first_of_topic = len(passages)
        for headings, paragraphs in read_sections(corpus[topic]):
            new = [paragraph for paragraph in paragraphs if paragraph not in seen]
            seen.update(new)
            block: list[str] = []
            for position, paragraph in enumerate(new, start=1):
                block.append(paragraph)
                text = "\n\n".join(block)
                if position == len(new) or text.count("\n") + 1 >= lines:
                    passages.append(Passage(f"{topic}-{len(passages) - first_of_topic}", topic, headings, text))
                    block = []
    return passages


@functools.lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """Cut one common English ending, when at least three letters stay."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def find_words(text: str, stemming: bool) -> list[str]:
    """The meaningful words of a text, in their order; of a text that has none, its keywords ("for?")."""
    words = [
        word
        for quote, word, noun in WORD.findall(text.lower())
        if len(word) > 1 and (quote or noun or word not in STOP_WORDS)
    ] or [word for _, word, _ in WORD.findall(text.lower()) if keyword.iskeyword(word)]
    return [stem(word) for word in words] if stemming else words


class PassageIndex:
    """The passages of a corpus, and how well each answers a question."""

    def __init__(self, corpus: dict[str, str], settings: Settings) -> None:
        self.settings = settings
        self.passages = cut_passages(corpus, settings.passage_lines)
        self._bm25 = bm25s.BM25(k1=settings.k1, b=settings.b)
        self._bm25.index([self._weighted_words(passage) for passage in self.passages], show_progress=False)

    def search(self, question: str, limit: int) -> list[tuple[Passage, float]]:
        """The best passages with their scores, best first; empty when no word of the question occurs."""
        words = list(dict.fromkeys(find_words(question, self.settings.stemming)))
        if not words:
            return []
        scores = self._bm25.get_scores(words)
        best = np.argsort(-scores, kind="stable")[:CANDIDATES]
        found = {int(number): float(scores[number]) for number in best if scores[number] > 0}
        if found and self.settings.rerank == "phrases":
            found = self._rerank(words, found)
        return [(self.passages[number], score) for number, score in list(found.items())[:limit]]

    def _weighted_words(self, passage: Passage) -> list[str]:
        headings = find_words(f"{passage.topic} {passage.headings}", self.settings.stemming)
        return headings * self.settings.title_weight + find_words(passage.text, self.settings.stemming)

    def _rerank(self, words: list[str], found: dict[int, float]) -> dict[int, float]:
        """Raise the score of passages in which neighbours of the question stand close together.

        THE REGRESSION OF THE DEMO, two mistakes on purpose, as releases really carry them. Questions
        of one word have no neighbours, so the mean divides by zero; and the words of the whole corpus
        are found anew for every question. The evaluation set, all of longer questions, shows neither:
        the canary does.
        """
        texts = [self._weighted_words(passage) for passage in self.passages]
        pairs = list(pairwise(words))
        ranked: dict[int, float] = {}
        for number, score in found.items():
            closeness = sum(1 / nearest_distance(texts[number], *pair) for pair in pairs) / len(pairs)
            ranked[number] = score * (1 + 0.3 * closeness)
        return dict(sorted(ranked.items(), key=lambda item: -item[1]))


def nearest_distance(words: list[str], left: str, right: str) -> float:
    """The number of words from one word to the nearest other one; infinite when one is missing."""
    lefts = [position for position, word in enumerate(words) if word == left]
    rights = [position for position, word in enumerate(words) if word == right]
    return min((float(abs(one - other)) for one in lefts for other in rights), default=float("inf"))


def last_question(request: ResponsesAgentRequest) -> str:
    """The text of the user's last message; empty when there is none."""
    for item in reversed(request.input):
        message = item.model_dump()
        if message.get("role") == "user":
            content = message["content"]
            parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            return "\n".join(parts).strip()
    return ""


def passages_wanted(custom_inputs: dict[str, Any]) -> int:
    """How many passages the caller wants to read, `{"passages": n}`, 1 by default.

    Raises:
        MlflowException: It is not a whole number from 1 to 5 (the server answers 400).
    """
    wanted = custom_inputs.get("passages", 1)
    if type(wanted) is not int or not 1 <= wanted <= RETRIEVED:
        raise MlflowException.invalid_parameter_value(
            f"custom_inputs.passages must be a whole number from 1 to {RETRIEVED}: correct it or leave it out."
        )
    return wanted


class PythonDocsAgent(ResponsesAgent):
    """Answers the user's last message with passages of Python's documentation.

    `custom_outputs` repeats what came in `custom_inputs`, and adds `topic` (None when nothing was
    found) and `score` of the best passage.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._index: PassageIndex | None = None
        self._building = threading.Lock()

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:  # type: ignore[override]
        """Answer in one piece what `predict_stream` answers in pieces."""
        done = [event for event in self._events(request) if event.type == "response.output_item.done"]
        return ResponsesAgentResponse(
            output=[event.model_dump()["item"] for event in done], custom_outputs=done[-1].custom_outputs
        )

    def predict_stream(  # type: ignore[override]
        self, request: ResponsesAgentRequest
    ) -> Generator[ResponsesAgentStreamEvent, None, None]:
        """Answer line by line: deltas with one item id, closed by the whole item."""
        yield from self._events(request)

    def _events(self, request: ResponsesAgentRequest) -> Iterator[ResponsesAgentStreamEvent]:
        # Apart from predict_stream, which MLflow traces: predict would have every answer twice in its trace.
        custom_inputs = request.custom_inputs or {}
        wanted = passages_wanted(custom_inputs)
        question = last_question(request)
        documents = self.retrieve(question) if question else []
        best = documents[0]["metadata"] if documents else {"topic": None, "score": 0.0}
        passages = write_answer(question, documents[:wanted])

        item_id, answer = f"msg_{uuid.uuid4().hex}", ""
        worded = documents and self.settings.llm_endpoint
        for piece in self.word(question, passages) if worded else passages.splitlines(keepends=True):
            answer += piece
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=piece, item_id=item_id))
        done: dict[str, Any] = {
            "type": "response.output_item.done",
            "item": self.create_text_output_item(text=answer, id=item_id),
            "custom_outputs": {**custom_inputs, "topic": best["topic"], "score": best["score"]},
        }
        yield ResponsesAgentStreamEvent(**done)

    @mlflow.trace(name=RETRIEVER, span_type=SpanType.RETRIEVER)
    def retrieve(self, question: str) -> list[dict[str, Any]]:
        """The best passages as documents of MLflow's retriever schema, best first."""
        return [
            {
                "id": passage.id,
                "page_content": passage.text,
                "metadata": {
                    "doc_uri": f"pydoc:{passage.topic}",
                    "topic": passage.topic,
                    "headings": passage.headings,
                    "score": round(score, 3),
                },
            }
            for passage, score in self.index.search(question, RETRIEVED)
        ]

    @mlflow.trace(span_type=SpanType.CHAT_MODEL, output_reducer="".join)
    def word(self, question: str, passages: str) -> Iterator[str]:
        """The language model's answer, piece by piece as it comes.

        Raises:
            HTTPError: The endpoint refused, which is this agent's failure too, for the gate to see.
        """
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"{question}\n\n{passages}"},
        ]
        llm = get_deploy_client("databricks")  # type: ignore[no-untyped-call]
        for chunk in llm.predict_stream(endpoint=self.settings.llm_endpoint, inputs={"messages": messages}):
            for choice in chunk["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece

    @property
    def index(self) -> PassageIndex:
        """The index, built by the first request that needs it; requests come on several threads."""
        if self._index is None:
            with self._building:
                if self._index is None:
                    self._index = PassageIndex(topics, self.settings)
        return self._index


def write_answer(question: str, documents: list[dict[str, Any]]) -> str:
    """The text of an answer: each passage under the place that it comes from."""
    if not question:
        return GREETING
    if not documents:
        return NOTHING_FOUND
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return "\n\n".join(
        f"{version}, {document['metadata']['headings']} (topic {document['metadata']['topic']}):\n\n"
        f"{document['page_content']}"
        for document in documents
    )


with warnings.catch_warnings():
    # Deprecated in open-source MLflow, where spans of the default schema need no declaration; a
    # Databricks workspace reads it to link the sources of an answer.
    warnings.simplefilter("ignore", FutureWarning)
    mlflow.models.set_retriever_schema(
        name=RETRIEVER, primary_key="id", text_column="page_content", doc_uri="doc_uri", other_columns=["metadata"]
    )

# Without a model config, as when this file is tried out by itself, the defaults run: the baseline.
config = ModelConfig(development_config=asdict(Settings()))
mlflow.models.set_model(PythonDocsAgent(Settings.read(config.to_dict())))  # type: ignore[no-untyped-call]
