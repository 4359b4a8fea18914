"""The ledger in the warehouse: one writer wins, rows stay, and what was written is what is read."""

import re
from pathlib import Path

import pytest

import release_pipeline
from release_pipeline.errors import Superseded
from release_pipeline.rollout.ledger import Action, Entry, Ledger, Phase
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


def test_of_two_writers_at_once_exactly_one_wins(model: Model) -> None:
    model.parts().ledger.create()
    wins = {"one": 0, "two": 0}
    for _ in range(6):
        entries = model.parts().ledger.read()
        results = together(
            lambda entries=entries: append(model.parts().ledger, entries, actor="one"),
            lambda entries=entries: append(model.parts().ledger, entries, actor="two"),
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


def test_no_statement_of_the_pipeline_updates_or_deletes_rows() -> None:
    source = Path(release_pipeline.__file__).parent
    changing = re.compile(
        r"\b(UPDATE\s+\S+\s+SET|DELETE\s+FROM|TRUNCATE\s+TABLE|MERGE\s+INTO|DROP\s+TABLE|INSERT\s+OVERWRITE"
        r"|CREATE\s+OR\s+REPLACE\s+TABLE|RESTORE\s+TABLE)\b"
    )
    # The local workspace answers statements and makes none; a replay works on tables of its own, in memory.
    files = [file for file in source.rglob("*.py") if not {"local_workspace", "replay_log"} & set(file.parts)]
    assert {file.parent.name for file in files} >= {"rollout", "automation", "operate", "demo", source.name}
    searched = 0
    for file in files:
        searched += "INSERT INTO" in file.read_text()
        assert not changing.search(file.read_text()), file
    assert searched == 3, "ledger, evidence and scores are written with INSERT, and are what was searched"
