"""
The development mode: an app that the server generates, and code to paste that uses it.

Its secret is printed: it exists for this run only, and the server listens on localhost only.
"""

from collections.abc import Callable

from heliograph.config.settings import Config


def generate_app(random_bits: Callable[[int], int]) -> tuple[str, str, str]:
    """Return id, key and secret of an app; the id is decimal, because some SDKs need that."""
    return (
        str(random_bits(20) + 100_000),
        f"{random_bits(80):020x}",
        f"{random_bits(80):020x}",
    )


_SNIPPETS = """\

  Development mode: no app is configured, so the server generated one for this run.
  The server listens on this machine only.

  // pusher-js: npm install pusher-js
  import Pusher from 'pusher-js';
  const pusher = new Pusher('{key}', {{
    cluster: '', wsHost: '{host}', {port_name}: {port}, forceTLS: {tls},
    enabledTransports: ['ws', 'wss'],{path_line}
  }});
  pusher.subscribe('my-channel').bind('my-event', (data) => console.log(data));

  // Laravel Echo: npm install laravel-echo pusher-js
  import Echo from 'laravel-echo';
  import Pusher from 'pusher-js';
  window.Pusher = Pusher;
  window.Echo = new Echo({{
    broadcaster: 'pusher', key: '{key}', cluster: '',
    wsHost: '{host}', {port_name}: {port}, forceTLS: {tls},
    enabledTransports: ['ws', 'wss'],{path_line}
  }});

  # Python: pip install pusher{prefix_note}
  import pusher
  client = pusher.Pusher(app_id='{app_id}', key='{key}', secret='{secret}',
                         host='{host}', port={api_port}, ssl={ssl})
  client.trigger('my-channel', 'my-event', {{'message': 'hello'}})
"""


def snippets(config: Config, port: int, api_port: int) -> str:
    """Return code to paste into a page and into a program, for a server on these ports."""
    (app,) = config.apps
    (key,) = app.keys
    prefix = config.http_requests.path_prefix
    host = next(iter(config.listening.host), "localhost")
    note = f" (it has no option for a path prefix: a proxy must add {prefix} to its paths)"
    return _SNIPPETS.format(
        app_id=app.id,
        key=key.key,
        secret=key.secret,
        host=f"[{host}]" if ":" in host else host,
        port=port,
        port_name="wssPort" if config.certificate.ssl_cert else "wsPort",
        tls="true" if config.certificate.ssl_cert else "false",
        ssl=bool(config.certificate.ssl_cert),
        api_port=api_port,
        prefix_note=note if prefix else "",
        path_line=f" wsPath: '{prefix}'," if prefix else "",
    )
