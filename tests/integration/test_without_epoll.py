"""
Tests of sockets where the kernel has no epoll, and asyncio's transports carry everything.

The imported tests run with epoll in their own files.
"""

from collections.abc import Iterator

import pytest

from heliograph.net import streams
from tests.integration.rig import serving
from tests.integration.test_api import test_a_batch_is_published_in_order
from tests.integration.test_drain import (
    test_clients_are_closed_in_random_order_spread_over_the_time as test_clients_are_closed,
)
from tests.integration.test_drain import (
    test_connections_in_the_accept_queue_are_served_at_shutdown,
    test_requests_in_flight_are_finished,
)
from tests.integration.test_drain import (
    test_new_clients_are_served_during_the_delay_and_not_after_it as test_new_clients_are_served,
)
from tests.integration.test_listening import (
    path,
    test_a_full_process_accepts_again_when_there_is_room,
    test_a_unix_socket_serves_and_is_removed_at_the_end,
    test_a_websocket_comes_through_a_proxy_byte_by_byte,
    test_clients_are_counted_by_the_address_in_the_proxy_header,
    test_passed_sockets_are_served_and_left_to_their_owner,
)
from tests.integration.test_slow_readers import (
    test_a_healthy_client_survives_one_very_large_chunk,
    test_a_stalled_reader_is_dropped_and_the_others_hear_everything,
    test_unread_answers_of_http_hold_up_the_upgrade,
    test_unsent_bytes_of_a_stalled_client_are_bounded,
)

__all__ = [
    "path",
    "test_a_batch_is_published_in_order",
    "test_a_full_process_accepts_again_when_there_is_room",
    "test_a_healthy_client_survives_one_very_large_chunk",
    "test_a_stalled_reader_is_dropped_and_the_others_hear_everything",
    "test_a_unix_socket_serves_and_is_removed_at_the_end",
    "test_a_websocket_comes_through_a_proxy_byte_by_byte",
    "test_clients_are_closed",
    "test_clients_are_counted_by_the_address_in_the_proxy_header",
    "test_connections_in_the_accept_queue_are_served_at_shutdown",
    "test_new_clients_are_served",
    "test_passed_sockets_are_served_and_left_to_their_owner",
    "test_requests_in_flight_are_finished",
    "test_unread_answers_of_http_hold_up_the_upgrade",
    "test_unsent_bytes_of_a_stalled_client_are_bounded",
]


@pytest.fixture(autouse=True)
def _no_epoll(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(streams, "available", lambda: False)
        yield


async def test_an_event_reaches_its_subscriber() -> None:
    async with serving() as rig, rig.client() as client:
        assert rig.server._poller is None
        await client.subscribe("channel")
        await rig.publish("event", "channel")
        await client.expect('{"event":"event","channel":"channel","data":"{}"}')
