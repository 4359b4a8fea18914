"""The OpenAPI document of an endpoint, from the signatures of the models that it serves."""

from pathlib import Path
from typing import Any

import yaml

JSON_TYPES: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "long": {"type": "integer"},
    "float": {"type": "number"},
    "double": {"type": "number"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64"},
    "datetime": {"type": "string"},
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
    "required": ["error_code", "message"],
}

# A foundation model's, which has no MLmodel file.
_CHAT_REQUEST: dict[str, Any] = {
    "type": "object",
    "properties": {
        "messages": {"type": "array", "items": {"type": "object"}},
        "max_tokens": {"type": "integer"},
        "stream": {"type": "boolean"},
    },
    "required": ["messages"],
}


def openapi_document(endpoint: str, url: str, models: dict[str, Path]) -> dict[str, Any]:
    """One path per served entity; ``models`` are the folders of the MLmodel files by entity name. Blocks."""
    paths: dict[str, Any] = {}
    for entity, folder in models.items():
        if not (folder / "MLmodel").exists():
            paths[_path(endpoint, entity)] = _operation(_CHAT_REQUEST, {"type": "object"}, streams=True)
            continue
        metadata = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        signature = metadata.get("signature") or {}
        request, answer = _columns_schema(signature.get("inputs")), _columns_schema(signature.get("outputs"))
        is_agent = bool((metadata.get("metadata") or {}).get("task"))
        if not is_agent:
            request = _classical_request(request, _parameters_schema(signature.get("params")))
            answer = {
                "type": "object",
                "properties": {"predictions": answer if answer.get("type") == "array" else _array(answer)},
                "required": ["predictions"],
            }
        paths[_path(endpoint, entity)] = _operation(request, answer, streams=is_agent)
    return {
        "openapi": "3.1.0",
        "info": {"title": endpoint, "version": "1"},
        "servers": [{"url": url}],
        "paths": paths,
    }


def _path(endpoint: str, entity: str) -> str:
    return f"/serving-endpoints/{endpoint}/served-models/{entity}/invocations"


def _operation(request: dict[str, Any], answer: dict[str, Any], *, streams: bool) -> dict[str, Any]:
    """A path's operation, from the schemas of its request and of its answer."""
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"description": "Why there is no answer.", "content": {"application/json": {"schema": _ERROR}}}
    return {
        "post": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
            "responses": {"200": {"description": "The model's answer.", "content": content}, "default": error},
        }
    }


def _classical_request(row: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    split = {
        "type": "object",
        "properties": {"columns": _array({"type": "string"}), "data": _array({"type": "array"})},
        "required": ["data"],
    }
    forms = {"dataframe_records": _array(row), "dataframe_split": split, "inputs": {}, "instances": {"type": "array"}}
    return {
        "oneOf": [
            {"type": "object", "properties": {form: schema, **parameters}, "required": [form]}
            for form, schema in forms.items()
        ]
    }


def _parameters_schema(parameters: str | None) -> dict[str, Any]:
    """What a request may carry as ``params``; empty for a model without."""
    found: dict[str, Any] = {}
    for each in (yaml.safe_load(parameters) if parameters else None) or ():
        one = _type_schema(each)
        found[each["name"]] = (_array(one) if each.get("shape") else one) | {"default": each.get("default")}
    return {"params": {"type": "object", "properties": found}} if found else {}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _columns_schema(signature: str | None) -> dict[str, Any]:
    columns = yaml.safe_load(signature) if signature else None  # JSON inside of YAML
    if not columns or not all(isinstance(column, dict) for column in columns):
        return {}
    if len(columns) == 1 and "name" not in columns[0]:
        return _type_schema(columns[0])
    properties = {str(column.get("name", index)): _type_schema(column) for index, column in enumerate(columns)}
    required = [str(column.get("name", index)) for index, column in enumerate(columns) if column.get("required", True)]
    return {"type": "object", "properties": properties, "required": required}


def _type_schema(column: dict[str, Any]) -> dict[str, Any]:
    kind = column.get("type")
    if kind == "tensor":
        return {"type": "array"}
    if kind == "array":
        return _array(_type_schema(column["items"]))
    if kind == "map":
        return {"type": "object", "additionalProperties": _type_schema(column["values"])}
    if kind == "object":
        fields: dict[str, Any] = column.get("properties") or {}
        return {
            "type": "object",
            "properties": {name: _type_schema(field) for name, field in fields.items()},
            "required": [name for name, field in fields.items() if field.get("required", True)],
        }
    return dict(JSON_TYPES.get(str(kind), {}))
