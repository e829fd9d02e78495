/*
 * A client that does no harm, and measures how long it waits.
 *
 *     bystander NAME=VALUE...
 *
 * It has one WebSocket, subscribed to a channel, and one HTTP connection that is kept alive. At fixed times,
 * *interval* microseconds apart, it sends `pusher:ping` and `GET /up` in turns, whether what it sent before was
 * answered or not: a time counts from the moment when the message was due, so that a server that stands
 * still is measured by every message of that time, not by one. Every *fresh* milliseconds, `GET /up` goes over a new
 * connection, from connect() on.
 *
 * Both connections are known to the server before: KNOWN messages of each were answered. What a client waits that
 * has just come is what *fresh* shows.
 *
 * It prints "ready", measures from a line on standard input to the next one, waits *grace* seconds for what was not
 * answered, and prints one line of JSON: microseconds, in the order of the messages. What was
 * never answered counts as long as it waited.
 *
 *     address=HOST:PORT or a Unix socket's path; key: the app's; websocket=0: only HTTP
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "process.h"

enum { BUFFER = 1 << 17, MAX_MESSAGES = 1 << 17, MAX_FRESH = 256, OUTGOING = 1 << 20, START_S = 20, KNOWN = 8 };

static struct {
    const char *address, *key;
    int interval_us, fresh_ms, websocket;
    double grace_s;
} options = {.address = "127.0.0.1:8080", .key = "key", .interval_us = 5000, .fresh_ms = 200, .websocket = 1, .grace_s = 15};

static const char UP[] = "GET /up HTTP/1.1\r\nHost: bystander\r\n\r\n";

/* What is sent, and when it was due; the answers come in the order of the messages. */
struct series {
    double *due, *took;
    int sent, answered;
};

struct wire {
    int fd, length, out_length, open;
    char *buffer, *out;
    struct series series;
};

struct fresh {
    int fd, sent; /* fd: -1 where the place is free */
    double due;
};

static struct wire websocket, http;
static struct series fresh_series;
static struct fresh fresh[MAX_FRESH];
static int poll_fd, fresh_failed;
static char closed[256];
static double late;

static void due(struct series *series, double time) {
    if (series->sent == MAX_MESSAGES)
        fail("there is no room for more than %d messages", MAX_MESSAGES);
    series->due[series->sent++] = time;
}

static void answered(struct series *series) {
    if (series->answered == series->sent)
        fail("an answer came that nothing had asked for");
    series->took[series->answered] = now() - series->due[series->answered];
    series->answered++;
}

static void make_series(struct series *series) {
    series->due = calloc(MAX_MESSAGES, sizeof *series->due);
    series->took = calloc(MAX_MESSAGES, sizeof *series->took);
}

/* -- Sockets ----------------------------------------------------------------------------------- */

/* Return a socket that connects, -1 where that cannot even begin now. */
static int dial(int blocking) {
    int yes = 1, fd, outcome;
    const char *colon = strrchr(options.address, ':');
    if (*options.address == '/') {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, options.address, sizeof address.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM | (blocking ? 0 : SOCK_NONBLOCK), 0);
        outcome = connect(fd, (struct sockaddr *)&address, sizeof address);
    } else {
        char host[64] = "";
        struct sockaddr_in address = {.sin_family = AF_INET};
        if (colon && colon - options.address < (long)sizeof host)
            memcpy(host, options.address, (size_t)(colon - options.address));
        if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
            fail("%s is no address", options.address);
        address.sin_port = htons((unsigned short)atoi(colon + 1));
        fd = socket(AF_INET, SOCK_STREAM | (blocking ? 0 : SOCK_NONBLOCK), 0);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        outcome = connect(fd, (struct sockaddr *)&address, sizeof address);
    }
    if (outcome && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

static void add(int fd, uint32_t events, void *of) {
    struct epoll_event interest = {.events = events, .data.ptr = of};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &interest))
        fail("epoll_ctl: %s", strerror(errno));
}

static void lose(struct wire *wire, const char *why) {
    if (!*closed)
        snprintf(closed, sizeof closed, "%s: %s", wire == &http ? "HTTP" : "WebSocket", why);
    close(wire->fd);
    wire->open = 0;
}

