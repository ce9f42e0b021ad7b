"""Several independent fronts with their pools on one port, and the small process that keeps them running."""
