/*
 * Load for a Pusher server, from one core: clients that count what they get, publishers that wait.
 *
 *     load NAME=VALUE...
 *
 * One epoll loop that never sleeps (but for calm=MS, where two share a core): the share of its time
 * in which it had something to do says whether the load or the server was the bottleneck, and with
 * pid=PID it reads how the server spent the same time. The last line printed is an object of JSON.
 * An error of the server, an answer that is no 200 or a client that is cut off ends the program
 * with status 1 and one line on standard error.
 *
 * A publisher has one event in flight: until the server has answered or, with undelivered=1, until
 * the event has reached every subscriber, too. Where the server closes the connection after its
 * answer, the publisher dials again, in the time that is measured.
 *
 * Latencies need no clock in the payload: a channel hands its events to each subscriber in one
 * order, so the n-th event that arrives is the n-th one that was published.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "process.h"
#include "signing.h"

enum {
    EVENTS = 512,
    FIRST_RING = 1 << 12,
    READ_BUFFER = 1 << 20,
    WARM_UP_MS = 300,
    SETTLE_US = 50, /* for each client that disconnects */
    SMALL = 64 /* payloads that may be a ping of Pusher's: events are larger, or are compared */
};

static struct {
    const char *mode, *host, *app, *key, *secret, *prefix, *path;
    int port, api_port, subscribers, channels, first, publishers, payload, batch, exclude, parallel,
        deflate, all_channels, calm, undelivered, pid;
    double seconds, rate, patience; /* patience: a queue that does not shrink for so long is lost */
} options = {.mode = "publish",
             .host = "127.0.0.1",
             .app = "1",
             .key = "key",
             .secret = "secret",
             .prefix = "",
             .path = "",
             .port = 8080,
             .subscribers = 1000,
             .channels = 1,
             .publishers = 1,
             .payload = 100,
             .batch = 1,
             .parallel = 64,
             .seconds = 3,
             .patience = 5};

/* -- Latencies: counted in steps of three in a hundred -------------------------------------- */

struct histogram {
    uint64_t counts[64 * 32], total;
};

static void record(struct histogram *histogram, double seconds) {
    uint64_t ns = seconds > 0 ? (uint64_t)(seconds * 1e9) + 32 : 32;
    int exponent = 63 - __builtin_clzll(ns);
    histogram->counts[exponent * 32 + (int)(ns >> (exponent - 5) & 31)]++;
    histogram->total++;
}

static double quantile_ms(const struct histogram *histogram, double share) {
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)histogram->total);
    for (int i = 0; i < 64 * 32; i++)
        if ((seen += histogram->counts[i]) > wanted)
            return (double)((32 + (uint64_t)(i % 32)) << (i / 32)) / 32e6;
    return 0;
}

/* -- State ----------------------------------------------------------------------------------- */

enum state { UPGRADING, GREETING, WAITING, SUBSCRIBING, LIVE };

struct endpoint {
    int fd, publisher; /* one of the two kinds below */
};

struct client {
    struct endpoint endpoint;
    enum state state;
    int channel;
    uint64_t received; /* events of its channel, those that exclude it counted */
    int64_t skip;      /* what is left of a payload */
    int head_length, kept_length;
    unsigned char head[10];
    char *kept; /* of a payload that may have to be answered; NULL for others */
    char *text; /* what came before it is live */
    int text_length, text_room;
    char socket_id[40];
    double started;
};

struct request {
    char *bytes;
    int length, channel, excluded; /* channel: -1 for all of them, excluded: -1 for nobody */
};

struct publisher {
    struct endpoint endpoint;
    char answer[4096];
    int answer_length, busy;
    int left, answers; /* deliveries of its event to come; answers on this connection */
    struct request *request;
    double sent;
};

struct publish {
    double sent;
    int excluded, publisher;
};

struct channel {
    uint64_t published, ring_size; /* the size is a power of two */
    struct publish *ring;
    int subscribers;
    double sent; /* the client event under way */
};

