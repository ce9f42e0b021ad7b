"""The frames that front, zygote and workers exchange, without any input or output of their own."""
