"""Running guests: the engine, the deadline, and one run from a fresh store to its deletion.

`core` runs core modules and `component` runs components. Both build on `runner`, which fixes the order in which a store
is made, limited, entered and deleted. `hostfuncs.run` and `hostfuncs.Program` are the public interface to this room.
"""
