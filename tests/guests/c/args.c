/* argv, one per line, argv[0] first. */
#include "say.h"

int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) {
        say(argv[i]);
        say("\n");
    }
    return 0;
}
