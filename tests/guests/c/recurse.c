/* Recurses until the stack ends (a trap), or argv[1] levels deep and then prints the depth. */
#include <stdlib.h>

#include "say.h"

static volatile unsigned long limit;

static unsigned long down(unsigned long depth) {
    if (depth == limit) return depth;
    return down(depth + 1) + (limit ? 0 : 1); /* the addition keeps it from becoming a loop */
}

int main(int argc, char **argv) {
    limit = argc > 1 ? strtoul(argv[1], NULL, 10) : ~0ul;
    say_number(down(0), "\n");
    return 0;
}
