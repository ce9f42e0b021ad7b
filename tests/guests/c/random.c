/* argv[1] (default 16) random bytes to stdout, in one random_get. */
#include <stdlib.h>

#include "say.h"

int main(int argc, char **argv) {
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 16;
    uint8_t *buf = malloc(n ? n : 1);
    if (!buf || wasi_random_get(buf, n)) return 2;
    say_bytes(1, (char *)buf, n);
    return 0;
}
