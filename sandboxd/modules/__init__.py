"""Makes guests ready to load: fetches and checks their bytes, compiles them in a subprocess, stores the artifacts."""
