// Package http holds the request type under the package name that Dapr's error messages carry.
package http

// OutputBindingRequest has the fields and tags of the type of that name in Dapr's pkg/api/http.
type OutputBindingRequest struct {
	Metadata  map[string]string `json:"metadata"`
	Data      any               `json:"data"`
	Operation string            `json:"operation"`
}
