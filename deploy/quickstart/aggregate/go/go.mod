module aggregate

go 1.24
