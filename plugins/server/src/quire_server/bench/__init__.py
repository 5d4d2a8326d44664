"""`quire bench serve`: what clients of a server see, and what the server costs over the engine."""
