// Writes stdin in upper case. Arguments: "-v" also writes argv and the environment to stderr, "-exit N" ends with code N,
// "-panic" panics, "-sleep D" sleeps for a Go duration first (poll_oneoff under Go's scheduler).
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	verbose := flag.Bool("v", false, "argv and environment to stderr")
	code := flag.Int("exit", 0, "exit code")
	fail := flag.Bool("panic", false, "panic")
	sleep := flag.Duration("sleep", 0, "sleep first")
	flag.Parse()
	time.Sleep(*sleep)
	if *fail {
		panic("as asked")
	}
	if *verbose {
		fmt.Fprintln(os.Stderr, os.Args, os.Environ())
	}
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		_, err = os.Stdout.Write(bytes.ToUpper(text))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(*code)
}
