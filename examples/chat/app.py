"""
A chat room: who is here, who is typing, and what they say.

This is the application's side of a Pusher setup, with nothing but the standard library, so
that every step can be seen: it serves the page, vouches for who enters the room, and
publishes what people say. An SDK does the last two in a line each.

    python examples/chat/app.py --app_id ID --key KEY --secret SECRET

Then open http://localhost:8000 in two windows. Every window is somebody else.
"""

import argparse
import hashlib
import hmac
import http.client
import json
import os
import secrets
import sys
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

CHANNEL = "presence-chat"
CDN = "https://js.pusher.com/8.4.0/pusher.min.js"
ADD_ON = "/clients/heliograph-resume-1.js"
"""The path at which Heliograph has the add-on for missed events."""

MAX_NAME = 30
MAX_TEXT = 2000
MAX_BODY = 16_384
KEPT_MESSAGES = 50

HERE = Path(__file__).parent
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/chat.css": ("chat.css", "text/css; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
}


def sign(secret: str, text: str) -> str:
    """Return the HMAC-SHA256 that every signature of Pusher's is made with."""
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class Refused(Exception):
    """The request is answered with *status* and a line of text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Chat:
    """The room, and its way to Heliograph."""

    def __init__(self, app_id: str, key: str, secret: str, host: str, port: int) -> None:
        self.key = key
        self.host = host
        self.port = port
        self.heliograph = f"http://{host}:{port}"
        self._app_id = app_id
        self._secret = secret
        self._token_secret = secrets.token_hex()
        self._messages: deque[dict[str, Any]] = deque(maxlen=KEPT_MESSAGES)

    def settings(self) -> dict[str, Any]:
        """Return what a page needs to connect. The key is public; the secret stays here."""
        return {"key": self.key, "host": self.host, "port": self.port, "channel": CHANNEL}

    def messages(self) -> list[dict[str, Any]]:
        """Return the latest messages, for newcomers."""
        return list(self._messages)

    def join(self, name: object) -> dict[str, str]:
        """Make somebody up, and return a token that proves who it is to us later."""
        name = " ".join(name.split())[:MAX_NAME] if isinstance(name, str) else ""
        if not name:
            raise Refused(400, "Please say what you are called.")
        user = json.dumps({"id": secrets.token_hex(6), "name": name})
        return {"token": f"{sign(self._token_secret, user)}.{user}"}

    def user_of(self, token: str) -> dict[str, str]:
        """Return whom we gave *token* to."""
        signature, _, user = token.partition(".")
        if not hmac.compare_digest(sign(self._token_secret, user).encode(), signature.encode()):
            raise Refused(403, "Please join first.")
        found: dict[str, str] = json.loads(user)
        return found

    def authorize(self, user: dict[str, str], socket_id: str, channel: str) -> dict[str, str]:
        """
        Vouch for *user* on one connection and one channel.

        pusher-js asks for this before it subscribes, and passes it on to Heliograph, which checks
        the signature. What is signed is sent along to the letter.
        """
        if channel != CHANNEL:
            raise Refused(403, "There is no such room.")
        member = json.dumps({"user_id": user["id"], "user_info": {"name": user["name"]}})
        signature = sign(self._secret, f"{socket_id}:{channel}:{member}")
        return {"auth": f"{self.key}:{signature}", "channel_data": member}

    def say(self, user: dict[str, str], text: object) -> dict[str, Any]:
        """Publish what *user* says to everybody in the room."""
        text = text.strip()[:MAX_TEXT] if isinstance(text, str) else ""
        if not text:
            raise Refused(400, "Please say something.")
        message = {
            "id": secrets.token_hex(8),
            "user_id": user["id"],
            "name": user["name"],
            "text": text,
            "at": int(time.time() * 1000),
        }
        self._publish("message", message)
        self._messages.append(message)
        return message

    def _publish(self, event: str, data: dict[str, Any]) -> None:
        """POST /apps/{app_id}/events, signed."""
        body = json.dumps({"name": event, "channel": CHANNEL, "data": json.dumps(data)}).encode()
        path = f"/apps/{self._app_id}/events"
        query = urlencode(
            {  # in alphabetical order, as it is signed
                "auth_key": self.key,
                "auth_timestamp": int(time.time()),
                "auth_version": "1.0",
                "body_md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
            }
        )
        signature = sign(self._secret, f"POST\n{path}\n{query}")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("POST", f"{path}?{query}&auth_signature={signature}", body)
            answer = connection.getresponse()
            told = answer.read().decode(errors="replace").strip()
        except OSError as error:
            raise Refused(502, f"Heliograph cannot be reached: {error}") from error
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise Refused(502, f"Heliograph says {answer.status}: {told}")


class Page(BaseHTTPRequestHandler):
    """The chat over HTTP."""

    server: "ChatServer"

    def do_GET(self) -> None:
        """Serve the page, its settings and what was said before."""
        chat = self.server.chat
        if self.path in FILES:
            name, content_type = FILES[self.path]
            self._answer(200, (HERE / name).read_bytes(), content_type)
        elif self.path == "/settings":
            self._answer_json(chat.settings())
        elif self.path == "/messages":
            self._answer_json(chat.messages())
        elif self.path == "/pusher.js" and self.server.pusher_js:
            script = self.server.pusher_js.read_bytes()
            self._answer(200, script, "text/javascript; charset=utf-8")
        elif self.path == "/pusher.js":
            self._answer(302, b"", "text/plain", {"Location": CDN})
        elif self.path == "/heliograph-resume.js":
            self._answer(302, b"", "text/plain", {"Location": chat.heliograph + ADD_ON})
        else:
            self._answer(404, b"Not found\n", "text/plain; charset=utf-8")

    def do_POST(self) -> None:
        """Let people in, vouch for them, and take what they say."""
        try:
            self._answer_json(self._post())
        except Refused as refused:
            self._answer(refused.status, f"{refused}\n".encode(), "text/plain; charset=utf-8")

    def _post(self) -> dict[str, Any]:
        chat = self.server.chat
        body = self._body()
        if self.path == "/join":
            return chat.join(_json(body).get("name"))
        user = chat.user_of(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.path == "/auth":
            form = dict(parse_qsl(body))  # pusher-js sends a form
            return chat.authorize(user, form.get("socket_id", ""), form.get("channel_name", ""))
        if self.path == "/messages":
            return chat.say(user, _json(body).get("text"))
        raise Refused(404, "Not found")

    def _body(self) -> str:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            raise Refused(413, "That is too long.")
        return self.rfile.read(int(length)).decode(errors="replace")

    def _answer_json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), "application/json")

    def _answer(
        self,
        status: int,
        body: bytes,
        content_type: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        chat = self.server.chat
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'self'; img-src data:;"
            f" script-src 'self' https://js.pusher.com {chat.heliograph};"
            f" connect-src 'self' ws://{chat.host}:{chat.port}",
        )
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing of requests: the page shows what happens."""


