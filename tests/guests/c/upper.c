/* stdin to stdout, ASCII letters in upper case. */
#include <unistd.h>

int main(void) {
    static char buf[65536];
    ssize_t n;
    while ((n = read(0, buf, sizeof buf)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            if (buf[i] >= 'a' && buf[i] <= 'z') buf[i] -= 32;
        for (ssize_t done = 0; done < n;) {
            ssize_t w = write(1, buf + done, n - done);
            if (w < 0) return 2;
            done += w;
        }
    }
    return n < 0;
}
