"""Quire's HTTP server: the OpenAI routes over one engine. `quire serve MODEL` starts it; `make_app` is the ASGI app."""
