"""The gRPC API of Dapr, and the HTTP/2 server under it. Nothing here is imported unless it is served."""
