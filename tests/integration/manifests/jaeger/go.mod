// Jaeger v2 is cmd/jaeger of module version v1.76.0 (released together with v2.13.0); its /v2 tags do not resolve.
// `go install ...@v1.76.0` is refused because of the replace line, so this module repeats it and builds the command.
// go.sum is Jaeger's own (it is inside the module, which the checksum database vouches for) plus Jaeger's two lines.
module otel-agentbus/tests/integration/jaeger

go 1.25.0

require github.com/jaegertracing/jaeger v1.76.0

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
