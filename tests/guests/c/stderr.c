/* Writes each argument as a line to stderr, then "done\n" to stdout.
   `stderr flood N` instead writes N times 1024 bytes 'e' to stderr. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "flood")) {
        static char block[1024];
        memset(block, 'e', sizeof block);
        for (unsigned long n = strtoul(argv[2], NULL, 10); n > 0; n--)
            if (write(2, block, sizeof block) != (ssize_t)sizeof block) return 2;
    } else {
        for (int i = 1; i < argc; i++)
            if (write(2, argv[i], strlen(argv[i])) < 0 || write(2, "\n", 1) != 1) return 2;
    }
    return write(1, "done\n", 5) == 5 ? 0 : 2;
}
