"""The two tables that the service used to derive from an agent's inference table, about an hour later.

Request logs have a row per request, taken apart; assessment logs a row per assessment of a person, who sent it through
the endpoint's feedback entity. Columns are those that the service documented; the fields within ``source``,
``text_assessment`` and ``retrieval_assessment`` follow the feedback request's own.
"""

from release_pipeline.local_workspace.sql.payload_shapes import (
    MAP,
    Column,
    day,
    epoch_ms,
    field,
    nested,
    request_metadata,
    timestamp,
)

REQUEST_LOGS, ASSESSMENT_LOGS = "_request_logs", "_assessment_logs"
_RATINGS = "MAP(VARCHAR, STRUCT(value VARCHAR, rationale VARCHAR))"

DERIVED: dict[str, tuple[Column, ...]] = {
    REQUEST_LOGS: (
        field("client_request_id", "VARCHAR"),
        field("databricks_request_id", "VARCHAR"),
        Column("date", "DATE", day),
        Column("timestamp_ms", "BIGINT", epoch_ms),
        Column("timestamp", "TIMESTAMP", timestamp),
        field("status_code", "INTEGER"),
        field("execution_time_ms", "BIGINT", "execution_duration_ms"),
        field("conversation_id", "VARCHAR"),
        field("request", "VARCHAR", "last_question"),
        field("response", "VARCHAR", "last_answer"),
        field("request_raw", "VARCHAR", "request"),
        field("response_raw", "VARCHAR", "response"),
        field("trace", "VARCHAR"),
        field("sampling_fraction", "DOUBLE"),
        Column("request_metadata", MAP, request_metadata),
        Column("schema_version", "VARCHAR", lambda row: "1"),
    ),
    ASSESSMENT_LOGS: (
        field("request_id", "VARCHAR"),
        field("step_id", "VARCHAR"),
        nested("source", "STRUCT(id VARCHAR, type VARCHAR)"),
        Column("timestamp", "TIMESTAMP", timestamp),
        nested("text_assessment", f"STRUCT(ratings {_RATINGS}, free_text_comment VARCHAR, suggested_output VARCHAR)"),
        nested("retrieval_assessment", f"STRUCT(position INTEGER, ratings {_RATINGS}, free_text_comment VARCHAR)"),
    ),
}
"""Columns by the suffix that is added to the inference table's name."""