static struct client *clients;
static struct publisher *publishers;
static struct channel *channels;
static struct request *requests;
static int requests_count, next_request, live, poll_fd, answering = 1;
static uint64_t deliveries, answers, bytes, redials;
static uint64_t to_come; /* deliveries of published events that have not arrived */
static double idle_s, idle_since; /* time without anything to do, and when it may have begun */
static int found_nothing;
static double server_user_s, server_kernel_s; /* at the beginning of what is measured */
static struct histogram delivery_times, answer_times;
static char buffer[READ_BUFFER];
static struct hmac_key secret;
static int connecting; /* how fast clients connect is all that is measured */

/* -- Sockets --------------------------------------------------------------------------------- */

static void write_all(int fd, const char *text, int length) {
    if (send(fd, text, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) != length)
        fail("send: %s", strerror(errno));
}

/* Thousands of ports that wait for stragglers would be missing in the next round. */
static void reset_at_close(int fd) {
    struct linger linger = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static void dial(struct endpoint *endpoint, int port, int publisher) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        fail("host: %s is no IPv4 address", options.host);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connect to port %d: %s", port, strerror(errno));
    if (!connecting) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        reset_at_close(fd);
    }
    endpoint->fd = fd;
    endpoint->publisher = publisher;
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = endpoint};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &interest);
}

static int make_frame(char *frame, const char *payload) {
    return make_client_frame(frame, 1, payload, (int)strlen(payload));
}

static void hang_up(struct endpoint *endpoint) {
    close(endpoint->fd);
    endpoint->fd = -1;
}

/* -- Clients --------------------------------------------------------------------------------- */

static void channel_name(char *name, int number) {
    sprintf(name, "%sbench-%d", options.prefix, options.first + number);
}

