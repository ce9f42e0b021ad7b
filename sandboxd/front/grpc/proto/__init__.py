"""The messages of the gRPC APIs. `python -m tests.protos` makes the `_pb2` files from the `.proto` files.

The names and numbers are those of Dapr's own files (dapr/proto/runtime/v1, dapr/proto/components/v1) and of Google's
(google/rpc); what sandboxd neither reads nor writes is left out. Protocol Buffers ignore fields they do not know.
"""
