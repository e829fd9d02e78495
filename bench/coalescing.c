/*
 * A server in C that coalesces: how fast the same system calls can be, with the same work for them.
 *
 * One epoll loop. All that is ready is read and handled first; what that publishes is put together
 * for each channel, and each subscriber gets it in one write. Requests are checked as a server has
 * to: their signature (MD5 of the body, HMAC-SHA256), their age, and their JSON. So are
 * subscriptions to private channels and client events. Slow subscribers have a buffer.
 *
 * Left out is what no request needs: limits, presence, webhooks, metrics, TLS, compression,
 * validation of UTF-8, errors with a reason (a bad request ends its connection), and more than one
 * channel for each client.
 *
 *     coalescing PORT KEY SECRET
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>
#include <time.h>

#include "json.h"
#include "serving.h"
#include "signing.h"

enum {
    MAX_DESCRIPTORS = 1 << 16,
    BUCKETS = 1 << 15,
    EVENTS = 512,
    READ_BYTES = 1 << 17,
    MAX_PARAMETERS = 16,
    MAX_MEMBERS = 16,
    PARTS = 64,
    CLOCK_SKEW_S = 600,
};

/* Bytes that grow. */
struct buffer {
    char *bytes;
    int length, room;
};

/* An event of this turn, in its channel's buffer: where it ends, and which descriptor excludes. */
struct event {
    int end, excluded;
};

struct channel {
    struct slice name;
    struct channel *next; /* of the same bucket */
    int *subscribers, count, room;
    struct buffer frames; /* of this turn */
    struct event *events;
    int events_count, events_room, exclusions;
};

struct connection {
    int open, websocket, socket_id;
    struct buffer rest;  /* of what was read: it is not complete */
    struct buffer reply; /* what only this connection gets in this turn, or what it has yet to read */
    int touched, waiting; /* listed in `touched`; the kernel has no room */
    struct channel *channel;
    int position, since; /* among its subscribers; how much of this turn's frames came before it */
};

static struct connection connections[MAX_DESCRIPTORS];
static struct channel *channels[BUCKETS];
static struct channel **dirty;
static int *touched, dirty_count, dirty_room, touched_count, touched_room, poll_fd, next_socket_id;
static char received[READ_BYTES];
static const char *app_key;
static struct hmac_key app_secret;

/* -- Bytes ------------------------------------------------------------------------------------ */

static void reserve(struct buffer *buffer, int more) {
    if (buffer->length + more > buffer->room) {
        buffer->room = (buffer->length + more) * 2;
        buffer->bytes = realloc(buffer->bytes, (size_t)buffer->room);
    }
}

static void append(struct buffer *buffer, const char *bytes, int length) {
    reserve(buffer, length);
    memcpy(buffer->bytes + buffer->length, bytes, (size_t)length);
    buffer->length += length;
}

static void free_buffer(struct buffer *buffer) {
    free(buffer->bytes);
    memset(buffer, 0, sizeof *buffer);
}

/* Have *fd* get what its buffer holds at the end of this turn. */
static void touch(int fd) {
    if (connections[fd].touched)
        return;
    connections[fd].touched = 1;
    if (touched_count == touched_room) {
        touched_room = touched_room ? touched_room * 2 : 1024;
        touched = realloc(touched, (size_t)touched_room * sizeof *touched);
    }
    touched[touched_count++] = fd;
}

static void reply(int fd, const char *bytes, int length) {
    append(&connections[fd].reply, bytes, length);
    touch(fd);
}

static void reply_message(int fd, const char *message) {
    char frame[1024];
    reply(fd, frame, make_frame(frame, message, (int)strlen(message)));
}

/* -- Channels --------------------------------------------------------------------------------- */

static struct channel *channel_of(struct slice name) {
    uint32_t hash = 2166136261u;
    for (int i = 0; i < name.length; i++)
        hash = (hash ^ (unsigned char)name.at[i]) * 16777619u;
    struct channel **place = &channels[hash % BUCKETS];
    for (; *place; place = &(*place)->next)
        if (same((*place)->name, name))
            return *place;
    struct channel *made = *place = calloc(1, sizeof *made);
    made->name = (struct slice){strndup(name.at, (size_t)name.length), name.length};
    return made;
}

