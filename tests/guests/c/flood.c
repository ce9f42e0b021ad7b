/* `flood BYTES [BLOCK]`: BYTES times 'x' to stdout in writes of BLOCK (default 65536; 1 for very many tiny ones).
   `flood forever [BLOCK]` does not stop. A refused write ends it with exit code 3. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 65536

int main(int argc, char **argv) {
    static char block[MOST];
    int forever = argc > 1 && !strcmp(argv[1], "forever");
    unsigned long long left = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    unsigned long size = argc > 2 ? strtoul(argv[2], NULL, 10) : MOST;
    if (size == 0 || size > MOST) return 2;
    memset(block, 'x', sizeof block);
    while (forever || left > 0) {
        ssize_t w = write(1, block, forever || left > size ? size : left);
        if (w <= 0) return 3;
        left -= forever ? 0 : w;
    }
    return 0;
}
