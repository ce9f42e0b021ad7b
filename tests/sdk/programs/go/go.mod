module sdk

go 1.24

require github.com/dapr/go-sdk v1.14.1
