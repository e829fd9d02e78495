"""The HTTP API as a backend uses it: signed requests over a connection that is kept."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from soak.client import App


class Refused(Exception):
    """The server answered with something else than 200."""


class Api:
    """One connection to the HTTP API; a request at a time."""

    def __init__(self, app: App, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """Ask, and return what was answered. Raises Refused."""
        return await self._request("GET", path, b"", parameters or {})

    async def post(self, path: str, body: Any) -> Any:
        """Have something done. Raises Refused."""
        return await self._request("POST", path, msgspec.json.encode(body), {})

    async def _request(
        self, method: str, path: str, body: bytes, parameters: Mapping[str, str]
    ) -> Any:
        head = f"{method} {self._target(method, path, body, parameters)} HTTP/1.1\r\n"
        head += f"Host: {self._host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        async with self._lock:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._writer.write(head.encode() + body)
            status, answer = await self._answer()
        if status != 200:
            raise Refused(f"{method} {path}: {status} {answer!r:.300}")
        return msgspec.json.decode(answer)

    def _target(self, method: str, path: str, body: bytes, parameters: Mapping[str, str]) -> str:
        path = f"/apps/{self._app.id}{path}"
        query = {
            "auth_key": self._app.key,
            "auth_timestamp": str(int(time.time())),
            "auth_version": "1.0",
            **parameters,
        }
        if body:
            query["body_md5"] = hashlib.md5(body, usedforsecurity=False).hexdigest()
        pairs = sorted(query.items())
        signed = "&".join(f"{name}={value}" for name, value in pairs)
        sent = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
        signature = self._app.sign(f"{method}\n{path}\n{signed}")
        return f"{path}?{sent}&auth_signature={signature}"

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines if line)
        body = await self._reader.readexactly(int(fields["content-length"]))
        return int(status_line.split(" ")[1]), body

    async def close(self) -> None:
        """Let go of the connection."""
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()
            self._writer = None
