"""What is taken as JSON, and what is not although Python would take it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release_pipeline.local_workspace.json_text import DEEPEST, read_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@given(VALUES, st.booleans())
def test_what_was_written_is_read(value: object, ascii_only: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b'{"a": -1e999}',
        b'"\\ud800"',
        b'{"\\uDFFF": 1}',
        b'"\\udc00\\ud800"',
        b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
        b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1),
        b"[" * 200_000 + b"]" * 200_000,
        b"9" * 5_000,
        b"\xff",
        '"text"'.encode("utf-16"),
        b"{'a': 1}",
        b"",
    ],
    ids=lambda raw: str(raw[:12]),
)
def test_what_could_not_be_written_again_is_not_read(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S|^$"):
        read_json(raw)


def test_a_mark_at_the_beginning_pairs_of_surrogates_and_what_is_just_deep_enough() -> None:
    assert read_json(b"\xef\xbb\xbf[1]") == [1]
    assert read_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
    deep = b"[" * DEEPEST + b"]" * DEEPEST
    assert json.dumps(read_json(deep)).encode() == deep
    assert read_json(b"[" + b"[]," * 500 + b"[]]") == [[]] * 501
