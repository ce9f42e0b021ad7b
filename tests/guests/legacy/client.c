/* client URL [METHOD [NAME:VALUE...]]: sends stdin (if there is any) and prints status, headers, an empty line and the
   body. Header lines given replace its own.
   client -n COUNT URL: COUNT requests at once; prints the status of each, then `total BYTES`.
   Exit code 3: the request failed (the error number is printed). 4: the body broke off. */
#include <stdio.h>
#include "wasi_http.h"

static const char *METHODS[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};

static u32 response_of(u32 future) {
  u32 out[3];
  future_incoming_response_get(future, P(out));
  if (!out[0] || out[1]) {
    printf("error %u\n", out[2]);
    exit(3);
  }
  return out[2];
}

static size_t copy_body(u32 response, FILE *to) {
  u32 out[2], piece[4];
  size_t total = 0;
  incoming_response_consume(response, P(out));
  if (out[0]) exit(5);
  for (;;) {
    stream_read(out[1], 65536, P(piece));
    if (piece[0]) {
      printf("\nbroken after %zu\n", total);
      exit(4);
    }
    if (to) fwrite((void *)(uintptr_t)piece[1], 1, piece[2], to);
    total += piece[2];
    if (piece[2]) free((void *)(uintptr_t)piece[1]);
    if (!piece[3]) break;
  }
  drop_input_stream(out[1]);
  return total;
}

static int many(int count, const char *url) {
  u32 futures[64];
  size_t total = 0;
  if (count > 64) return 5;
  u32 headers = new_fields(0, 0);
  for (int i = 0; i < count; i++) futures[i] = handle(request_to(0, url, headers), 0, 0, 0, 0, 0, 0, 0);
  for (int i = 0; i < count; i++) {
    u32 response = response_of(futures[i]);
    printf("%u\n", incoming_response_status(response));
    total += copy_body(response, NULL);
    drop_incoming_response(response);
  }
  printf("total %zu\n", total);
  return 0;
}

static u32 given_headers(int count, char **given) {
  field_t lines[64];
  if (count > 64) exit(5);
  for (int i = 0; i < count; i++) {
    char *colon = strchr(given[i], ':');
    if (!colon) exit(5);
    lines[i] = (field_t){P(given[i]), colon - given[i], P(colon + 1), strlen(colon + 1)};
  }
  return new_fields(P(lines), count);
}

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "-n")) return many(atoi(argv[2]), argv[3]);
  static char body[1 << 21];
  size_t body_len = argc > 2 ? fread(body, 1, sizeof body, stdin) : 0;
  u32 method = 0;
  for (u32 i = 0; argc > 2 && i < 9; i++)
    if (!strcmp(argv[2], METHODS[i])) method = i;
  field_t lines[] = {{P("content-type"), 12, P("text/plain"), 10}, {P("x-guest"), 7, P("c"), 1}};
  u32 headers = argc > 3 ? given_headers(argc - 3, argv + 3) : new_fields(P(lines), 2);
  u32 request = request_to(method, argv[1], headers);
  drop_fields(headers);
  if (body_len) {
    u32 out[2];
    outgoing_request_write(request, P(out));
    if (out[0]) return 5;
    for (size_t at = 0; at < body_len; at += 50000) {
      u32 length = body_len - at < 50000 ? body_len - at : 50000, wrote[2];
      stream_write(out[1], P(body + at), length, P(wrote));
      if (wrote[0] || wrote[1] != length) return 6;
    }
  }
  u32 response = response_of(handle(request, 0, 0, 0, 0, 0, 0, 0));
  drop_outgoing_request(request);
  log_it(P("answered"), 8);
  printf("%u\n", incoming_response_status(response));
  u32 fields = incoming_response_headers(response), entries[2];
  fields_entries(fields, P(entries));
  field_t *line = (field_t *)(uintptr_t)entries[0];
  for (u32 i = 0; i < entries[1]; i++)
    printf("%.*s: %.*s\n", (int)line[i].name_len, (char *)(uintptr_t)line[i].name, (int)line[i].value_len,
           (char *)(uintptr_t)line[i].value);
  drop_fields(fields);
  printf("\n");
  copy_body(response, stdout);
  drop_incoming_response(response);
  return 0;
}
