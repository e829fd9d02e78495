"""Where webhooks arrive: an application that checks signatures, and is down now and then."""

import random
from collections.abc import Mapping

import msgspec
from aiohttp import web

from soak.books import Faults, Webhooks
from soak.client import App

REFUSES = 0.01
"""Chance that a request is answered with an error, before or after it was taken."""


class Receiver:
    """Listens on loopback for the webhooks of all *apps*, each on a path of its own."""

    def __init__(self, apps: Mapping[str, App], faults: Faults, chance: random.Random) -> None:
        self.books = {app.id: Webhooks(app.id, faults, app.channels) for app in apps.values()}
        self.port = 0
        self._apps = apps
        self._faults = faults
        self._chance = chance
        self._runner: web.AppRunner

    async def start(self) -> None:
        """Listen."""
        application = web.Application()
        application.router.add_post("/{app}", self._receive)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        app = self._apps[request.match_info["app"]]
        if request.headers["X-Pusher-Signature"] != app.credentials.sign(body.decode()):
            self._faults.add("webhooks", f"app {app.id}: a signature is wrong")
        if self._chance.random() < REFUSES / 2:
            return web.Response(status=503)
        books = self.books[app.id]
        if not books.is_repeat(request.headers["X-Heliograph-Delivery"]):
            for event in msgspec.json.decode(body)["events"]:
                books.take(event)
        # Taken, and the answer is lost: it comes again, and must be recognisable.
        return web.Response(status=503 if self._chance.random() < REFUSES / 2 else 200)
