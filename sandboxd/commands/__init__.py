"""The commands of the `sandboxd` program other than `serve`, one module each."""
