"""The dashboard that we give away, each of its queries in a real Prometheus with a real scrape."""

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from heliograph.observe.metrics import FAMILIES
from tests.integration.rig import KEY, Rig, serving
from tests.ops.test_proxies import OPS, free_port

DASHBOARD = json.loads((OPS / "grafana-dashboard.json").read_text())
PATIENCE_S = 40.0
POLL_INTERVAL_S = 0.25
RATE_INTERVAL = "10s"

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
HEADINGS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]

QUERIES: dict[str, str] = {
    f"{panel['type']} {panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}


class Prometheus:
    """Prometheus' HTTP API."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def is_ready(self) -> bool:
        try:
            async with self._session.get(f"{self._url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def get(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            found = await answer.json()
        assert found["status"] == "success", found
        return found["data"]

    async def values(self, query: str) -> list[float]:
        """Return what each series of *query* is now."""
        data = await self.get("query", query=query)
        assert data["resultType"] == "vector", query
        return [float(one["value"][1]) for one in data["result"]]


@asynccontextmanager
async def scraping(rig: Rig, folder: Path) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes the server twice a second."""
    port, log = free_port(), folder / "log"
    (folder / "prometheus.yml").write_text(
        "global: { scrape_interval: 500ms, scrape_timeout: 500ms }\n"
        "scrape_configs:\n"
        "  - job_name: heliograph\n"
        f"    static_configs: [{{ targets: ['127.0.0.1:{rig.server.port}'] }}]\n"
    )
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
            cwd=folder,
            stdout=said,
            stderr=said,
        )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
            prometheus = Prometheus(session, port)
            while not await prometheus.is_ready():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(POLL_INTERVAL_S)
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, port)
    finally:
        process.terminate()
        await process.communicate()


async def one_of_each(rig: Rig) -> None:
    """Do what the dashboard shows, faults included."""
    async with rig.client() as client:
        await client.subscribe("public")
        await client.subscribe("private-a")
        await client.join("presence-a", "ann")
        await rig.publish("n", "public", "hello")
        await client.receive()
        await client.send("pusher:subscribe", {"channel": "private-b", "auth": "no:no"})
        await client.receive()
        await client.send("pusher:subscribe", {"channel": "resumed", "history": {}})
        await client.receive()
        position = json.loads(json.loads(await client.receive())["data"])
        await client.send("pusher:unsubscribe", {"channel": "resumed"})
        await rig.publish("n", "resumed", "hello")
        for start in (position, {**position, "epoch": "another"}):
            await client.send("pusher:subscribe", {"channel": "resumed", "history": start})
            while '"pusher_internal:subscription_succeeded"' not in await client.receive():
                pass
            await client.send("pusher:unsubscribe", {"channel": "resumed"})
    await rig.request("GET", "/channels", auth_signature="0" * 64)
    async with rig.open("/app/unknown?protocol=7") as stranger:
        await stranger.expect_close(4001)
    await send_malformed(rig)


async def send_malformed(rig: Rig) -> None:
    """Send a WebSocket frame that is not masked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    head = f"GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    head += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    writer.write(head.encode() + b"\x81\x01x")
    await reader.read()
    writer.close()
    await writer.wait_closed()


@asynccontextmanager
async def traffic(rig: Rig) -> AsyncIterator[None]:
    """Have the server used meanwhile; one client stays connected."""

    async def go_on() -> None:
        while True:
            await one_of_each(rig)
            await asyncio.sleep(POLL_INTERVAL_S)

    async with rig.client() as client:
        await client.subscribe("private-stays")
        going_on = asyncio.create_task(go_on())
        try:
            yield
            assert not going_on.done(), going_on
        finally:
            going_on.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await going_on


def asked(expression: str, instance: str) -> str:
    """Return *expression* as Grafana asks it."""
    return expression.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", instance)


@pytest.mark.timeout(180)
async def test_every_query_of_the_dashboard_has_data_of_a_server_with_traffic(
    tmp_path: Path,
) -> None:
    async with (
        serving(metrics=True, broker="memory") as rig,
        scraping(rig, tmp_path) as prometheus,
        traffic(rig),
    ):
        instance = f"127.0.0.1:{rig.server.port}"
        waiting = {name: asked(query, instance) for name, query in QUERIES.items()}
        assert waiting
        try:
            async with asyncio.timeout(PATIENCE_S):
                while waiting:
                    for name, query in list(waiting.items()):
                        values = await prometheus.values(query)
                        if values and all(math.isfinite(value) for value in values):
                            del waiting[name]
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            pytest.fail(f"no data: {waiting}")

        listed = await prometheus.get(
            "label/instance/values", **{"match[]": variable_metric("instance")}
        )
        assert listed == [instance]
        for name, query in QUERIES.items():
            elsewhere = await prometheus.values(asked(query, "another"))
            assert elsewhere == ([0.0] if "vector(0)" in query else []), name


def variable_metric(label: str) -> str:
    """Return the metric whose values of *label* the variable of that name offers."""
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == label]
    metric = re.fullmatch(rf"label_values\((\w+), {label}\)", variable["query"]["query"])
    assert metric
    return metric[1]


def test_the_dashboard_begins_with_a_row_of_single_figures_with_thresholds() -> None:
    figures = [panel for panel in DASHBOARD["panels"] if panel["type"] == "stat"]
    assert len(figures) >= 6
    assert {panel["gridPos"]["y"] for panel in figures} == {0}
    assert sum(panel["gridPos"]["w"] for panel in figures) == 24
    limits = [panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for panel in figures]
    assert sum(len(steps) == 3 for steps in limits) >= 5


def test_no_panel_of_the_dashboard_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_query_of_the_dashboard_is_of_the_chosen_instances() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            selectors = re.findall(r"heliograph_\w+(\{[^}]*\})?", target["expr"])
            assert selectors
            assert all('instance=~"$instance"' in one for one in selectors), target["expr"]


def test_history_has_a_row_of_its_own() -> None:
    """Its panels stand below its heading, and have every metric of history."""
    (heading,) = HEADINGS
    assert heading["title"] == "History"
    assert heading["gridPos"]["w"] == 24
    below = [one for one in PANELS if one["gridPos"]["y"] > heading["gridPos"]["y"]]
    assert {one["gridPos"]["y"] for one in below} == {heading["gridPos"]["y"] + 1}
    queries = " ".join(target["expr"] for panel in below for target in panel["targets"])
    of_history = ("heliograph_history_", "heliograph_resumes_", "heliograph_gaps_")
    named = {one.name for one in FAMILIES if one.name.startswith(of_history)}
    assert len(named) == 6
    assert named <= set(re.findall(r"heliograph_\w+", queries))
