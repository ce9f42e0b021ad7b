/* Traps. argv[1] names how: unreachable (default), div, memory, indirect, abort. What was written before is on stdout. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile int zero;

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "unreachable";
    if (write(1, "before\n", 7) != 7) return 2;
    if (!strcmp(how, "div")) return argc / zero;
    if (!strcmp(how, "memory")) return *(volatile int *)(uintptr_t)(0xfffffff0u + (unsigned)zero);
    if (!strcmp(how, "indirect")) return ((int (*)(void))(uintptr_t)(0x00ffffffu + (unsigned)zero))();
    if (!strcmp(how, "abort")) abort();
    if (!strcmp(how, "unreachable")) __builtin_trap();
    return 3;
}
