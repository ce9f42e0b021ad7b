"""What a guest may call. Knows nothing of the server and is usable from a plain script."""
