"""Who may ask a server of this package, asked as browsers and attackers do."""

from __future__ import annotations

import asyncio
import base64
import codecs
import re

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from svg_common.errors import UsageError
from svg_runtime.web import access as access_module
from svg_runtime.web import address as address_module
from svg_runtime.web.access import Access, AccessControl, host_name
from svg_runtime.web.address import Address, parse_listen_address
from svg_runtime.web.limits import StreamSlots, WebLimits
from svg_runtime.web.token import Token, find_token

SECRET = "0123456789abcdef0123"
LOCAL = Address("127.0.0.1", 8000)
OPEN = Address("0.0.0.0", 8000)
JSON = {"content-type": "application/json"}


async def look(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"seen {request.url.query}")


async def change(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


async def fail(request: Request) -> PlainTextResponse:
    raise RuntimeError("a bug")


ROUTES = [
    Route("/", look), Route("/numbers.json", look), Route("/cameras/gate", look), Route("/change", change, methods=["POST"]),
    Route("/fail", fail),
]  # fmt: skip


def client(access: Access, host: str = "127.0.0.1:8000", **options) -> TestClient:
    app = AccessControl(Starlette(routes=ROUTES), access, WebLimits(body_bytes=1000), **options)
    return TestClient(app, base_url=f"http://{host}", follow_redirects=False)


def test_a_loopback_server_answers_without_a_token_and_says_what_browsers_may_do():
    answer = client(Access(LOCAL)).get("/")
    assert answer.text == "seen "
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("own", ["gate", "Gate.local", "gate.example.org"])
def test_a_machine_is_known_by_its_short_name_whatever_it_calls_itself(own, monkeypatch):
    monkeypatch.setattr(access_module.socket, "gethostname", lambda: own)
    access = Access(OPEN, token=Token(SECRET, generated=False))
    for name in {own.lower(), "gate", "gate.local"}:
        assert access.allows_host(name), name
    for name in ("gate.example.com", "example.org", "other.local", "gate.local.example.org"):
        assert not access.allows_host(name), name


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "cam.example"])
def test_names_of_this_machine_are_known(host):
    assert client(Access(LOCAL, names=frozenset({"cam.example"}))).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "192.168.1.7", "localhost.evil.example:8000", "", "a@localhost", "localhost/x",
     "[::1", "localhost:x", "localhost:99999", "2130706433"],
)  # fmt: skip
def test_other_host_names_are_refused_on_loopback(host):
    """A name of the attacker's that resolves to this machine must not pass."""
    assert client(Access(LOCAL)).get("/", headers={"host": host}).status_code == 403


def test_an_open_server_answers_by_any_ip_address_but_not_by_foreign_names():
    access = Access(OPEN, Token(SECRET))
    bearer = {"authorization": f"Bearer {SECRET}"}
    assert client(access, "192.168.1.7:8000").get("/", headers=bearer).status_code == 200
    assert client(access, "evil.example").get("/", headers=bearer).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "https://127.0.0.1:8000"}, 200),  # behind a proxy with TLS
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),  # another program of this machine
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 200),
    ],
)
def test_pages_of_other_sites_may_link_here_and_no_more(headers, status):
    assert client(Access(LOCAL)).get("/", headers=headers).status_code == status


