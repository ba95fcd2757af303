# The verbs of this repository; `just` lists them.

_default:
    @just --list

# Run a broker on loopback with its data in ./data
serve *ARGS:
    cargo run --release -- serve {{ARGS}}

# Run all tests
test *ARGS:
    tests/run {{ARGS}}

# Bring a whole installation up on this machine (k3d), and remove it
up:
    deploy/up
down:
    deploy/down

# What every change must pass
ci:
    .ci/run

# Build the image for both architectures and try it in containers (as root; 20 minutes)
image-test:
    tests/image/run

# Measure on a quiet machine; compare ratios of one run only
bench *ARGS:
    cargo run --release -- bench {{ARGS}}

# Check licenses, advisories and unused dependencies
deps:
    cargo deny check
    cargo machete

# Write what is made of other files: the references of settings and metrics, the rules for the operator
docs: (reference "settings" "docs/configuration.md") (reference "metrics" "docs/metrics.md") rules

[private]
reference of page:
    sed -i '/<!-- reference -->/,/<!-- \/reference -->/{//!d}' {{page}}
    cargo run --quiet -- config --reference {{of}} | sed -i '/<!-- reference -->/r /dev/stdin' {{page}}

# Wrap the rules of Prometheus for its operator
[private]
rules:
    sed -i '/^spec:/q' kustomize/components/monitoring/rules.yaml
    sed '/^#/d; s/^\(.\)/  \1/' monitoring/rules.yml >> kustomize/components/monitoring/rules.yaml
