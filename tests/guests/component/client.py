"""A command that does what its arguments and stdin say. componentize-py builds it, for tests only.

echo                arguments, environment and stdin as JSON
exit N | fail | raise
clocks | random
requests            stdin is a JSON list of requests (see `client_http.start`); prints a JSON list of their ends
fanout URL N        N requests at once, waited for with one poll list
gather URL N        the same through componentize-py's asyncio loop
fields              the answers of the functions of `fields`
sleep NS
"""

import asyncio
import json
import sys

import poll_loop
from client_http import fanout, fields, gather, name_of, requests, spec_of, start, unsent
from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import (
    environment,
    insecure_seed,
    instance_network,
    ip_name_lookup,
    monotonic_clock,
    network,
    poll,
    stdin,
    tcp_create_socket,
    wall_clock,
)
from wit_world.imports import (
    exit as wasi_exit,
)
from wit_world.imports import (
    random as wasi_random,
)
from wit_world.imports import (
    types as http,
)


def denied():
    out = []
    for call in (
        lambda: tcp_create_socket.create_tcp_socket(network.IpAddressFamily.IPV4),
        lambda: ip_name_lookup.resolve_addresses(instance_network.instance_network(), "localhost"),
    ):
        try:
            call()
        except Err as error:
            out.append(error.value.name)
    try:
        with open("/etc/passwd"):
            out.append("opened")
    except OSError as error:
        out.append(type(error).__name__)
    return out


def clocks():
    first, second = monotonic_clock.now(), monotonic_clock.now()
    wall = [wall_clock.now(), wall_clock.now()]
    with monotonic_clock.subscribe_duration(1_000_000) as soon, monotonic_clock.subscribe_duration(10**18) as late:
        order = poll.poll([late, soon])
    return [first, second, [w.seconds * 10**9 + w.nanoseconds for w in wall], monotonic_clock.resolution(), order]


class Run(exports.Run):
    def run(self) -> None:
        command, *rest = sys.argv[1:] or ["echo"]
        if command == "echo":
            result = {
                "args": environment.get_arguments(),
                "env": environment.get_environment(),
                "stdin": sys.stdin.read(),
            }
        elif command == "exit":
            print("before", flush=True)
            wasi_exit.exit_with_code(int(rest[0]))
        elif command == "fail":
            raise Err(None)
        elif command == "raise":
            raise ValueError("a guest's own error")
        elif command == "requests":
            result = requests(json.loads(sys.stdin.read()))
        elif command == "fanout":
            result = fanout(rest[0], int(rest[1]))
        elif command == "gather":
            loop = poll_loop.PollLoop()
            asyncio.set_event_loop(loop)
            result = loop.run_until_complete(gather(rest[0], int(rest[1])))
        elif command == "fields":
            result = fields()
        elif command == "denied":
            result = denied()
        elif command == "clocks":
            result = clocks()
        elif command == "random":
            result = [
                wasi_random.get_random_bytes(16).hex(),
                wasi_random.get_random_u64(),
                insecure_seed.insecure_seed(),
                insecure_seed.insecure_seed(),
            ]
        elif command == "sleep":
            with monotonic_clock.subscribe_duration(int(rest[0])) as pollable:
                pollable.block()
            result = "awake"
        elif command == "race":
            # a request against a timer; then the request alone, asked for without ever waiting
            future, _ = start(spec_of(rest[0]))
            with future.subscribe() as answer, monotonic_clock.subscribe_duration(20_000_000) as timer:
                first = poll.poll([answer, timer])
            asked = 0
            if len(rest) > 1:
                # Kept: a future that is dropped takes its request with it.
                other = start(spec_of(rest[1]))
                with future.subscribe() as answer:
                    while not answer.ready():
                        asked += 1
                other[0].__exit__(None, None, None)
            result = [first, asked > 0, future.get() is not None]
        elif command == "hoard":
            # N fields of 100 kB, all kept
            kept = [http.Fields.from_list([("x", b"v" * 1000)] * 90) for _ in range(int(rest[0]))]
            result = len(kept)
        elif command == "unsent":
            # N requests, each body written to as long as that is permitted, none sent
            result = unsent(int(rest[0]))
        elif command == "flood":
            block = "x" * 65536
            for _ in range(int(rest[0])):
                sys.stdout.write(block)
            return
        elif command == "stderr":
            sys.stderr.write("e" * int(rest[0]) + "end")
            sys.stderr.flush()
            result = "ok"
        elif command == "stdin":
            with stdin.get_stdin() as stream:
                total = 0
                try:
                    while True:
                        total += len(stream.blocking_read(1 << 20))
                except Err as error:
                    result = [total, name_of(error.value)]
        else:
            raise ValueError(command)
        print(json.dumps(result), flush=True)
