/* walk AUTHORITY METHOD PATH STEP...: does what the steps say with one request, and prints each step and its answer.

   request, open (outgoing-request-write), put-N (write of N bytes), drop-stream, handle, wait (the status, or
   "error N"), read (the response's body; its size), drop-request, drop-future, drop-response. */
#include <stdio.h>
#include "wasi_http.h"

IMPORT("streams", "drop-output-stream") void drop_output_stream(u32 stream);
IMPORT("types", "drop-future-incoming-response") void drop_future_incoming_response(u32 future);

static const char *METHODS[] = {"GET", "HEAD", "POST", "PUT", "DELETE"};

static u32 method_of(const char *name) {
  for (u32 i = 0; i < 5; i++)
    if (!strcmp(name, METHODS[i])) return i;
  exit(5);
}

int main(int argc, char **argv) {
  static char data[1 << 20];
  u32 request = 0, stream = 0, future = 0, response = 0;
  memset(data, 'x', sizeof data);
  for (int i = 4; i < argc; i++) {
    const char *step = argv[i];
    u32 out[4] = {0};
    printf("%s", step);
    if (!strcmp(step, "request")) {
      request = new_outgoing_request(method_of(argv[2]), 0, 0, P(argv[3]), strlen(argv[3]), 0, 0, 1, 0, 0, 0,
                                     P(argv[1]), strlen(argv[1]), new_fields(0, 0));
    } else if (!strcmp(step, "open")) {
      outgoing_request_write(request, P(out));
      if (out[0]) printf("=refused");
      else stream = out[1];
    } else if (!strncmp(step, "put-", 4)) {
      stream_write(stream, P(data), atoi(step + 4), P(out));
      if (out[0]) printf("=refused");
    } else if (!strcmp(step, "drop-stream")) {
      drop_output_stream(stream);
    } else if (!strcmp(step, "handle")) {
      future = handle(request, 0, 0, 0, 0, 0, 0, 0);
    } else if (!strcmp(step, "wait")) {
      future_incoming_response_get(future, P(out));
      if (out[1]) printf("=error %u", out[2]);
      else printf("=%u", incoming_response_status(response = out[2]));
    } else if (!strcmp(step, "read")) {
      u32 size = 0;
      incoming_response_consume(response, P(out));
      for (u32 in = out[1];;) {
        stream_read(in, 65536, P(out));
        size += out[2];
        if (out[0] || !out[3]) break;
      }
      printf("=%u", size);
    } else if (!strcmp(step, "drop-request")) {
      drop_outgoing_request(request);
    } else if (!strcmp(step, "drop-future")) {
      drop_future_incoming_response(future);
    } else if (!strcmp(step, "drop-response")) {
      drop_incoming_response(response);
    } else {
      return 5;
    }
    printf("\n");
    fflush(stdout);
  }
  return 0;
}
