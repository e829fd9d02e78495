"""Environment variables that set nothing: misspelled ones, Kubernetes' and other servers'."""

import pytest

from tests.unit.configurations import about, problem, resolve


def test_an_unknown_variable_is_warned_of_with_the_nearest_known_one() -> None:
    environ = {"HELIOGRAPH_PROT": "9000", "HELIOGRAPH_XYZ": "1", "ANYCABLE_HOTS": "x", "PROT": "1"}
    assert about(resolve(environ=environ), "unknown environment variable") == [
        "ANYCABLE_HOTS: unknown environment variable, ignored; did you mean ANYCABLE_HOST?",
        "HELIOGRAPH_PROT: unknown environment variable, ignored; did you mean HELIOGRAPH_PORT?",
        "HELIOGRAPH_XYZ: unknown environment variable, ignored",
    ]


def test_what_kubernetes_sets_for_a_service_is_ignored_with_one_warning() -> None:
    """A Service that is called heliograph: its port is no port of ours."""
    environ = {
        "HELIOGRAPH_PORT": "tcp://10.0.0.1:8080",
        "HELIOGRAPH_SERVICE_HOST": "10.0.0.1",
        "HELIOGRAPH_SERVICE_PORT": "8080",
        "HELIOGRAPH_SERVICE_PORT_HTTP": "8080",
        "HELIOGRAPH_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "HELIOGRAPH_PORT_8080_TCP_PROTO": "tcp",
        "HELIOGRAPH_PORT_8080_TCP_PORT": "8080",
        "HELIOGRAPH_PORT_8080_TCP_ADDR": "10.0.0.1",
        "HELIOGRAPH_PUSHER_API_PORT": "tcp://10.0.0.2:8081",
        "ANYCABLE_PORT": "tcp://10.0.0.3:8080",
        "PORT": "9000",
    }
    config = resolve(environ=environ)
    assert (config.listening.port, config.listening.pusher_api_port) == (9000, None)
    (warning,) = about(config, "Kubernetes", "unknown")
    assert warning.startswith("ANYCABLE_PORT, HELIOGRAPH_PORT, HELIOGRAPH_PORT_8080_TCP and 7 more")


def test_a_port_that_is_misspelled_is_still_an_error() -> None:
    assert "--port" in problem(environ={"HELIOGRAPH_PORT": "http://10.0.0.1:8080"})


@pytest.mark.parametrize("prefix", ["SOKETI_", "REVERB_"])
def test_variables_of_another_server_alone_are_worth_one_hint(prefix: str) -> None:
    environ = {f"{prefix}APP_ID": "1", f"{prefix}APP_KEY": "k", f"{prefix}X": "", f"{prefix}Y": "1"}
    (hint,) = about(resolve(environ=environ), prefix)
    assert f"docs/coming-from/{prefix[:-1].lower()}.md" in hint
    assert about(resolve(environ={**environ, "PUSHER_APP_ID": "1"} | SECRETS), prefix) == []
    assert len(about(resolve(environ={**environ, "PORT": "80"}), prefix)) == 1


SECRETS = {"PUSHER_APP_KEY": "k", "PUSHER_APP_SECRET": "hidden-secret"}
