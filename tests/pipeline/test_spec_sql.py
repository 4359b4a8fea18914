"""What counts as one SQL expression in the YAML."""

import pytest

from release_pipeline.errors import SpecError
from release_pipeline.spec import parse_spec
from release_pipeline.spec_sql import expression_problem, names_in
from tests.pipeline.conftest import MODELS, attributes


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
        ("rand() < 0.1", "has RAND, which changes from run to run"),
        ("length(Uuid ())", "has UUID, which"),
        ("request_time < current_timestamp", "has CURRENT_TIMESTAMP, which"),
        ("request_time < current_timestamp()", "has CURRENT_TIMESTAMP, which"),
        ("datediff(now(), request_time)", "has NOW, which"),
        ("`rand`()", "has RAND, which"),
        ("system.builtin.rand()", "has RAND, which"),
        ("unix_timestamp( )", "has UNIX_TIMESTAMP without a time"),
        ("avg(duration_ms) OVER (PARTITION BY request)", "has OVER, which looks at other rows"),
        ("lag(status_code) over(ORDER BY request_time)", "has OVER, which looks at other rows"),
        (":start_0", "parameter marker :start_0"),
        ("status_code > :limit", "parameter marker :limit"),
        ("CASE WHEN:limit THEN 1 END", "parameter marker :limit"),
        ("substr(request,:n)", "parameter marker :n"),
        ("status_code > ?", "parameter marker ?"),
        ("status_code > :`limit`", "parameter marker :"),
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
        "now + label.rand + request:uuid + label.current_date + unix_timestamp(request_time) + `over`",
        "request:usage.tokens::double + from_json(response, 'a int'):a + a[0]:b + request:['x'] + response?::int",
        "response LIKE '%? :name rand() OVER (%'",
    ],
)
def test_an_expression_that_is_one_passes(text: str) -> None:
    assert expression_problem(text) is None


@pytest.mark.parametrize("field", ["badness", "segments"])
def test_the_yaml_refuses_it_with_a_sentence(field: str) -> None:
    metric = {"name": "m", "kind": "expression", "badness": "0", field: "uuid() > 'a'"}
    with pytest.raises(SpecError, match=rf"`gate.metrics.0.{field}` .*: has UUID, which changes .* row alone\.$"):
        parse_spec(attributes("m", gate={"metrics": [metric]}), file=MODELS / "defs.yaml")


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