def test_forms_of_other_sites_change_nothing():
    known = client(Access(LOCAL))
    assert known.post("/change", content=b"{}", headers=JSON).json() == {"bytes": 2}
    for kind in ("text/plain; charset=utf-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert known.post("/change", content=b"{}", headers={"content-type": kind}).status_code == 415
    assert known.post("/change", content=b"{}").status_code == 415
    assert known.post("/change").json() == {"bytes": 0}  # programs alone send none, and scripts of other sites with an Origin
    assert known.post("/change", content=b"{}", headers={**JSON, "origin": "http://evil.example"}).status_code == 403
    navigated = {**JSON, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert known.post("/change", content=b"{}", headers=navigated).status_code == 403


def test_large_bodies_are_refused_with_and_without_a_length():
    known = client(Access(LOCAL))
    assert known.post("/change", content=b"x" * 1000, headers=JSON).json() == {"bytes": 1000}
    assert known.post("/change", content=b"x" * 1001, headers=JSON).status_code == 413
    assert known.post("/change", content=iter([b"x" * 600] * 2), headers=JSON).status_code == 413
    assert known.post("/change", content=b"", headers={**JSON, "content-length": "-1"}).status_code == 413


@pytest.mark.parametrize(("parts", "left"), [([b"x" * 9], 0), ([b"x" * 9, b"y", b"z"], 2), ([b"x" * 9, b""], 1)])
def test_of_a_request_that_ends_its_connection_only_what_is_left_is_read(parts, left):
    """Nothing more ever comes of one that has been read to its end: to wait for that would hold back the answer."""
    ends = [*[True] * (len(parts) - 1), False]
    coming = [{"type": "http.request", "body": part, "more_body": more} for part, more in zip(parts, ends, strict=True)]
    asked, sent = [], []

    async def receive():
        asked.append(len(coming))
        return coming.pop(0)

    async def send(message):
        sent.append(message)

    async def refuse(scope, receive, send):
        await receive()
        await PlainTextResponse("no", 400, {"connection": "close"})(scope, receive, send)

    headers = [(b"host", b"localhost"), (b"content-length", b"9"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(AccessControl(refuse, Access(LOCAL), WebLimits())(scope, receive, send))
    assert (len(asked), coming) == (1 + left, [])
    assert sent[-1] == {"type": "http.response.body"}


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {SECRET}"},
        {"cookie": f"svg_edge_8000={SECRET}"}, {"authorization": "Bearer \u00e9".encode()},
    ],
)  # fmt: skip
def test_without_the_token_nothing_is_answered(headers):
    refused = client(Access(OPEN, Token(SECRET))).get("/", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert SECRET not in refused.text


def of_user(name_and_password: str) -> dict[str, str]:
    """As curl --user, VLC and network recorders send it."""
    return {"authorization": f"Basic {base64.b64encode(name_and_password.encode()).decode()}"}


def basic_client() -> TestClient:
    """Of a server that takes Basic authentication for a page that is only read."""
    return client(Access(OPEN, Token(SECRET)), basic_paths=re.compile("/numbers.json|/change"))


@pytest.mark.parametrize("user", ["x", "", "admin"])
def test_the_token_is_the_password_of_any_user_where_basic_is_taken(user):
    known = basic_client()
    assert known.get("/numbers.json", headers=of_user(f"{user}:{SECRET}")).status_code == 200
    assert known.head("/numbers.json", headers=of_user(f"{user}:{SECRET}")).status_code == 200
    for path in ("/", "/cameras/gate", "/numbers.json/"):
        refused = known.get(path, headers=of_user(f"{user}:{SECRET}"))
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "given", [of_user(SECRET), of_user(f"{SECRET}:"), of_user(f"x:{SECRET}x"), of_user("x:\u00e9"),
              {"authorization": f"Basic x:{SECRET}"}, {"authorization": "Basic /w=="}, {"authorization": "Basic"}, {}],
)  # fmt: skip
def test_who_gives_no_right_password_is_asked_for_one(given):
    refused = basic_client().get("/numbers.json", headers=given)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Basic realm="svg-edge"')
    assert "the token as the password of any user" in refused.text
    assert SECRET not in refused.text


def test_a_picture_within_a_page_opens_no_dialog_for_a_password():
    of_img = {"accept": "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"}
    assert basic_client().get("/numbers.json", headers=of_img).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    ],
)
def test_a_password_that_a_browser_sends_by_itself_lets_no_other_site_in(headers):
    known = basic_client()
    assert known.get("/numbers.json", headers={**of_user(f"x:{SECRET}"), **headers}).status_code == 403
    form = {**of_user(f"x:{SECRET}"), "content-type": "text/plain"}
    assert known.post("/change", content=b"{}", headers=form).status_code == 415


