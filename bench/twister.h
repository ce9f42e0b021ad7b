/* CPython's random.Random(seed).expovariate(rate), to the bit: MT19937 as Matsumoto and Nishimura published it
   (mt19937ar.c), doubles of 53 bits. So generator.c and generator.py send at the same instants for the same seed. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

static uint32_t twister[624];
static size_t twisted = 624;

static void seed_twister(uint32_t seed) { /* init_by_array of MT19937 with a key of one word */
    twister[0] = 19650218;
    for (uint32_t i = 1; i < 624; i++) twister[i] = 1812433253 * (twister[i - 1] ^ twister[i - 1] >> 30) + i;
    size_t i = 1;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = pass ? 623 : 624; k; k--) {
            uint32_t mixed = twister[i - 1] ^ twister[i - 1] >> 30;
            twister[i] = pass ? (twister[i] ^ mixed * 1566083941) - (uint32_t)i : (twister[i] ^ mixed * 1664525) + seed;
            if (++i == 624) {
                twister[0] = twister[623];
                i = 1;
            }
        }
    }
    twister[0] = UINT32_C(1) << 31;
}

static uint32_t word(void) {
    if (twisted == 624) {
        for (size_t i = 0; i < 624; i++) {
            uint32_t both = (twister[i] & UINT32_C(1) << 31) | (twister[(i + 1) % 624] & INT32_MAX);
            twister[i] = twister[(i + 397) % 624] ^ both >> 1 ^ (both & 1 ? 0x9908b0df : 0);
        }
        twisted = 0;
    }
    uint32_t out = twister[twisted++];
    out ^= out >> 11;
    out ^= out << 7 & 0x9d2c5680;
    out ^= out << 15 & 0xefc60000;
    return out ^ out >> 18;
}

static double exponential(double rate) {
    uint32_t high = word() >> 5, low = word() >> 6;
    return -log(1.0 - (high * 67108864.0 + low) / 9007199254740992.0) / rate;
}
