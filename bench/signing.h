/*
 * MD5 (RFC 1321), SHA-1 and SHA-256 (FIPS 180-4), HMAC (RFC 2104) and Base64 (RFC 4648).
 *
 * Here so that the programs of the benchmark need a C compiler and nothing else. Checking a publish
 * takes about 2 microseconds with them. Not for use where secrets matter.
 */
#ifndef SIGNING_H
#define SIGNING_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline uint32_t left(uint32_t word, int by) { return word << by | word >> (32 - by); }
static inline uint32_t right(uint32_t word, int by) { return word >> by | word << (32 - by); }

static inline uint32_t big_endian(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}
static inline uint32_t little_endian(const uint8_t *at) {
    return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

static inline void to_hexadecimal(const uint8_t *bytes, int count, char *text) {
    for (int i = 0; i < count; i++) {
        text[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        text[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    text[2 * count] = 0;
}

/* -- Blocks: all three hashes work on 64 bytes at a time ------------------------------------- */

typedef void hashing(uint32_t *state, const uint8_t *block);

/*
 * Hash the *length* bytes of *message* into *state*, and the padding after them. *before* bytes
 * were hashed already, whole blocks. The hashes differ in the order of the length's bytes.
 */
static inline void hash_all(hashing *hash, uint32_t *state, const void *message, size_t length,
                            size_t before, int big) {
    const uint8_t *at = message;
    size_t left_over = length;
    for (; left_over >= 64; at += 64, left_over -= 64)
        hash(state, at);
    uint8_t last[128] = {0};
    size_t size = left_over < 56 ? 64 : 128;
    uint64_t bits = (uint64_t)(before + length) * 8;
    memcpy(last, at, left_over);
    last[left_over] = 0x80;
    for (int i = 0; i < 8; i++)
        last[size - 8 + (size_t)i] = (uint8_t)(bits >> 8 * (big ? 7 - i : i));
    hash(state, last);
    if (size == 128)
        hash(state, last + 64);
}

static inline void write_words(const uint32_t *state, int words, int big, uint8_t *digest) {
    for (int i = 0; i < 4 * words; i++)
        digest[i] = (uint8_t)(state[i / 4] >> 8 * (big ? 3 - i % 4 : i % 4));
}

/* -- MD5 -------------------------------------------------------------------------------------- */

static inline void md5_block(uint32_t *state, const uint8_t *block) {
    static const int turns[4][4] = {
        {7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    static uint32_t constants[64];
    if (!constants[0])
        for (int i = 0; i < 64; i++)
            constants[i] = (uint32_t)(4294967296.0 * fabs(sin(i + 1)));
    uint32_t words[16], a = state[0], b = state[1], c = state[2], d = state[3];
    for (int i = 0; i < 16; i++)
        words[i] = little_endian(block + 4 * i);
#pragma GCC unroll 64
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
        mixed += a + constants[i] + words[word];
        a = d, d = c, c = b;
        b += left(mixed, turns[i / 16][i % 4]);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
}

static inline void md5(const void *message, size_t length, char text[33]) {
    uint32_t state[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    uint8_t digest[16];
    hash_all(md5_block, state, message, length, 0, 0);
    write_words(state, 4, 0, digest);
    to_hexadecimal(digest, 16, text);
}

/* -- SHA-1, which the handshake of WebSockets asks for ---------------------------------------- */

static inline void sha1_block(uint32_t *state, const uint8_t *block) {
    uint32_t words[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        words[i] = big_endian(block + 4 * i);
    for (int i = 16; i < 80; i++)
        words[i] = left(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t mixed = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                                  : (b ^ c ^ d) + 0xca62c1d6;
        mixed += left(a, 5) + e + words[i];
        e = d, d = c, c = left(b, 30), b = a, a = mixed;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static inline void sha1(const void *message, size_t length, uint8_t digest[20]) {
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    hash_all(sha1_block, state, message, length, 0, 1);
    write_words(state, 5, 1, digest);
}

/* Write *count* bytes as Base64, and a zero after it. */
static inline void to_base64(const uint8_t *bytes, int count, char *text) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < count; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16;
        if (i + 1 < count)
            group |= (uint32_t)bytes[i + 1] << 8;
        if (i + 2 < count)
            group |= bytes[i + 2];
        for (int part = 0; part < 4; part++)
            *text++ = i + part > count ? '=' : digits[group >> (18 - 6 * part) & 63];
    }
    *text = 0;
}

/* -- SHA-256 ---------------------------------------------------------------------------------- */

static uint32_t sha256_beginning[8], sha256_constants[64];

/* The first 32 bits of the fractional part of *root*, a square or cube root of a prime. */
static inline uint32_t fraction(double root) {
    return (uint32_t)((root - floor(root)) * 4294967296.0);
}

static inline void sha256_begin(uint32_t *state) {
    for (int number = 2, found = 0; !sha256_constants[63]; number++) {
        int prime = 1;
        for (int divisor = 2; divisor * divisor <= number; divisor++)
            prime = prime && number % divisor;
        if (!prime)
            continue;
        if (found < 8)
            sha256_beginning[found] = fraction(sqrt(number));
        sha256_constants[found++] = fraction(cbrt(number));
    }
    memcpy(state, sha256_beginning, sizeof sha256_beginning);
}

static inline void sha256_block(uint32_t *state, const uint8_t *block) {
    uint32_t words[64], v[8];
    for (int i = 0; i < 16; i++)
        words[i] = big_endian(block + 4 * i);
    for (int i = 16; i < 64; i++) {
        uint32_t x = words[i - 15], y = words[i - 2];
        words[i] = words[i - 16] + (right(x, 7) ^ right(x, 18) ^ x >> 3) + words[i - 7] +
                   (right(y, 17) ^ right(y, 19) ^ y >> 10);
    }
    memcpy(v, state, sizeof v);
#pragma GCC unroll 8
    for (int i = 0; i < 64; i++) {
        uint32_t first = v[7] + (right(v[4], 6) ^ right(v[4], 11) ^ right(v[4], 25)) +
                         ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha256_constants[i] + words[i];
        uint32_t second = (right(v[0], 2) ^ right(v[0], 13) ^ right(v[0], 22)) +
                          ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        v[7] = v[6], v[6] = v[5], v[5] = v[4], v[4] = v[3] + first;
        v[3] = v[2], v[2] = v[1], v[1] = v[0], v[0] = first + second;
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

/* -- HMAC: what depends on the secret alone is hashed once ------------------------------------ */

struct hmac_key {
    uint32_t inner[8], outer[8];
};

/* *secret* has at most 64 bytes. */
static inline struct hmac_key hmac_prepare(const char *secret) {
    struct hmac_key key;
    uint8_t inner[64], outer[64];
    size_t length = strlen(secret);
    for (size_t i = 0; i < 64; i++) {
        uint8_t byte = i < length ? (uint8_t)secret[i] : 0;
        inner[i] = byte ^ 0x36;
        outer[i] = byte ^ 0x5c;
    }
    sha256_begin(key.inner);
    sha256_begin(key.outer);
    sha256_block(key.inner, inner);
    sha256_block(key.outer, outer);
    return key;
}

static inline void hmac_with(const struct hmac_key *key, const void *message, size_t length,
                             char text[65]) {
    uint32_t inner[8], outer[8];
    uint8_t digest[32];
    memcpy(inner, key->inner, sizeof inner);
    memcpy(outer, key->outer, sizeof outer);
    hash_all(sha256_block, inner, message, length, 64, 1);
    write_words(inner, 8, 1, digest);
    hash_all(sha256_block, outer, digest, sizeof digest, 64, 1);
    write_words(outer, 8, 1, digest);
    to_hexadecimal(digest, 32, text);
}

#endif
