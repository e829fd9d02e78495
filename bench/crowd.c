/*
 * Thousands of clients in one process: they connect, stay idle, and note when a broadcast has reached them all.
 *
 *     crowd NAME=VALUE...
 *
 * It reads commands from standard input, one per line, and answers each with one line of JSON:
 *
 *     connect     connect and subscribe every client, *parallel* at a time: the seconds that took
 *     broadcast S for S seconds: send every request of the file *requests* over *publishers* connections, wait
 *                 until each client has its event and each request its answer, and begin again: the milliseconds
 *                 from the first request to the last delivery, for each broadcast
 *     drain       wait until the server has closed every client with 4200, as a server does that ends
 *
 * Between commands it sleeps, and the clients answer pings. Whatever is not as it must be (an error, a client that
 * is closed, an event that arrives twice, one that does not arrive within LIMIT_S) ends the program with status 1
 * and one line on standard error. The end of its input closes all connections.
 *
 * Client number n subscribes to channel n modulo *channels*. The file has, for each request, a line with its length
 * and then its bytes. Each *per_address* clients have an address of loopback of their own: connect() tries one half
 * of the local ports first (14,116 by default), and when those are taken it searches longer for each client.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "process.h"

enum { EVENTS = 512, BUFFER = 1 << 18, MAX_BROADCASTS = 1 << 16, RECONNECT = 4200, ANSWER = 4096 };

static const double LIMIT_S = 120;

static struct {
    const char *key, *requests;
    int port, clients, channels, parallel, publishers, per_address;
} options = {.key = "key",
             .port = 8080,
             .clients = 1000,
             .channels = 1,
             .parallel = 64,
             .publishers = 4,
             .per_address = 10000};

enum state { UPGRADING, GREETING, SUBSCRIBING, LIVE, CLOSED };

struct endpoint {
    int fd, publisher; /* one of the two kinds below */
};

struct client {
    struct endpoint endpoint;
    enum state state;
    int rest_length;
    char *rest; /* the beginning of a message whose end has not arrived */
    uint32_t round;
};

struct publisher {
    struct endpoint endpoint;
    char answer[ANSWER];
    int answer_length;
};

struct request {
    char *bytes;
    int length;
};

static struct client *clients;
static struct publisher *publishers;
static struct request *requests;
static int poll_fd, requests_count, next_request, unanswered, missing, live, closed, draining;
static uint32_t round_number;
static uint64_t polls, empty_polls;
static double delivered_at, closed_first, closed_last;
static char buffer[BUFFER];

/* -- Sockets --------------------------------------------------------------------------------- */

static void write_all(int fd, const char *bytes, int length) {
    if (send(fd, bytes, (size_t)length, MSG_NOSIGNAL) != length)
        fail("send: %s", strerror(errno));
}

static void dial(struct endpoint *endpoint, int number, int publisher) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number / options.per_address));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((unsigned short)options.port);
    if (fd < 0)
        fail("a socket for client %d: %s", number, strerror(errno));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) || connect(fd, (struct sockaddr *)&to, sizeof to))
        fail("connect client %d to port %d: %s", number, options.port, strerror(errno));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    endpoint->fd = fd;
    endpoint->publisher = publisher;
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = endpoint};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &interest))
        fail("epoll_ctl: %s", strerror(errno));
}

static void send_frame(int fd, int opcode, const char *payload, int length) {
    char frame[256];
    if (length > 125)
        fail("a frame of %d bytes is too long to be sent", length);
    write_all(fd, frame, make_client_frame(frame, opcode, payload, length));
}

/* -- Clients --------------------------------------------------------------------------------- */

static void begin(struct client *client) {
    char request[512];
    client->state = UPGRADING;
    dial(&client->endpoint, (int)(client - clients), 0);
    int length = snprintf(request, sizeof request,
                          "GET /app/%s?protocol=7&client=js&version=8.4.0 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                          "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                          options.key, options.port);
    write_all(client->endpoint.fd, request, length);
}

static int has(const char *payload, int length, const char *text) {
    return memmem(payload, (size_t)length, text, strlen(text)) != NULL;
}

static void take_close(struct client *client, const char *payload, int length) {
    int code = length >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
    if (!draining || code != RECONNECT)
        fail("client %ld was closed with %d %.*s", client - clients, code, length > 2 ? length - 2 : 0, payload + 2);
    send_frame(client->endpoint.fd, 8, payload, 2);
}