static void unsubscribe(int fd) {
    struct channel *channel = connections[fd].channel;
    if (!channel)
        return;
    int last = channel->subscribers[--channel->count], position = connections[fd].position;
    channel->subscribers[position] = last;
    connections[last].position = position;
    connections[fd].channel = NULL;
}

static void subscribe(int fd, struct channel *channel) {
    unsubscribe(fd);
    if (channel->count == channel->room) {
        channel->room = channel->room ? channel->room * 2 : 4;
        channel->subscribers =
            realloc(channel->subscribers, (size_t)channel->room * sizeof *channel->subscribers);
    }
    connections[fd].position = channel->count;
    connections[fd].since = channel->frames.length;
    connections[fd].channel = channel;
    channel->subscribers[channel->count++] = fd;
}

/* Queue an event for the end of this turn. Its parts are JSON, as they came. */
static void publish(struct channel *channel, struct slice name, struct slice data, int excluded) {
    static struct buffer text;
    text.length = 0;
    append(&text, "{\"event\":", 9);
    append(&text, name.at, name.length);
    append(&text, ",\"channel\":\"", 12);
    append(&text, channel->name.at, channel->name.length);
    append(&text, "\",\"data\":", 9);
    append(&text, data.at, data.length);
    append(&text, "}", 1);
    if (!channel->frames.length) {
        if (dirty_count == dirty_room) {
            dirty_room = dirty_room ? dirty_room * 2 : 1024;
            dirty = realloc(dirty, (size_t)dirty_room * sizeof(struct channel *));
        }
        dirty[dirty_count++] = channel;
    }
    reserve(&channel->frames, text.length + 10);
    channel->frames.length += make_frame(channel->frames.bytes + channel->frames.length, text.bytes,
                                         text.length);
    if (channel->events_count == channel->events_room) {
        channel->events_room = channel->events_room ? channel->events_room * 2 : 16;
        channel->events =
            realloc(channel->events, (size_t)channel->events_room * sizeof *channel->events);
    }
    channel->events[channel->events_count++] =
        (struct event){.end = channel->frames.length, .excluded = excluded};
    channel->exclusions += excluded >= 0;
}

/* -- Writing ---------------------------------------------------------------------------------- */

static void end(int fd) {
    unsubscribe(fd);
    free_buffer(&connections[fd].rest);
    free_buffer(&connections[fd].reply);
    int listed = connections[fd].touched;
    memset(&connections[fd], 0, sizeof connections[fd]);
    connections[fd].touched = listed;
    close(fd);
}

