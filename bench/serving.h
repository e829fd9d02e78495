/*
 * What both baselines have in common: a listening socket, and frames as servers write them.
 */
#ifndef SERVING_H
#define SERVING_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "process.h"

/* Write a frame of text, without a mask; return its length, at most 10 more than the payload's. */
static inline int make_frame(char *frame, const char *payload, int length) {
    int at = 0;
    frame[at++] = (char)0x81;
    if (length < 126) {
        frame[at++] = (char)length;
    } else if (length < 1 << 16) {
        frame[at++] = 126;
        frame[at++] = (char)(length >> 8);
        frame[at++] = (char)length;
    } else {
        frame[at++] = 127;
        for (int i = 7; i >= 0; i--)
            frame[at++] = (char)((int64_t)length >> 8 * i);
    }
    memcpy(frame + at, payload, (size_t)length);
    return at + length;
}

/*
 * Find a client's frame at the beginning of *bytes*, and take off its mask.
 *
 * Return its whole length, 0 where more is needed; *payload and *size say what is in it.
 */
static inline int open_frame(char *bytes, int length, char **payload, int *size) {
    unsigned char *head = (unsigned char *)bytes;
    if (length < 6)
        return 0;
    int many = head[1] & 127, at = 6;
    if (many == 126) {
        if (length < 8)
            return 0;
        many = head[2] << 8 | head[3];
        at = 8;
    }
    if (many == 127)
        fail("a client's frame is longer than 65,535 bytes");
    if (length < at + many)
        return 0;
    *payload = bytes + at;
    *size = many;
    for (int i = 0; i < many; i++)
        bytes[at + i] ^= (char)head[at - 4 + i % 4];
    return at + many;
}

static inline void watch(int poll, int fd, uint32_t what, int change) {
    struct epoll_event interest = {.events = what, .data.fd = fd};
    epoll_ctl(poll, change, fd, &interest);
}

/* Listen on *port* of loopback. */
static inline int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        fail("port %d: %s", port, strerror(errno));
    return listener;
}

/* Accept a connection that writes at once; -1 where there is none. */
static inline int accept_one(int listener, int most) {
    int yes = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd >= most)
        fail("more than %d connections", most);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

#endif
