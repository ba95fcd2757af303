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

# Measure on a quiet machine; compare ratios of one run only
bench *ARGS:
    cargo run --release -- bench {{ARGS}}

# Check licenses, advisories and unused dependencies
deps:
    cargo deny check
    cargo machete

# Write the reference of settings into the documentation
docs:
    sed -i '/<!-- reference -->/,/<!-- \/reference -->/{//!d}' docs/configuration.md
    cargo run --quiet -- config --reference | sed -i '/<!-- reference -->/r /dev/stdin' docs/configuration.md
