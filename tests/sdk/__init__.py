"""Dapr's own SDKs, unmodified, against a server: each installed by its language's client into the cache.

The SDK for .NET is not run here: of its source (src/Dapr.Client/DaprClientGrpc.cs) it is known that it calls
InvokeBinding, and for its health checks GET /v1.0/healthz and /v1.0/healthz/outbound.
"""
