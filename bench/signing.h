/*
 * MD5 (RFC 1321), SHA-256 (FIPS 180-4) and HMAC (RFC 2104), as hexadecimal text.
 *
 * Here so that the load generator needs a C compiler and nothing else. Not for use where
 * secrets matter.
 */
#ifndef SIGNING_H
#define SIGNING_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline uint32_t left(uint32_t word, int by) { return word << by | word >> (32 - by); }
static inline uint32_t right(uint32_t word, int by) { return word >> by | word << (32 - by); }

static inline void to_hexadecimal(const uint8_t *bytes, int count, char *text) {
    for (int i = 0; i < count; i++) {
        text[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        text[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    text[2 * count] = 0;
}

/* Both hashes pad alike, but for the order of the bytes of the length. */
static inline uint8_t *padded(const void *message, size_t length, size_t *blocks, int big_endian) {
    *blocks = (length + 8) / 64 + 1;
    uint8_t *bytes = calloc(*blocks, 64);
    memcpy(bytes, message, length);
    bytes[length] = 0x80;
    for (int i = 0; i < 8; i++)
        bytes[*blocks * 64 - 8 + (size_t)i] =
            (uint8_t)((uint64_t)length * 8 >> 8 * (big_endian ? 7 - i : i));
    return bytes;
}

static inline void md5(const void *message, size_t length, char text[33]) {
    static const int turns[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    uint32_t state[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    size_t blocks;
    uint8_t *bytes = padded(message, length, &blocks, 0), digest[16];
    for (size_t block = 0; block < blocks; block++) {
        const uint8_t *at = bytes + block * 64;
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        for (int i = 0; i < 64; i++) {
            uint32_t mixed;
            int word;
            if (i < 16)
                mixed = (b & c) | (~b & d), word = i;
            else if (i < 32)
                mixed = (d & b) | (~d & c), word = (5 * i + 1) % 16;
            else if (i < 48)
                mixed = b ^ c ^ d, word = (3 * i + 5) % 16;
            else
                mixed = c ^ (b | ~d), word = 7 * i % 16;
            uint32_t value = (uint32_t)at[4 * word] | (uint32_t)at[4 * word + 1] << 8 |
                             (uint32_t)at[4 * word + 2] << 16 | (uint32_t)at[4 * word + 3] << 24;
            mixed += a + (uint32_t)(4294967296.0 * fabs(sin(i + 1))) + value;
            a = d, d = c, c = b;
            b += left(mixed, turns[i / 16][i % 4]);
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    }
    free(bytes);
    for (int i = 0; i < 16; i++)
        digest[i] = (uint8_t)(state[i / 4] >> 8 * (i % 4));
    to_hexadecimal(digest, 16, text);
}

/* The first 32 bits of the fractional part of *root*, a square or cube root of a prime. */
static inline uint32_t fraction(double root) {
    return (uint32_t)((root - floor(root)) * 4294967296.0);
}

static inline void sha256(const void *message, size_t length, uint8_t digest[32]) {
    static uint32_t beginning[8], constants[64];
    for (int number = 2, found = 0; !constants[63]; number++) {
        int prime = 1;
        for (int divisor = 2; divisor * divisor <= number; divisor++)
            prime = prime && number % divisor;
        if (!prime)
            continue;
        if (found < 8)
            beginning[found] = fraction(sqrt(number));
        constants[found++] = fraction(cbrt(number));
    }
    uint32_t state[8];
    memcpy(state, beginning, sizeof state);
    size_t blocks;
    uint8_t *bytes = padded(message, length, &blocks, 1);
    for (size_t block = 0; block < blocks; block++) {
        const uint8_t *at = bytes + block * 64;
        uint32_t words[64], v[8];
        for (int i = 0; i < 16; i++)
            words[i] = (uint32_t)at[4 * i] << 24 | (uint32_t)at[4 * i + 1] << 16 |
                       (uint32_t)at[4 * i + 2] << 8 | at[4 * i + 3];
        for (int i = 16; i < 64; i++) {
            uint32_t x = words[i - 15], y = words[i - 2];
            words[i] = words[i - 16] + (right(x, 7) ^ right(x, 18) ^ x >> 3) + words[i - 7] +
                       (right(y, 17) ^ right(y, 19) ^ y >> 10);
        }
        memcpy(v, state, sizeof v);
        for (int i = 0; i < 64; i++) {
            uint32_t first = v[7] + (right(v[4], 6) ^ right(v[4], 11) ^ right(v[4], 25)) +
                             ((v[4] & v[5]) ^ (~v[4] & v[6])) + constants[i] + words[i];
            uint32_t second = (right(v[0], 2) ^ right(v[0], 13) ^ right(v[0], 22)) +
                              ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 7 * sizeof *v);
            v[4] += first;
            v[0] = first + second;
        }
        for (int i = 0; i < 8; i++)
            state[i] += v[i];
    }
    free(bytes);
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* *secret* has at most 64 bytes. */
static inline void hmac_sha256(const char *secret, const char *message, char text[65]) {
    size_t length = strlen(message), key = strlen(secret);
    uint8_t *inner = malloc(64 + length), outer[96], digest[32];
    for (size_t i = 0; i < 64; i++) {
        uint8_t byte = i < key ? (uint8_t)secret[i] : 0;
        inner[i] = byte ^ 0x36;
        outer[i] = byte ^ 0x5c;
    }
    memcpy(inner + 64, message, length);
    sha256(inner, 64 + length, outer + 64);
    sha256(outer, sizeof outer, digest);
    free(inner);
    to_hexadecimal(digest, 32, text);
}

#endif
