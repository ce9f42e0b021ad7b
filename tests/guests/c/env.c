/* The environment, one NAME=VALUE per line, in the order the host gave it. */
#include "say.h"

extern char **environ;

int main(void) {
    /* wasi-libc fills `environ` only for programs that name it; naming it is this guest's purpose. */
    for (char **e = environ; e && *e; e++) {
        say(*e);
        say("\n");
    }
    return 0;
}
