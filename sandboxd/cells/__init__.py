"""The supervisor: runs several cells on one port. A cell is one front with its pool."""
