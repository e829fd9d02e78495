"""
Signed-in users: POST /apps/{app_id}/users/{user_id}/terminate_connections.

Source: https://pusher.com/docs/channels/server_api/terminating-user-connections/
"""

from heliograph.protocols.pusher.api.request import ApiRequest
from heliograph.protocols.pusher.api.response import EMPTY
from heliograph.reply import Reply, after
from heliograph.wire.responses import Response


def terminate_connections(request: ApiRequest, user_id: str) -> Reply[Response]:
    """Close every connection signed in as *user_id*; a user without connections is no error."""
    return after(request.tenant.terminate(user_id), lambda _nothing: EMPTY)