static void take_text(struct client *client, const char *payload, int length) {
    if (has(payload, length, "\"scale-event\"")) {
        if (client->round == round_number || client->state != LIVE)
            fail("client %ld received an event that was not for it", client - clients);
        client->round = round_number;
        missing--;
        delivered_at = now();
    } else if (has(payload, length, "\"pusher:error\"")) {
        /* 4200 is sent as an error before the close. */
        if (!draining)
            fail("client %ld: %.*s", client - clients, length, payload);
    } else if (has(payload, length, "\"pusher:ping\"")) {
        static const char pong[] = "{\"event\":\"pusher:pong\",\"data\":{}}";
        send_frame(client->endpoint.fd, 1, pong, sizeof pong - 1);
    } else if (client->state == GREETING && has(payload, length, "\"pusher:connection_established\"")) {
        char subscribe[120];
        int made = snprintf(subscribe, sizeof subscribe,
                            "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"scale-%ld\"}}",
                            (client - clients) % options.channels);
        send_frame(client->endpoint.fd, 1, subscribe, made);
        client->state = SUBSCRIBING;
    } else if (client->state == SUBSCRIBING && has(payload, length, "subscription_succeeded\"")) {
        client->state = LIVE;
        live++;
    } else
        fail("client %ld does not expect %.*s", client - clients, length, payload);
}

/* Take one message; return the bytes used, 0 where more are needed. */
static int take_message(struct client *client, char *bytes, int length) {
    if (client->state == UPGRADING) {
        char *end = memmem(bytes, (size_t)length, "\r\n\r\n", 4);
        if (!end)
            return 0;
        if (strncmp(bytes, "HTTP/1.1 101", 12))
            fail("no WebSocket: %.*s", length, bytes);
        client->state = GREETING;
        return (int)(end - bytes) + 4;
    }
    if (length < 2)
        return 0;
    int size = bytes[1] & 127, head = 2;
    if (size == 127)
        fail("a message of more than 64 KiB");
    if (size == 126) {
        if (length < 4)
            return 0;
        size = (unsigned char)bytes[2] << 8 | (unsigned char)bytes[3];
        head = 4;
    }
    if (length < head + size)
        return 0;
    switch (bytes[0] & 15) {
    case 1:
        take_text(client, bytes + head, size);
        break;
    case 8:
        take_close(client, bytes + head, size);
        break;
    case 9:
        send_frame(client->endpoint.fd, 10, bytes + head, size);
        break;
    default:
        fail("a frame of opcode %d", bytes[0] & 15);
    }
    return head + size;
}

static void hang_up(struct client *client, const char *why) {
    if (!draining)
        fail("client %ld lost its connection: %s", client - clients, why);
    close(client->endpoint.fd);
    client->state = CLOSED;
    closed_last = now();
    if (!closed++)
        closed_first = closed_last;
}

static void read_client(struct client *client) {
    int length = client->rest_length, used, at = 0;
    if (length)
        memcpy(buffer, client->rest, (size_t)length);
    ssize_t got = recv(client->endpoint.fd, buffer + length, (size_t)(BUFFER - length), 0);
    if (got <= 0) {
        if (!got || errno != EAGAIN)
            hang_up(client, got ? strerror(errno) : "end of stream");
        return;
    }
    length += (int)got;
    while (at < length && (used = take_message(client, buffer + at, length - at)))
        at += used;
    client->rest_length = length - at;
    if (client->rest_length) {
        client->rest = realloc(client->rest, (size_t)client->rest_length);
        memcpy(client->rest, buffer + at, (size_t)client->rest_length);
    }
}

/* -- Publishers ------------------------------------------------------------------------------ */

static void publish_next(struct publisher *publisher) {
    if (next_request == requests_count)
        return;
    struct request *request = &requests[next_request++];
    write_all(publisher->endpoint.fd, request->bytes, request->length);
}

