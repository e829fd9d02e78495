"""A fault of ours, which nobody should be able to cause, costs what it touches and no more."""

import asyncio
from typing import Any

import pytest

from heliograph.net.timers import RESOLUTION_S, Wheel
from heliograph.process import _summed_up
from tests.integration.rig import PATIENCE_S, serving


@pytest.mark.reports_faults
async def test_a_fault_in_a_flush_does_not_end_all_deliveries(caplog: Any) -> None:
    async with serving() as rig, rig.client() as client:
        await client.subscribe("broken")
        await client.subscribe("sound")
        tenant = rig.server.node.tenant(rig.app_id)
        assert tenant is not None
        lane: Any = tenant.hub._channels["broken"].subscriptions
        subscription = next(iter(lane))
        subscription.lane, kept = Broken(), subscription.lane
        await rig.publish("n", "broken")
        subscription.lane = kept
        for channel in ("sound", "broken"):
            await rig.publish("n", channel)
            await client.expect(f'{{"event":"n","channel":"{channel}","data":"{{}}"}}')
    assert "unhandled exception in a connection" in caplog.text


@pytest.mark.interpreted
async def test_a_fault_that_a_client_can_cause_fills_no_log(
    caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as rig:

        def broken(*_arguments: Any, **_options: Any) -> None:
            raise ValueError("broken")

        monkeypatch.setattr(rig.server.node, "tenant_of_key", broken)
        for _ in range(20):
            assert (await rig.request("GET", "/channels")).status == 500
    assert caplog.text.count("Traceback") == 1


@pytest.mark.reports_faults
async def test_a_fault_that_the_loop_reports_again_and_again_fills_no_log(caplog: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_summed_up(loop))
    reported = asyncio.Event()

    def broken(last: bool) -> None:
        if last:
            loop.call_soon(reported.set)
        raise ValueError("broken")

    for number in range(20):
        loop.call_soon(broken, number == 19)
    await reported.wait()
    loop.call_exception_handler({"message": "another"})
    assert caplog.text.count("Traceback") == 1
    assert "another" in caplog.text
    loop.set_exception_handler(None)


class Broken:
    """A lane that cannot write."""

    def encode(self, _fact: object) -> bytes:
        raise ValueError("broken")


@pytest.mark.reports_faults
async def test_a_fault_in_one_time_out_does_not_stop_the_wheel(caplog: Any) -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    later = Clock()
    wheel.add(Clock(fault=True), 0)
    wheel.add(later, 2 * RESOLUTION_S)
    async with asyncio.timeout(PATIENCE_S):
        await later.expired.wait()
    wheel.stop()
    assert "broken" in caplog.text


class Clock:
    """Something that is looked at once."""

    def __init__(self, *, fault: bool = False) -> None:
        self.due = 0
        self.expired = asyncio.Event()
        self._fault = fault

    def on_timer(self, _now: float) -> None:
        if self._fault:
            raise ValueError("broken")
        self.expired.set()
