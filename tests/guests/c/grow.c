/* Takes memory until it is refused, touching each page. Then, by argv[1]:
   report (default): "pages N" on stdout, exit 0; exit: exit code 9; trap: unreachable;
   malloc: allocates with malloc in 1 MiB steps and abort()s when it gets NULL, as many programs do;
   take N: stops at N more pages of 64 KiB and writes "pages N" (exit 1 when refused). */
#include <stdlib.h>

#include "say.h"

#define PAGE 65536

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "report";
    if (!strcmp(how, "malloc")) {
        for (;;) {
            volatile char *block = malloc(16 * PAGE);
            if (!block) abort();
            for (size_t i = 0; i < 16 * PAGE; i += 4096) block[i] = 1;
        }
    }
    long most = argc > 2 && !strcmp(how, "take") ? strtol(argv[2], NULL, 10) : -1, taken = 0;
    while (taken != most) {
        size_t at = __builtin_wasm_memory_grow(0, 1);
        if (at == SIZE_MAX) break;
        *(volatile char *)(at * PAGE) = 1;
        taken++;
    }
    if (!strcmp(how, "trap")) __builtin_trap();
    if (!strcmp(how, "exit")) return 9;
    say("pages ");
    say_number(taken, "\n");
    return most >= 0 && taken != most;
}
