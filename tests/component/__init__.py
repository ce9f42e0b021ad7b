"""sandboxd under daprd: `sandboxd component` against a client that calls as daprd does, and against a daprd."""
