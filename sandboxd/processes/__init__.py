"""Starts the processes of this package, and sets them up."""