def test_a_link_with_the_token_sets_a_cookie_and_takes_the_token_out_of_the_address():
    browser = client(Access(OPEN, Token(SECRET)))
    assert browser.head(f"/?token={SECRET}").status_code == 303
    browser.cookies.clear()
    opened = browser.get(f"/?token={SECRET}&camera=a%26b")
    assert opened.status_code == 303
    assert opened.headers["location"] == "./?camera=a%26b"
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert SECRET not in cookie
    assert browser.get("/").status_code == 200  # with the cookie
    assert browser.get("/?token=wrong").status_code == 401


def test_a_login_lasts_from_its_last_use_on():
    browser = client(Access(OPEN, Token(SECRET)))
    given = browser.get(f"/?token={SECRET}").headers["set-cookie"]
    assert "Max-Age=2592000" in given
    for path in ("/", "/numbers.json"):
        assert browser.get(path).headers["set-cookie"] == given
    for path in ("/cameras/gate", "/nothing/here"):  # their folder is another one, and only the browser knows that of `/`
        assert "set-cookie" not in browser.get(path).headers
    assert "set-cookie" not in browser.post("/change", content=b"{}", headers=JSON).headers


def test_who_comes_without_a_cookie_gets_none():
    known = client(Access(OPEN, Token(SECRET)))
    assert "set-cookie" not in known.get("/", headers={"authorization": f"Bearer {SECRET}"}).headers
    assert "set-cookie" not in known.get("/", headers={"cookie": "svg_edge_8000=wrong"}).headers
    assert "set-cookie" not in client(Access(LOCAL)).get("/", headers={"cookie": "svg_edge_8000=any"}).headers


def test_one_right_cookie_is_enough():
    """A browser sends those of all folders above an address, of which one may be of an earlier token."""
    right = f"svg_edge_8000={Token(SECRET).cookie}"
    for cookies in (f"svg_edge_8000=old; {right}", f"{right}; svg_edge_8000=old"):
        assert client(Access(OPEN, Token(SECRET))).get("/", headers={"cookie": cookies}).status_code == 200


def test_a_link_on_another_site_works_although_its_redirect_would_come_without_the_cookie():
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    opened = client(Access(OPEN, Token(SECRET))).get(f"/?token={SECRET}", headers=headers)
    assert opened.status_code == 200
    assert opened.headers["refresh"] == "0; url=./"


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), ({"sec-fetch-site": "none"}, 303), ({"sec-fetch-site": "same-origin"}, 303)],
)
def test_a_browser_that_does_not_say_where_a_link_was_may_come_from_another_site(headers, status):
    """So it is in a network without TLS, where browsers do not send Sec-Fetch-Site."""
    accept = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    opened = client(Access(OPEN, Token(SECRET))).get(f"/?token={SECRET}", headers={**accept, **headers})
    assert opened.status_code == status


def test_a_link_with_the_token_leads_to_no_other_host():
    opened = client(Access(OPEN, Token(SECRET))).get(f"http://127.0.0.1:8000//evil.example/?token={SECRET}")
    assert opened.headers["location"] == "./"
    opened = client(Access(OPEN, Token(SECRET))).get(f"http://127.0.0.1:8000/a/https:evil.example?token={SECRET}")
    assert opened.headers["location"] == "./https%3Aevil.example"


def test_what_fails_is_reported_and_the_client_learns_nothing():
    found = []
    answer = client(Access(LOCAL), on_error=found.append).get("/fail")
    assert answer.status_code == 500
    assert "bug" not in answer.text
    assert [str(error) for error in found] == ["a bug"]


