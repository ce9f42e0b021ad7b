/* `sleep MS...`: one poll_oneoff with a relative monotonic clock subscription per argument, userdata 1, 2, ...
   `sleep until MS`: an absolute one, MS from now. `sleep fds FD...`: fd_read on 0, fd_write on every other FD.
   Prints each event as "userdata errno type nbytes", then "elapsed N" by the monotonic clock in nanoseconds. */
#include <stdlib.h>

#include "say.h"

#define MOST 16

int main(int argc, char **argv) {
    static subscription_t in[MOST];
    static event_t out[MOST];
    uint64_t begin, end;
    uint32_t count = 0, events = 0;
    if (wasi_clock_time_get(1, 1, &begin)) return 2;
    if (argc > 1 && !strcmp(argv[1], "fds")) {
        for (; (int)count < argc - 2 && count < MOST; count++) {
            uint32_t fd = strtoul(argv[count + 2], NULL, 10);
            in[count] = (subscription_t){.userdata = count + 1, .tag = fd == 0 ? 1 : 2, .u.fd = fd};
        }
    } else if (argc == 3 && !strcmp(argv[1], "until")) {
        in[0] = (subscription_t){.userdata = 1, .u.clock = {1, begin + strtoull(argv[2], NULL, 10) * 1000000, 1, 1}};
        count = 1;
    } else {
        for (; (int)count < argc - 1 && count < MOST; count++)
            in[count] = (subscription_t){.userdata = count + 1,
                                         .u.clock = {1, strtoull(argv[count + 1], NULL, 10) * 1000000, 1, 0}};
    }
    uint16_t error = wasi_poll_oneoff(in, out, count, &events);
    if (error) {
        say("errno ");
        say_number(error, "\n");
        return 0;
    }
    for (uint32_t i = 0; i < events; i++) {
        say_number(out[i].userdata, " ");
        say_number(out[i].error, " ");
        say_number(out[i].type, " ");
        say_number(out[i].nbytes, "\n");
    }
    if (wasi_clock_time_get(1, 1, &end)) return 2;
    say("elapsed ");
    say_number(end - begin, "\n");
    return 0;
}
