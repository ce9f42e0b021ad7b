"""The egress broker: the one process of a pool that looks names up, asks the policies and connects for the workers.

Workers have no sockets of their own. A worker asks by a packet on a socket pair of its own, and is passed the connected
socket. The front says for which binding a worker asks, because it knows what each worker runs.

`main` is the process and `service` its work, `client` is the front's side and `dialer` the workers'.
"""
