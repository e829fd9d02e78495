"""Apps: their defaults, their secrets, and the registry of all of them."""

from heliograph.config.apps import WEBHOOK_KINDS, App, AppKey, Apps, Webhook

KEY = AppKey("k", "hidden-secret")


def app(app_id: str, *keys: AppKey) -> App:
    return App(id=app_id, keys=keys)


def test_an_app_is_as_pusher_has_it_unless_it_says_otherwise() -> None:
    plain = app("1", KEY)
    assert plain.name == ""
    assert plain.enabled is True
    assert plain.client_events is True
    assert plain.subscription_count is False
    assert plain.watchlist is False
    assert plain.authorized_connections_timeout == 0
    assert plain.allowed_origins == ()
    assert plain.max_connections == 0
    assert plain.max_presence_members == 100
    assert plain.max_presence_user_bytes == 1024
    assert plain.max_presence_user_id_length == 128
    assert plain.max_event_bytes == 10240
    assert plain.max_event_name_length == 200
    assert plain.max_channel_name_length == 200
    assert plain.max_channels_per_publish == 100
    assert plain.max_batch == 10
    assert plain.max_client_events_per_second == 10
    assert plain.webhook_batching is True
    assert plain.webhooks == ()


def test_a_webhook_is_told_of_everything_unless_it_says_otherwise() -> None:
    webhook = Webhook(url="http://localhost")
    assert webhook.enabled
    assert webhook.events == WEBHOOK_KINDS
    assert (webhook.channel_prefix, webhook.headers) == ("", ())


def test_each_of_an_apps_keys_has_its_secret() -> None:
    rotating = app("1", AppKey("old", "a"), AppKey("new", "b"))
    assert rotating.secret("old") == b"a"
    assert rotating.secret("new") == b"b"
    assert rotating.secret("other") is None
    assert rotating.secret("") is None


def test_a_secret_is_signed_with_as_utf_8() -> None:
    assert app("1", AppKey("k", "ü")).secret("k") == b"\xc3\xbc"


def test_apps_are_found_by_id() -> None:
    one, two = app("1", KEY), app("2", AppKey("other", "s"))
    apps = Apps([one, two])
    assert apps.get("1") is one
    assert apps.get("3") is None
    assert list(apps) == [one, two]
    assert len(apps) == 2


def test_secrets_are_in_no_representation() -> None:
    webhook = Webhook(
        url="http://u:hidden-secret@localhost", headers=(("X-Token", "hidden-secret"),)
    )
    assert "hidden-secret" not in repr(App(id="1", keys=(KEY,), webhooks=(webhook,)))
