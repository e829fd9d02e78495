/*
 * A hostile client of a server, as strong as one core makes it: bytes made beforehand, sent by many
 * connections over and over.
 *
 *     attack NAME=VALUE...
 *
 * Knows sockets and nothing of what it sends. Each connection sends the file *opening* first, where
 * there is one, and waits for the text *greeting*. Then it is ready, and what follows is *mode*:
 *
 *     flood     the file *block*, over and over, as fast as the socket takes it
 *     trickle   the same, one byte a connection every *pause* microseconds
 *     return    *block* once; after the text *answer* (any byte, where it is empty) it disconnects and
 *               comes back; with together=1, all connections disconnect at once
 *     alternate the first *cut* bytes of *block* once and the rest *times* times, over and over, each after an answer
 *               to the one before
 *     hold      *block* once; after *answer* it stays, and sends the file *alive* now and then; when all
 *               have their answer the program prints a line, and ends with its standard input
 *
 * A connection that the server closes is opened again. With read=0, nothing is read once a connection is
 * ready. With numbered=1, each @@@@@@ of *block* becomes the connection's number.
 *
 * It runs for *seconds* from the first connection that is ready, and in the mode return until one has come back;
 * where that has not happened after START_S, it ends. The line of JSON that it prints then says what was sent, how
 * much of that the server had not read by then, and what the attacker did with its time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "process.h"

enum { EVENTS = 256, SEND_AT_ONCE = 1 << 16, READ_BUFFER = 1 << 20, TAIL = 64, RETRY_MS = 10, ALIVE_MS = 20 };
static const double START_S = 15;

enum mode { FLOOD, TRICKLE, RETURN, HOLD, ALTERNATE };

static struct {
    const char *host, *greeting, *answer;
    int port, connections, read, together, numbered, pause, cut, times;
    enum mode mode;
    double seconds;
} options = {.host = "127.0.0.1", .greeting = "", .answer = "", .connections = 1, .read = 1, .times = 1, .seconds = 5};

struct bytes {
    char *text;
    size_t length;
};

static struct bytes opening, block, alive;

enum state { CLOSED, OPENING, GREETED, SENDING, ANSWERED, DONE };

struct connection {
    int fd, number, tail_length;
    unsigned life; /* how often it was opened */
    enum state state;
    size_t at;         /* how much of what it sends now is sent */
    size_t next;       /* where the part begins that is sent after an answer */
    int again;         /* how often the second part was sent */
    struct bytes block;
    char tail[TAIL];   /* the end of what was read, for a text that comes in two parts */
};

static struct connection *connections;
static int poll_fd, ready, most_ready, done, closed;
static uint64_t sent, received, opened, refused, cut_off, rounds;
static double began, first_ready, waited;
static char buffer[TAIL + READ_BUFFER];

static struct bytes read_file(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file)
        fail("%s: %s", name, strerror(errno));
    fseek(file, 0, SEEK_END);
    struct bytes bytes = {.length = (size_t)ftell(file)};
    rewind(file);
    bytes.text = malloc(bytes.length + 1);
    if (!bytes.text || fread(bytes.text, 1, bytes.length, file) != bytes.length)
        fail("%s cannot be read", name);
    fclose(file);
    return bytes;
}

/* -- Connections ------------------------------------------------------------------------------ */

static void interested(struct connection *one, uint32_t events, int operation) {
    struct epoll_event interest = {.events = events | EPOLLRDHUP, .data.ptr = one};
    epoll_ctl(poll_fd, operation, one->fd, &interest);
}

static int counts_as_ready(enum state state) { return state >= SENDING; }

static void enter(struct connection *one, enum state state) {
    if (counts_as_ready(state) && !counts_as_ready(one->state)) {
        opened++;
        if (++ready > most_ready)
            most_ready = ready;
        if (!first_ready)
            first_ready = now();
    }
    ready -= counts_as_ready(one->state) && !counts_as_ready(state);
    done += (state == DONE) - (one->state == DONE);
    closed += (state == CLOSED) - (one->state == CLOSED);
    one->state = state;
    one->at = 0;
    one->tail_length = 0;
    if (state == CLOSED)
        return;
    uint32_t events = state == OPENING ? EPOLLOUT : EPOLLIN;
    if (state == SENDING && options.mode != TRICKLE)
        events = EPOLLOUT | (options.read ? EPOLLIN : 0);
    interested(one, events, EPOLL_CTL_MOD);
}

