"""What differs between the frameworks: how a project starts, and how a user logs in."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.javascript import NODE_FOLDER, find_node
from tests.frameworks.application import Application, Visitor, run
from tests.frameworks.page import Page

PASSWORD = "a-password-of-the-test"
FREE_PORT = "0"


@dataclass(frozen=True)
class Framework:
    """A page that is run; *log_in* makes a visitor the user of this name: "ada" or "bob"."""

    name: str
    log_in: Callable[[Visitor, str], None]
    user_ids: dict[str, str]
    button: str = "button"
    prepare: Callable[[Path], None] = lambda _: None
    refused: dict[str, str] = field(default_factory=dict)
    """What the log has after a failed publish: by "down" and "wrong secret"."""

    @property
    def page(self) -> Page:
        return Page(self.name)

    def build(self, folder: Path, port: int) -> None:
        """Make the page's project in *folder*, for a Heliograph on *port*."""
        for command in self.page.commands(""):
            if command.startswith("django-admin"):
                run(command, folder)
        self.page.write(folder, port)
        self.prepare(folder)

    def application(self, folder: Path, **variables: str) -> Application:
        """Return the application of the page's last command, with the variables that it sets."""
        *before, command = self.page.commands("Run")
        for line in before:
            if line.startswith("export "):
                pairs = line.removeprefix("export ").split(" ")
                variables = {**dict(pair.split("=") for pair in pairs), **variables}
        while (pair := command.split(" ")[0]).partition("=")[1]:
            variables = {**dict([pair.split("=")]), **variables}
            command = command.removeprefix(f"{pair} ")
        variables = {name: value.replace("8000", FREE_PORT) for name, value in variables.items()}
        return Application(command.replace("8000", FREE_PORT), folder, **variables)


# -- Django --------------------------------------------------------------------------------


def _prepare_django(folder: Path) -> None:
    migrate, create_user, _ = Page("django").commands("Run")
    run(migrate, folder)
    for name in ("ada", "bob"):
        run(
            f"{create_user} --noinput",
            folder,
            DJANGO_SUPERUSER_USERNAME=name,
            DJANGO_SUPERUSER_PASSWORD=PASSWORD,
            DJANGO_SUPERUSER_EMAIL=f"{name}@example.com",
        )


def _log_into_django(visitor: Visitor, name: str) -> None:
    _, form = visitor.get("admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    assert token
    status, text = visitor.post(
        "admin/login/?next=/", username=name, password=PASSWORD, csrfmiddlewaretoken=token[1]
    )
    assert status == 302, text
    send_csrf_token(visitor)


def send_csrf_token(visitor: Visitor) -> None:
    """Send the token of the page with every request from now on, as the page does."""
    status, page = visitor.get("")
    assert status == 200, page
    token = re.search(r"'X-CSRFToken': '(\w+)'", page)
    assert token
    visitor.add_header("X-CSRFToken", token[1])


# -- The others ----------------------------------------------------------------------------


def _log_in_with_a_name(visitor: Visitor, name: str) -> None:
    status, text = visitor.post("login", name=name)
    assert status == 303, text


def _send_token(visitor: Visitor, name: str) -> None:
    visitor.add_header("Authorization", f"Bearer token-of-{name}")


def _prepare_node(folder: Path) -> None:
    find_node()
    (folder / "node_modules").symlink_to(NODE_FOLDER / "node_modules")


PYTHON_REASONS = {
    "down": "requests.exceptions.ConnectionError",
    "wrong secret": "pusher.errors.PusherBadAuth: Invalid signature",
}

DJANGO = Framework(
    "django",
    _log_into_django,
    {"ada": "1", "bob": "2"},
    prepare=_prepare_django,
    refused=PYTHON_REASONS,
)

FRAMEWORKS = [
    DJANGO,
    Framework("fastapi", _send_token, {"ada": "1", "bob": "2"}, refused=PYTHON_REASONS),
    Framework("flask", _log_in_with_a_name, {"ada": "ada", "bob": "bob"}, refused=PYTHON_REASONS),
    Framework(
        "node",
        _log_in_with_a_name,
        {"ada": "ada", "bob": "bob"},
        button="#order",
        prepare=_prepare_node,
        refused={
            "down": "PusherRequestError: FetchError: request to http://localhost:",
            "wrong secret": "PusherRequestError: 401 Invalid signature",
        },
    ),
]
