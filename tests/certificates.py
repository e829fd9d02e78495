"""Certificates for tests, made by openssl."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAME = "localhost"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate that signed itself, and its key, in files."""

    certificate: Path
    key: Path

    @property
    def options(self) -> dict[str, str]:
        return {"ssl_cert": str(self.certificate), "ssl_key": str(self.key)}

    def trusting(self) -> ssl.SSLContext:
        """Return what a client needs that trusts this certificate, and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.certificate)
        return context

    def copy_over(self, other: "Pair") -> None:
        other.certificate.write_bytes(self.certificate.read_bytes())
        other.key.write_bytes(self.key.read_bytes())


def make(folder: Path, name: str, *, kind: str = "ec", passphrase: str | None = None) -> Pair:
    """Make a pair of *kind* ec or rsa in *folder*."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-days", "2", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"]
    if kind == "ec":
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    else:
        command += ["-newkey", "rsa:2048"]
    command += ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    command += ["-out", str(pair.certificate), "-keyout", str(pair.key)]
    subprocess.run(command, check=True, capture_output=True)
    return pair
