"""The server process: its catalog of bindings, its reloads, its sockets, and a cell's connection to the supervisor."""