static void begin(struct client *client, int channel) {
    char request[1024];
    memset(client, 0, sizeof *client);
    client->channel = channel;
    client->started = now();
    dial(&client->endpoint, options.port, 0);
    int length =
        snprintf(request, sizeof request,
                 "GET %s/app/%s?protocol=7&client=js&version=8.4.0 HTTP/1.1\r\nHost: %s:%d\r\n"
                 "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
                 options.path, options.key, options.host, options.port,
                 options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate\r\n" : "");
    write_all(client->endpoint.fd, request, length);
}

static void subscribe(struct client *client) {
    char name[128], message[1024], data[128] = "", signed_text[512], signature[65], frame[1200];
    channel_name(name, client->channel);
    int length = snprintf(message, sizeof message,
                          "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"%s\"", name);
    if (*options.prefix) {
        snprintf(signed_text, sizeof signed_text, "%s:%s", client->socket_id, name);
        if (!strncmp(options.prefix, "presence-", 9)) {
            long number = client - clients;
            snprintf(data, sizeof data, "{\\\"user_id\\\":\\\"%ld\\\"}", number);
            length += sprintf(message + length, ",\"channel_data\":\"%s\"", data);
            sprintf(signed_text + strlen(signed_text), ":{\"user_id\":\"%ld\"}", number);
        }
        hmac_with(&secret, signed_text, strlen(signed_text), signature);
        length += sprintf(message + length, ",\"auth\":\"%s:%s\"", options.key, signature);
    }
    strcpy(message + length, "}}");
    write_all(client->endpoint.fd, frame, make_frame(frame, message));
    client->state = SUBSCRIBING;
}

static void send_client_event(struct client *client) {
    char name[128], message[2048], frame[2100];
    channel_name(name, client->channel);
    int length = sprintf(message, "{\"event\":\"client-ping\",\"channel\":\"%s\",\"data\":\"", name);
    memset(message + length, 'x', (size_t)options.payload);
    strcpy(message + length + options.payload, "\"}");
    channels[client->channel].sent = now();
    write_all(client->endpoint.fd, frame, make_frame(frame, message));
}

static void publish_again(struct publisher *publisher, double time);

/* Answer a ping of WebSocket's with its payload, and one of Pusher's, which is a message. */
static void answer_ping(int fd, int opcode, const char *payload, int length) {
    char frame[256];
    length = opcode == 9 ? make_client_frame(frame, 10, payload, length)
                         : make_frame(frame, "{\"event\":\"pusher:pong\",\"data\":{}}");
    write_all(fd, frame, length);
}

static int is_pusher_ping(const struct client *client) {
    return memmem(client->kept, (size_t)client->kept_length, "\"pusher:ping\"", 13) != NULL;
}

static void delivered(struct client *client, double time) {
    struct channel *channel = &channels[client->channel];
    deliveries++;
    if (!strcmp(options.mode, "client_events")) {
        record(&delivery_times, time - channel->sent);
        if (answering)
            send_client_event(client);
    } else if (channel->ring) {
        struct publish *publish;
        do {
            if (client->received == channel->published)
                fail("an event that nobody published");
            publish = &channel->ring[client->received++ & (channel->ring_size - 1)];
        } while (publish->excluded == client - clients);
        record(&delivery_times, time - publish->sent);
        to_come--;
        if (options.undelivered) {
            struct publisher *publisher = &publishers[publish->publisher];
            if (!--publisher->left && !publisher->busy)
                publish_again(publisher, time);
        }
    }
}

/* A whole frame has arrived. */
static void take_frame(struct client *client, double time) {
    int opcode = client->head[0] & 15;
    if (opcode > 2 && opcode < 9)
        fail("a frame of opcode %d: is the server closing?", opcode);
    if (opcode == 9 || (opcode < 9 && client->kept && is_pusher_ping(client)))
        answer_ping(client->endpoint.fd, opcode, client->kept, client->kept_length);
    else if (opcode < 9)
        delivered(client, time);
    free(client->kept);
    client->kept = NULL;
}

/* Count the frames in *at*. What events hold was checked by the tests, and is not here. */
static void count_frames(struct client *client, const char *at, int64_t left, double time) {
    while (left > 0) {
        if (client->skip) {
            int64_t part = client->skip < left ? client->skip : left;
            if (client->kept) {
                memcpy(client->kept + client->kept_length, at, (size_t)part);
                client->kept_length += (int)part;
            }
            client->skip -= part, at += part, left -= part;
            if (!client->skip)
                take_frame(client, time);
            continue;
        }
        client->head[client->head_length++] = (unsigned char)*at++;
        left--;
        if (client->head_length < 2)
            continue;
        int marker = client->head[1] & 127, needed = marker < 126 ? 2 : marker == 126 ? 4 : 10;
        if (client->head_length < needed)
            continue;
        client->skip = marker < 126 ? marker : 0;
        for (int i = 2; i < needed; i++)
            client->skip = client->skip << 8 | client->head[i];
        client->head_length = 0;
        if ((client->head[0] & 15) == 8)
            fail("a frame of opcode 8: is the server closing?");
        if (client->skip <= SMALL) {
            client->kept = malloc(SMALL);
            client->kept_length = 0;
        } else if ((client->head[0] & 15) == 9) {
            fail("a ping of %ld bytes", (long)client->skip);
        }
        if (!client->skip)
            take_frame(client, time);
    }
}

/* Take one message of the opening; return the bytes used, 0 where more are needed. */
static int take_opening(struct client *client) {
    char *text = client->text;
    int length = client->text_length;
    if (client->state == UPGRADING) {
        char *end = memmem(text, (size_t)length, "\r\n\r\n", 4);
        if (!end)
            return 0;
        if (strncmp(text, "HTTP/1.1 101", 12))
            fail("no WebSocket: %.*s", length, text);
        client->state = GREETING;
        return (int)(end - text) + 4;
    }
    if (length < 2)
        return 0;
    int64_t size = text[1] & 127;
    int head = size < 126 ? 2 : size == 126 ? 4 : 10;
    if (length < head)
        return 0;
    if (head > 2)
        for (size = 0, length = 2; length < head; length++)
            size = size << 8 | (unsigned char)text[length];
    if (client->text_length < head + size)
        return 0;
    if ((text[0] & 15) == 9 && size <= 125) {
        answer_ping(client->endpoint.fd, 9, text + head, (int)size);
        return head + (int)size;
    }
    if ((text[0] & 15) > 2 || memmem(text + head, (size_t)size, "pusher:error", 12))
        fail("refused: %.*s", (int)size, text + head);
    if (memmem(text + head, (size_t)size, "connection_established", 22)) {
        char *id = memmem(text + head, (size_t)size, "socket_id", 9);
        if (!id || sscanf(id + 9, "%*[^0-9]%39[0-9.]", client->socket_id) != 1)
            fail("no socket_id: %.*s", (int)size, text + head);
        if (strcmp(options.mode, "burst"))
            subscribe(client);
        else
            client->state = WAITING, live++;
    } else if (memmem(text + head, (size_t)size, "subscription_succeeded", 22)) {
        client->state = LIVE, live++;
    }
    return head + (int)size;
}

static void take_text(struct client *client, const char *got, int length, double time) {
    if (client->text_length + length > client->text_room) {
        client->text_room = (client->text_length + length) * 2;
        client->text = realloc(client->text, (size_t)client->text_room);
    }
    memcpy(client->text + client->text_length, got, (size_t)length);
    client->text_length += length;
    int used;
    while (client->state != LIVE && client->text_length && (used = take_opening(client)))
        memmove(client->text, client->text + used, (size_t)(client->text_length -= used));
    if (client->state == LIVE) {
        record(&answer_times, time - client->started);
        count_frames(client, client->text, client->text_length, time);
        free(client->text);
        client->text = NULL;
    }
}

/* -- Publishers ------------------------------------------------------------------------------ */

/* Append what says where an event goes; return its length. */
static int name_channels(char *body, int channel) {
    char name[128];
    if (channel >= 0) {
        channel_name(name, channel);
        return sprintf(body, "\"channel\":\"%s\"", name);
    }
    int length = sprintf(body, "\"channels\":[");
    for (int i = 0; i < options.channels; i++) {
        channel_name(name, i);
        length += sprintf(body + length, "%s\"%s\"", i ? "," : "", name);
    }
    return length + sprintf(body + length, "]");
}

static struct request make_request(int channel, int excluded) {
    char hash[33], signature[65], query[512], signed_text[1024], event[256];
    size_t names = channel < 0 ? (size_t)options.channels * 64 : 0;
    char *body = malloc(((size_t)options.payload + 400 + names) * (size_t)options.batch + 64);
    int length = options.batch > 1 ? sprintf(body, "{\"batch\":[") : 0;
    for (int i = 0; i < options.batch; i++) {
        length += sprintf(body + length, "%s{\"name\":\"my-event\",", i ? "," : "");
        length += name_channels(body + length, channel);
        if (excluded >= 0)
            length += sprintf(body + length, ",\"socket_id\":\"%s\"", clients[excluded].socket_id);
        length += sprintf(body + length, ",\"data\":\"");
        memset(body + length, 'x', (size_t)options.payload);
        length += options.payload;
        length += sprintf(body + length, "\"}");
    }
    if (options.batch > 1)
        length += sprintf(body + length, "]}");
    md5(body, (size_t)length, hash);
    snprintf(event, sizeof event, "/apps/%s/%s", options.app,
             options.batch > 1 ? "batch_events" : "events");
    snprintf(query, sizeof query, "auth_key=%s&auth_timestamp=%ld&auth_version=1.0&body_md5=%s",
             options.key, (long)time(NULL), hash);
    snprintf(signed_text, sizeof signed_text, "POST\n%s\n%s", event, query);
    hmac_with(&secret, signed_text, strlen(signed_text), signature);
    struct request request = {.channel = channel, .excluded = excluded};
    request.length = asprintf(&request.bytes,
                              "POST %s%s?%s&auth_signature=%s HTTP/1.1\r\nHost: %s:%d\r\n"
                              "User-Agent: bench\r\nAccept: */*\r\n"
                              "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%.*s",
                              options.path, event, query, signature, options.host, options.api_port,
                              length, length, body);
    free(body);
    return request;
}

static void make_requests(void) {
    requests_count = options.exclude        ? options.subscribers
                     : options.all_channels ? 1
                                            : options.channels;
    requests = calloc((size_t)requests_count, sizeof *requests);
    for (int i = 0; i < requests_count; i++)
        requests[i] = options.exclude ? make_request(clients[i].channel, i)
                                      : make_request(options.all_channels ? -1 : i, -1);
    for (int i = 0; i < options.channels; i++) {
        channels[i].ring_size = FIRST_RING;
        channels[i].ring = calloc(FIRST_RING, sizeof *channels[i].ring);
    }
    for (int i = 0; i < options.subscribers; i++)
        channels[clients[i].channel].subscribers++;
}

/* Make room for what a channel's slowest subscriber has yet to get. */
static void grow_ring(struct channel *channel) {
    uint64_t size = channel->ring_size, oldest = channel->published;
    for (int i = 0; i < options.subscribers; i++)
        if (&channels[clients[i].channel] == channel && clients[i].received < oldest)
            oldest = clients[i].received;
    if (channel->published - oldest < size / 2)
        return;
    struct publish *ring = calloc(size * 2, sizeof *ring);
    for (uint64_t at = oldest; at < channel->published; at++)
        ring[at & (size * 2 - 1)] = channel->ring[at & (size - 1)];
    free(channel->ring);
    channel->ring = ring;
    channel->ring_size = size * 2;
}

static void dial_again(struct publisher *publisher) {
    dial(&publisher->endpoint, options.api_port, 1);
    publisher->answers = 0;
    redials++;
}

static void publish(struct publisher *publisher, double due) {
    struct request *request = &requests[next_request++ % requests_count];
    int first = request->channel < 0 ? 0 : request->channel;
    int last = request->channel < 0 ? options.channels - 1 : request->channel;
    for (int at = first; at <= last; at++)
        for (int i = 0; i < options.batch; i++) {
            struct channel *channel = &channels[at];
            channel->ring[channel->published++ & (channel->ring_size - 1)] =
                (struct publish){.sent = due,
                                 .excluded = request->excluded,
                                 .publisher = (int)(publisher - publishers)};
            int more = channel->subscribers - (request->excluded >= 0);
            publisher->left += more;
            to_come += (uint64_t)more;
            if (!(channel->published & (channel->ring_size / 2 - 1)))
                grow_ring(channel);
        }
    publisher->busy = 1;
    publisher->sent = due;
    publisher->request = request;
    if (publisher->endpoint.fd < 0)
        dial_again(publisher);
    write_all(publisher->endpoint.fd, request->bytes, request->length);
}

static void publish_again(struct publisher *publisher, double time) {
    if (answering && !options.rate)
        publish(publisher, time);
}

/* Whether an answer is complete whose head ends at *body*; *ended: the server has closed. */
static int complete(const struct publisher *publisher, const char *body, int ended) {
    const char *end = publisher->answer + publisher->answer_length;
    const char *field = strcasestr(publisher->answer, "\r\ncontent-length:");
    const char *chunked = strcasestr(publisher->answer, "\r\ntransfer-encoding: chunked");
    if (field && field < body)
        return end >= body + atoi(field + 17);
    if (chunked && chunked < body)
        return end - body >= 5 && !memcmp(end - 5, "0\r\n\r\n", 5);
    return ended;
}

static void answered(struct publisher *publisher, double time) {
    publisher->answer_length = publisher->busy = 0;
    publisher->answers++;
    answers++;
    record(&answer_times, time - publisher->sent);
    if (!options.undelivered || !publisher->left)
        publish_again(publisher, time);
}

static void take_answer(struct publisher *publisher, const char *got, int length, double time) {
    if (publisher->answer_length + length >= (int)sizeof publisher->answer)
        fail("an answer too long: %.200s", publisher->answer);
    memcpy(publisher->answer + publisher->answer_length, got, (size_t)length);
    publisher->answer_length += length;
    publisher->answer[publisher->answer_length] = 0;
    char *end = strstr(publisher->answer, "\r\n\r\n");
    if (!end)
        return;
    if (!publisher->busy || strncmp(publisher->answer, "HTTP/1.1 200", 12))
        fail("a publish was not taken: %s", publisher->answer);
    if (!complete(publisher, end + 4, 0))
        return;
    char *closes = strcasestr(publisher->answer, "\r\nconnection: close");
    if (closes && closes < end)
        hang_up(&publisher->endpoint);
    answered(publisher, time);
}

/* The server has closed the connection of *publisher*: after its answer, or before it has read more. */
static void redial(struct publisher *publisher, double time) {
    char *end = publisher->answer_length ? strstr(publisher->answer, "\r\n\r\n") : NULL;
    hang_up(&publisher->endpoint);
    if (end && complete(publisher, end + 4, 1)) {
        answered(publisher, time);
    } else if (publisher->answer_length) {
        fail("an answer is not whole: %s", publisher->answer);
    } else if (publisher->busy && !publisher->answers) {
        fail("a publish was not answered: the server closed its connection");
    } else if (publisher->busy) {
        /* It closed an idle connection as this request was on its way, as HTTP allows. */
        dial_again(publisher);
        write_all(publisher->endpoint.fd, publisher->request->bytes, publisher->request->length);
    }
}

/* -- The loop -------------------------------------------------------------------------------- */

static void turn(void) {
    struct epoll_event ready[EVENTS];
    int many = epoll_wait(poll_fd, ready, EVENTS, options.calm);
    double time = now();
    if (!many) {
        found_nothing = 1;
        return;
    }
    if (found_nothing || options.calm)
        idle_s += time - idle_since;
    found_nothing = 0;
    for (int i = 0; i < many; i++) {
        struct endpoint *endpoint = ready[i].data.ptr;
        ssize_t got = recv(endpoint->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EBADF))
            continue;
        time = now();
        if (got <= 0 && endpoint->publisher) {
            redial((struct publisher *)endpoint, time);
            continue;
        }
        if (got <= 0)
            fail("the server hung up: %s", got ? strerror(errno) : "end of stream");
        bytes += (uint64_t)got;
        if (endpoint->publisher)
            take_answer((struct publisher *)endpoint, buffer, (int)got, time);
        else if (((struct client *)endpoint)->state == LIVE)
            count_frames((struct client *)endpoint, buffer, got, time);
        else
            take_text((struct client *)endpoint, buffer, (int)got, time);
    }
    idle_since = now();
}

