/* As much JSON as the case runner needs: read, look up, compare. A value keeps its own text, so nothing is written. */
#ifndef JSON_H
#define JSON_H

#include "check.h"
#include <ctype.h>
#include <math.h>
#include <stdarg.h>

/* A text as printf makes it, to be freed. */
static inline char *print(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline char *print(const char *format, ...) {
    char *text = NULL;
    va_list values;
    va_start(values, format);
    CHECK(vasprintf(&text, format, values) >= 0);
    va_end(values);
    return text;
}

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_LIST, JSON_OBJECT };

struct json {
    enum json_type type;
    char *key, *text; /* decoded: the name in an object; a string's own text */
    const char *raw;  /* as it was read */
    size_t len;
    double number;
    struct json *child, *next;
};

static inline const char *json_space(const char *at) {
    while (isspace((unsigned char)*at)) at++;
    return at;
}

/* Reads a string's text up to the closing quote, and decodes it. */
static inline char *json_text(const char **at) {
    const char *from = *at + 1;
    size_t n = 0;
    const char *end = from;
    while (*end != '"') end += *end == '\\' ? 2 : 1;
    char *text = malloc((size_t)(end - from) + 1);
    for (; from < end; from++) {
        static const char *const names = "bfnrt", *const values = "\b\f\n\r\t";
        unsigned code = 0;
        if (*from != '\\') {
            text[n++] = *from;
        } else if (*++from != 'u') {
            const char *name = strchr(names, *from);
            text[n++] = name ? values[name - names] : *from;
        } else {
            sscanf(from + 1, "%4x", &code);
            from += 4;
            if (code >= 0xd800 && code < 0xdc00 && from[1] == '\\') {
                unsigned low = 0;
                sscanf(from + 3, "%4x", &low);
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                from += 6;
            }
            int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
            static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
            text[n++] = (char)(first[more] | code >> (6 * more));
            while (more--) text[n++] = (char)(0x80 | ((code >> (6 * more)) & 0x3f));
        }
    }
    text[n] = 0;
    *at = end + 1;
    return text;
}

/* Reads one value of a text that is known to be JSON. */
static inline struct json *json_read(const char **at) {
    struct json *value = calloc(1, sizeof *value);
    const char *p = value->raw = json_space(*at);
    if (*p == '{' || *p == '[') {
        value->type = *p == '{' ? JSON_OBJECT : JSON_LIST;
        struct json **last = &value->child;
        for (p = json_space(p + 1); *p != '}' && *p != ']'; p = json_space(*p == ',' ? p + 1 : p)) {
            char *key = NULL;
            if (value->type == JSON_OBJECT) {
                p = json_space(p);
                key = json_text(&p);
                p = json_space(p) + 1;
            }
            *last = json_read(&p);
            (*last)->key = key;
            last = &(*last)->next;
            p = json_space(p);
            CHECK(*p == ',' || *p == '}' || *p == ']', "no JSON: %.40s", p);
        }
        p++;
    } else if (*p == '"') {
        value->type = JSON_STRING;
        value->text = json_text(&p);
    } else if (isalpha((unsigned char)*p)) {
        value->type = *p == 'n' ? JSON_NULL : JSON_BOOL;
        value->number = *p == 't';
        while (isalpha((unsigned char)*p)) p++;
    } else {
        char *end = NULL;
        value->type = JSON_NUMBER;
        value->number = strtod(p, &end);
        CHECK(end != p, "no JSON: %.40s", p);
        p = end;
    }
    value->len = (size_t)(p - value->raw);
    *at = p;
    return value;
}

static inline struct json *json_parse(const char *text) { return json_read(&text); }

static inline void json_free(struct json *value) {
    while (value) {
        struct json *next = value->next;
        json_free(value->child);
        free(value->key);
        free(value->text);
        free(value);
        value = next;
    }
}

/* A field of an object, or NULL. */
static inline struct json *json_get(const struct json *object, const char *key) {
    struct json *field = object && object->type == JSON_OBJECT ? object->child : NULL;
    while (field && strcmp(field->key, key) != 0) field = field->next;
    return field;
}

static inline const char *json_string(const struct json *object, const char *key) {
    struct json *field = json_get(object, key);
    return field && field->type == JSON_STRING ? field->text : "";
}

/* Whether a value is as expected: objects by the fields that are expected, all else exactly; a list of strings that is
   expected of a string means any of them. Fields whose names are in `but` are somebody else's to check. */
static inline int json_holds(const struct json *expected, const struct json *actual, const char *but) {
    if (!actual) return 0;
    const struct json *e = expected->child, *a = actual->child;
    if (expected->type == JSON_LIST && actual->type == JSON_STRING) {
        for (; e; e = e->next)
            if (json_holds(e, actual, "")) return 1;
        return 0;
    }
    if (expected->type != actual->type) return 0;
    switch (expected->type) {
    case JSON_OBJECT:
        for (; e; e = e->next)
            if (!strstr(but, e->key) && !json_holds(e, json_get(actual, e->key), "")) return 0;
        return 1;
    case JSON_LIST:
        for (; e && a; e = e->next, a = a->next)
            if (!json_holds(e, a, "")) return 0;
        return !e && !a;
    case JSON_STRING: return strcmp(expected->text, actual->text) == 0;
    case JSON_NULL: return 1;
    default: return fabs(expected->number - actual->number) < 1e-12;
    }
}

#endif
