/* Small output for guests: printf would make each of them 20 KiB larger. A refused write ends the guest with exit code 70. */
#pragma once
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "wasi.h"

static void say_bytes(int fd, const char *text, size_t n) {
    while (n > 0) {
        ssize_t w = write(fd, text, n);
        if (w <= 0) wasi_proc_exit(70);
        text += w;
        n -= w;
    }
}

static inline void say(const char *text) { say_bytes(1, text, strlen(text)); }

static inline void say_number(uint64_t number, const char *after) {
    char digits[20];
    int at = sizeof digits;
    do digits[--at] = '0' + number % 10;
    while (number /= 10);
    say_bytes(1, digits + at, sizeof digits - at);
    say(after);
}
