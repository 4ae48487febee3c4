// Prometheus v3.13.5 is module version v0.313.5: it reads the shipped scrape configuration and runs the dashboard's queries.
// `go install ...@v0.313.5` is refused because of the replace and exclude lines, so this module repeats them and builds it.
// go.sum is Prometheus' own (it is inside the module, which the checksum database vouches for) plus Prometheus' two lines.
module otel-agentbus/tests/integration/prometheus

go 1.26.0

require github.com/prometheus/prometheus v0.313.5

replace cloud.google.com/go => cloud.google.com/go v0.123.0

exclude (
	github.com/grpc-ecosystem/grpc-gateway v1.14.7
	github.com/linode/linodego v1.0.0
	google.golang.org/api v0.30.0
)