/* Read how much processor time the server has used, in its own code and in the kernel. */
static void read_server(double *user_s, double *kernel_s) {
    char path[64], text[1024] = "";
    unsigned long user = 0, kernel = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", options.pid);
    FILE *file = options.pid ? fopen(path, "r") : NULL;
    if (file) {
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        fclose(file);
        char *name_end = strrchr(text, ')');
        if (name_end)
            sscanf(name_end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                   &kernel);
    }
    *user_s = (double)user / (double)sysconf(_SC_CLK_TCK);
    *kernel_s = (double)kernel / (double)sysconf(_SC_CLK_TCK);
}

static void forget_measurements(void) {
    deliveries = answers = bytes = redials = 0;
    idle_s = 0;
    idle_since = now();
    read_server(&server_user_s, &server_kernel_s);
    memset(&delivery_times, 0, sizeof delivery_times);
    memset(&answer_times, 0, sizeof answer_times);
}

/* Connect and subscribe everybody, *parallel* at a time; return the seconds it took. */
static double connect_all(int parallel) {
    double start = now(), given_up = start + 120;
    int begun = live = 0;
    while (live < options.subscribers) {
        while (begun < options.subscribers && begun - live < parallel) {
            begin(&clients[begun], begun % options.channels);
            begun++;
        }
        turn();
        if (now() > given_up)
            fail("%d of %d clients are not there after two minutes", options.subscribers - live,
                 options.subscribers);
    }
    return now() - start;
}

