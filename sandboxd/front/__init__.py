"""From HTTP requests to invocations, and from results to responses."""
