// Docker Compose v5.2.0, for machines without the plugin: only its `config` check is used, which needs no engine.
// `go install ...@v5.2.0` is refused because of the exclude lines, so this module repeats them and builds the command.
// go.sum is Compose's own (it is inside the module, which the checksum database vouches for) plus Compose's two lines.
module otel-agentbus/tests/integration/compose

go 1.25.9

require github.com/docker/compose/v5 v5.2.0

exclude (
	github.com/davecgh/go-spew v1.1.2-0.20180830191138-d8f796af33cc
	github.com/pmezard/go-difflib v1.0.1-0.20181226105442-5d4384ee4fb2
)
