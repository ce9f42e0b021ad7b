"""Adaptors for the HTTP servers that carry the application: uvicorn and Hypercorn."""
