"""The HTTP endpoints: the binding API, HTTP guests, health, metadata and metrics."""
