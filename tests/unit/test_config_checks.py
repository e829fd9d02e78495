"""The checks of a configuration, and its warnings."""

import inspect

import pytest

from heliograph.config import checks
from heliograph.config.apps import App, AppKey, Apps, Webhook
from heliograph.config.checks import CHECKS, RELOAD_CHECKS, WARNINGS, check, check_reload
from heliograph.config.settings import Config
from heliograph.errors import ConfigError
from heliograph.webhooks import payload
from tests.unit.configurations import APPS, FILE, SECRET_SET, SINGLE, only, problem, resolve


def test_the_app_of_the_options_shares_no_id_and_no_key_with_an_app_of_the_file() -> None:
    assert problem({**FILE, **SINGLE, "pusher_app_id": "2"}, file=APPS) == (
        "--pusher_app_id: '2' (from the flag --pusher_app_id) is also used by the app '2'"
        " in h.toml; choose another one"
    )
    assert problem({**FILE, **SINGLE}, {}, APPS.replace('"other"', '"key"')) == (
        "--pusher_app_key: 'key' (from the flag --pusher_app_key) is also used by the app '2'"
        " in h.toml; choose another one"
    )


@pytest.mark.parametrize("missing", list(SINGLE))
def test_an_app_with_a_part_missing_does_not_start(missing: str) -> None:
    flags = {name: value for name, value in SINGLE.items() if name != missing}
    assert problem(flags).startswith(f"--{missing}: missing; it is required together with --")


def test_an_empty_secret_counts_as_missing() -> None:
    assert problem({**SINGLE, "pusher_secret": ""}).startswith("--pusher_secret: missing")


def test_without_an_app_the_server_generates_one() -> None:
    config = resolve({"max_batch": "3"})
    assert config.development
    assert (only(config).id, only(config).max_batch) == ("1", 3)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_the_development_mode_listens_on_loopback_addresses(host: str) -> None:
    assert resolve({"host": host}).development


@pytest.mark.parametrize("mode", ["", "rw", "66", "0o660", "1660", "668", "-660"])
def test_a_mode_is_octal(mode: str) -> None:
    assert problem({"unix_socket_mode": mode}) == (
        f"--unix_socket_mode: {mode!r} is not a mode such as 660 (from the flag --unix_socket_mode)"
    )