static void end(struct connection *one) {
    /* A reset: thousands of ports that wait for stragglers would be missing soon. */
    struct linger linger = {.l_onoff = 1};
    setsockopt(one->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    one->next = 0;
    close(one->fd);
    enter(one, CLOSED);
}

static void open_again(struct connection *one) {
    int yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        fail("host: %s is no IPv4 address", options.host);
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (one->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(one->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        refused++;
        close(one->fd);
        return;
    }
    one->life++;
    interested(one, EPOLLOUT, EPOLL_CTL_ADD);
    enter(one, OPENING);
}

/* Return whether *text* is among what was just read; *length* bytes stand behind the tail's room. */
static int arrived(struct connection *one, size_t length, const char *text) {
    char *start = buffer + TAIL - one->tail_length;
    memcpy(start, one->tail, (size_t)one->tail_length);
    length += (size_t)one->tail_length;
    int found = !*text || memmem(start, length, text, strlen(text)) != NULL;
    one->tail_length = length < TAIL ? (int)length : TAIL - 1;
    memcpy(one->tail, start + length - one->tail_length, (size_t)one->tail_length);
    return found;
}

static void answered(struct connection *one) {
    if (options.mode == RETURN && !options.together) {
        rounds++;
        end(one);
        open_again(one);
        return;
    }
    if (options.mode == ALTERNATE) {
        size_t next = one->next;
        enter(one, SENDING);
        one->at = next;
        return;
    }
    enter(one, DONE);
}

static void readable(struct connection *one) {
    /* What is not looked at is not copied either. */
    int unseen = one->state == DONE || (one->state == SENDING && options.mode <= TRICKLE);
    ssize_t got = unseen ? recv(one->fd, NULL, 1 << 30, MSG_TRUNC)
                         : recv(one->fd, buffer + TAIL, READ_BUFFER, 0);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        cut_off += one->state != OPENING;
        refused += one->state == OPENING;
        end(one);
        return;
    }
    received += (uint64_t)got;
    if (one->state == GREETED && arrived(one, (size_t)got, options.greeting))
        enter(one, SENDING);
    else if (one->state == ANSWERED && arrived(one, (size_t)got, options.answer))
        answered(one);
}

/* A part of *length* is sent: choose the next one. */
static void turn_over(struct connection *one, size_t length) {
    int second = length == one->block.length;
    one->again = second ? one->again + 1 : 0;
    one->next = second && one->again == options.times ? 0 : (size_t)options.cut;
}

static void writable(struct connection *one) {
    struct bytes *bytes = one->state == OPENING ? &opening : &one->block;
    size_t length = bytes->length;
    if (options.mode == ALTERNATE && one->state == SENDING && one->at < (size_t)options.cut)
        length = (size_t)options.cut;
    size_t left = length - one->at;
    if (options.mode == TRICKLE && one->state == SENDING)
        left = left > 0;
    ssize_t went = 0;
    if (left) {
        went = send(one->fd, bytes->text + one->at, left < SEND_AT_ONCE ? left : SEND_AT_ONCE, MSG_NOSIGNAL);
        if (went < 0) {
            if (errno == EAGAIN || errno == EINTR)
                return;
            cut_off += one->state != OPENING;
            refused += one->state == OPENING;
            end(one);
            return;
        }
    }
    one->at += (size_t)went;
    if (one->state == SENDING)
        sent += (uint64_t)went;
    if (one->at < length)
        return;
    if (one->state == SENDING)
        turn_over(one, length);
    if (one->state == OPENING)
        enter(one, *options.greeting ? GREETED : SENDING);
    else if (options.mode <= TRICKLE)
        one->at = 0;
    else
        enter(one, ANSWERED);
}

/* -- The time between ------------------------------------------------------------------------- */

static void disconnect_together(void) {
    for (int i = 0; i < options.connections; i++)
        if (connections[i].state != CLOSED)
            end(&connections[i]);
    rounds += (uint64_t)options.connections;
    for (int i = 0; i < options.connections; i++)
        open_again(&connections[i]);
}

static void turn(int timeout_ms) {
    struct epoll_event events[EVENTS];
    double before = now();
    int many = epoll_wait(poll_fd, events, EVENTS, timeout_ms);
    waited += now() - before;
    for (int i = 0; i < many; i++) {
        struct connection *one = events[i].data.ptr;
        if (!one) /* standard input ended */
            exit(0);
        unsigned life = one->life;
        if (one->state != CLOSED && events[i].events & EPOLLIN)
            readable(one);
        else if (one->state != CLOSED && events[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
            cut_off += one->state != OPENING;
            refused += one->state == OPENING;
            end(one);
        }
        if (one->life == life && (one->state == OPENING || one->state == SENDING) &&
            events[i].events & EPOLLOUT)
            writable(one);
    }
    if (options.together && done == options.connections)
        disconnect_together();
}

static void trickle(void) {
    for (int i = 0; i < options.connections; i++)
        if (connections[i].state == SENDING)
            writable(&connections[i]);
}

static void hold(void) {
    while (done < options.connections) {
        if (now() - began > START_S + 30)
            fail("%d of %d connections are ready", done, options.connections);
        turn(100);
    }
    puts("ready");
    fflush(stdout);
    struct epoll_event end_of_input = {.events = EPOLLIN | EPOLLHUP, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, 0, &end_of_input);
    double next = now();
    for (int at = 0;; turn(ALIVE_MS)) {
        if (done < options.connections)
            fail("the server closed a connection that was idle");
        if (alive.length && now() >= next) {
            next += ALIVE_MS / 1e3;
            if (send(connections[at].fd, alive.text, alive.length, MSG_NOSIGNAL) < 0)
                fail("send: %s", strerror(errno));
            at = (at + 1) % options.connections;
        }
    }
}

static int over(double time) {
    if (!first_ready || (options.mode == RETURN && !rounds))
        return time - (first_ready ? first_ready : began) >= START_S;
    return time - first_ready >= options.seconds;
}

static void attack(void) {
    double next = now(), retry = next;
    for (;;) {
        double time = now();
        if (over(time))
            return;
        if (closed && time >= retry) {
            for (int i = 0; i < options.connections; i++)
                if (connections[i].state == CLOSED)
                    open_again(&connections[i]);
            retry = time + RETRY_MS / 1e3;
        }
        int timeout_ms = RETRY_MS;
        if (options.mode == TRICKLE) {
            if (time >= next) {
                trickle();
                next = time + options.pause / 1e6;
            }
            timeout_ms = (int)((next - now()) * 1e3);
        }
        turn(timeout_ms > 0 ? timeout_ms : 0);
    }
}

/* Return the bytes that wait in the kernel: what was sent, and what the server has not read. */
static unsigned long long unread(void) {
    char line[512];
    unsigned long long all = 0;
    unsigned local, remote, to_send, to_read;
    FILE *sockets = fopen("/proc/net/tcp", "r");
    while (sockets && fgets(line, sizeof line, sockets))
        if (sscanf(line, "%*d: %*x:%x %*x:%x %*x %x:%x", &local, &remote, &to_send, &to_read) == 4)
            all += (remote == (unsigned)options.port ? to_send : 0) + (local == (unsigned)options.port ? to_read : 0);
    if (sockets)
        fclose(sockets);
    return all;
}

static void report(void) {
    unsigned long long left = unread();
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double time = now(), cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    printf("{\"seconds\": %.3f, \"attacked\": %.3f, \"waited\": %.3f, \"cpu\": %.3f, \"connections\": %d, "
           "\"opened\": %llu, \"refused\": %llu, \"cut_off\": %llu, \"sent\": %llu, \"received\": %llu, "
           "\"unread\": %llu, \"rounds\": %llu}\n",
           time - began, first_ready ? time - first_ready : 0, waited, cpu, most_ready,
           (unsigned long long)opened, (unsigned long long)refused, (unsigned long long)cut_off,
           (unsigned long long)sent, (unsigned long long)received, left,
           (unsigned long long)rounds);
}

/* -- Beginning --------------------------------------------------------------------------------- */

static void read_option(const char *name, const char *value) {
    static const char *modes[] = {"flood", "trickle", "return", "hold", "alternate"};
    if (!strcmp(name, "host"))
        options.host = value;
    else if (!strcmp(name, "port"))
        options.port = atoi(value);
    else if (!strcmp(name, "connections"))
        options.connections = atoi(value);
    else if (!strcmp(name, "seconds"))
        options.seconds = atof(value);
    else if (!strcmp(name, "read"))
        options.read = atoi(value);
    else if (!strcmp(name, "together"))
        options.together = atoi(value);
    else if (!strcmp(name, "numbered"))
        options.numbered = atoi(value);
    else if (!strcmp(name, "pause"))
        options.pause = atoi(value);
    else if (!strcmp(name, "times"))
        options.times = atoi(value);
    else if (!strcmp(name, "cut"))
        options.cut = atoi(value);
    else if (!strcmp(name, "greeting"))
        options.greeting = value;
    else if (!strcmp(name, "answer"))
        options.answer = value;
    else if (!strcmp(name, "opening"))
        opening = read_file(value);
    else if (!strcmp(name, "block"))
        block = read_file(value);
    else if (!strcmp(name, "alive"))
        alive = read_file(value);
    else if (!strcmp(name, "mode")) {
        for (options.mode = FLOOD; strcmp(value, modes[options.mode]); options.mode++)
            if (options.mode == ALTERNATE)
                fail("mode: there is no %s", value);
    } else
        fail("there is no option %s", name);
}

static void number(struct connection *one) {
    char digits[16], *at = one->block.text, *end_of_text = at + one->block.length;
    snprintf(digits, sizeof digits, "%06d", one->number % 1000000);
    while ((at = memmem(at, (size_t)(end_of_text - at), "@@@@@@", 6)))
        memcpy(at, digits, 6);
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        char *value = strchr(arguments[i], '=');
        if (!value)
            fail("usage: attack NAME=VALUE...");
        *value = 0;
        read_option(arguments[i], value + 1);
    }
    if (!block.length || options.connections < 1 || strlen(options.greeting) >= TAIL ||
        strlen(options.answer) >= TAIL)
        fail("a block and a connection are needed, and texts shorter than %d", TAIL);
    raise_descriptor_limit();
    poll_fd = epoll_create1(0);
    connections = calloc((size_t)options.connections, sizeof *connections);
    for (int i = 0; i < options.connections; i++) {
        struct connection *one = &connections[i];
        one->number = i;
        one->block = block;
        if (options.numbered) {
            one->block.text = malloc(block.length);
            memcpy(one->block.text, block.text, block.length);
            number(one);
        }
    }
    closed = options.connections;
    began = now();
    for (int i = 0; i < options.connections; i++)
        open_again(&connections[i]);
    if (options.mode == HOLD)
        hold();
    attack();
    report();
    return 0;
}