static void disconnect_all(void) {
    for (int i = 0; i < options.subscribers; i++) {
        reset_at_close(clients[i].endpoint.fd);
        close(clients[i].endpoint.fd);
    }
    usleep((useconds_t)(SETTLE_US * options.subscribers));
}

/* What is known only after the measured time, and 0 where it is not asked for. */
static struct {
    /* Deliveries to come: the mean of each quarter of that time. A single moment shows only how a
     * queue swings. It is 0 with undelivered=1, where no queue can grow. */
    struct {
        double sum, seconds; /* of deliveries to come times seconds, and of seconds */
    } queue[4];
    double drain_s;
    double load_busy, server_user, server_kernel; /* shares of that time */
} aftermath;

/* The measured time has ended, after *seconds*. */
static void note_shares(double seconds) {
    double user_s, kernel_s;
    read_server(&user_s, &kernel_s);
    aftermath.server_user = (user_s - server_user_s) / seconds;
    aftermath.server_kernel = (kernel_s - server_kernel_s) / seconds;
    if (found_nothing)
        idle_s += now() - idle_since;
    aftermath.load_busy = 1 - idle_s / seconds;
}

static double mean_queue(int quarter) {
    double seconds = aftermath.queue[quarter].seconds;
    return seconds > 0 ? aftermath.queue[quarter].sum / seconds : 0;
}

