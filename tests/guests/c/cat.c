/* stdin to stdout through fd_read and fd_write with several iovecs of odd sizes, one of them empty.
   argv[1] is the number of iovecs (1 to 16, default 4): the shapes a host must handle beyond one buffer. */
#include <stdlib.h>

#include "wasi.h"

static uint8_t block[16][1021];

int main(int argc, char **argv) {
    uint32_t count = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 4;
    if (count < 1 || count > 16) return 2;
    for (;;) {
        iovec_t iov[16];
        uint32_t n, written;
        for (uint32_t i = 0; i < count; i++) iov[i] = (iovec_t){block[i], i == 1 ? 0 : 61 * i + 100};
        if (wasi_fd_read(0, iov, count, &n)) return 3;
        if (n == 0) return 0;
        for (uint32_t i = 0, left = n; i < count; i++) {
            if (iov[i].len > left) iov[i].len = left;
            left -= iov[i].len;
        }
        for (uint32_t done = 0; done < n; done += written) {
            iovec_t rest[16];
            uint32_t parts = 0, skip = done;
            for (uint32_t i = 0; i < count; i++) {
                uint32_t gone = skip < iov[i].len ? skip : iov[i].len;
                rest[parts++] = (iovec_t){iov[i].buf + gone, iov[i].len - gone};
                skip -= gone;
            }
            if (wasi_fd_write(1, rest, parts, &written)) return 4;
        }
    }
}
