"""sandboxd and a real daprd: sandboxd under it as a pluggable component, and both beside each other."""