/* Write what its buffer holds and then *parts*, in one call; keep what the kernel has no room for. */
static void write_out(int fd, struct iovec *parts, int count) {
    struct connection *one = &connections[fd];
    struct iovec all[PARTS + 1];
    if (one->waiting) {
        for (int i = 0; i < count; i++)
            append(&one->reply, parts[i].iov_base, (int)parts[i].iov_len);
        return;
    }
    int first = one->reply.length ? 1 : 0;
    if (first)
        all[0] = (struct iovec){one->reply.bytes, (size_t)one->reply.length};
    memcpy(all + first, parts, (size_t)count * sizeof *parts);
    count += first;
    ssize_t sent = count == 1 ? send(fd, all[0].iov_base, all[0].iov_len, MSG_NOSIGNAL)
                              : writev(fd, all, count);
    if (sent < 0 && errno != EAGAIN) {
        shutdown(fd, SHUT_RDWR); /* which epoll says */
        one->reply.length = 0;
        return;
    }
    sent = sent < 0 ? 0 : sent;
    struct buffer kept = {0};
    for (int i = 0; i < count; i++) {
        if ((size_t)sent >= all[i].iov_len) {
            sent -= (ssize_t)all[i].iov_len;
            continue;
        }
        append(&kept, (char *)all[i].iov_base + sent, (int)(all[i].iov_len - (size_t)sent));
        sent = 0;
    }
    one->reply.length = 0;
    if (kept.length) {
        free_buffer(&one->reply);
        one->reply = kept;
    }
    if (kept.length) {
        one->waiting = 1;
        watch(poll_fd, fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
}

/* Write this turn's events of *channel* to a subscriber that some of them exclude, or that came late. */
static void write_some(int fd, struct channel *channel) {
    struct iovec parts[PARTS];
    int count = 0, begin = connections[fd].since;
    for (int i = 0; i < channel->events_count; i++) {
        struct event *event = &channel->events[i];
        int before = i ? channel->events[i - 1].end : 0;
        if (event->end <= connections[fd].since)
            continue;
        if (event->excluded == fd) {
            if (before > begin)
                parts[count++] = (struct iovec){channel->frames.bytes + begin,
                                                (size_t)(before - begin)};
            begin = event->end;
        }
        if (count == PARTS - 1) {
            write_out(fd, parts, count);
            count = 0;
        }
    }
    if (channel->frames.length > begin)
        parts[count++] = (struct iovec){channel->frames.bytes + begin,
                                        (size_t)(channel->frames.length - begin)};
    if (count)
        write_out(fd, parts, count);
    connections[fd].since = 0;
}

static void write_channel(struct channel *channel) {
    struct iovec whole = {channel->frames.bytes, (size_t)channel->frames.length};
    for (int i = 0; i < channel->count; i++) {
        int fd = channel->subscribers[i];
        if (channel->exclusions || connections[fd].since)
            write_some(fd, channel);
        else
            write_out(fd, &whole, 1);
    }
    channel->frames.length = channel->events_count = channel->exclusions = 0;
}

/* Write all that this turn has brought: answers first, as a publisher waits for its own. */
static void end_turn(void) {
    for (int i = 0; i < touched_count; i++) {
        struct connection *one = &connections[touched[i]];
        one->touched = 0;
        if (one->open && one->reply.length && !one->waiting)
            write_out(touched[i], NULL, 0);
    }
    touched_count = 0;
    for (int i = 0; i < dirty_count; i++)
        write_channel(dirty[i]);
    dirty_count = 0;
}

/* -- HTTP ------------------------------------------------------------------------------------- */

/* Return the value of a header, whatever the case of its name. */
static struct slice header(const char *head, const char *end, const char *name) {
    size_t length = strlen(name);
    for (const char *line = head; (line = memchr(line, '\n', (size_t)(end - line)));) {
        line++;
        if ((size_t)(end - line) > length && line[length] == ':' &&
            !strncasecmp(line, name, length)) {
            const char *value = line + length + 1, *last;
            while (*value == ' ')
                value++;
            last = memchr(value, '\r', (size_t)(end - value));
            return (struct slice){value, (int)((last ? last : end) - value)};
        }
    }
    return (struct slice){0};
}

static int by_name(const void *one, const void *other) {
    const struct slice *a = one, *b = other;
    int common = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->at, b->at, (size_t)common);
    return order ? order : a->length - b->length;
}

static struct slice value_of(const struct slice *parameters, int count, const char *name) {
    int length = (int)strlen(name);
    for (int i = 0; i < count; i++)
        if (parameters[i].length > length && !memcmp(parameters[i].at, name, (size_t)length))
            return (struct slice){parameters[i].at + length, parameters[i].length - length};
    return (struct slice){0};
}

/* Whether a POST is signed by the app's secret, and not long ago. */
static int authentic(struct slice path, struct slice query, struct slice body) {
    struct slice parameters[MAX_PARAMETERS];
    int count = 0, length;
    for (const char *at = query.at, *end = query.at + query.length; at < end;) {
        const char *next = memchr(at, '&', (size_t)(end - at));
        next = next ? next : end;
        if (count == MAX_PARAMETERS)
            return 0;
        parameters[count++] = (struct slice){at, (int)(next - at)};
        at = next + 1;
    }
    struct slice key = value_of(parameters, count, "auth_key=");
    struct slice stamp = value_of(parameters, count, "auth_timestamp=");
    struct slice checksum = value_of(parameters, count, "body_md5=");
    struct slice signature = value_of(parameters, count, "auth_signature=");
    char hash[65], text[2048];
    if (!is(key, app_key) || path.length + query.length > (int)sizeof text - 16 ||
        labs((long)time(NULL) - atol(stamp.length ? stamp.at : "0")) >= CLOCK_SKEW_S)
        return 0;
    md5(body.at, (size_t)body.length, hash);
    if (!is(checksum, hash))
        return 0;
    qsort(parameters, (size_t)count, sizeof *parameters, by_name);
    length = sprintf(text, "POST\n%.*s\n", path.length, path.at);
    int first = 1;
    for (int i = 0; i < count; i++) {
        if (parameters[i].length > 15 && !memcmp(parameters[i].at, "auth_signature=", 15))
            continue;
        length += sprintf(text + length, "%s%.*s", first ? "" : "&", parameters[i].length,
                          parameters[i].at);
        first = 0;
    }
    hmac_with(&app_secret, text, (size_t)length, hash);
    return is(signature, hash);
}

static int fd_of(struct slice socket_id) {
    int fd, number;
    if (!socket_id.length || sscanf(socket_id.at, "%d.%d", &fd, &number) != 2 || fd < 0 ||
        fd >= MAX_DESCRIPTORS)
        return -1;
    return connections[fd].websocket && connections[fd].socket_id == number ? fd : -1;
}

/* Publish the event that an object of the API is. Return whether it was one. */
static int take_event(const struct member *members, int count) {
    struct slice name = member(members, count, "name"), data = member(members, count, "data");
    struct slice channel = member(members, count, "channel"), item;
    struct slice list = member(members, count, "channels");
    int excluded = fd_of(unquoted(member(members, count, "socket_id")));
    if (!name.length || !data.length || !(channel.length || list.length))
        return 0;
    if (channel.length)
        publish(channel_of(unquoted(channel)), name, data, excluded);
    while (json_item(&list, &item))
        publish(channel_of(unquoted(item)), name, data, excluded);
    return 1;
}

static int take_post(int fd, struct slice path, struct slice query, struct slice body) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                 "Content-Length: 2\r\n\r\n{}";
    struct member members[MAX_MEMBERS];
    if (!authentic(path, query, body))
        return 0;
    int count = json_object(body, members, MAX_MEMBERS);
    struct slice batch = member(members, count, "batch"), item;
    if (!batch.length && !take_event(members, count))
        return 0;
    while (json_item(&batch, &item)) {
        struct member event[MAX_MEMBERS];
        if (!take_event(event, json_object(item, event, MAX_MEMBERS)))
            return 0;
    }
    reply(fd, answer, sizeof answer - 1);
    return 1;
}

