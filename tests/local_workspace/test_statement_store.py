"""Results of statements are kept for a while, bounded in number, size and age; the newest always."""

import time
from collections.abc import Callable, Iterator

import pytest

from release_pipeline.local_workspace.sql import statements
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.names import Session
from release_pipeline.local_workspace.sql.statements import Statement, StatementStore

Ask = Callable[[str], Statement]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlEngine]:
    made = SqlEngine(tmp_path_factory.mktemp("statements"), ("main",))
    yield made
    made.close()


@pytest.fixture
def store(engine: SqlEngine) -> StatementStore:
    return StatementStore(engine)


@pytest.fixture
def ask(store: StatementStore) -> Ask:
    def ended(text: str) -> Statement:
        statement = store.submit(text, {}, Session(), None, None)
        statement.done.result(30)
        return statement

    return ended


def test_the_newest_are_kept_in_the_order_of_their_ends(
    store: StatementStore, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "KEPT_STATEMENTS", 2)
    found = [ask(f"SELECT {number} AS n") for number in range(4)]
    assert [store.get(each.id) for each in found] == [None, None, *found[2:]]


def test_large_results_make_way_and_the_newest_stays(
    store: StatementStore, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "KEPT_BYTES", 1000)
    small, large = ask("SELECT 1 AS n"), ask("SELECT repeat('x', 2000) AS text")
    assert store.get(small.id) is None
    assert store.get(large.id) is large
    after = ask("SELECT 2 AS n")
    assert store.get(large.id) is None
    assert store.get(after.id) is after


def test_old_results_are_forgotten(store: StatementStore, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = ask("SELECT 1 AS n"), ask("SELECT 2 AS n")
    monkeypatch.setattr(statements, "KEPT_SECONDS", 60.0)
    old.finished_at = time.monotonic() - 61
    assert store.get(old.id) is None
    assert store.get(new.id) is new
