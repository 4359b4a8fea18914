"""The ledger in the warehouse: one writer wins, rows stay, and what was written is what is read."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

import release_pipeline
from release_pipeline.clock import SystemClock
from release_pipeline.errors import StatementFailed, Superseded
from release_pipeline.rollout.ledger import READ_LIMIT, Action, Entry, Ledger, Phase
from release_pipeline.rollout.state import Stage, current_release, paused
from release_pipeline.workspace.sql.warehouse import Warehouse
from tests.pipeline.conftest import Model, together


def append(ledger: Ledger, entries: list[Entry], *, actor: str = "test", reason: str = "because") -> Entry:
    return ledger.append(
        entries,
        release="20260101-000000",
        actor=actor,
        action=Action.DEPLOY,
        phase=Phase.INTENT,
        before={"champion_version": None},
        after={"routes": {"a": 75, "b": 25}, "note": 'it\'s "quoted"; DROP TABLE x --'},
        config_version=3,
        evidence_digest="0123456789abcdef",
        reason=reason,
    )


def test_what_is_appended_is_read_back_as_it_was_in_order(model: Model) -> None:
    ledger = model.parts().ledger
    assert ledger.read() == [], "no table is an empty ledger"
    ledger.create()
    ledger.create()
    entries: list[Entry] = []
    for reason in ("it's worse; '); --", "größer ≥ 5 %\nsecond line", ""):
        entries.append(append(ledger, entries, reason=reason))
    read = model.parts().ledger.read()
    assert [entry.sequence for entry in read] == [1, 2, 3]
    assert [entry.reason for entry in read] == ["it's worse; '); --", "größer ≥ 5 %\nsecond line", ""]
    assert read == entries, "every field, the time to the millisecond"
    assert ledger.read_from(2) == entries[1:]
    assert ledger.read_from(4) == []


def test_of_two_writers_at_once_exactly_one_wins(model: Model) -> None:
    model.parts().ledger.create()
    wins = {"one": 0, "two": 0}
    for _ in range(6):
        entries = model.parts().ledger.read()
        results = together(
            lambda entries=entries: append(model.parts().ledger, entries, actor="one"),  # type: ignore[misc]
            lambda entries=entries: append(model.parts().ledger, entries, actor="two"),  # type: ignore[misc]
        )
        won = [result for result in results if isinstance(result, Entry)]
        lost = [result for result in results if not isinstance(result, Entry)]
        assert len(won) == 1
        assert [type(error) for error in lost] == [Superseded]
        assert "nothing was changed" in str(lost[0])
        wins[won[0].actor] += 1
        after = model.parts().ledger.read()
        assert after == [*entries, won[0]]
    assert sum(wins.values()) == 6


def test_a_writer_that_missed_a_row_is_superseded(model: Model) -> None:
    ledger = model.parts().ledger
    ledger.create()
    first = append(ledger, [])
    with pytest.raises(Superseded, match=re.escape(model.spec.ledger_table)):
        append(ledger, [])
    assert ledger.read() == [first]


def test_what_began_or_was_paused_longer_ago_than_the_newest_rows_still_counts(model: Model) -> None:
    parts = model.parts()
    ledger, now = parts.ledger, datetime.now(UTC)
    ledger.create()
    began = {"entities": {"challenger": "b", "champion": "a"}, "challenger_version": "2", "champion_version": "1"}
    told: list[tuple[str, Action, Phase]] = [
        ("old", Action.DEPLOY, Phase.INTENT),
        ("old", Action.DEPLOY, Phase.FAILED),
        ("finished", Action.DEPLOY, Phase.INTENT),
        ("finished", Action.DEPLOY, Phase.DONE),
        ("finished", Action.RETIRE, Phase.INTENT),
        ("finished", Action.RETIRE, Phase.DONE),
        ("", Action.PAUSE, Phase.DONE),
        *[("", Action.FREEZE, Phase.DONE)] * READ_LIMIT,
        ("new", Action.QUEUE, Phase.DONE),
        ("new", Action.DEPLOY, Phase.INTENT),
        ("new", Action.DEPLOY, Phase.DONE),
        *[("new", Action.APPROVE, Phase.DONE)] * READ_LIMIT,
    ]
    rows = ", ".join(
        f"('{release}', {number}, TIMESTAMP '{now:%Y-%m-%d %H:%M:%S}', 'test', '{action}', '{phase}', '{{}}', "
        f"'{json.dumps(began)}', 1, '', '', '{number}')"
        for number, (release, action, phase) in enumerate(told, start=1)
    )
    parts.workspace.warehouse.execute(f"INSERT INTO {ledger.table} VALUES {rows}")
    entries = ledger.read()
    assert len(entries) == READ_LIMIT + 4, "the newest release, and the pause"
    newest = current_release(entries)
    assert newest is not None
    assert (newest.release, newest.stage) == ("new", Stage.DEPLOYED)
    assert newest.paused is not None
    assert newest.paused.sequence == 7
    assert current_release(entries, "finished") is None
    finished = parts.rollout.deploy("finished", "2", model.entity("2"), table_version=0)
    assert finished.stage is Stage.FINISHED, "it is known, and not begun again"
    assert parts.ledger.read() == entries
    failed = parts.rollout.state("old")
    assert failed is not None
    assert failed.stage is Stage.FAILED
    events = model.parts("user:ada").events
    assert events.pause("again").sequence == 7, "once is enough"
    assert events.unpause("over") is not None
    assert paused(ledger.read()) is None


def test_no_statement_of_the_pipeline_updates_or_deletes_rows() -> None:
    source = Path(release_pipeline.__file__).parent
    changing = re.compile(
        r"\b(UPDATE\s+\S+\s+SET|DELETE\s+FROM|TRUNCATE\s+TABLE|MERGE\s+INTO|DROP\s+TABLE|INSERT\s+OVERWRITE"
        r"|CREATE\s+OR\s+REPLACE\s+TABLE|RESTORE\s+TABLE)\b",
        re.IGNORECASE,
    )
    # The local workspace answers statements and makes none; a replay works on tables of its own, in memory.
    files = [file for file in source.rglob("*.py") if not {"local_workspace", "replay_log"} & set(file.parts)]
    assert {file.parent.name for file in files} >= {"rollout", "automation", "operate", "demo", source.name}
    searched = 0
    for file in files:
        # A statement may be written in several strings, one behind the other, and in the words of a docstring.
        text = re.sub(r'"\s*\n\s*f?"', "", file.read_text())
        searched += "INSERT INTO" in text
        assert changing.findall(text) == [], file
    assert searched == 3, "ledger, evidence and scores are written with INSERT, and are what was searched"


@pytest.mark.parametrize(
    "message",
    [
        "[DELTA_CONCURRENT_APPEND.WITHOUT_HINT] Transaction conflict detected. SQLSTATE: 2D521",
        "ConcurrentAppendException: Files were added to the root of the table by a concurrent update.",
        "[DELTA_CONCURRENT_WRITE] ConcurrentWriteException: A concurrent transaction has written new data.",
    ],
)
def test_an_insert_that_delta_refuses_for_another_one_has_lost(message: str) -> None:
    class Busy(Warehouse):
        def execute(self, statement: str, parameters: Any = None) -> list[Any]:
            raise StatementFailed(f"SQL warehouse 1: {message}")

    ledger = Ledger(Busy(cast("Any", None), "1"), "main.default.x", SystemClock())
    with pytest.raises(Superseded, match="somebody else wrote"):
        append(ledger, [])


def test_an_insert_that_fails_for_another_reason_has_not_lost() -> None:
    class Broken(Warehouse):
        def execute(self, statement: str, parameters: Any = None) -> list[Any]:
            raise StatementFailed("SQL warehouse 1: out of memory")

    with pytest.raises(StatementFailed, match="out of memory"):
        append(Ledger(Broken(cast("Any", None), "1"), "main.default.x", SystemClock()), [])


def test_of_two_rows_that_were_both_committed_one_counts_for_everybody(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = model.parts().ledger
    ledger.create()
    first = append(ledger, [], actor="one")
    execute, rivals = Warehouse.execute, iter([timedelta(seconds=-5), timedelta(seconds=5)])

    def both(self: Warehouse, statement: str, parameters: Any = None) -> Any:
        """As two commits that did not see each other: another row of the same sequence is there, too."""
        if statement.startswith("INSERT"):
            rival = {**parameters, "actor": "rival", "at": parameters["at"] + next(rivals), "entry_id": uuid4().hex}
            execute(self, statement.partition("WHERE")[0], rival)
            statement = statement.partition("WHERE")[0]
        return execute(self, statement, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "execute", both)
        with pytest.raises(Superseded):
            append(ledger, [first], actor="two")
        entries = ledger.read()
        assert [entry.actor for entry in entries] == ["one", "rival"]
        won = append(ledger, entries, actor="three")
    assert model.parts().ledger.read() == [*entries, won] == ledger.read_all()
    count = model.parts().workspace.warehouse.execute(f"SELECT count(*) AS n FROM {ledger.table}")
    assert count[0]["n"] == "5", "no row is taken away"
