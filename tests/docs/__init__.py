"""The documents: links, generated parts, examples and figures. They do not test whether the prose is true."""