static void take_upgrade(int fd, const char *head, const char *end) {
    char text[512], digest_text[40], hello[256];
    uint8_t digest[20];
    struct slice key = header(head, end, "Sec-WebSocket-Key");
    int length = snprintf(text, sizeof text, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.length,
                          key.at);
    sha1(text, (size_t)length, digest);
    to_base64(digest, 20, digest_text);
    length = sprintf(text,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                     digest_text);
    reply(fd, text, length);
    connections[fd].websocket = 1;
    connections[fd].socket_id = ++next_socket_id;
    sprintf(hello,
            "{\"event\":\"pusher:connection_established\",\"data\":"
            "\"{\\\"socket_id\\\":\\\"%d.%d\\\",\\\"activity_timeout\\\":120}\"}",
            fd, next_socket_id);
    reply_message(fd, hello);
}

/* Handle a request; return how many bytes it had, 0 where more are needed, -1 where it is bad. */
static int take_request(int fd, char *at, int length) {
    char *end = memmem(at, (size_t)length, "\r\n\r\n", 4);
    if (!end)
        return 0;
    int head = (int)(end - at) + 4;
    char *target = memchr(at, ' ', (size_t)head), *space, *mark;
    if (!target || !(space = memchr(target + 1, ' ', (size_t)(at + head - target - 1))))
        return -1;
    target++;
    if (header(at, end, "Upgrade").length) {
        take_upgrade(fd, at, end);
        return head;
    }
    struct slice size = header(at, end, "Content-Length");
    int body = size.length ? atoi(size.at) : 0;
    if (body < 0 || body > READ_BYTES - head)
        return -1;
    if (length < head + body)
        return 0;
    mark = memchr(target, '?', (size_t)(space - target));
    if (!mark || memcmp(at, "POST ", 5))
        return -1;
    struct slice path = {target, (int)(mark - target)};
    struct slice query = {mark + 1, (int)(space - mark - 1)};
    return take_post(fd, path, query, (struct slice){at + head, body}) ? head + body : -1;
}

/* -- WebSocket -------------------------------------------------------------------------------- */

