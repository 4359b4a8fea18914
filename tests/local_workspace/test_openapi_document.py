"""The OpenAPI document of an endpoint says what its models take and give: real requests and answers fit it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from databricks.sdk import WorkspaceClient
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, DataType, Map, Object, Property, TensorSpec

from release_pipeline.local_workspace.serving.openapi import openapi_document
from tests.local_workspace.conftest import AGENT, PLAIN, say


def operation(document: dict[str, Any]) -> dict[str, Any]:
    """The only operation of a document."""
    (path,) = document["paths"].values()
    only: dict[str, Any] = path["post"]
    return only


def request_schema(document: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = operation(document)["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def answer_schema(document: dict[str, Any], status: str = "200") -> dict[str, Any]:
    schema: dict[str, Any] = operation(document)["responses"][status]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.mark.parametrize(
    ("model", "fits", "wrong"),
    [
        (AGENT, say("hello"), [{"messages": []}, {}]),
        (
            PLAIN,
            {"dataframe_records": [{"x": 1.5}]},
            [{"dataframe_records": [{"x": "one"}]}, {"dataframe_records": [{}]}, {}],
        ),
        (PLAIN, {"dataframe_split": {"columns": ["x"], "data": [[1.5]]}}, [{"dataframe_split": {}}]),
    ],
)
def test_what_fits_the_document_is_answered_as_it_says_and_what_does_not_is_refused(
    client: WorkspaceClient, shared_endpoint: Callable[[str], str], model: str, fits: Any, wrong: list[Any]
) -> None:
    name = shared_endpoint(model)
    document = json.loads(client.serving_endpoints.get_open_api(name).contents.read())
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": client.config.host}]
    (path,) = document["paths"]
    schema = request_schema(document)
    jsonschema.validate(fits, schema)
    jsonschema.validate(client.api_client.do("POST", path, body=fits), answer_schema(document))
    for each in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(each, schema)
        with pytest.raises(Exception) as refused:  # noqa: PT011 - which class of the SDK's follows from the code
            client.api_client.do("POST", path, body=each)
        said = {"error_code": refused.value.error_code, "message": str(refused.value)}  # type: ignore[attr-defined]
        jsonschema.validate(said, answer_schema(document, "default"))
    streamed = "text/event-stream" in operation(document)["responses"]["200"]["content"]
    assert streamed == (model == AGENT)


def described(folder: Path, **signature: Any) -> dict[str, Any]:
    """The document of a model with a signature that was not logged."""
    Model(signature=ModelSignature(**signature)).save(str(folder / "MLmodel"))
    return openapi_document("e", "http://localhost", {"only": folder})


def test_every_type_of_a_signature_has_a_schema(tmp_path: Path) -> None:
    nested = Object([Property("a", DataType.long), Property("b", Map(DataType.double), required=False)])
    inputs = Schema(
        [ColSpec(kind, kind.name) for kind in DataType] + [ColSpec(Array(nested), "nested", required=False)]
    )
    parameters = ParamSchema([ParamSpec("k", DataType.long, 3), ParamSpec("l", DataType.string, ["a"], (-1,))])
    outputs = Schema([ColSpec("double", "score"), ColSpec("string", "label")])
    document = described(tmp_path, inputs=inputs, outputs=outputs, params=parameters)
    row: dict[str, Any] = {
        "boolean": True, "integer": 1, "long": 2, "float": 1.5, "double": 2.5,
        "string": "a", "binary": "YQ==", "datetime": "2026-11-21T00:00:00",
    }  # fmt: skip
    assert {kind.name for kind in DataType} == set(row)
    schema = request_schema(document)
    for good in (row, row | {"nested": [{"a": 1, "b": {"c": 1.5}}, {"a": 2}]}):
        jsonschema.validate({"dataframe_records": [good], "params": {"k": 1, "l": ["b"]}}, schema)
    for bad in (
        {"dataframe_records": [row | {"long": "two"}]},
        {"dataframe_records": [row | {"nested": [{"b": {}}]}]},
        {"dataframe_records": [row | {"nested": [{"a": 1, "b": {"c": "d"}}]}]},
        {"dataframe_records": [row], "params": {"k": "one"}},
        {"dataframe_records": [row], "params": {"l": "b"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    answers = answer_schema(document)
    jsonschema.validate({"predictions": [{"score": 0.5, "label": "a"}]}, answers)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"predictions": [{"score": "a"}]}, answers)


def test_tensors_are_arrays(tmp_path: Path) -> None:
    import numpy as np

    tensor = Schema([TensorSpec(np.dtype("float64"), (-1, 3))])
    document = described(tmp_path, inputs=tensor, outputs=tensor)
    jsonschema.validate({"inputs": [[1.0, 2.0, 3.0]]}, request_schema(document))
    jsonschema.validate({"predictions": [[1.0, 2.0, 3.0]]}, answer_schema(document))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"predictions": 1.0}, answer_schema(document))
