"""The generated messages of sandboxd/front/grpc/proto: how they are made, and that they are what is committed."""
