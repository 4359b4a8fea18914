"""The OpenAPI document of an endpoint, from the signatures of the models that it serves."""

from pathlib import Path
from typing import Any

import yaml

JSON_TYPES = {
    "boolean": "boolean",
    "integer": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "string": "string",
    "binary": "string",
    "datetime": "string",
}


def openapi_document(endpoint: str, url: str, models: dict[str, Path]) -> dict[str, Any]:
    """One path per served entity; ``models`` are the folders of the MLmodel files by entity name. Blocks."""
    paths: dict[str, Any] = {}
    for entity, folder in models.items():
        metadata = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        signature = metadata.get("signature") or {}
        request = _columns_schema(signature.get("inputs"))
        if not (metadata.get("metadata") or {}).get("task"):
            request = _classical_request(request)
        paths[f"/serving-endpoints/{endpoint}/served-models/{entity}/invocations"] = {
            "post": {
                "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
                "responses": {
                    "200": {
                        "description": "The model's answer.",
                        "content": {"application/json": {"schema": _columns_schema(signature.get("outputs"))}},
                    }
                },
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": endpoint, "version": "1"},
        "servers": [{"url": url}],
        "paths": paths,
    }


def _classical_request(row: dict[str, Any]) -> dict[str, Any]:
    records = {"type": "array", "items": row}
    return {
        "oneOf": [
            {"type": "object", "properties": {"dataframe_records": records}, "required": ["dataframe_records"]},
            {"type": "object", "properties": {"dataframe_split": {"type": "object"}}, "required": ["dataframe_split"]},
            {"type": "object", "properties": {"inputs": {}}, "required": ["inputs"]},
            {"type": "object", "properties": {"instances": {"type": "array"}}, "required": ["instances"]},
        ]
    }


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
        return {"type": "array", "items": _type_schema(column["items"])}
    if kind == "map":
        return {"type": "object"}
    if kind == "object":
        fields: dict[str, Any] = column.get("properties") or {}
        return {
            "type": "object",
            "properties": {name: _type_schema(field) for name, field in fields.items()},
            "required": [name for name, field in fields.items() if field.get("required", True)],
        }
    return {"type": JSON_TYPES[kind]} if kind in JSON_TYPES else {}
