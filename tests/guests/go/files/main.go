// Counts the lines of every file in the folder of its first argument, and writes the sum into the second.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	lines := 0
	err := filepath.WalkDir(os.Args[1], func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		lines += bytes.Count(data, []byte("\n"))
		return err
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(os.Args[2], "sum"), []byte(fmt.Sprintln(lines)), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sum, _ := os.ReadFile(filepath.Join(os.Args[2], "sum"))
	os.Stdout.Write(sum)
}
