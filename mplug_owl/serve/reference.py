"""The description of the API: OpenAPI for programs, and a page for people that needs nothing from elsewhere."""

from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mplug_owl.serve.schema import component_schemas

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color-scheme: light dark; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""
INTRODUCTION = (
    "The API is that of OpenAI's chat completions: its clients work with "
    "<code>base_url</code> set to <code>/v1</code> of this server. "
    'For programs: <a href="/openapi.json">openapi.json</a>.'
)
REQUEST = "ChatRequest"


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, made once."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        found["components"] = {"schemas": component_schemas()}
        error = {"description": "An error", "content": _json("Error")}
        for path, methods in found["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)  # what FastAPI would answer; we answer 400
                operation["responses"]["default"] = error
                _fill(path, operation)
        app.openapi_schema = found
    return app.openapi_schema


def _fill(path: str, operation: dict[str, Any]) -> None:
    """What cannot be read off the functions: the bodies of requests and replies."""
    content = operation["responses"]["200"]
    if path == "/v1/chat/completions":
        operation["requestBody"] = {"required": True, "content": _json(REQUEST)}
        content["description"] = "The answer; with `stream` true, events that each hold a chunk of it, then [DONE]."
        content["content"] = _json("ChatCompletion") | {
            "text/event-stream": {"schema": _reference("ChatCompletionChunk")}
        }
    elif path.startswith("/v1/models"):
        content["content"] = _json("ModelList" if path == "/v1/models" else "ModelCard")
    elif path == "/metrics":
        content["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif path == "/docs":
        content["content"] = {"text/html": {"schema": {"type": "string"}}}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(name)}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def page(description: dict[str, Any]) -> str:
    """The description as a page."""
    rows = [
        [f"<code>{method.upper()} {escape(path)}</code>", escape(operation.get("description", ""))]
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    parts = [f"<h1>{escape(description['info']['title'])}</h1><p>{INTRODUCTION}</p>", _table(rows)]
    for name, schema in sorted(description["components"]["schemas"].items(), key=lambda item: item[0] != REQUEST):
        required = schema.get("required", ())
        fields = [
            [
                f"<code>{escape(field)}</code>" + (" (required)" if field in required else ""),
                escape(_type(told)),
                escape(told.get("description", "")),
            ]
            for field, told in schema.get("properties", {}).items()
        ]
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2>{_table(fields)}')
    title = f"<title>{escape(description['info']['title'])}</title>"
    frame = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    )
    return f"{frame}{title}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"


def _table(rows: list[list[str]]) -> str:
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key] if each != {"type": "null"})
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
