/*
 * The plainest server that can exist, as a measure for the others.
 *
 * An epoll loop that writes one ready-made frame per subscriber with one send() each. It checks
 * no signature, knows no limit and no error, keeps nothing, and answers every publish alike.
 * It knows a channel by the number at the end of its name (bench-0, private-bench-17).
 *
 *     baseline PORT PAYLOAD_BYTES
 */
#define _GNU_SOURCE
#include "serving.h"

enum { MAX_DESCRIPTORS = 1 << 16, MAX_CHANNELS = 1 << 15, BUFFER = 1 << 16, EVENTS = 256 };

struct connection {
    int websocket, length, channel; /* channel: one more than its number, 0 for none */
    char *buffer;
};
struct channel {
    int *descriptors, count, room;
};

static struct connection connections[MAX_DESCRIPTORS];
static struct channel channels[MAX_CHANNELS];
static char event[BUFFER + 512], established[512], succeeded[512];
static int event_length, established_length, succeeded_length;

static void write_all(int fd, const char *bytes, int length) {
    /* A subscriber that is too slow loses what does not fit: there is no buffer here. */
    if (send(fd, bytes, (size_t)length, MSG_NOSIGNAL) < 0 && errno != EAGAIN && errno != EPIPE &&
        errno != ECONNRESET)
        fail("send: %s", strerror(errno));
}

/* Find the next name of a channel from *text on, and move *text behind it. */
static struct channel *next_channel(const char **text, const char *end) {
    const char *name = memmem(*text, (size_t)(end - *text), "bench-", 6);
    if (!name)
        return NULL;
    *text = name + 6;
    return &channels[atoi(*text) % MAX_CHANNELS];
}

static void subscribe(int fd, struct channel *channel) {
    if (channel->count == channel->room) {
        channel->room = channel->room ? channel->room * 2 : 4;
        channel->descriptors =
            realloc(channel->descriptors, (size_t)channel->room * sizeof *channel->descriptors);
    }
    channel->descriptors[channel->count++] = fd;
    connections[fd].channel = (int)(channel - channels) + 1;
    write_all(fd, succeeded, succeeded_length);
}

static void forget(int fd) {
    if (connections[fd].channel) {
        struct channel *channel = &channels[connections[fd].channel - 1];
        for (int i = 0; i < channel->count; i++)
            if (channel->descriptors[i] == fd) {
                channel->descriptors[i] = channel->descriptors[--channel->count];
                break;
            }
    }
    free(connections[fd].buffer);
    memset(&connections[fd], 0, sizeof connections[fd]);
    close(fd);
}

static void publish(int fd, const char *body, const char *end) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                 "Content-Length: 2\r\n\r\n{}";
    struct channel *channel;
    while ((channel = next_channel(&body, end)))
        for (int i = 0; i < channel->count; i++)
            write_all(channel->descriptors[i], event, event_length);
    write_all(fd, answer, sizeof answer - 1);
}

/* Return how many bytes were used, 0 where more are needed. */
static int take_request(int fd, struct connection *one) {
    char *head_end = memmem(one->buffer, (size_t)one->length, "\r\n\r\n", 4);
    if (!head_end)
        return 0;
    int head = (int)(head_end - one->buffer) + 4;
    if (memmem(one->buffer, (size_t)head, "Upgrade: websocket", 18)) {
        write_all(fd, established, established_length);
        one->websocket = 1;
        return head;
    }
    char *field = memmem(one->buffer, (size_t)head, "Content-Length: ", 16);
    int body = field ? atoi(field + 16) : 0;
    if (one->length < head + body)
        return 0;
    publish(fd, one->buffer + head, one->buffer + head + body);
    return head + body;
}

static int take_frame(int fd, struct connection *one) {
    char *payload;
    int length, used = open_frame(one->buffer, one->length, &payload, &length);
    if (!used)
        return 0;
    if (memmem(payload, (size_t)length, "pusher:subscribe", 16)) {
        const char *text = payload;
        struct channel *channel = next_channel(&text, payload + length);
        if (channel)
            subscribe(fd, channel);
    } else if (one->channel) {
        struct channel *channel = &channels[one->channel - 1];
        for (int i = 0; i < channel->count; i++)
            if (channel->descriptors[i] != fd)
                write_all(channel->descriptors[i], event, event_length);
    }
    return used;
}

static void readable(int fd) {
    struct connection *one = &connections[fd];
    ssize_t got = recv(fd, one->buffer + one->length, (size_t)(BUFFER - one->length), 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            forget(fd);
        return;
    }
    one->length += (int)got;
    int used = 0;
    do {
        used = one->websocket ? take_frame(fd, one) : take_request(fd, one);
        memmove(one->buffer, one->buffer + used, (size_t)(one->length -= used));
    } while (used && one->length);
}

static void accept_all(int listener, int poll) {
    for (int fd; (fd = accept_one(listener, MAX_DESCRIPTORS)) >= 0;) {
        connections[fd].buffer = malloc(BUFFER);
        watch(poll, fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void make_frames(int payload_bytes) {
    static const char hello[] =
        "{\"event\":\"pusher:connection_established\","
        "\"data\":\"{\\\"socket_id\\\":\\\"1.1\\\",\\\"activity_timeout\\\":120}\"}";
    static const char joined[] = "{\"event\":\"pusher_internal:subscription_succeeded\","
                                 "\"channel\":\"bench-0\",\"data\":\"{}\"}";
    static const char opening[] = "{\"event\":\"my-event\",\"channel\":\"bench-0\",\"data\":\"";
    static char payload[BUFFER + 256];
    int length = (int)sizeof opening - 1;
    memcpy(payload, opening, (size_t)length);
    memset(payload + length, 'x', (size_t)payload_bytes);
    length += payload_bytes;
    memcpy(payload + length, "\"}", 2);
    event_length = make_frame(event, payload, length + 2);
    succeeded_length = make_frame(succeeded, joined, sizeof joined - 1);
    established_length =
        sprintf(established, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                             "Connection: Upgrade\r\nSec-WebSocket-Accept: any\r\n\r\n");
    established_length += make_frame(established + established_length, hello, sizeof hello - 1);
}

int main(int count, char **arguments) {
    if (count != 3 || atoi(arguments[2]) > BUFFER - 256)
        fail("usage: baseline PORT PAYLOAD_BYTES");
    raise_descriptor_limit();
    make_frames(atoi(arguments[2]));
    int listener = listen_on(atoi(arguments[1])), poll = epoll_create1(0);
    watch(poll, listener, EPOLLIN, EPOLL_CTL_ADD);
    struct epoll_event ready[EVENTS];
    for (;;) {
        int many = epoll_wait(poll, ready, EVENTS, -1);
        for (int i = 0; i < many; i++)
            if (ready[i].data.fd == listener)
                accept_all(listener, poll);
            else
                readable(ready[i].data.fd);
    }
}
