/* Dapr's wasi-http for C guests: the imports, and a small client on top of them. */
#ifndef WASI_HTTP_H
#define WASI_HTTP_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
typedef uint32_t u32;
typedef struct { u32 name, name_len, value, value_len; } field_t;

IMPORT("types", "new-fields") u32 new_fields(u32 ptr, u32 len);
IMPORT("types", "drop-fields") void drop_fields(u32 fields);
IMPORT("types", "fields-entries") void fields_entries(u32 fields, u32 out);
IMPORT("types", "new-outgoing-request")
u32 new_outgoing_request(u32 method, u32 method_ptr, u32 method_len, u32 path, u32 path_len, u32 query, u32 query_len,
                         u32 scheme_is_some, u32 scheme, u32 scheme_ptr, u32 scheme_len, u32 authority,
                         u32 authority_len, u32 headers);
IMPORT("types", "outgoing-request-write") void outgoing_request_write(u32 request, u32 out);
IMPORT("types", "drop-outgoing-request") void drop_outgoing_request(u32 request);
IMPORT("types", "future-incoming-response-get") void future_incoming_response_get(u32 future, u32 out);
IMPORT("types", "incoming-response-status") u32 incoming_response_status(u32 response);
IMPORT("types", "incoming-response-headers") u32 incoming_response_headers(u32 response);
IMPORT("types", "incoming-response-consume") void incoming_response_consume(u32 response, u32 out);
IMPORT("types", "drop-incoming-response") void drop_incoming_response(u32 response);
IMPORT("types", "log-it") void log_it(u32 ptr, u32 len);
IMPORT("streams", "read") void stream_read(u32 stream, int64_t len, u32 out);
IMPORT("streams", "write") void stream_write(u32 stream, u32 ptr, u32 len, u32 out);
IMPORT("streams", "drop-input-stream") void drop_input_stream(u32 stream);
IMPORT("default-outgoing-HTTP", "handle")
u32 handle(u32 request, u32 has_options, u32 has_connect, u32 connect, u32 has_first, u32 first, u32 has_between,
           u32 between);

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  (void)align;
  (void)old_size;
  return realloc(old, size);
}

#define P(pointer) ((u32)(uintptr_t)(pointer))

/* Splits http://authority/path?query and makes a request of it. */
static u32 request_to(u32 method, const char *url, u32 headers) {
  u32 scheme = strncmp(url, "https://", 8) == 0 ? 1 : 0;
  const char *authority = url + (scheme ? 8 : 7);
  size_t authority_len = strcspn(authority, "/?");
  const char *path = authority + authority_len;
  size_t path_len = strcspn(path, "?");
  const char *query = path + path_len;
  return new_outgoing_request(method, 0, 0, P(path), path_len, P(query), strlen(query), 1, scheme, 0, 0, P(authority),
                              authority_len, headers);
}
#endif
