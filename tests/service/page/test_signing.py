"""Who is let in by a cookie, what other sites cannot do with it, and that it is nowhere else."""

from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from served import ANN, parts_for
from signed import HERE, LOOK, Site
from starlette.routing import Route
from starlette.testclient import TestClient

from autocompress.service.app import make_app
from autocompress.service.page import form, pages, results
from autocompress.service.page.signing import COOKIE, within
from autocompress.service.page.static import FILES, address

OPEN = {"/sign-in", "/static/{name}"}
NEEDED = {
    "/", "/new", "/events", "/sign-out", "/searches/one", "/searches/one/pause", "/searches/one/export",
    "/searches/one/trials/0", "/searches/one/figures", "/searches/one/change",
}  # fmt: skip


def routes() -> list[tuple[str, str]]:
    """Every method and path of the pages that is not open, with something in the place of names."""
    filled = {"{study}": "one", "{trial}": "0", "{asked}": "pause"}
    found = []
    for route in (*form.router.routes, *results.router.routes, *pages.router.routes):
        assert isinstance(route, Route | APIRoute)
        path = route.path
        for name, value in filled.items():
            path = path.replace(name, value)
        found += [(method, path) for method in sorted(route.methods or ()) if route.path not in OPEN]
    assert {path for _, path in found} >= NEEDED
    return found


def test_every_page_leads_whoever_has_no_good_token_to_the_form(site: Site) -> None:
    site.search("one")
    for method, path in routes():
        for token in site.bad_tokens():
            answer = site.ask(method, path, None, token)
            if method == "GET":
                assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/sign-in"), path
            else:
                assert answer.status_code == 401, path
            assert "search" not in answer.text
    assert site.parts.queue.find(ANN, "one").state == "queued"


def test_nobody_sees_or_steers_another_persons_search(site: Site) -> None:
    site.search("one")
    theirs = [(method, path) for method, path in routes() if "/one" in path]
    assert len(theirs) >= 9
    for method, path in theirs:
        answer = site.ask(method, path, "bob")
        assert answer.status_code == 404, path
        assert "there is no such search of yours" in answer.text
    assert "/searches/one" not in site.text("/", "bob")
    assert "/searches/one" in site.text("/", "ada")
    assert site.ask("POST", "/searches/one/pause", "ada").status_code == 303


def test_a_token_is_taken_once_and_kept_where_no_script_reads_it(site: Site) -> None:
    token = site.tokens["ann"]
    signed = site.ask("POST", "/sign-in", None, data={"token": f" {token}\n", "to": "/searches/one?a=1"})
    assert (signed.status_code, signed.headers["location"]) == (303, "/searches/one?a=1")
    cookie = signed.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}={token}; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    page = site.text("/")
    assert token not in page
    assert "ann" in page
    gone = site.ask("POST", "/sign-out")
    assert (gone.status_code, gone.headers["location"]) == (303, "/sign-in")
    assert "Max-Age=0" in gone.headers["set-cookie"]


def test_a_cookie_that_came_by_https_is_never_sent_otherwise(site: Site) -> None:
    signed = site.client.post(
        "https://testserver/sign-in", data={"token": site.tokens["ann"]}, headers=LOOK, follow_redirects=False
    )
    assert "Secure" in signed.headers["set-cookie"].split("; ")


def test_a_wrong_token_is_asked_for_again_and_not_repeated(site: Site) -> None:
    for token in site.bad_tokens():
        answer = site.ask("POST", "/sign-in", None, data={"token": token or "", "to": "//evil.example"})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert "mistyped, expired or revoked" in answer.text
        assert not token or token not in answer.text
        assert "evil.example" not in answer.text
    large = site.ask("POST", "/sign-in", None, data={"token": "x" * 20_000})
    assert large.status_code == 413


FOREIGN: tuple[dict[str, str], ...] = (
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": HERE},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "", "Origin": HERE},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "https://testserver"},
    {"Origin": f"{HERE}.evil.example"},
    {},
)


def test_no_other_site_changes_anything_with_the_cookie(site: Site) -> None:
    site.search("one")
    cookie = {"Cookie": f"{COOKIE}={site.tokens['ann']}", "Accept": "text/html"}
    api = [("PATCH", "/api/v1/searches/one"), ("POST", "/api/v1/searches/one/cancel"), ("POST", "/api/v1/searches")]
    changing = [(method, path) for method, path in (*routes(), *api) if method != "GET"]
    assert len(changing) == 7
    for headers in FOREIGN:
        for method, path in changing:
            answer = site.client.request(method, path, headers={**cookie, **headers})
            assert answer.status_code == 403, path
            assert "does not come from a page of this server" in answer.text
        assert site.client.post("/sign-in", data={"token": site.tokens["bob"]}, headers=headers).status_code == 403
    assert site.parts.queue.find(ANN, "one").state == "queued"


def test_a_page_of_this_server_and_a_program_with_a_header_may_change_things(site: Site) -> None:
    site.search("one")
    cookie = {"Cookie": f"{COOKIE}={site.tokens['ann']}"}
    proxied = {"Sec-Fetch-Site": "same-origin", "Origin": "http://proxied"}
    program = {"Authorization": f"Bearer {site.tokens['ann']}", "Origin": "https://elsewhere.example"}
    for headers in ({**cookie, "Origin": HERE}, {**cookie, **proxied}, program):
        assert site.client.post("/api/v1/searches/one/pause", headers=headers).status_code == 202
    # A header that is no good is not made up for by a cookie that is.
    mixed = {**cookie, "Authorization": "Bearer wrong", "Origin": HERE}
    assert site.client.post("/api/v1/searches/one/pause", headers=mixed).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "", "x", "/a\nb", "/\t/e"],
)
def test_signing_in_leads_nowhere_else(path: str) -> None:
    assert within(path) == "/"
    assert within("/searches/a?b=%2F") == "/searches/a?b=%2F"


def test_every_answer_says_what_browsers_may_do_with_it(site: Site) -> None:
    for path in ("/", "/sign-in", "/none", "/api/v1/searches", "/healthz", address("page.js")):
        headers = site.ask("GET", path).headers
        rules = {rule.split()[0]: rule.split()[1:] for rule in headers["content-security-policy"].split("; ")}
        assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == ["'none'"]
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == rules["form-action"] == ["'self'"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert ("immutable" in headers["cache-control"]) == path.startswith("/static/")
        if not path.startswith("/static/"):
            assert headers["cache-control"] == "no-store"


def test_what_pages_are_made_of_is_open_compressed_and_nothing_else(site: Site) -> None:
    for name in FILES:
        plain = site.ask("GET", f"/static/{name}", None, headers={"Accept-Encoding": "identity"})
        packed = site.ask("GET", address(name), None, headers={"Accept-Encoding": "gzip"})
        assert plain.status_code == packed.status_code == 200
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert plain.content == packed.content
        assert plain.headers["cache-control"] == "no-cache"
    for path in ("/static/pages.py", "/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/static"):
        assert site.ask("GET", path, None).status_code in (303, 404), path


def test_an_address_that_guesses_tokens_at_the_form_has_to_wait(tmp_path: Path) -> None:
    parts = parts_for(tmp_path, failures=2)
    with TestClient(make_app(parts), HERE) as client:
        guesses = [client.post("/sign-in", data={"token": "act_guess"}, headers=LOOK) for _ in range(3)]
        assert [guess.status_code for guess in guesses] == [401, 401, 429]
        assert "too many wrong tokens" in guesses[2].text
    parts.database.close()
