// Fetches JSON documents at once, filters, joins and adds up. What it reads and writes is in ../README.md.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"aggregate/wasihttp"
)

type question struct {
	Users   string   `json:"users"`
	Orders  []string `json:"orders"`
	Minimum int64    `json:"minimum"`
}

type user struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

type order struct {
	User  int64 `json:"user"`
	Total int64 `json:"total"`
}

type row struct {
	Name   string `json:"name"`
	Orders int    `json:"orders"`
	Total  int64  `json:"total"`
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(pending *wasihttp.Pending, into any) {
	status, body, err := pending.Wait()
	check(err)
	if status != 200 {
		check(fmt.Errorf("an origin answered with status %d", status))
	}
	check(json.Unmarshal(body, into))
}

func main() {
	var asked question
	check(json.NewDecoder(os.Stdin).Decode(&asked))

	// All are under way before the first is waited for.
	var pending []*wasihttp.Pending
	for _, url := range append([]string{asked.Users}, asked.Orders...) {
		started, err := wasihttp.Get(url)
		check(err)
		pending = append(pending, started)
	}

	var users []user
	read(pending[0], &users)
	rows := map[int64]*row{}
	for _, u := range users {
		rows[u.ID] = &row{Name: u.Name}
	}
	for _, document := range pending[1:] {
		var orders []order
		read(document, &orders)
		for _, o := range orders {
			if found := rows[o.User]; found != nil && o.Total >= asked.Minimum {
				found.Orders++
				found.Total += o.Total
			}
		}
	}

	out := []row{}
	for _, r := range rows {
		if r.Orders > 0 {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b row) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Name, b.Name))
	})
	check(json.NewEncoder(os.Stdout).Encode(out))
}