@pytest.mark.parametrize(("one", "other"), [("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert")])
def test_a_certificate_has_a_key_and_a_key_a_certificate(one: str, other: str) -> None:
    assert problem({one: "x.pem"}) == (
        f"--{other}: missing; it is required together with --{one} (from the flag --{one})"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.5", "example.com"])
def test_the_development_mode_listens_on_no_other_address(host: str) -> None:
    message = problem({"host": host})
    assert message.startswith(f"--host: {host!r} (from the flag --host) needs an app")


def test_ids_that_some_sdks_cannot_express_are_warned_of() -> None:
    config = resolve({"pusher_app_id": "my-app", "pusher_app_key": "key"}, SECRET_SET)
    assert config.warnings == (
        "app id 'my-app' is not a number: the Python SDK does not accept it, nor do the Go"
        " and Node SDKs when they are configured with a URL",
    )


def test_an_option_of_an_app_that_is_not_configured_is_warned_of() -> None:
    assert resolve({**FILE, "max_batch": "3"}, file=APPS).warnings == (
        "--max_batch (from the flag --max_batch) has no effect: it applies to the app of"
        " --pusher_app_id, which is not set; set it under [[apps]]",
    )
    single = {"pusher_app_id": "3", "pusher_app_key": "key"}
    assert resolve({**FILE, **single, "max_batch": "3"}, SECRET_SET, APPS).warnings == ()
    assert resolve({"max_batch": "3"}).warnings == ()


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example", "10.0.0", "*"])
def test_proxies_are_addresses_and_networks(text: str) -> None:
    message = problem({**SINGLE, "trusted_proxies": f"127.0.0.1,fd00::/8,{text}"})
    assert message.startswith(f"--trusted_proxies: {text!r} is not an address or a network")
    assert resolve({"trusted_proxies": "127.0.0.1, ::1"}).connections.trusted_proxies == (
        "127.0.0.1",
        "::1",
    )


@pytest.mark.parametrize("other", ["port", "pusher_api_port"])
def test_metrics_have_a_port_of_their_own(other: str) -> None:
    flags = {**SINGLE, other: "9000", "metrics_port": "9000"}
    assert problem(flags) == (
        f"--metrics_port: 9000 (from the flag --metrics_port) is also the port of"
        f" --{other} (from the flag --{other}); choose another port, or use --metrics"
    )


def test_clients_and_the_api_may_share_a_port_and_free_ones_are_never_the_same() -> None:
    resolve({**SINGLE, "port": "9000", "pusher_api_port": "9000", "metrics_port": "9001"})
    resolve({**SINGLE, "port": "0", "pusher_api_port": "0", "metrics_port": "0"})


@pytest.mark.parametrize("hosts", ["0.0.0.0,127.0.0.1", "::,::1", "::1,0.0.0.0,::"])
def test_all_addresses_and_one_of_them_are_not_both_listened_on(hosts: str) -> None:
    assert problem({**SINGLE, "host": hosts}).startswith("--host: ")
    resolve({**SINGLE, "host": "0.0.0.0,::"})
    resolve({**SINGLE, "host": "0.0.0.0,::1"})


@pytest.mark.parametrize("host", ["a..b", "...", "x" * 64, "\u00fc" * 80])
def test_a_host_name_that_no_resolver_accepts_is_refused(host: str) -> None:
    assert problem({**SINGLE, "host": f"localhost,{host}"}) == (
        f"--host (from the flag --host): {host!r} is not a valid host name"
    )
    resolve({**SINGLE, "host": "b\u00fccher.example, xn--bcher-kva.example., ::1, 127.1"})


def test_a_shared_port_has_no_webhooks() -> None:
    file = APPS.replace("[[apps]]", "reuse_port = true\n[[apps]]", 1)
    assert problem(FILE, file=file).startswith(
        "--reuse_port (from h.toml): the app '1' has webhooks"
    )
    assert problem({**FILE, "data_dir": "/tmp"}, file=file)
    resolve(FILE, file=file.replace("url =", "enabled = false\nurl =", 1))


# -- Apps and webhooks, wherever they come from ----------------------------------------------


def app_with(app_id: str, *keys: AppKey, webhooks: tuple[Webhook, ...] = ()) -> App:
    return App(id=app_id, keys=keys, webhooks=webhooks)


KEY = AppKey("k", "hidden-secret")


@pytest.mark.parametrize(
    ("apps", "message"),
    [
        ([app_with("1", KEY), app_with("1", AppKey("l", "s"))], "two apps have the id '1'"),
        ([app_with("1", KEY), app_with("2", KEY)], "the apps '1' and '2' have the same key 'k'"),
        ([app_with("1", KEY, AppKey("k", "s"))], "the app '1' has the key 'k' twice"),
        ([app_with("1")], "the app '1' has no key"),
        ([app_with("1", AppKey("k", ""))], "the key 'k' of the app '1' has no secret"),
    ],
)
def test_apps_share_neither_ids_nor_keys_and_have_secrets(apps: list[App], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Config().with_values(apps=Apps(apps)))
    assert str(caught.value) == message


def refusal(webhook: Webhook) -> str:
    """Return the error of a configuration whose app has this webhook."""
    app = app_with("1", KEY, webhooks=(Webhook(url="http://x"), webhook))
    with pytest.raises(ConfigError) as caught:
        check(Config().with_values(apps=Apps([app])))
    return str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        ("x-pusher-signature", "forged"),
        ("CONTENT-TYPE", "text/plain"),
        ("X-Heliograph-Delivery", "1"),
        ("Transfer-Encoding", "chunked"),
        ("X-Mine", "a\r\nX-Pusher-Key: b"),
        ("X-Mine\r\nX", "a"),
        ("X Mine", "a"),
        ("", "a"),
        ("Überschrift", "a"),
    ],
)
def test_headers_that_would_change_ours_are_refused(header: tuple[str, str]) -> None:
    message = refusal(Webhook(url="http://x", headers=(("X-Fine", "yes"), header)))
    assert message.startswith(f"apps[0].webhooks[1].headers.{header[0]}: ")


@pytest.mark.parametrize(
    "name", [payload.KEY_HEADER, payload.SIGNATURE_HEADER, payload.DELIVERY_HEADER]
)
def test_the_headers_that_we_set_are_ours(name: str) -> None:
    message = refusal(Webhook(url="http://x", headers=((name.lower(), "a"),)))
    assert message.endswith(": the server sets this header; remove it")


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "https:///path", "ftp://host/", "http://u:PASSWORD@host:bad/", "http://[::1/"),
        *("http://ho st/", "http://host/\n", "host"),
    ],
)
def test_what_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    message = refusal(Webhook(url=url))
    assert message.startswith("apps[0].webhooks[1].url: ")
    assert "PASSWORD" not in message


# -- Lists of checks -----------------------------------------------------------------------


def test_each_check_is_in_a_list() -> None:
    """A check that is in none never runs."""
    entries = [one.__name__ for one in (check, check_reload, *CHECKS, *RELOAD_CHECKS, *WARNINGS)]
    functions = [
        name
        for name, _ in inspect.getmembers(checks, inspect.isfunction)
        if name.startswith(("check", "warn_"))
    ]
    assert sorted(functions) == sorted(entries)


def test_a_configuration_of_defaults_and_one_app_passes() -> None:
    check(Config().with_values(apps=Apps([app_with("1", KEY)])))


def test_a_running_server_keeps_an_app_and_its_rules_for_a_shared_port() -> None:
    """Also where the new configuration no longer shares the port: that takes a restart."""
    hooked = app_with("1", KEY, webhooks=(Webhook(url="http://x"),))
    running = Config().with_values(apps=Apps([app_with("1", KEY)]))
    check_reload(running.with_values(apps=Apps([hooked])), running)
    with pytest.raises(ConfigError, match="environment: no app is configured any more"):
        check_reload(running.with_values(development=True), running)
    check_reload(running.with_values(development=True), running.with_values(development=True))
    sharing = running.with_values(reuse_port=True)
    with pytest.raises(ConfigError, match=r"--reuse_port \(from default\): the app '1' has"):
        check_reload(running.with_values(apps=Apps([hooked])), sharing)
    check_reload(running, sharing)
