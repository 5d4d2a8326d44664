"""TLS, with a certificate that the test makes; a plain request to that port disturbs nobody."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess

import httpx2 as httpx
import pytest

from quire.errors import ConfigError
from quire_server.serving import Listening, bind

from .harness import local_engine, read_events, serving

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificate")
BODY = {"prompt": [5], "max_tokens": 5, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command = [OPENSSL, "req", "-x509", *kind, *names, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_it_serves_over_tls_to_who_trusts_the_certificate(certificate):
    cert, key = certificate
    listening = Listening(port=0, drain_s=5, tls_cert=str(cert), tls_key=str(key))
    with serving(local_engine(), listening=listening) as running:
        assert running.url.startswith("https://")
        with httpx.Client(base_url=running.url, verify=ssl.create_default_context(cafile=str(cert))) as http:
            assert len(read_events(http.post("/v1/completions", json=BODY))) >= 1
        with pytest.raises(httpx.ConnectError):
            running.get("/health")  # this client does not know the certificate
        host, port = running.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200" not in sock.recv(4096)
        with httpx.Client(base_url=running.url, verify=ssl.create_default_context(cafile=str(cert))) as http:
            assert http.get("/health").status_code == 200


@pytest.mark.parametrize("missing", ["key", "cert", "file"])
def test_what_is_missing_is_told_before_a_model_is_loaded(certificate, missing):
    cert, key = map(str, certificate)
    wrong = {"key": {"tls_cert": cert}, "cert": {"tls_key": key}, "file": {"tls_cert": "/nowhere", "tls_key": key}}
    with pytest.raises(ConfigError, match="tls"):
        bind(Listening(port=0, **wrong[missing]))
