/*
 * JSON (RFC 8259), as far as a server needs it that passes values on as they came: it checks all,
 * decodes nothing, and copies nothing.
 */
#ifndef JSON_H
#define JSON_H

#include <string.h>

struct slice {
    const char *at;
    int length;
};

struct member {
    struct slice name, value; /* the name without its quotes, the value as it came */
};

static inline int same(struct slice one, struct slice other) {
    return one.length == other.length && !memcmp(one.at, other.at, (size_t)one.length);
}

static inline int is(struct slice one, const char *text) {
    return one.length == (int)strlen(text) && !memcmp(one.at, text, (size_t)one.length);
}

static inline const char *json_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

/* The functions below return what follows the value at *at*, or NULL where there is none. */

static inline const char *json_string(const char *at, const char *end) {
    if (at == end || *at++ != '"')
        return NULL;
    for (; at < end; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte == '"')
            return at + 1;
        if (byte < ' ')
            return NULL;
        if (byte != '\\')
            continue;
        if (++at == end || !*at || !strchr("\"\\/bfnrtu", *at))
            return NULL;
        if (*at == 'u') {
            if (end - at < 5 || strspn(at + 1, "0123456789abcdefABCDEF") < 4)
                return NULL;
            at += 4;
        }
    }
    return NULL;
}

static inline const char *json_value(const char *at, const char *end, int depth);

static inline const char *json_members(const char *at, const char *end, char last, int depth) {
    at = json_space(at + 1, end);
    if (at < end && *at == last)
        return at + 1;
    while (at) {
        if (last == '}') {
            if (!(at = json_string(at, end)))
                return NULL;
            at = json_space(at, end);
            if (at == end || *at != ':')
                return NULL;
            at = json_space(at + 1, end);
        }
        if (!(at = json_value(at, end, depth)))
            return NULL;
        at = json_space(at, end);
        if (at == end || (*at != ',' && *at != last))
            return NULL;
        if (*at == last)
            return at + 1;
        at = json_space(at + 1, end);
    }
    return NULL;
}

static inline const char *json_digits(const char *at, const char *end) {
    const char *start = at;
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at == start ? NULL : at;
}

static inline const char *json_number(const char *at, const char *end) {
    const char *start;
    at += at < end && *at == '-';
    if (at < end && *at == '0')
        at++;
    else if (!(at = json_digits(at, end)))
        return NULL;
    if (at < end && *at == '.' && !(at = json_digits(at + 1, end)))
        return NULL;
    if (at < end && (*at == 'e' || *at == 'E')) {
        start = at + 1;
        start += start < end && (*start == '+' || *start == '-');
        return json_digits(start, end);
    }
    return at;
}

static inline const char *json_value(const char *at, const char *end, int depth) {
    static const char *const words[] = {"true", "false", "null"};
    if (at == end || depth > 64)
        return NULL;
    if (*at == '"')
        return json_string(at, end);
    if (*at == '{' || *at == '[')
        return json_members(at, end, *at == '{' ? '}' : ']', depth + 1);
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(end - at) >= length && !memcmp(at, words[i], length))
            return at + length;
    }
    return json_number(at, end);
}

/* Take the members of an object apart; return their number, at most *most*, -1 where it is none. */
static inline int json_object(struct slice text, struct member *members, int most) {
    const char *end = text.at + text.length, *at = json_space(text.at, end);
    int count = 0;
    if (at == end || *at != '{')
        return -1;
    at = json_space(at + 1, end);
    if (at < end && *at == '}')
        return 0;
    while (at < end) {
        const char *name = at, *after = json_string(at, end), *value;
        if (!after)
            return -1;
        at = json_space(after, end);
        if (at == end || *at != ':')
            return -1;
        value = json_space(at + 1, end);
        if (!(at = json_value(value, end, 0)))
            return -1;
        if (count < most)
            members[count++] = (struct member){{name + 1, (int)(after - name) - 2},
                                               {value, (int)(at - value)}};
        at = json_space(at, end);
        if (at < end && *at == '}')
            return json_space(at + 1, end) == end ? count : -1;
        if (at == end || *at != ',')
            return -1;
        at = json_space(at + 1, end);
    }
    return -1;
}

/* Return the value of a member; an empty slice where there is none. */
static inline struct slice member(const struct member *members, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (is(members[i].name, name))
            return members[i].value;
    return (struct slice){0};
}

/* Return a string without its quotes; an empty slice for other values. */
static inline struct slice unquoted(struct slice value) {
    if (value.length < 2 || *value.at != '"')
        return (struct slice){0};
    return (struct slice){value.at + 1, value.length - 2};
}

/* Take the next item off *list*, an array or what is left of one; return whether there was one. */
static inline int json_item(struct slice *list, struct slice *item) {
    const char *end = list->at + list->length, *at = list->at;
    if (!list->length || (*at != '[' && *at != ','))
        return 0;
    at = json_space(at + 1, end);
    const char *after = json_value(at, end, 0);
    if (!after)
        return 0;
    *item = (struct slice){at, (int)(after - at)};
    at = json_space(after, end);
    *list = (struct slice){at, (int)(end - at)};
    return 1;
}

#endif
