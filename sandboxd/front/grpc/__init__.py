"""The gRPC API of Dapr, on grpcio: the `grpc` extra. Nothing here is imported unless it is served."""

import os

# grpcio reads these when it is first imported, which is in a module of this package. Its own log would stand between
# the lines of ours. Its handlers of fork(2) stop its threads and start them again around each fork, and run in the
# child of every process that the front starts, where they crashed at times.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
