// Dapr's own daprd with the components that sandboxd has to do with: bindings.wasm and the local secret stores.
package main

import (
	"github.com/dapr/components-contrib/bindings/wasm"
	"github.com/dapr/components-contrib/secretstores/local/env"
	"github.com/dapr/components-contrib/secretstores/local/file"
	"github.com/dapr/dapr/cmd/daprd/app"
	"github.com/dapr/dapr/pkg/components"
	"github.com/dapr/dapr/pkg/components/bindings"
	"github.com/dapr/dapr/pkg/components/secretstores"
)

func main() {
	bindings.DefaultRegistry.RegisterOutputBinding(wasm.NewWasmOutput, "wasm")
	components.RegisterWasmComponentType(components.CategoryBindings, "wasm")
	secretstores.DefaultRegistry.RegisterComponent(env.NewEnvSecretStore, "local.env")
	secretstores.DefaultRegistry.RegisterComponent(file.NewLocalSecretStore, "local.file")
	app.Run()
}
