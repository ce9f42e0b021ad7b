/* Freestanding, about 1 KiB: reads its arguments as every libc start-up does, then stdin, and writes it in upper case.
   The benchmarks' guest: whatever it costs beyond an instantiation is the host's. */
#include "wasi.h"

#define ARGS 4096
#define BLOCK 65536

static uint8_t *argv[ARGS / 4];
static uint8_t argbuf[ARGS];
static uint8_t block[BLOCK];

void _start(void) {
    uint32_t argc, bytes;
    if (wasi_args_sizes_get(&argc, &bytes) || argc > ARGS / 4 || bytes > ARGS || wasi_args_get(argv, argbuf)) wasi_proc_exit(64);
    for (;;) {
        iovec_t in = {block, BLOCK};
        uint32_t n;
        if (wasi_fd_read(0, &in, 1, &n)) wasi_proc_exit(65);
        if (n == 0) return;
        for (uint32_t i = 0; i < n; i++)
            if (block[i] >= 'a' && block[i] <= 'z') block[i] -= 32;
        for (uint32_t done = 0, w; done < n; done += w) {
            iovec_t out = {block + done, n - done};
            if (wasi_fd_write(1, &out, 1, &w)) wasi_proc_exit(66);
        }
    }
}