static void flush(struct wire *wire) {
    while (wire->open && wire->out_length) {
        ssize_t went = send(wire->fd, wire->out, (size_t)wire->out_length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (went < 0) {
            if (errno != EAGAIN)
                lose(wire, strerror(errno));
            return;
        }
        memmove(wire->out, wire->out + went, (size_t)(wire->out_length -= (int)went));
    }
}

static void put(struct wire *wire, const char *bytes, int length) {
    if (!wire->open)
        return;
    if (wire->out_length + length > OUTGOING)
        fail("the server takes nothing any more");
    memcpy(wire->out + wire->out_length, bytes, (size_t)length);
    wire->out_length += length;
    flush(wire);
}

/* -- WebSocket --------------------------------------------------------------------------------- */

static void put_frame(int opcode, const char *payload, int length) {
    char frame[256];
    if (length > 125)
        fail("a frame of %d bytes", length);
    put(&websocket, frame, make_client_frame(frame, opcode, payload, length));
}

/* Return how many bytes were used, 0 where more are needed. */
static int take_frame(void) {
    unsigned char *bytes = (unsigned char *)websocket.buffer;
    if (websocket.length < 2)
        return 0;
    int length = bytes[1] & 127, head = 2;
    if (length == 127)
        fail("a frame as large as no bystander gets");
    if (length == 126) {
        if (websocket.length < 4)
            return 0;
        length = bytes[2] << 8 | bytes[3];
        head = 4;
    }
    if (websocket.length < head + length)
        return 0;
    const char *payload = websocket.buffer + head;
    int opcode = bytes[0] & 15;
    if (opcode == 9)
        put_frame(10, payload, length);
    else if (opcode == 8) {
        char why[160];
        int code = length >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        snprintf(why, sizeof why, "closed with %d %.*s", code, length > 2 ? length - 2 : 0, payload + 2);
        lose(&websocket, why);
    } else if (memmem(payload, (size_t)length, "\"pusher:pong\"", 13))
        answered(&websocket.series);
    else if (memmem(payload, (size_t)length, "\"pusher:ping\"", 13)) {
        static const char pong[] = "{\"event\":\"pusher:pong\",\"data\":{}}";
        put_frame(1, pong, sizeof pong - 1);
    } else if (memmem(payload, (size_t)length, "\"pusher:error\"", 14))
        lose(&websocket, "was refused something");
    return head + length;
}

/* -- HTTP -------------------------------------------------------------------------------------- */

static int take_answer(void) {
    char *end = memmem(http.buffer, (size_t)http.length, "\r\n\r\n", 4);
    if (!end)
        return 0;
    int head = (int)(end - http.buffer) + 4;
    *end = 0; /* strcasestr wants an end */
    char *field = strcasestr(http.buffer, "content-length:");
    int body = field ? atoi(field + 15) : 0, good = !strncmp(http.buffer, "HTTP/1.1 200", 12);
    *end = '\r';
    if (!good) {
        lose(&http, "an answer that is no 200");
        return 0;
    }
    if (http.length < head + body)
        return 0;
    answered(&http.series);
    return head + body;
}

static void take_all(struct wire *wire) {
    int used;
    do {
        used = wire == &http ? take_answer() : take_frame();
        if (used)
            memmove(wire->buffer, wire->buffer + used, (size_t)(wire->length -= used));
    } while (used && wire->open);
}

static void readable(struct wire *wire) {
    ssize_t got = recv(wire->fd, wire->buffer + wire->length, (size_t)(BUFFER - wire->length), MSG_DONTWAIT);
    if (got <= 0) {
        if (!got || errno != EAGAIN)
            lose(wire, got ? strerror(errno) : "the server hung up");
        return;
    }
    wire->length += (int)got;
    take_all(wire);
}

/* -- New connections --------------------------------------------------------------------------- */

static void release(struct fresh *one, int good) {
    if (good) {
        fresh_series.due[fresh_series.answered] = one->due;
        fresh_series.took[fresh_series.answered++] = now() - one->due;
    }
    close(one->fd);
    one->fd = -1;
}

static void connect_anew(double time) {
    struct fresh *one = fresh;
    while (one < fresh + MAX_FRESH && one->fd >= 0)
        one++;
    if (one == fresh + MAX_FRESH || fresh_series.sent == MAX_MESSAGES) {
        fresh_failed++;
        return;
    }
    one->fd = dial(0);
    if (one->fd < 0) {
        fresh_failed++;
        return;
    }
    fresh_series.sent++;
    one->due = time;
    one->sent = 0;
    add(one->fd, EPOLLOUT, one);
}

static void on_fresh(struct fresh *one, uint32_t events) {
    char answer[512];
    if (!one->sent && events & EPOLLOUT && !(events & (EPOLLERR | EPOLLHUP))) {
        if (send(one->fd, UP, sizeof UP - 1, MSG_NOSIGNAL) != sizeof UP - 1) {
            fresh_failed++;
            release(one, 0);
            return;
        }
        one->sent = 1;
        struct epoll_event interest = {.events = EPOLLIN, .data.ptr = one};
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, one->fd, &interest);
        return;
    }
    ssize_t got = recv(one->fd, answer, sizeof answer, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    int good = got >= 12 && !memcmp(answer, "HTTP/1.1 200", 12);
    fresh_failed += !good;
    release(one, good);
}

/* -- The run ----------------------------------------------------------------------------------- */

static void open_wire(struct wire *wire) {
    wire->buffer = malloc(BUFFER + 1);
    wire->out = malloc(OUTGOING);
    make_series(&wire->series);
    wire->fd = dial(1);
    if (wire->fd < 0)
        fail("connect to %s: %s", options.address, strerror(errno));
    wire->open = 1;
}

static void await(struct wire *wire, const char *text) {
    double given_up = now() + START_S;
    struct timeval patience = {.tv_sec = START_S};
    setsockopt(wire->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    while (!memmem(wire->buffer, (size_t)wire->length, text, strlen(text))) {
        ssize_t got = recv(wire->fd, wire->buffer + wire->length, (size_t)(BUFFER - wire->length), 0);
        if (got <= 0 || now() > given_up)
            fail("%s did not come; got %.*s", text, wire->length, wire->buffer);
        wire->length += (int)got;
    }
    wire->length = 0;
}

static void send_next(struct wire *wire, double time) {
    static const char ping[] = "{\"event\":\"pusher:ping\",\"data\":{}}";
    due(&wire->series, time);
    if (wire == &http)
        put(&http, UP, sizeof UP - 1);
    else
        put_frame(1, ping, sizeof ping - 1);
}

/* Send one message, and wait for its answer. */
static void exchange(struct wire *wire) {
    double given_up = now() + START_S;
    send_next(wire, now());
    while (wire->open && wire->series.answered < wire->series.sent && now() < given_up) {
        struct pollfd readiness = {.fd = wire->fd, .events = POLLIN};
        poll(&readiness, 1, START_S * 1000);
        readable(wire);
    }
    if (wire->series.answered < wire->series.sent)
        fail("%s", *closed ? closed : "no answer came");
}

static void begin(void) {
    static const char subscribe[] = "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"bystander\"}}";
    char upgrade[512];
    if (options.websocket) {
        open_wire(&websocket);
        int length = snprintf(upgrade, sizeof upgrade,
                              "GET /app/%s?protocol=7 HTTP/1.1\r\nHost: bystander\r\nUpgrade: websocket\r\n"
                              "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                              options.key);
        put(&websocket, upgrade, length);
        await(&websocket, "connection_established");
        put_frame(1, subscribe, sizeof subscribe - 1);
        await(&websocket, "subscription_succeeded");
        add(websocket.fd, EPOLLIN, &websocket);
    }
    open_wire(&http);
    add(http.fd, EPOLLIN, &http);
    make_series(&fresh_series);
    for (int i = 0; i < MAX_FRESH; i++)
        fresh[i].fd = -1;
    for (int i = 0; i < KNOWN; i++) {
        if (options.websocket)
            exchange(&websocket);
        exchange(&http);
    }
    websocket.series.sent = websocket.series.answered = http.series.sent = http.series.answered = 0;
}

static void ask(uint64_t tick, double time) {
    struct wire *wire = tick % 2 ? &http : &websocket;
    if (wire->open)
        send_next(wire, time);
    if (options.fresh_ms && tick * (uint64_t)options.interval_us % ((uint64_t)options.fresh_ms * 1000) == 0)
        connect_anew(time);
}

static int fresh_open(void) {
    int open = 0;
    for (int i = 0; i < MAX_FRESH; i++)
        open += fresh[i].fd >= 0;
    return open;
}

static int outstanding(void) {
    return (websocket.open && websocket.series.answered < websocket.series.sent) ||
           (http.open && http.series.answered < http.series.sent) || fresh_open();
}

static void on_event(struct epoll_event *event) {
    char *place = event->data.ptr;
    if (place >= (char *)fresh && place < (char *)(fresh + MAX_FRESH)) {
        on_fresh((struct fresh *)place, event->events);
        return;
    }
    struct wire *wire = event->data.ptr;
    if (wire->open)
        readable(wire);
    flush(wire);
}

static void measure(void) {
    static char timer_mark, input_mark;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    double start = now() + options.interval_us / 1e6, stopped = 0;
    struct timespec first = {.tv_sec = (time_t)start, .tv_nsec = (long)((start - (double)(time_t)start) * 1e9)};
    struct itimerspec times = {.it_value = first,
                               .it_interval = {.tv_sec = options.interval_us / 1000000,
                                               .tv_nsec = options.interval_us % 1000000 * 1000L}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &times, NULL);
    add(timer, EPOLLIN, &timer_mark);
    add(0, EPOLLIN | EPOLLHUP, &input_mark);
    uint64_t tick = 0, expired;
    struct epoll_event events[64];
    while (!stopped || (outstanding() && now() - stopped < options.grace_s)) {
        int many = epoll_wait(poll_fd, events, 64, 100);
        for (int i = 0; i < many; i++) {
            if (events[i].data.ptr == &timer_mark) {
                if (stopped || read(timer, &expired, sizeof expired) != sizeof expired)
                    continue;
                for (; expired; expired--, tick++) {
                    double time = start + (double)tick * options.interval_us / 1e6, behind = now() - time;
                    if (behind > late)
                        late = behind;
                    ask(tick, time);
                }
            } else if (events[i].data.ptr == &input_mark) {
                stopped = now();
                epoll_ctl(poll_fd, EPOLL_CTL_DEL, 0, NULL);
                epoll_ctl(poll_fd, EPOLL_CTL_DEL, timer, NULL);
            } else
                on_event(&events[i]);
        }
    }
}

static void print(const char *name, struct series *series, double time) {
    printf("\"%s\": [", name);
    for (int i = 0; i < series->sent; i++) {
        double took = i < series->answered ? series->took[i] : time - series->due[i];
        printf("%s%.0f", i ? ", " : "", took * 1e6);
    }
    printf("], ");
}

static void report(void) {
    double time = now();
    int unanswered = websocket.series.sent - websocket.series.answered + http.series.sent - http.series.answered;
    for (int i = 0, at = fresh_series.answered; i < MAX_FRESH; i++)
        if (fresh[i].fd >= 0)
            fresh_series.due[at++] = fresh[i].due;
    fresh_series.sent = fresh_series.answered + fresh_open();
    putchar('{');
    print("ping", &websocket.series, time);
    print("up", &http.series, time);
    print("fresh", &fresh_series, time);
    printf("\"unanswered\": %d, \"fresh_failed\": %d, \"late\": %.0f, \"closed\": \"", unanswered, fresh_failed,
           late * 1e6);
    for (char *at = closed; *at; at++)
        putchar(*at < ' ' || *at == '"' || *at == '\\' ? '?' : *at);
    puts("\"}");
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        char *value = strchr(arguments[i], '=');
        if (!value)
            fail("usage: bystander NAME=VALUE...");
        *value++ = 0;
        if (!strcmp(arguments[i], "address"))
            options.address = value;
        else if (!strcmp(arguments[i], "key"))
            options.key = value;
        else if (!strcmp(arguments[i], "interval"))
            options.interval_us = atoi(value);
        else if (!strcmp(arguments[i], "fresh"))
            options.fresh_ms = atoi(value);
        else if (!strcmp(arguments[i], "websocket"))
            options.websocket = atoi(value);
        else if (!strcmp(arguments[i], "grace"))
            options.grace_s = atof(value);
        else
            fail("there is no option %s", arguments[i]);
    }
    if (options.interval_us <= 0)
        fail("interval: microseconds, at least one");
    poll_fd = epoll_create1(0);
    begin();
    mlockall(MCL_CURRENT | MCL_FUTURE); /* where it is not allowed, a page fault is what it costs */
    puts("ready");
    fflush(stdout);
    char line[16];
    if (read(0, line, sizeof line) <= 0)
        return 0;
    measure();
    report();
    return 0;
}
