"""Each page of docs/frameworks works as written: a project is made of it, run and used."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.javascript import NODE_FOLDER
from tests.clients.listener import Listener
from tests.frameworks.application import Application, Visitor, visit
from tests.frameworks.frameworks import DJANGO, FRAMEWORKS, Framework, send_csrf_token
from tests.server import ServerProcess

ROOT = Path(__file__).parents[2]

ENVIRONMENT = {
    "PUSHER_APP_ID": "1",
    "PUSHER_APP_KEY": "my-app-key",
    "PUSHER_APP_SECRET": "my-app-secret",
}
"""What every page starts Heliograph with."""

APP = f"""
[[apps]]
id = "{ENVIRONMENT["PUSHER_APP_ID"]}"

[[apps.keys]]
key = "{ENVIRONMENT["PUSHER_APP_KEY"]}"
secret = "{ENVIRONMENT["PUSHER_APP_SECRET"]}"
"""

ORDER_CREATED = ("order-created", '{"number":1}')


@dataclass
class Site:
    """A page's application, running beside a Heliograph of its own."""

    framework: Framework
    folder: Path
    server: ServerProcess
    application: Application

    def visitor(self, name: str = "") -> Visitor:
        """Return somebody's browser; without a name, somebody is not logged in."""
        visitor = Visitor(self.application)
        if name:
            self.framework.log_in(visitor, name)
        elif self.framework.name == "django":
            send_csrf_token(visitor)
        return visitor

    def channel_of(self, name: str) -> str:
        return f"private-user-{self.framework.user_ids[name]}"


@pytest.fixture(scope="module", params=FRAMEWORKS, ids=lambda framework: framework.name)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    framework: Framework = request.param
    folder = tmp_path_factory.mktemp(framework.name)
    with ServerProcess(toml=APP) as server:
        framework.build(folder, server.port)
        with framework.application(folder) as application:
            yield Site(framework, folder, server, application)


def heard(listener: Listener) -> tuple[str, str, str]:
    """Return channel, name and data of the next event, the data without spaces."""
    channel, name, data = listener.hear()
    return channel, name, data.replace(" ", "")


# -- Authorization -------------------------------------------------------------------------


def test_a_user_subscribes_to_their_own_channel_and_to_the_lobby(site: Site) -> None:
    ada = site.visitor("ada")
    with Listener.open(site.server) as listener:
        for channel in (site.channel_of("ada"), "presence-lobby"):
            status, text = ada.authorize(listener.socket_id, channel)
            assert status == 200, text
            signed = json.loads(text)
            listener.subscribe(channel, signed)
            if channel.startswith("presence-"):
                member = json.loads(signed["channel_data"])
                assert member["user_id"] == site.framework.user_ids["ada"]
                assert member["user_info"]["name"].lower() == "ada"


def test_a_user_gets_403_for_every_other_channel(site: Site) -> None:
    ada = site.visitor("ada")
    with Listener.open(site.server) as listener:
        for channel in (site.channel_of("bob"), "presence-other", "private-user-", "news", ""):
            # A form without the channel's name may be called invalid instead.
            status, text = ada.authorize(listener.socket_id, channel)
            assert status in ({403, 422} if not channel else {403}), (channel, text)
            assert "my-app-key:" not in text


def test_a_visitor_who_is_not_logged_in_gets_403_and_no_redirect(site: Site) -> None:
    nobody = site.visitor()
    with Listener.open(site.server) as listener:
        for channel in (site.channel_of("ada"), "presence-lobby", "private-user-None"):
            status, text = nobody.authorize(listener.socket_id, channel)
            assert status == 403
            assert "my-app-key:" not in text
    assert nobody.post("orders")[0] == 403


@pytest.mark.parametrize("site", [DJANGO], indirect=True, ids=["django"])
def test_django_refuses_a_request_without_its_csrf_token(site: Site) -> None:
    ada = site.visitor("ada")
    ada.add_header("X-CSRFToken", "another")
    status, text = ada.authorize("1.1", "presence-lobby")
    assert status == 403
    assert "CSRF" in text


def test_browsers_do_not_send_the_session_with_requests_of_other_sites(site: Site) -> None:
    """FastAPI's page has no cookie: its token is in a header."""
    ada = site.visitor("ada")
    assert set(ada.same_site.values()) == (set() if site.framework.name == "fastapi" else {"lax"})


# -- Events --------------------------------------------------------------------------------


def test_an_event_of_the_application_reaches_its_user(site: Site) -> None:
    ada, channel = site.visitor("ada"), site.channel_of("ada")
    with Listener.open(site.server) as listener:
        listener.subscribe(channel, json.loads(ada.authorize(listener.socket_id, channel)[1]))
        assert ada.order() == {"number": 1, "published": True}
        assert heard(listener) == (channel, *ORDER_CREATED)


def test_the_page_subscribes_and_shows_the_event_in_a_browser(site: Site) -> None:
    ada = site.visitor("ada")
    shown = visit(site.application.url, ada.cookies, site.framework.button)
    assert shown == {"heading": "Order 1", "refused": 403}


# -- When the server is down ---------------------------------------------------------------


def test_an_order_is_taken_while_the_server_is_down_and_the_reason_is_logged(site: Site) -> None:
    ada, channel = site.visitor("ada"), site.channel_of("ada")
    assert ada.order() == {"number": 1, "published": True}
    site.server.stop()
    try:
        assert ada.order() == {"number": 1, "published": False}
        assert site.framework.refused["down"] in site.application.log()
        assert f"could not publish order-created to {channel}" in site.application.log()
    finally:
        site.server.start()
    assert ada.order() == {"number": 1, "published": True}


def test_a_refused_event_is_logged_with_the_answer_of_the_server(site: Site) -> None:
    wrong = site.framework.application(site.folder, PUSHER_APP_SECRET="wrong")
    with wrong as application:
        ada = Visitor(application)
        site.framework.log_in(ada, "ada")
        assert ada.order() == {"number": 1, "published": False}
        assert site.framework.refused["wrong secret"] in application.log()


# -- Commands ------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_the_page_installs_what_its_files_import(framework: Framework) -> None:
    """The packages are those of this repository's tests, so what is run is what is installed."""
    (install,) = [
        command
        for command in framework.page.commands("")
        if command.startswith(("pip install ", "npm install "))
    ]
    tool, _, *packages = shlex.split(install)
    if tool == "npm":
        tested = json.loads((NODE_FOLDER / "package.json").read_text())["dependencies"]
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        needed = project["optional-dependencies"]["dev"]
        tested = {re.split(r"[^\w-]", one)[0] for one in needed}
    assert set(packages) <= set(tested)


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_the_page_starts_heliograph_with_the_app_of_its_settings(framework: Framework) -> None:
    (start,) = [
        shlex.split(command)
        for command in framework.page.commands("")
        if command.endswith(" heliograph")
    ]
    assert dict(pair.split("=") for pair in start[:-1]) == ENVIRONMENT
    files = "".join(text for _, text in framework.page.files())
    assert all(f"'{value}'" in files.replace('"', "'") for value in ENVIRONMENT.values())