def test_host_names_are_read_without_port_and_brackets():
    assert host_name("[0:0:0:0:0:0:0:1]:80") == "::1"
    assert host_name("Camera.Example.:8000") == "camera.example"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8000", "127.0.0.1", 8000),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("[::]:1", "::", 1),
        ("Jetson:1", "jetson", 1),
        ("0:80", "0.0.0.0", 80),
        ("0x0:80", "0.0.0.0", 80),
        ("127.1:80", "127.0.0.1", 80),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1", 80),
        ("[::ffff:0.0.0.0]:80", "0.0.0.0", 80),
        ("[0:0:0:0:0:0:0:0]:80", "::", 80),
        ("0xcafe.example:80", "0xcafe.example", 80),
    ],
)
def test_addresses_are_read(text, host, port):
    assert parse_listen_address("--serve", text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", ":8000", "host", "::1:80", "host:", "host:65536", "a b:1", "[x]:1", "[1.2.3.4]:1", "http://a:1", "²"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="is not an address"):
        parse_listen_address("--serve", text)


@pytest.mark.parametrize("text", ["0:80", "0.0.0.0:80", "[::]:80", "0.0:80"])
def test_all_names_of_every_address_link_to_one_that_others_can_open(text, monkeypatch):
    monkeypatch.setattr(address_module, "_own_address", lambda: "192.0.2.7")
    address = parse_listen_address("--serve", text)
    assert address.link() == "http://192.0.2.7:80/"


def test_only_loopback_addresses_are_loopback():
    assert [Address(host, 1).is_loopback for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.1", "jetson")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_the_token_comes_from_the_file_then_the_environment_then_is_made(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv("SVG_EDGE_TOKEN", "f" * 20)
    assert find_token("--serve-token", file, required=True) == Token(SECRET)
    assert find_token("--serve-token", None, required=False) == Token("f" * 20)
    monkeypatch.delenv("SVG_EDGE_TOKEN")
    assert find_token("--serve-token", None, required=False) is None
    made = find_token("--serve-token", None, required=True)
    assert made.generated
    assert len(made.value) >= 32
    assert made.value not in repr(made)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_token_may_come_from_an_editor_that_marks_utf_8(mark, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_bytes(mark + f"{SECRET}\r\n".encode())
    assert find_token("--serve-token", file, required=True) == Token(SECRET)
    monkeypatch.setenv("SVG_EDGE_TOKEN", mark.decode() + SECRET)  # of $(cat token)
    assert find_token("--serve-token", None, required=True) == Token(SECRET)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "it is empty"),
        ("\ufeff\n", "it is empty"),
        ("secretwort", "it is too short, 10 characters"),
        ("secretwort" * 30, "it is too long, more than 256 characters"),
        ("secretwort" * 500, "it is larger than 4096 bytes"),
        (" " * 5000 + "secretwort" * 2, "it is larger than 4096 bytes"),
        ("secretwort and more", "a space is at place 11"),
        ("secretwortsecretw\u00f6rt", "a character that cannot be used is at place 18"),
        ("secretwortsecretwort\nsecretwort\n", "it has 2 lines, and not one"),
    ],
)
def test_what_is_no_token_is_refused_with_the_reason_and_not_shown(content, fault, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(content, "utf-8")
    with pytest.raises(UsageError, match=f"holds no token: {fault}\n") as refused:
        find_token("--serve-token", file, required=False)
    assert "wort" not in str(refused.value)
    if content.isascii() and 0 < len(content) < 1000:
        monkeypatch.setenv("SVG_EDGE_TOKEN", content.strip())
        with pytest.raises(UsageError, match=f"SVG_EDGE_TOKEN holds no token: {fault}\n"):
            find_token("--serve-token", None, required=False)


def test_a_token_in_utf_16_is_named_as_that(tmp_path):
    """As the > of an old PowerShell writes it."""
    file = tmp_path / "token"
    file.write_text(SECRET, "utf-16")
    with pytest.raises(UsageError, match=r"holds no token: it is UTF-16 .* save it as UTF-8"):
        find_token("--serve-token", file, required=False)


def test_streams_are_counted_by_client():
    slots = StreamSlots(WebLimits(streams=3, streams_per_client=2))
    with slots.taken_by("a") as first, slots.taken_by("a") as second, slots.taken_by("a") as third:
        assert (first, second, third) == (True, True, False)
        with slots.taken_by("b") as of_another, slots.taken_by("c") as beyond_all:
            assert (of_another, beyond_all) == (True, False)
            assert slots.count == 3
    assert slots.count == 0
    with slots.taken_by("a") as again:
        assert again
