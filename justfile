# The verbs of this repository; `just` lists them.

_default:
    @just --list

# Run a broker on loopback with its data in ./data
serve *ARGS:
    cargo run --release -- serve {{ARGS}}

# Run all tests
test *ARGS:
    tests/run {{ARGS}}

# What every change must pass
ci:
    .ci/run

# Measure on a quiet machine; compare ratios of one run only
bench *ARGS:
    cargo run --release -- bench {{ARGS}}

# Check licenses, advisories and unused dependencies
deps:
    cargo deny check
    cargo machete

# Write the references of settings and metrics into the documentation
docs: (reference "settings" "docs/configuration.md") (reference "metrics" "docs/metrics.md")

[private]
reference of page:
    sed -i '/<!-- reference -->/,/<!-- \/reference -->/{//!d}' {{page}}
    cargo run --quiet -- config --reference {{of}} | sed -i '/<!-- reference -->/r /dev/stdin' {{page}}
