"""What counts as one SQL expression in the YAML."""

import pytest

from release_pipeline.spec_sql import expression_problem, names_in


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1; DROP TABLE t", "semicolon"),
        ("(SELECT 1)", "SELECT"),
        ("1) FROM t --", "closes a ) that was not opened"),
        ("a -- b", "comment"),
        ("a /* b */", "comment"),
        ("a, b", "comma"),
        ("(a", "not closed"),
        ("'a", "quote that is not closed"),
        ("exists (VALUES (1))", "VALUES"),
        ("(FROM t |> AGGREGATE count(*))", "(|>)"),
        ("[1)", "closes a )"),
        ("  ", "empty"),
        (r"r'\' ; '", "semicolon"),
    ],
)
def test_what_is_no_single_expression_is_said_in_words(text: str, says: str) -> None:
    assert says in str(expression_problem(text))


@pytest.mark.parametrize(
    "text",
    [
        "status_code >= 500",
        "CASE WHEN response LIKE '%;SELECT -- it''s%' THEN 1 ELSE 0 END",
        r"response = 'it\'s; fine'",
        "`select` + request_metadata['with'] + a.values + request:table.id",
        "extract(HOUR FROM request_time) / 24",
        'greatest(0, least(1, size(split(response, "\\n")) / 5))',
        "exists(filter(array(1, 2), x -> x > 1), x -> x > 1)",
    ],
)
def test_an_expression_that_is_one_passes(text: str) -> None:
    assert expression_problem(text) is None


def test_names_are_found_outside_texts_only() -> None:
    assert names_in("CASE WHEN `Response` = 'request' THEN length(a) END") == {
        "case",
        "when",
        "response",
        "then",
        "length",
        "a",
        "end",
    }
