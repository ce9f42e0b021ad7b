/* The request's data in upper case. Built for WASI: stdin is the data, stdout becomes the reply. */
#include <ctype.h>
#include <stdio.h>

int main(void) {
    for (int c; (c = getchar()) != EOF;)
        if (putchar(toupper(c)) == EOF) return 1;
    return 0;
}
