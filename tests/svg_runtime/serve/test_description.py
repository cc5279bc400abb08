"""What a server says about itself: OpenAPI, the page, health, metrics, and its refusals before anything else."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from pathlib import Path

import pytest

import svg_runtime
from svg_runtime.errors import UsageError
from svg_runtime.serve.api import Api
from svg_runtime.serve.app import _KINDS_OF_ACCESS
from svg_runtime.serve.catalogue import model_paths
from svg_runtime.serve.openapi import describe
from svg_runtime.serve.operations import OPERATIONS
from svg_runtime.serve.page import render
from svg_runtime.serve.problems import KINDS
from svg_runtime.web.access import Access
from svg_runtime.web.address import Address
from svg_runtime.web.token import Token
from tests.svg_runtime.serve.serve_helpers import open_session

DOCUMENTATION = Path(__file__).resolve().parents[3] / "docs" / "serve.md"


def test_the_description_names_all_operations_models_and_problems(client):
    described = client.get("/openapi.json").json()
    assert described == describe(["digits", "camera"])
    for request in ("SessionRequest", "ForecastRequest"):
        assert described["components"]["schemas"][request]["properties"]["samples"]["description"].endswith(" At most 64.")
    assert described["components"]["schemas"]["SessionRequest"]["properties"]["model"]["enum"] == ["digits", "camera"]
    operations = [each for methods in described["paths"].values() for each in methods.values()]
    assert {each["operationId"] for each in operations} == {operation.name for operation in OPERATIONS}
    assert all(callable(getattr(Api, operation.name)) for operation in OPERATIONS)
    assert {name for operation in OPERATIONS for name in operation.problems} <= set(KINDS)
    references = set(re.findall(r"#/components/schemas/(\w+)", str(described)))
    assert references == set(described["components"]["schemas"])


# Of JSON Schema 2020-12, as OpenAPI 3.1 takes it.
KEYWORDS = {
    "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "items", "maxItems", "maxLength",
    "maximum", "minItems", "minLength", "minimum", "pattern", "prefixItems", "properties", "required", "title", "type",
}  # fmt: skip


def keywords_of(form: dict) -> set[str]:
    """Of a schema and of all schemas in it."""
    below = [*form.get("properties", {}).values(), *form.get("anyOf", ()), *form.get("prefixItems", ())]
    below += [form[name] for name in ("items", "additionalProperties") if isinstance(form.get(name), dict)]
    return set(form).union(*map(keywords_of, below))


def test_the_description_has_no_words_that_json_schema_does_not_know():
    described = describe(["digits"])
    forms = list(described["components"]["schemas"].values())
    for methods in described["paths"].values():
        for operation in methods.values():
            contents = [operation.get("requestBody", {}), *operation["responses"].values()]
            forms += [each["schema"] for each in operation.get("parameters", ())]
            forms += [kind["schema"] for each in contents for kind in each.get("content", {}).values() if "schema" in kind]
            forms += [each["schema"] for answer in contents for each in answer.get("headers", {}).values()]
    assert set().union(*map(keywords_of, forms)) <= KEYWORDS


def test_the_description_has_the_limits_of_all_numbers_that_are_asked_for():
    schemas = describe(["digits"])["components"]["schemas"]
    count, seed = {"type": "integer", "minimum": 1, "maximum": 65536}, {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
    session, forecast = schemas["SessionRequest"]["properties"], schemas["ForecastRequest"]["properties"]
    for name in ("samples", "horizon"):
        assert count.items() <= session[name].items()
        assert forecast[name]["anyOf"] == [count, {"type": "null"}]
    assert seed.items() <= session["seed"].items()


class _Page(html.parser.HTMLParser):
    """Ids, links, and what the page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [tag] if tag in ("script", "link", "img", "iframe") or "style" in given else []