class ChatServer(ThreadingHTTPServer):
    """The application's web server, for this machine only."""

    daemon_threads = True

    def __init__(self, chat: Chat, port: int, pusher_js: Path | None) -> None:
        super().__init__(("127.0.0.1", port), Page)
        self.chat = chat
        self.pusher_js = pusher_js


def _json(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "Expected a JSON object.")
    return value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A chat room on Heliograph.")
    for name, what in (("app_id", "id"), ("key", "key"), ("secret", "secret")):
        variable = f"PUSHER_APP_{name.removeprefix('app_').upper()}"
        parser.add_argument(
            f"--{name}",
            default=os.environ.get(variable),
            help=f"the app's {what}, as Heliograph knows it [{variable}]",
        )
    parser.add_argument("--host", default="localhost", help="where Heliograph is")
    parser.add_argument("--port", type=int, default=8080, help="the port of Heliograph")
    parser.add_argument("--listen", type=int, default=8000, help="the port of this page")
    parser.add_argument(
        "--pusher_js", type=Path, help="a copy of pusher.min.js, to do without Pusher's CDN"
    )
    arguments = parser.parse_args()
    for name in ("app_id", "key", "secret"):
        if not getattr(arguments, name):
            parser.error(f"--{name} is missing; Heliograph prints it in its development mode")
    return arguments


def main() -> None:
    """Serve until Ctrl-C."""
    asked = _arguments()
    chat = Chat(asked.app_id, asked.key, asked.secret, asked.host, asked.port)
    with ChatServer(chat, asked.listen, asked.pusher_js) as server:
        sys.stdout.write(f"Open http://localhost:{server.server_port} in two windows.\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


if __name__ == "__main__":
    main()
