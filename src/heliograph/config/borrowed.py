"""
Settings made for other servers: AnyCable's flags and variables that are not options here.

The start command of an application that ran AnyCable works unchanged: a flag that asks for what
this server does anyway is accepted silently, any other is accepted with a warning. Knows names and
values; reads no environment itself.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from heliograph.config.options import Option

NOT_YET = "not supported yet, ignored"
NO_SHARED_STATE = (
    "this process shares no state with others, ignored: an event that is published through"
    " another process does not reach the clients of this one"
)
NO_SETTING = "there is no such setting here, ignored"
NO_RPC = "this server makes no RPC calls, ignored"


class Borrowed(Struct, frozen=True):
    """
    One setting of AnyCable's.

    Values of *same* ask for what the server does anyway; for any other, *warning* is logged.
    """

    option: Option
    warning: str
    same: frozenset[str] = frozenset()

    def ignored(self, value: str) -> bool:
        """Whether *value* asks for something that the server does not do."""
        return value.strip().lower() not in self.same


def _borrowed(
    names: str, warning: str, *, same: Iterable[str] = (), kind: type = str
) -> dict[str, Borrowed]:
    return {
        name: Borrowed(
            Option(name=name, kind=kind, default=None, sentence="", group=""),
            warning,
            frozenset(same),
        )
        for name in names.split()
    }


_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

BORROWED: Mapping[str, Borrowed] = {
    # What the server does anyway, or never does.
    **_borrowed("norpc", NO_RPC, same=_ON, kind=bool),
    **_borrowed("broadcast_adapter", NO_SHARED_STATE, same=("http", "")),
    **_borrowed("disable_disconnect", NO_RPC, same=(*_ON, *_OFF), kind=bool),
    **_borrowed("health_path", "the path is always /health, ignored", same=("/health",)),
    **_borrowed(
        "metrics_http", "not supported, use --metrics or --metrics_port; ignored", same=("", "none")
    ),
    **_borrowed("enable_native_pings", "pings are always native, ignored", same=_ON, kind=bool),
    **_borrowed(
        "rpc_host rpc_concurrency rpc_impl rpc_enable_tls rpc_tls_root_ca http_rpc_secret"
        " http_rpc_timeout rpc_max_call_recv_size rpc_max_call_send_size disconnect_mode"
        " disconnect_rate headers proxy_cookies",
        NO_RPC,
        same=("", "none"),
    ),
    **_borrowed("disable_telemetry", NO_SETTING, same=(*_ON, *_OFF), kind=bool),
    **_borrowed(
        "ws_write_timeout ws_read_buffer_size ws_write_buffer_size read_buffer_size"
        " write_buffer_size hub_gopool_size gopool_size netpoll max_pool_size"
        " metrics_host metrics_log_filter metrics_log_formatter metrics_rotate_interval"
        " metrics_tags statsd_host statsd_prefix statsd_max_packet_size statsd_tags_format"
        " stats_app_interval pprof_port pprof_path ignore_config_path",
        NO_SETTING,
        same=("",),
    ),
    **_borrowed("metrics_log netpoll_enabled", NO_SETTING, same=_OFF, kind=bool),
    # What an engine that processes share will bring.
    **_borrowed(
        "redis_url redis_channel redis_sentinels redis_tls_verify nats_servers nats_channel"
        " enats_addr enats_cluster enats_cluster_name enats_cluster_routes enats_gateway"
        " enats_gateways enats_store_dir",
        NO_SHARED_STATE,
        same=("",),
    ),
    **_borrowed("pubsub", NO_SHARED_STATE, same=("", "none")),
    **_borrowed("enats embed_nats", NO_SHARED_STATE, same=_OFF, kind=bool),
    # What history and the AnyCable protocol will bring.
    **_borrowed(
        "noauth public public_streams streams_whisper streams_presence turbo_streams cable_ready"
        " enforce_jwt sse ds signed_streams",
        NOT_YET,
        same=_OFF,
        kind=bool,
    ),
    **_borrowed("broker", NOT_YET, same=("", "none")),
    **_borrowed(
        "presets history_limit history_ttl sessions_ttl presence_ttl jwt_secret jwt_param"
        " jwt_id_key jwt_id_param jwt_id_enforce streams_secret turbo_streams_secret"
        " cable_ready_secret broadcast_key http_broadcast_path http_broadcast_port"
        " http_broadcast_secret sse_path ds_path api_path api_port api_secret path"
        " ping_timestamp_precision",
        NOT_YET,
        same=("", "none"),
    ),
}
"""By name, with underscores."""

PREFIX = "ANYCABLE_"

VARIABLES: Mapping[str, Borrowed] = {
    **{PREFIX + name.upper(): borrowed for name, borrowed in BORROWED.items()},
    # --ping_interval and --pong_timeout are Pusher's; these variables are of AnyCable's protocol.
    **_borrowed(f"{PREFIX}PING_INTERVAL {PREFIX}PONG_TIMEOUT", NOT_YET),
}
"""The environment variables of the same settings."""


def warnings(flags: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Return a line for each reason why settings of *flags* and *environ* are ignored."""
    given = [(f"--{name}", BORROWED[name], value) for name, value in flags.items()]
    given += [
        (variable, borrowed, environ[variable])
        for variable, borrowed in VARIABLES.items()
        if environ.get(variable) and borrowed.option.name not in flags
    ]
    by_reason: dict[str, list[str]] = {}
    for setting, borrowed, value in given:
        if borrowed.ignored(value):
            by_reason.setdefault(borrowed.warning, []).append(setting)
    return [f"{', '.join(settings)}: {reason}" for reason, settings in by_reason.items()]
