/* Ends with proc_exit(argv[1]), 0 without arguments: any 32-bit number, which exit() of libc would let through too,
   but called by hand so that `exit 0` is a proc_exit(0) and not a return from _start.
   argv[2], if given, is first written to stdout and argv[3] to stderr. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wasi.h"

int main(int argc, char **argv) {
    if (argc > 2 && write(1, argv[2], strlen(argv[2])) < 0) return 2;
    if (argc > 3 && write(2, argv[3], strlen(argv[3])) < 0) return 2;
    wasi_proc_exit(argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0);
}
