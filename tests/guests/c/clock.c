/* Reads the four clocks. Per clock one line: id, errno and value of clock_res_get, errno and value of clock_time_get.
   `clock N` then adds N lines of "realtime monotonic" readings in nanoseconds; `clock id K` reads only clock K. */
#include <stdlib.h>

#include "say.h"

static void show(uint32_t id) {
    uint64_t resolution = 0, now = 0;
    say_number(id, " ");
    say_number(wasi_clock_res_get(id, &resolution), " ");
    say_number(resolution, " ");
    say_number(wasi_clock_time_get(id, 1, &now), " ");
    say_number(now, "\n");
}

int main(int argc, char **argv) {
    if (argc > 2) {
        show(strtoul(argv[2], NULL, 10));
        return 0;
    }
    for (uint32_t id = 0; id < 4; id++) show(id);
    for (long n = argc > 1 ? strtol(argv[1], NULL, 10) : 0; n > 0; n--) {
        uint64_t wall, mono;
        if (wasi_clock_time_get(0, 1, &wall) || wasi_clock_time_get(1, 1, &mono)) return 2;
        say_number(wall, " ");
        say_number(mono, "\n");
    }
    return 0;
}