static void report(double seconds, uint64_t clients_connected, uint64_t lost) {
    printf("{\"seconds\":%.4f,\"deliveries\":%lu,\"answers\":%lu,\"clients\":%lu,\"lost\":%lu,"
           "\"bytes\":%lu,\"redials\":%lu,"
           "\"queue_half\":%.0f,\"queue_end\":%.0f,\"drain_s\":%.4f,"
           "\"load_busy\":%.4f,\"server_user\":%.4f,\"server_kernel\":%.4f,"
           "\"delivery_p50_ms\":%.4f,\"delivery_p99_ms\":%.4f,"
           "\"answer_p50_ms\":%.4f,\"answer_p99_ms\":%.4f}\n",
           seconds, deliveries, answers, clients_connected, lost, bytes,
           redials, mean_queue(1), mean_queue(3),
           aftermath.drain_s, aftermath.load_busy, aftermath.server_user,
           aftermath.server_kernel, quantile_ms(&delivery_times, 0.5),
           quantile_ms(&delivery_times, 0.99), quantile_ms(&answer_times, 0.5),
           quantile_ms(&answer_times, 0.99));
    fflush(stdout);
}

/* -- What can be asked for ------------------------------------------------------------------- */

static int busy(void) {
    for (int i = 0; i < options.publishers; i++)
        if (publishers[i].busy)
            return 1;
    return 0;
}

