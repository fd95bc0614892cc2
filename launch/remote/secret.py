"""What a run and those who may join it share: a token, and the certificate of the run's gate.

The run keeps both in `join.json` of its directory, which is copied to the machines that join; the
gate's private key stays in `gate.pem`. Only their owner can read them. They last as long as the
run, so that it can be joined again after a restart; whoever removes them makes the next start of
the run forget everybody who had a copy.
"""

from __future__ import annotations

import json
import pathlib
import secrets
import shlex
import ssl
import stat
import string
from datetime import datetime
from typing import NamedTuple

from bmg.storage.fields import shown
from bmg.storage.files import whole_file

JOIN, KEY = "join.json", "gate.pem"
NAME = "bmg-gate"  # in every gate's certificate; what counts is the certificate itself
TOKEN_LENGTH = 43  # characters: 32 random bytes
_CHARACTERS = {*string.ascii_letters, *string.digits, "-", "_"}
_OTHERS = 0o077  # of a file's mode: the rights of everyone but its owner
_LARGEST_FILE = 2**16  # bytes; a join file has about a thousand
# The certificate is pinned: no date makes it better or worse, and a clock may be wrong.
_FROM, _UNTIL = datetime(2000, 1, 1), datetime(9999, 12, 31)


class Join(NamedTuple):
    """What one joins a run with."""

    token: str
    certificate: str  # PEM

    def context(self) -> ssl.SSLContext:
        """For a connection to the gate that has the certificate, and to no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks the certificate
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.certificate)
        return context


def read_join(path: pathlib.Path) -> Join:
    """The content of a join file.

    Raises:
      ValueError: there is none, or it is damaged; one line.
    """
    try:
        with path.open("rb") as file:  # perhaps a pipe or a device, whose size nobody knows
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise ValueError("it is too large")
        values = json.loads(content.decode())
        join = Join(*(isinstance(values, dict) and values.get(name) for name in Join._fields))
        if not (isinstance(join.token, str) and isinstance(join.certificate, str)):
            raise ValueError("it has no token and certificate")
        if len(join.token) != TOKEN_LENGTH or not set(join.token) <= _CHARACTERS:
            raise ValueError("its token is damaged")
        join.context()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{shown(str(path))} cannot be read ({reason}); give the {JOIN} of the run directory, "
            "or a copy of it."
        ) from None
    return join


def why_exposed(path: pathlib.Path) -> str:
    """A line where others than its owner can read a join file, else nothing.

    It is no reason to refuse the file: where a container mounts it as a secret, it often has such a
    mode that nobody can change, and nobody else is there.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    if not stat.S_ISREG(mode) or not mode & _OTHERS:
        return ""
    return (
        f"others than its owner can open {shown(str(path))}, and whoever has it can run code as "
        f"the run's user; give chmod 600 {shlex.quote(str(path))}"
    )


def keep(workdir: pathlib.Path) -> tuple[Join, ssl.SSLContext]:
    """The secret of the run in this directory, made where there is none, and its gate's side.

    Raises:
      OSError: it cannot be written.
    """
    path, key = workdir / JOIN, workdir / KEY
    try:
        if (path.stat().st_mode | key.stat().st_mode) & _OTHERS:
            raise ValueError("others could read it")
        join = read_join(path)
        if join.certificate not in key.read_text("ascii"):
            raise ValueError("another certificate")
        return join, _gate_context(key)
    except (OSError, ValueError):  # none yet, or not one that can be used
        pass
    private, certificate = _make_certificate()
    join = Join(secrets.token_urlsafe(32), certificate)
    for file, text in ((key, private + certificate), (path, json.dumps(join._asdict()))):
        with whole_file(file, mode=0o600) as opened:
            opened.write(text.encode())
    return join, _gate_context(key)


def _gate_context(key: pathlib.Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(key)
    return context


def _make_certificate() -> tuple[str, str]:
    """A private key, and a certificate that it signs itself, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(_FROM).not_valid_after(_UNTIL)
    names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()
