"""docs/reference.md and docs/local-workspace.md say what the code says."""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.observations import Series
from release_pipeline.gate.verdict import Action as VerdictAction
from release_pipeline.gate.verdict import GoReason, HoldReason, MetricState, MetricVerdict, Signals, Verdict
from release_pipeline.local_workspace.settings import Faults
from release_pipeline.report.metadata import canary_metadata, promotion_metadata
from release_pipeline.rollout import ledger
from release_pipeline.rollout.evidence_fold import Point
from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.state import Stage, current_release
from release_pipeline.spec_endpoint import _OWN_TAGS
from release_pipeline.spec_gate import GatePart, Metric
from release_pipeline.workspace import evidence_table, score_table

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
PACKAGE = PROJECT / "release_pipeline"
NAMES_OF_METADATA = ("metadata", "numbers")
METRIC = "METRIC"


@pytest.fixture(scope="module")
def reference() -> str:
    return (DOCS / "reference.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def maker() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        yield importlib.import_module("make_reference")


def section(text: str, title: str) -> str:
    """The text below one heading, up to the next of the same rank."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference.md has no section {title}"
    return found.group(1)


@pytest.mark.parametrize("page", ["reference.md", "local-workspace.md"])
def test_the_generated_parts_are_up_to_date(maker: ModuleType, page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == maker.rewritten(page), "run: python docs/make_reference.py"


def metadata_keys() -> set[str]:
    """Keys of all metadata that assets, automation and report write; ``*`` stands for a part that varies."""
    keys = {key.replace(METRIC, "*") for key in reported_keys()}
    for folder in ("assets", "automation"):
        for file in sorted((PACKAGE / folder).glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                keys.update(_keys_of(node))
    return keys


def reported_keys() -> set[str]:
    """Keys that the report writes of one look that holds everything a look can hold."""
    metric = MetricVerdict(
        name=METRIC,
        kind="errors",
        guard=True,
        required=True,
        champion_n=100,
        champion_bad=1,
        challenger_n=100,
        challenger_bad=1,
        challenger_unjudged=1,
        harm_e=1.0,
        harm_limit=20.0,
        noninferiority_e=1.0,
        noninferiority_limit=20.0,
        margin=0.02,
        bound=None,
        state=MetricState.UNDECIDED,
        requests_left=10,
    )
    at = datetime(2026, 1, 1, tzinfo=UTC)
    ledger_rows = [
        Entry(
            release="20260101-000000",
            sequence=1 + index,
            at=at,
            actor="test",
            action=Action.DEPLOY,
            phase=phase,
            after={"challenger_version": "2", "champion_version": "1", "entities": {}},
        )
        for index, phase in enumerate((Phase.INTENT, Phase.DONE))
    ]
    release = current_release(ledger_rows)
    assert release is not None
    gate = GatePart(metrics=(Metric(name=METRIC, kind="errors"),))
    verdict = Verdict(VerdictAction.HOLD, HoldReason.NOT_ENOUGH, "Hold.", (metric,))
    seen = Observed(
        release=release,
        endpoint=None,
        evidence=EvidenceState(gate=gate, levels={Series(METRIC): 0.01}, buckets={METRIC: 60.0}),
        verdict=verdict,
        judged=verdict,
        evidence_digest="0" * 16,
        thresholds={METRIC: None},
        ingests=1,
        lag_seconds=1.0,
        signals=Signals(configured_share=0.05, now=9.0, step_started_at=1.0, ramp_started_at=1.0),
        path={Series(METRIC): (Point(1, 0, dict.fromkeys(Bet, 0.0)),)},
    )
    canary = canary_metadata(seen, endpoint_url="http://127.0.0.1/")
    promotion = promotion_metadata(
        seen,
        endpoint_url="http://127.0.0.1/",
        now=release,
        live_version="2",
        live_url="http://127.0.0.1/2",
        alias="champion",
        routes={"two": 100},
    )
    return canary.keys() | promotion.keys()


def _keys_of(node: ast.AST) -> Iterator[str]:
    value: ast.expr | None = None
    if isinstance(node, ast.keyword) and node.arg == "metadata":
        value = node.value
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name) and target.id in NAMES_OF_METADATA:
                value = node.value
            elif (
                isinstance(target, ast.Subscript)
                and isinstance(target.value, ast.Name)
                and target.value.id in NAMES_OF_METADATA
            ):
                yield from _text(target.slice)
    for inner in ast.walk(value) if value is not None else ():
        if isinstance(inner, ast.Dict):
            for key in inner.keys:
                yield from _text(key)


def _text(key: ast.expr | None) -> Iterator[str]:
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        yield key.value
    elif isinstance(key, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in key.values)


def test_every_metadata_key_is_described(reference: str) -> None:
    keys = metadata_keys()
    assert {"traffic_percent", "live_version", "*_harm_e"} <= keys, "the collection of keys has lost its way"
    described = section(reference, "Metadata")
    missing = [
        key for key in sorted(keys) if not re.search("`" + re.escape(key).replace(r"\*", "<[a-z]+>") + "`", described)
    ]
    assert missing == []


@pytest.mark.parametrize("reason", [*HoldReason, *GoReason])
def test_every_reason_is_listed(reference: str, reason: str) -> None:
    assert f"`{reason}`" in section(reference, "Verdicts and their reasons")


def test_every_column_is_described(reference: str) -> None:
    tables = section(reference, "Tables")
    evidence = dict(evidence_table._COLUMNS)
    pairs = [tuple(column.split()) for column in ledger._COLUMNS.split(",")]
    scores = dict(score_table._COLUMNS)
    for name, kind in [*pairs, *evidence.items(), *scores.items()]:
        assert f"| `{name}` | {kind} |" in tables
    assert tables.count("\n| `") == len(pairs) + len(evidence) + len(scores)


@pytest.mark.parametrize("word", [*Action, *Phase, *Stage])
def test_every_word_of_the_ledger_is_named(reference: str, word: str) -> None:
    assert f"`{word}`" in section(reference, "Tables")


def test_every_tag_is_described(reference: str) -> None:
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        if "local_workspace" not in file.parts and "demo" not in file.parts:
            text = file.read_text(encoding="utf-8")
            found.update(re.findall(r'"(release_pipeline[./][a-z_]+)"', text))
    found = {tag for tag in found if not tag.endswith((".defs", ".definitions"))}
    assert {"release_pipeline.status", "release_pipeline/endpoint"} <= found, "the collection of tags has lost its way"
    tags, found = section(reference, "Tags"), found | set(_OWN_TAGS)
    assert [tag for tag in sorted(found) if f"`{tag}`" not in tags] == []


def test_every_field_of_a_run_configuration_is_described(reference: str) -> None:
    importlib.import_module("release_pipeline.build")  # which imports all that define one
    described = section(reference, "What Dagster shows")
    found = [each for each in dg.Config.__subclasses__() if each.__module__.startswith("release_pipeline.")]
    assert len(found) >= 4, found
    for config in found:
        for name, field in config.model_fields.items():
            words = {"": "empty", False: "`false`", True: "`true`"}
            default = "**required**" if field.is_required() else words.get(field.default, f"`{field.default}`")
            assert f"| `{name}` | {default} |" in described


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    texts = "\n".join(
        "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else str(node.value)
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    )
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^|]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 20
    assert [each for row in quoted for each in row.split("` ... `") if each not in texts] == []


@pytest.mark.parametrize("setting", [each.name for each in fields(Faults)])
def test_every_way_to_make_the_local_workspace_fail_is_told(setting: str) -> None:
    assert f"| `{setting}` | " in (DOCS / "local-workspace.md").read_text(encoding="utf-8")