static int may_subscribe(int fd, struct slice name, struct slice auth) {
    char text[512], signature[65], expected[256];
    if (name.length < 8 || memcmp(name.at, "private-", 8))
        return 1;
    int length = snprintf(text, sizeof text, "%d.%d:%.*s", fd, connections[fd].socket_id,
                          name.length, name.at);
    hmac_with(&app_secret, text, (size_t)length, signature);
    snprintf(expected, sizeof expected, "%s:%s", app_key, signature);
    return is(auth, expected);
}

static int take_subscribe(int fd, struct slice data) {
    struct member members[MAX_MEMBERS];
    char text[512];
    int count = json_object(data, members, MAX_MEMBERS);
    struct slice name = unquoted(member(members, count, "channel"));
    if (!name.length || name.length > 200 ||
        !may_subscribe(fd, name, unquoted(member(members, count, "auth"))))
        return 0;
    subscribe(fd, channel_of(name));
    sprintf(text,
            "{\"event\":\"pusher_internal:subscription_succeeded\",\"channel\":\"%.*s\","
            "\"data\":\"{}\"}",
            name.length, name.at);
    reply_message(fd, text);
    return 1;
}

static int take_message(int fd, struct slice text) {
    struct member members[MAX_MEMBERS];
    int count = json_object(text, members, MAX_MEMBERS);
    struct slice event = member(members, count, "event"), data = member(members, count, "data");
    struct slice name = unquoted(event), channel = unquoted(member(members, count, "channel"));
    struct connection *one = &connections[fd];
    if (is(name, "pusher:subscribe"))
        return take_subscribe(fd, data);
    if (is(name, "pusher:ping")) {
        reply_message(fd, "{\"event\":\"pusher:pong\",\"data\":{}}");
        return 1;
    }
    if (name.length < 7 || memcmp(name.at, "client-", 7) || !data.length || !one->channel ||
        !same(one->channel->name, channel) || memcmp(channel.at, "private-", 8))
        return 0;
    publish(one->channel, event, data, fd);
    return 1;
}

static int take_frame(int fd, char *at, int length) {
    char *payload;
    int size, used = open_frame(at, length, &payload, &size), opcode = at[0] & 15;
    if (!used)
        return 0;
    if (opcode != 1)
        return opcode == 10 ? used : -1; /* a pong is fine, and nothing else is sent here */
    return take_message(fd, (struct slice){payload, size}) ? used : -1;
}

/* -- The loop --------------------------------------------------------------------------------- */

static void readable(int fd) {
    struct connection *one = &connections[fd];
    int kept = one->rest.length, used = 0, step = 1;
    memcpy(received, one->rest.bytes, (size_t)kept);
    ssize_t got = recv(fd, received + kept, (size_t)(READ_BYTES - kept), 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        end(fd);
        return;
    }
    int length = kept + (int)got;
    while (used < length && step > 0) {
        step = one->websocket ? take_frame(fd, received + used, length - used)
                              : take_request(fd, received + used, length - used);
        if (step < 0) {
            end(fd);
            return;
        }
        used += step;
    }
    one->rest.length = 0;
    if (used < length)
        append(&one->rest, received + used, length - used);
    else if (kept)
        free_buffer(&one->rest);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept_one(listener, MAX_DESCRIPTORS)) >= 0;) {
        connections[fd].open = 1;
        watch(poll_fd, fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

int main(int count, char **arguments) {
    if (count != 4)
        fail("usage: coalescing PORT KEY SECRET");
    raise_descriptor_limit();
    app_key = arguments[2];
    app_secret = hmac_prepare(arguments[3]);
    int listener = listen_on(atoi(arguments[1]));
    poll_fd = epoll_create1(0);
    watch(poll_fd, listener, EPOLLIN, EPOLL_CTL_ADD);
    struct epoll_event ready[EVENTS];
    for (;;) {
        int many = epoll_wait(poll_fd, ready, EVENTS, -1);
        for (int i = 0; i < many; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
                continue;
            }
            if (ready[i].events & EPOLLOUT) {
                connections[fd].waiting = 0;
                watch(poll_fd, fd, EPOLLIN, EPOLL_CTL_MOD);
                touch(fd);
            }
            if (ready[i].events & ~(uint32_t)EPOLLOUT)
                readable(fd);
        }
        end_turn();
    }
}
