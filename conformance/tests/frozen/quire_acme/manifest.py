"""ACME's manifest, plugin API 1.0."""

from quire.backend.contract import Absent, Found

API = (1, 0)
PLUGIN = "quire_acme.backend:AcmeBackend"


def probe():
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return Absent("torch is not installed", "pip install torch")
    return Found(score=0, facts={"chip": "ACME 1"})
