/* argv, one per line, argv[0] first. */
#include <string.h>
#include <unistd.h>

static int put(const char *text, size_t n) {
    while (n > 0) {
        ssize_t w = write(1, text, n);
        if (w < 0) return -1;
        text += w;
        n -= w;
    }
    return 0;
}

int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (put(argv[i], strlen(argv[i])) || put("\n", 1)) return 2;
    return 0;
}
