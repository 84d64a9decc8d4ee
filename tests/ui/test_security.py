"""Who may ask and who may tell: the checks of the page's server, on the server itself."""

from __future__ import annotations

import http.client
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rollout_playback import Player, create, spec_of
from served_page import Served, served

from slipway.serving.local.layout import PlaneLayout
from slipway.serving.rollout.store import RolloutFolder, RolloutStore
from slipway.serving.ui.access_token import load_or_create_token

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("ui_security")]

ROLLOUT = "20270102-000000-000-films-v2"
COMMANDS = f"/api/rollouts/{ROLLOUT}/commands"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a project with one rollout under way."""
    directory = tmp_path_factory.mktemp("project")
    Player(create(directory, spec_of(ROLLOUT))).play(8)
    with served(directory) as page:
        yield page


@pytest.fixture
def folder(page: Served) -> Iterator[RolloutFolder]:
    """That rollout, whose commands are taken away again."""
    folder = RolloutStore(PlaneLayout(page.directory).rollouts).find(ROLLOUT)
    yield folder
    folder.clear([command.id for command in folder.commands()])


def test_a_command_with_the_token_is_given(page: Served, folder: RolloutFolder) -> None:
    answer = page.tell(ROLLOUT, "pause")
    assert answer.status_code == 202, answer.text
    (command,) = folder.commands()
    assert command.kind == "pause"
    assert command.by.endswith("(page)")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer ", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x", "Bearer {half}", "Bearer é"],
)
def test_without_the_right_token_nothing_is_given(
    page: Served, folder: RolloutFolder, authorization: str | None
) -> None:
    connection = http.client.HTTPConnection(urlsplit(page.base).netloc, timeout=10)
    headers = {"content-type": "application/json"}
    if authorization is not None:
        given = authorization.format(token=page.token, half=page.token[: len(page.token) // 2])
        headers["authorization"] = given.encode().decode("latin-1")
    connection.request("POST", COMMANDS, b'{"kind": "abort"}', headers)
    response = connection.getresponse()
    assert response.status == 401
    assert b"token" in response.read()
    assert folder.commands() == ()


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost"},
    ],
)
def test_a_command_of_another_site_is_refused_even_with_the_token(
    page: Served, folder: RolloutFolder, headers: dict[str, str]
) -> None:
    answer = page.tell(ROLLOUT, "abort", **headers)
    assert answer.status_code == 403
    assert "another site" in answer.json()["what"]
    assert folder.commands() == ()


def test_a_command_of_the_page_itself_is_taken(page: Served, folder: RolloutFolder) -> None:
    assert page.tell(ROLLOUT, "abort", origin=page.base, sec_fetch_site="same-origin").status_code == 202
    assert [command.kind for command in folder.commands()] == ["abort"]


def test_a_form_cannot_give_a_command(page: Served, folder: RolloutFolder) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert page.tell(ROLLOUT, "abort", content_type=kind).status_code == 415
    assert folder.commands() == ()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "user@127.0.0.1",
                                  "127.0.0.1/x", "[::1].evil.example", "[::1"])  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/rollouts", f"/api/rollouts/{ROLLOUT}/stream", "/static/rollout.js"])
def test_a_rebound_name_gets_nothing(page: Served, host: str, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(page.base).netloc, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    response = connection.getresponse()
    assert response.status in (400, 403)
    assert ROLLOUT.encode() not in response.read()


def test_a_rebound_name_cannot_give_a_command(page: Served, folder: RolloutFolder) -> None:
    answer = page.tell(ROLLOUT, "abort", host="evil.example", origin="http://evil.example")
    assert answer.status_code == 403
    assert folder.commands() == ()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9999", "127.0.0.1:1", "[::1]:8765"])
def test_every_name_of_loopback_is_answered(page: Served, host: str) -> None:
    assert page.get("/api/rollouts", host=host).status_code == 200


def test_other_sites_can_link_to_a_page_but_not_read_or_embed_it(page: Served) -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    answer = page.get("/", **link)
    assert answer.status_code == 200
    assert answer.headers["x-frame-options"] == "DENY"
    assert page.get("/", **{**link, "sec_fetch_dest": "iframe"}).status_code == 403
    assert page.get("/api/rollouts", sec_fetch_site="cross-site", sec_fetch_mode="cors").status_code == 403
    assert page.get("/static/rollout.js", sec_fetch_site="same-site", sec_fetch_mode="no-cors").status_code == 403


@pytest.mark.parametrize("path", ["/", "/api/rollouts", "/static/style.css", "/nothing", f"/rollouts/{ROLLOUT}"])
def test_every_answer_binds_the_browser(page: Served, path: str) -> None:
    headers = page.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_the_pages_hold_no_script_or_style_of_their_own_and_nothing_from_elsewhere(page: Served) -> None:
    for path in ("/", f"/rollouts/{ROLLOUT}", "/nothing"):
        text = page.get(path).text
        assert "<script>" not in text
        assert "style=" not in text
        assert " on" + "click" not in text
        assert "http://" not in text
        assert "https://" not in text


@pytest.mark.parametrize("rollout", ["..", "%2e%2e", "..%2f..%2fsettings.json", "controller.lock", "%00", "x" * 5000,
                                     ".20270102.partial"])  # fmt: skip
def test_an_id_reaches_no_other_file(page: Served, rollout: str) -> None:
    assert page.get(f"/api/rollouts/{rollout}").status_code in (404, 405)
    assert page.tell(rollout, "abort").status_code in (404, 405)


def test_what_cannot_be_a_command_is_refused_with_a_reason(page: Served, folder: RolloutFolder) -> None:
    given = {"authorization": f"Bearer {page.token}"}
    assert "Give one of" in page.post(COMMANDS, {"kind": "explode"}, **given).json()["remedy"]
    assert page.post(COMMANDS, ["abort"], **given).status_code == 400
    assert page.post(COMMANDS, {"kind": "a" * 10_000}, **given).status_code == 413
    answer = page.tell(ROLLOUT, "approve")
    assert answer.status_code == 409
    assert "no effect in phase Progressing" in answer.json()["what"]
    assert folder.commands() == ()


def test_a_read_only_page_takes_no_command(tmp_path: Path) -> None:
    folder = create(tmp_path, spec_of(ROLLOUT))
    Player(folder).play(8)
    with served(tmp_path, "--read-only") as page:
        assert page.token == ""
        token = (PlaneLayout(tmp_path).root / "ui-token").read_text().strip()
        answer = page.tell(ROLLOUT, "abort", authorization=f"Bearer {token}")
        assert answer.status_code == 403
        assert "read-only" in answer.json()["what"]
        assert page.get(f"/api/rollouts/{ROLLOUT}").json()["detail"]["commands"] == []
    assert folder.commands() == ()


def test_the_token_is_its_owners_alone_and_new_when_it_was_not(tmp_path: Path) -> None:
    path = tmp_path / "serving" / "ui-token"
    token = load_or_create_token(path)
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_token(path) == token
    path.chmod(0o644)
    leaked = load_or_create_token(path)
    assert leaked != token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_token(path, renew=True) != leaked
