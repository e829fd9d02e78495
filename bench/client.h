/*
 * What the clients of the benchmark have in common: frames as clients write them.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <string.h>

#include "process.h"

/* Write a masked frame of at most 65,535 bytes; return its length, at most 8 more than the payload's. */
static inline int make_client_frame(char *frame, int opcode, const char *payload, int length) {
    static const char mask[4] = {'m', 'a', 's', 'k'};
    int at = 0;
    frame[at++] = (char)(0x80 | opcode);
    if (length < 126) {
        frame[at++] = (char)(0x80 | length);
    } else {
        frame[at++] = (char)(0x80 | 126);
        frame[at++] = (char)(length >> 8);
        frame[at++] = (char)length;
    }
    memcpy(frame + at, mask, sizeof mask);
    at += (int)sizeof mask;
    for (int i = 0; i < length; i++)
        frame[at++] = (char)(payload[i] ^ mask[i % 4]);
    return at;
}

#endif
