"""The files of deploy/: valid to the tools that read them, and in step with the code. Does not deploy anything."""