static void publish_what_is_due(double start, double time, uint64_t *published) {
    for (int i = 0; i < options.publishers; i++) {
        double due = start + (double)*published / options.rate;
        if (due > time)
            return;
        if (!publishers[i].busy) {
            publish(&publishers[i], due);
            ++*published;
        }
    }
}

/* Wait for what is on its way, as long as it becomes less; return how much never came. */
static uint64_t drain(void) {
    double start = now(), shrunk = start, time = start;
    uint64_t least = to_come;
    answering = 0;
    while ((busy() || least) && time < shrunk + options.patience) {
        turn();
        time = now();
        if (to_come < least)
            least = to_come, shrunk = time;
    }
    aftermath.drain_s = shrunk - start;
    return least;
}

/* Publish for some seconds, then wait for the rest; print what came of it. */
static void run_publish(void) {
    connect_all(options.parallel);
    puts("connected");
    fflush(stdout);
    make_requests();
    publishers = calloc((size_t)options.publishers, sizeof *publishers);
    for (int i = 0; i < options.publishers; i++)
        dial(&publishers[i].endpoint, options.api_port, 1);
    double start = now(), begin_at = start + WARM_UP_MS / 1e3, time = start;
    uint64_t published = 0;
    int warm = 0;
    for (int i = 0; i < options.publishers && !options.rate; i++)
        publish(&publishers[i], now());
    while (time < begin_at + options.seconds) {
        if (!warm && time >= begin_at) {
            warm = 1, begin_at = time;
            forget_measurements();
        }
        if (options.rate)
            publish_what_is_due(start, time, &published);
        turn();
        double before = time;
        time = now();
        int quarter = (int)((time - begin_at) / options.seconds * 4);
        if (warm && quarter < 4 && !options.undelivered) {
            aftermath.queue[quarter].sum += (double)to_come * (time - before);
            aftermath.queue[quarter].seconds += time - before;
        }
    }
    double seconds = time - begin_at;
    note_shares(seconds);
    uint64_t counted[] = {deliveries, answers, bytes, redials};
    uint64_t lost = drain();
    deliveries = counted[0], answers = counted[1], bytes = counted[2], redials = counted[3];
    report(seconds, 0, lost);
}

static void run_client_events(void) {
    options.channels = options.subscribers / 2;
    connect_all(options.parallel);
    for (int i = 0; i < options.channels; i++)
        send_client_event(&clients[i]);
    double begin_at = now() + WARM_UP_MS / 1e3;
    while (now() < begin_at)
        turn();
    forget_measurements();
    begin_at = now();
    while (now() < begin_at + options.seconds)
        turn();
    double seconds = now() - begin_at;
    note_shares(seconds);
    report(seconds, 0, 0);
}

