/* Never ends. argv[1] says where: nothing or compute: in wasm code; yield: in sched_yield; clock: in clock_time_get;
   sleep: in one poll_oneoff of a century. "begun\n" is on stderr before. */
#include <string.h>
#include <unistd.h>

#include "wasi.h"

int main(int argc, char **argv) {
    const char *where = argc > 1 ? argv[1] : "compute";
    volatile unsigned turns = 0;
    uint64_t now;
    if (write(2, "begun\n", 6) != 6) return 2;
    if (!strcmp(where, "sleep")) {
        static const subscription_t century = {.u.clock = {1, 3155760000000000000ull, 1, 0}};
        static event_t event;
        uint32_t n;
        return wasi_poll_oneoff(&century, &event, 1, &n) ? 3 : 4;
    }
    for (;;) {
        turns++;
        if (!strcmp(where, "yield")) wasi_sched_yield();
        if (!strcmp(where, "clock")) wasi_clock_time_get(1, 1, &now);
    }
}
