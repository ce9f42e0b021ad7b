/* The preview 1 functions our guests import by hand, where wasi-libc would hide what is being tested.
   Layouts: https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

typedef struct {
    uint8_t *buf;
    uint32_t len;
} iovec_t;

typedef struct {
    uint64_t userdata;
    uint8_t tag; /* 0 clock, 1 fd_read, 2 fd_write */
    union {
        struct {
            uint32_t id;
            uint64_t timeout, precision;
            uint16_t flags; /* 1: absolute */
        } clock;
        uint32_t fd;
    } u;
} subscription_t;

typedef struct {
    uint64_t userdata;
    uint16_t error;
    uint8_t type;
    uint64_t nbytes;
    uint16_t flags;
} event_t;

_Static_assert(sizeof(subscription_t) == 48 && offsetof(subscription_t, u) == 16, "layout of subscription");
_Static_assert(sizeof(event_t) == 32 && offsetof(event_t, nbytes) == 16, "layout of event");

WASI(args_sizes_get) uint16_t wasi_args_sizes_get(uint32_t *count, uint32_t *bytes);
WASI(args_get) uint16_t wasi_args_get(uint8_t **argv, uint8_t *buf);
WASI(fd_read) uint16_t wasi_fd_read(uint32_t fd, const iovec_t *iovs, uint32_t count, uint32_t *nread);
WASI(fd_write) uint16_t wasi_fd_write(uint32_t fd, const iovec_t *iovs, uint32_t count, uint32_t *nwritten);
WASI(clock_res_get) uint16_t wasi_clock_res_get(uint32_t id, uint64_t *resolution);
WASI(clock_time_get) uint16_t wasi_clock_time_get(uint32_t id, uint64_t precision, uint64_t *time);
WASI(random_get) uint16_t wasi_random_get(uint8_t *buf, uint32_t len);
WASI(sched_yield) uint16_t wasi_sched_yield(void);
WASI(poll_oneoff) uint16_t wasi_poll_oneoff(const subscription_t *in, event_t *out, uint32_t count, uint32_t *nevents);
WASI(proc_exit) _Noreturn void wasi_proc_exit(uint32_t code);