static void run_connect(void) {
    double seconds = 0, busy_s = 0, user_s = 0, kernel_s = 0;
    uint64_t connected = 0;
    forget_measurements();
    while (seconds < options.seconds) {
        /* The time in which clients are disconnected is not measured. */
        idle_s = 0, idle_since = now();
        read_server(&server_user_s, &server_kernel_s);
        double took = connect_all(options.parallel);
        note_shares(took);
        seconds += took;
        busy_s += aftermath.load_busy * took;
        user_s += aftermath.server_user * took;
        kernel_s += aftermath.server_kernel * took;
        connected += (uint64_t)options.subscribers;
        disconnect_all();
    }
    aftermath.load_busy = busy_s / seconds;
    aftermath.server_user = user_s / seconds;
    aftermath.server_kernel = kernel_s / seconds;
    report(seconds, connected, 0);
}

/* Until standard input ends. */
static void stay(void) {
    while (getchar() != EOF)
        continue;
}

/* Everybody is connected already, and subscribes at once. Then they stay. */
static void run_burst(void) {
    connect_all(options.parallel);
    forget_measurements();
    double start = now(), end;
    live = 0;
    for (int i = 0; i < options.subscribers; i++) {
        clients[i].started = now();
        subscribe(&clients[i]);
    }
    while (live < options.subscribers)
        turn();
    end = now();
    uint64_t members = (uint64_t)options.subscribers, told = members * (members - 1) / 2;
    while (deliveries < told && now() < end + 10)
        turn();
    report(end - start, members, told - deliveries);
    stay();
}

/* Connect and stay. */
static void run_idle(void) {
    double seconds = connect_all(options.parallel);
    report(seconds, (uint64_t)options.subscribers, 0);
    stay();
}

/* -- Options --------------------------------------------------------------------------------- */

static void parse(char *argument) {
    struct {
        const char *name;
        const char **text;
        int *number;
        double *real;
    } known[] = {{"mode", &options.mode, 0, 0},
                 {"host", &options.host, 0, 0},
                 {"app", &options.app, 0, 0},
                 {"key", &options.key, 0, 0},
                 {"secret", &options.secret, 0, 0},
                 {"prefix", &options.prefix, 0, 0},
                 {"path", &options.path, 0, 0},
                 {"port", 0, &options.port, 0},
                 {"api_port", 0, &options.api_port, 0},
                 {"subscribers", 0, &options.subscribers, 0},
                 {"channels", 0, &options.channels, 0},
                 {"first", 0, &options.first, 0},
                 {"publishers", 0, &options.publishers, 0},
                 {"payload", 0, &options.payload, 0},
                 {"batch", 0, &options.batch, 0},
                 {"exclude", 0, &options.exclude, 0},
                 {"parallel", 0, &options.parallel, 0},
                 {"deflate", 0, &options.deflate, 0},
                 {"all_channels", 0, &options.all_channels, 0},
                 {"calm", 0, &options.calm, 0},
                 {"undelivered", 0, &options.undelivered, 0},
                 {"pid", 0, &options.pid, 0},
                 {"seconds", 0, 0, &options.seconds},
                 {"rate", 0, 0, &options.rate},
                 {"patience", 0, 0, &options.patience}};
    char *value = strchr(argument, '=');
    if (!value)
        fail("%s: write NAME=VALUE", argument);
    *value++ = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, argument)) {
            if (known[i].text)
                *known[i].text = value;
            else if (known[i].number)
                *known[i].number = atoi(value);
            else
                *known[i].real = atof(value);
            return;
        }
    fail("%s: no such option", argument);
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++)
        parse(arguments[i]);
    if (!options.api_port)
        options.api_port = options.port;
    raise_descriptor_limit();
    poll_fd = epoll_create1(0);
    secret = hmac_prepare(options.secret);
    connecting = !strcmp(options.mode, "connect");
    clients = calloc((size_t)options.subscribers, sizeof *clients);
    channels = calloc((size_t)options.subscribers + (size_t)options.channels, sizeof *channels);
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {{"publish", run_publish}, {"client_events", run_client_events},
                 {"connect", run_connect}, {"burst", run_burst},
                 {"idle", run_idle}};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(modes[i].name, options.mode)) {
            modes[i].run();
            return 0;
        }
    fail("mode: %s is none", options.mode);
}
