"""
AnyCable's flags and environment variables that are not options of this server.

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


class AnyCableOption(Struct, frozen=True):
    """
    An option of AnyCable.

    *silent* are the values that ask for what the server does anyway; for any other, *warning* is
    logged.
    """

    option: Option
    warning: str
    silent: frozenset[str] = frozenset()

    def warns_of(self, value: str) -> bool:
        """Return whether *value* asks for something that the server does not do."""
        return value.strip().lower() not in self.silent


def _options(
    names: str, warning: str, *, silent: Iterable[str] = (), kind: type = str
) -> dict[str, AnyCableOption]:
    return {
        name: AnyCableOption(
            Option(name=name, kind=kind, default=None, sentence="", group=""),
            warning,
            frozenset(silent),
        )
        for name in names.split()
    }


_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

ANYCABLE_OPTIONS: Mapping[str, AnyCableOption] = {
    # Options for something that the server does anyway, or never does.
    **_options("norpc", NO_RPC, silent=_ON, kind=bool),
    **_options("broadcast_adapter", NO_SHARED_STATE, silent=("http", "")),
    **_options("disable_disconnect", NO_RPC, silent=(*_ON, *_OFF), kind=bool),
    **_options("health_path", "the path is always /health, ignored", silent=("/health",)),
    **_options(
        "metrics_http",
        "not supported, use --metrics or --metrics_port; ignored",
        silent=("", "none"),
    ),
    **_options("enable_native_pings", "pings are always native, ignored", silent=_ON, kind=bool),
    **_options(
        "rpc_host rpc_concurrency rpc_impl rpc_enable_tls rpc_tls_root_ca http_rpc_secret"
        " http_rpc_timeout rpc_max_call_recv_size rpc_max_call_send_size disconnect_mode"
        " disconnect_rate headers proxy_cookies",
        NO_RPC,
        silent=("", "none"),
    ),
    **_options("disable_telemetry", NO_SETTING, silent=(*_ON, *_OFF), kind=bool),
    **_options(
        "ws_write_timeout ws_read_buffer_size ws_write_buffer_size read_buffer_size"
        " write_buffer_size hub_gopool_size gopool_size netpoll max_pool_size"
        " metrics_host metrics_log_filter metrics_log_formatter metrics_rotate_interval"
        " metrics_tags statsd_host statsd_prefix statsd_max_packet_size statsd_tags_format"
        " stats_app_interval pprof_port pprof_path ignore_config_path",
        NO_SETTING,
        silent=("",),
    ),
    **_options("metrics_log netpoll_enabled", NO_SETTING, silent=_OFF, kind=bool),
    # Options that an engine that processes share will support.
    **_options(
        "redis_url redis_channel redis_sentinels redis_tls_verify nats_servers nats_channel"
        " enats_addr enats_cluster enats_cluster_name enats_cluster_routes enats_gateway"
        " enats_gateways enats_store_dir",
        NO_SHARED_STATE,
        silent=("",),
    ),
    **_options("pubsub", NO_SHARED_STATE, silent=("", "none")),
    **_options("enats embed_nats", NO_SHARED_STATE, silent=_OFF, kind=bool),
    # Options that the AnyCable protocol will support.
    **_options(
        "noauth public public_streams streams_whisper streams_presence turbo_streams cable_ready"
        " enforce_jwt sse ds signed_streams",
        NOT_YET,
        silent=_OFF,
        kind=bool,
    ),
    **_options(
        "sessions_ttl presence_ttl jwt_secret jwt_param jwt_id_key jwt_id_param jwt_id_enforce"
        " streams_secret turbo_streams_secret cable_ready_secret broadcast_key"
        " http_broadcast_path http_broadcast_port http_broadcast_secret sse_path ds_path api_path"
        " api_port api_secret path ping_timestamp_precision",
        NOT_YET,
        silent=("", "none"),
    ),
}
"""By name, with underscores."""

PREFIX = "ANYCABLE_"

ANYCABLE_VARIABLES: Mapping[str, AnyCableOption] = {
    **{PREFIX + name.upper(): one for name, one in ANYCABLE_OPTIONS.items()},
    # --ping_interval and --pong_timeout are Pusher's; these are of AnyCable's protocol.
    **_options(f"{PREFIX}PING_INTERVAL {PREFIX}PONG_TIMEOUT", NOT_YET),
}
"""The environment variables of the same options."""


def warnings(flags: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Return a line for each reason why options of *flags* and *environ* are ignored."""
    found = [(f"--{name}", ANYCABLE_OPTIONS[name], value) for name, value in flags.items()]
    found += [
        (variable, one, environ[variable])
        for variable, one in ANYCABLE_VARIABLES.items()
        if environ.get(variable) and one.option.name not in flags
    ]
    by_reason: dict[str, list[str]] = {}
    for name, one, value in found:
        if one.warns_of(value):
            by_reason.setdefault(one.warning, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
