"""Where guests come from: fetch the bytes, look at them, compile them in a subprocess, keep the artifact."""
