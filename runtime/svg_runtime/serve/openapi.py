"""The OpenAPI description of a server, made of the table of operations and of the pydantic models.

By hand rather than by FastAPI: what it would derive from handlers, JSON bodies, is the smaller part here. Frames and forecasts
are bytes in several media types, read and sent within a session's turn, and would be described by hand there, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

import svg_runtime
from svg_runtime.serve import schema
from svg_runtime.serve.limits import ServeLimits
from svg_runtime.serve.operations import OPERATIONS, SESSION_ID, Operation
from svg_runtime.serve.problems import KINDS, PROBLEM_JSON, Kind

_JSON = "application/json"
_REF = "#/components/schemas/{model}"
# Any operation may be refused so: a body may be too large for the server, also where none is read.
_ALWAYS = ("no-token", "not-allowed", "too-large", "long-headers", "internal", "shutting-down")


def describe(model_names: Sequence[str], max_samples: int = ServeLimits.samples) -> dict[str, Any]:
    """Return the description as JSON values.

    Args:
        model_names: the models that this server may open.
        max_samples: of a forecast.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    schemas = _schemas()
    schemas["SessionRequest"]["properties"]["model"]["enum"] = list(model_names)
    for request in ("SessionRequest", "ForecastRequest"):  # in words: what is more is too large, but a valid number
        schemas[request]["properties"]["samples"]["description"] += f" At most {max_samples}."
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "svg-edge",
            "version": svg_runtime.__version__,
            "description": "Forecasts video: open a session, send it one frame after the other, ask it for the next frames.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _schemas() -> dict[str, Any]:
    requests = [operation.body for operation in OPERATIONS if operation.body]
    answers: list[type[BaseModel]] = [operation.answer for operation in OPERATIONS if operation.answer]
    answers.append(schema.Problem)
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in requests]
    models += [(model, "serialization") for model in answers]
    _, found = models_json_schema(models, ref_template=_REF)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    parameters: list[dict[str, Any]] = [
        {"name": query.name, "in": "query", "description": query.description, "schema": dict(query.form)}
        for query in operation.query
    ]
    if SESSION_ID in operation.path:
        parameters.insert(0, {"name": SESSION_ID, "in": "path", "required": True, "schema": {"type": "string"}})
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": operation.body_required, "content": _json(operation.body.__name__)}
    elif operation.files:
        described["requestBody"] = {"required": True, "content": {kind: {} for kind in operation.files}}
    described["responses"] = {str(operation.status): _success(operation), **_refusals(operation)}
    return described


def _success(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"description": "Done."}
    content: dict[str, Any] = {} if operation.answer is None else _json(operation.answer.__name__)
    content.update({kind: {} for kind in operation.answer_types})
    if content:
        described["content"] = content
    if operation.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in operation.headers.items()
        }
    return described


def _refusals(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {}
    kinds = sorted((KINDS[name] for name in (*_ALWAYS, *operation.problems)), key=_status)
    for status, group in groupby(kinds, key=_status):
        members = list(group)
        described[str(status)] = _refusal([f"{kind.title}. {kind.meaning}" for kind in members])
        if any(kind.retry_s for kind in members):
            described[str(status)]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}}
            }
    return described


def _refusal(texts: Iterable[str]) -> dict[str, Any]:
    return {"description": " ".join(texts), "content": {PROBLEM_JSON: _json("Problem")[_JSON]}}


def _json(model: str) -> dict[str, Any]:
    return {_JSON: {"schema": {"$ref": _REF.format(model=model)}}}


def _status(kind: Kind) -> int:
    return kind.status