static void read_publisher(struct publisher *publisher) {
    char *answer = publisher->answer;
    ssize_t got = recv(publisher->endpoint.fd, answer + publisher->answer_length,
                       (size_t)(ANSWER - 1 - publisher->answer_length), 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        fail("the server closed the connection of a publisher");
    publisher->answer_length += (int)got;
    answer[publisher->answer_length] = 0;
    char *end = strstr(answer, "\r\n\r\n"), *field = strcasestr(answer, "content-length:");
    if (!end)
        return;
    if (strncmp(answer, "HTTP/1.1 200", 12) || !field)
        fail("a publish was refused: %s", answer);
    if (publisher->answer_length < (int)(end + 4 - answer) + atoi(field + 15))
        return;
    publisher->answer_length = 0;
    unanswered--;
    publish_next(publisher);
}

static void read_requests(void) {
    FILE *file = options.requests ? fopen(options.requests, "r") : NULL;
    if (!file)
        fail("requests: %s", options.requests ? strerror(errno) : "no file was given");
    for (int length; fscanf(file, "%d\n", &length) == 1; requests_count++) {
        requests = realloc(requests, (size_t)(requests_count + 1) * sizeof *requests);
        requests[requests_count] = (struct request){.bytes = malloc((size_t)length), .length = length};
        if (fread(requests[requests_count].bytes, 1, (size_t)length, file) != (size_t)length)
            fail("%s is cut off", options.requests);
    }
    fclose(file);
    if (!requests_count)
        fail("%s has no requests", options.requests);
}

/* -- The loop -------------------------------------------------------------------------------- */

/* Read what has arrived, waiting *timeout* ms for it; return whether there is a command. */
static int turn(int timeout) {
    struct epoll_event ready[EVENTS];
    int many = epoll_wait(poll_fd, ready, EVENTS, timeout), command = 0;
    polls++;
    empty_polls += many == 0;
    for (int i = 0; i < many; i++) {
        struct endpoint *endpoint = ready[i].data.ptr;
        if (!endpoint)
            command = 1;
        else if (endpoint->publisher)
            read_publisher((struct publisher *)endpoint);
        else
            read_client((struct client *)endpoint);
    }
    return command;
}

/* -- Commands -------------------------------------------------------------------------------- */

static void connect_all(void) {
    double start = now();
    int begun = 0;
    while (live < options.clients) {
        while (begun < options.clients && begun - live < options.parallel)
            begin(&clients[begun++]);
        turn(0);
        if (now() > start + LIMIT_S)
            fail("%d of %d clients are not connected after %.0f s", options.clients - live, options.clients, LIMIT_S);
    }
    printf("{\"seconds\": %.6f}\n", now() - start);
}

static double broadcast(void) {
    double start = now();
    round_number++;
    missing = options.clients;
    unanswered = requests_count;
    next_request = 0;
    for (int i = 0; i < options.publishers; i++)
        publish_next(&publishers[i]);
    while (missing || unanswered) {
        turn(0);
        if (now() > start + LIMIT_S)
            fail("%d of %d clients do not have the event after %.0f s", missing, options.clients, LIMIT_S);
    }
    return delivered_at - start;
}

static void broadcast_for(double seconds) {
    static double times[MAX_BROADCASTS];
    int count = 0;
    if (!requests_count)
        read_requests();
    /* A connection that is never used would be idle, and a server short of descriptors closes those. */
    if (options.publishers > requests_count)
        options.publishers = requests_count;
    for (int i = 0; i < options.publishers; i++)
        dial(&publishers[i].endpoint, 0, 1);
    double start = now();
    polls = empty_polls = 0;
    do
        times[count++] = broadcast();
    while (now() < start + seconds && count < MAX_BROADCASTS);
    printf("{\"seconds\": %.6f, \"empty_polls\": %.4f, \"times_ms\": [", now() - start,
           (double)empty_polls / (double)polls);
    for (int i = 0; i < count; i++)
        printf("%s%.3f", i ? ", " : "", times[i] * 1e3);
    puts("]}");
    for (int i = 0; i < options.publishers; i++)
        close(publishers[i].endpoint.fd);
}

static void drain(void) {
    double start = now();
    draining = 1;
    puts("{}"); /* from here on, the server may close them */
    fflush(stdout);
    while (closed < options.clients) {
        turn(100);
        if (now() > start + LIMIT_S)
            fail("%d of %d clients were not closed", options.clients - closed, options.clients);
    }
    printf("{\"first_s\": %.6f, \"last_s\": %.6f}\n", closed_first - start, closed_last - start);
}

static void obey(const char *command) {
    if (!strcmp(command, "connect"))
        connect_all();
    else if (!strncmp(command, "broadcast ", 10))
        broadcast_for(atof(command + 10));
    else if (!strcmp(command, "drain"))
        drain();
    else
        fail("%s: no such command", command);
    fflush(stdout);
}

/* Return whether there may be more commands. */
static int read_commands(void) {
    static char line[256];
    static int length;
    ssize_t got = read(0, line + length, sizeof line - 1 - (size_t)length);
    if (got <= 0)
        return 0;
    length += (int)got;
    line[length] = 0;
    for (char *end; (end = strchr(line, '\n'));) {
        *end = 0;
        obey(line);
        length -= (int)(end + 1 - line);
        memmove(line, end + 1, (size_t)length + 1);
    }
    return 1;
}

/* -- Options --------------------------------------------------------------------------------- */

static void parse(char *argument) {
    struct {
        const char *name, **text;
        int *number;
    } known[] = {{"key", &options.key, 0},
                 {"requests", &options.requests, 0},
                 {"port", 0, &options.port},
                 {"clients", 0, &options.clients},
                 {"channels", 0, &options.channels},
                 {"parallel", 0, &options.parallel},
                 {"publishers", 0, &options.publishers},
                 {"per_address", 0, &options.per_address}};
    char *value = strchr(argument, '=');
    if (!value)
        fail("%s: write NAME=VALUE", argument);
    *value++ = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, argument)) {
            if (known[i].text)
                *known[i].text = value;
            else
                *known[i].number = atoi(value);
            return;
        }
    fail("%s: no such option", argument);
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++)
        parse(arguments[i]);
    if (options.clients < 1 || options.channels < 1 || options.publishers < 1 || options.per_address < 1)
        fail("clients, channels, publishers and per_address: at least one");
    raise_descriptor_limit();
    poll_fd = epoll_create1(0);
    clients = calloc((size_t)options.clients, sizeof *clients);
    publishers = calloc((size_t)options.publishers, sizeof *publishers);
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, 0, &commands);
    while (!turn(-1) || read_commands())
        continue;
    return 0;
}
