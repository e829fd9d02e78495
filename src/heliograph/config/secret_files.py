"""
Secrets in files of their own.

A mistake in one is a ConfigError that shows nothing of the file's text.
"""

from collections.abc import Callable

from heliograph.errors import ConfigError

READABLE_BY_EVERY_USER = 0o004


class SecretFiles:
    """Reads files with a secret each; *warnings* has those that every user can read."""

    def __init__(self, read_file: Callable[[str], str], mode_of_file: Callable[[str], int]) -> None:
        self.warnings: list[str] = []
        self._read_file = read_file
        self._mode_of_file = mode_of_file

    def read(self, path: str, where: str) -> str:
        """Return the secret in the file *path*. Raises ConfigError that begins with *where*."""
        try:
            text = self._read_file(path)
            mode = self._mode_of_file(path)
        except OSError as error:
            raise ConfigError(f"{where}: cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{where}: {path} is not UTF-8") from None
        secret = text.strip()
        if not secret:
            raise ConfigError(f"{where}: {path} is empty; it must contain the secret")
        if not secret.isprintable():
            raise ConfigError(f"{where}: {path} must contain only the secret, on one line")
        if mode & READABLE_BY_EVERY_USER:
            self.warnings.append(
                f"{path} contains a secret, and every user of this machine can read it:"
                " run chmod o-r on it"
            )
        return secret