def test_the_page_shows_all_of_it_and_loads_nothing(client):
    answer = client.get("/")
    page = _Page(answer.text)
    assert page.loads == []
    assert {operation.name for operation in OPERATIONS} | set(KINDS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    style = re.search(r"<style>(.*)</style>", answer.text, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]


def test_the_documentation_has_a_row_for_every_refusal():
    rows = re.findall(r"^\| (\d[\d, ]*) \| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", DOCUMENTATION.read_text(encoding="utf-8"), re.M)
    named = [
        (int(status), name.strip("`"))
        for statuses, names in rows
        for status, name in zip(statuses.split(", "), names.split(", "), strict=True)
    ]
    assert sorted(named) == sorted((kind.status, kind.name) for kind in KINDS.values())


def test_names_of_models_are_text_on_the_page():
    assert "<script>" not in render(describe(["<script>"]))


def test_models_are_described_as_they_are(client):
    digits, camera = client.get("/v1/models").json()["models"]
    assert (digits["frame"], digits["surprise_unit"], digits["family"]) == (
        {"height": 64, "width": 64, "channels": 1, "colour_order": "gray"}, "nats", "svg",
    )  # fmt: skip
    assert (camera["frame"]["colour_order"], camera["n_past"], camera["context"]) == ("RGB", 5, "window")
    assert "cpu" in camera["backend"]


def test_health_and_metrics_count(client):
    open_session(client)
    health = {"status": "ok", "version": svg_runtime.__version__, "sessions": 1, "max_sessions": 8}
    assert client.get("/healthz").json() == health
    text = client.get("/metrics").text
    assert "svg_serve_sessions 1.0" in text
    assert 'svg_serve_requests_total{operation="open_session",status="201"} 1.0' in text


def test_pages_and_methods_that_do_not_exist_are_problems(client):
    assert (client.get("/v2").status_code, client.get("/v2").json()["type"]) == (404, "/#no-such-page")
    assert client.get("/v1/models/").status_code == 404
    wrong = client.put("/v1/sessions", json={})
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
    assert client.head("/healthz").status_code == 200


def test_refusals_of_access_are_problems(open_client):
    with open_client(access=Access(Address("0.0.0.0", 80), Token("0123456789abcdef0123"), frozenset({"testserver"}))) as client:
        refused = client.get("/v1/models")
        assert (refused.status_code, refused.json()["type"]) == (401, "/#no-token")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["content-type"] == "application/problem+json"
        known = {"authorization": "Bearer 0123456789abcdef0123"}
        assert client.get("/v1/models", headers=known).status_code == 200
        foreign = client.get("/v1/models", headers={**known, "host": "evil.example"})
        assert (foreign.status_code, foreign.json()["type"]) == (403, "/#not-allowed")
        form = client.post("/v1/sessions", headers={**known, "content-type": "text/plain"}, content="{}")
        assert (form.status_code, form.json()["type"]) == (415, "/#wrong-type")
        other = client.post("/v1/sessions", headers={**known, "origin": "http://evil.example"}, json={"model": "digits"})
        assert other.status_code == 403
        long = client.get("/v1/models", headers={**known, "x": "y" * 20_000})
        assert (long.status_code, long.json()["type"]) == (431, "/#long-headers")


# What any request can be refused with before its operation has run, and how to be refused so.
REFUSED_BEFORE = {
    401: {"authorization": "Bearer wrong"},
    403: {"origin": "http://evil.example"},
    413: {"content-length": "1" + "0" * 15},
    415: {"content-type": "application/x-www-form-urlencoded"},  # of a POST with a body
    431: {"x": "y" * 20_000},
}


def test_all_refusals_before_an_operation_are_described(open_client):
    assert {*REFUSED_BEFORE, 500} == set(_KINDS_OF_ACCESS)
    token = Token("0123456789abcdef0123")
    described = describe(["digits"])["paths"]
    with open_client(access=Access(Address("0.0.0.0", 80), token, frozenset({"testserver"}))) as client:
        for operation in OPERATIONS:
            path, responses = operation.path, described[operation.path][operation.method.lower()]["responses"]
            assert "500" in responses
            for status, headers in REFUSED_BEFORE.items():
                if status == 415 and operation.method != "POST":
                    continue
                known = {"authorization": f"Bearer {token.value}", "content-type": "application/json", **headers}
                refused = client.request(operation.method, path, content=b"{}", headers=known)
                assert refused.status_code == status, operation.name
                assert str(status) in responses, operation.name


def test_a_model_that_has_changed_is_a_described_reason_for_opening_no_session():
    refusal = describe(["digits"])["paths"]["/v1/sessions"]["post"]["responses"]["503"]
    assert KINDS["model-changed"].meaning in refusal["description"]


def test_unknown_models_are_refused_with_those_that_exist(client):
    refused = client.post("/v1/sessions", json={"model": "/etc/passwd"})
    assert (refused.status_code, refused.json()["expected"]) == (422, "one of: digits, camera")


def test_a_member_that_is_given_twice_is_refused(client):
    json_type = {"content-type": "application/json"}
    for samples in ("2", "1" + "0" * 5000):
        body = f'{{"model": "digits", "samples": {samples}, "samples": 3}}'
        refused = client.post("/v1/sessions", content=body, headers=json_type)
        assert (refused.status_code, refused.json()["type"]) == (422, "/#invalid"), refused.text
        assert (refused.json()["detail"], refused.json()["expected"]) == ("samples: given 2 times", "each name once")
    session = open_session(client)
    refused = client.post(f"{session}/forecast", content='{"horizon": 2, "horizon": 2}', headers=json_type)
    assert (refused.status_code, refused.json()["detail"]) == (422, "horizon: given 2 times")
    for body in ("{", "[" * 30_000, '{"model": "digits"'):  # no JSON, which the usual message describes
        assert "Invalid JSON" in client.post("/v1/sessions", content=body, headers=json_type).json()["detail"]


def test_whole_numbers_may_be_written_as_decimals(client):
    """JSON Schema calls 8.0 an integer, and so does the description; some clients have no other numbers."""
    opened = client.post("/v1/sessions", json={"model": "digits", "samples": 2.0, "horizon": 3.0, "seed": 7.0})
    assert opened.status_code == 201, opened.text
    assert [opened.json()[name] for name in ("samples", "horizon", "seed")] == [2, 3, 7]
    place = opened.headers["location"]
    for asked in ({"samples": 4.0}, {"horizon": 2.0}):
        assert "frames" in client.post(f"{place}/forecast", json=asked).json()["detail"]  # it is not ready yet, and no more


@pytest.mark.parametrize(
    ("samples", "given"),
    [
        ("8.5", "8.5"),
        ("true", "true"),
        ('"8"', '"8"'),
        ("0.0", "0"),
        ("1e400", "infinity"),
        ("NaN", "NaN"),
        ("1e300", "a whole number of 997 bits"),
    ],
)
def test_what_is_no_whole_number_is_refused_and_named(client, samples, given):
    body = f'{{"model": "digits", "samples": {samples}}}'
    refused = client.post("/v1/sessions", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("samples: Input should be ")
    assert given in refused.json()["detail"].partition("; given ")[2]


def test_a_value_under_an_unknown_name_is_not_repeated(client):
    """It may be a password."""
    refused = client.post("/v1/sessions", json={"model": "digits", "password": "hunter2"})
    assert refused.json()["detail"] == "password: Extra inputs are not permitted; given a text of 7 characters"


def test_two_models_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="two models are called 'digits'"):
        model_paths(["digits", str(tmp_path / "digits.svgb")])
