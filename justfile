# List the recipes.
[private]
default:
    @{{ just_executable() }} --list --unsorted

# Walk through the story on a real etcd, API server and S3 server; `just demo --no-wait` ends by itself.
demo *args:
    e2e/demo {{ args }}

# Run the tests: all, or `just test unit [FILTER]`, `just test parts [FILTER]`.
test *args:
    e2e/test {{ args }}

# Run what CI runs: formatting, lints, dependencies, generated files, tests.
check:
    .ci/run

# Measure: the pure decision, then everything on real servers; `just bench --quick` in a minute, `--write` into docs/performance.md.
bench *args:
    cargo bench --locked --workspace --bench '*'
    e2e/bench {{ args }}

# Build the image of the release with buildah, and say how large it is.
image:
    cargo rustc --locked --release --package etcd-snapshot-operator --bin etcd-snapshot-operator -- -C target-feature=+crt-static
    e2e/tools/image target/release/etcd-snapshot-operator target/image.tar localhost/etcd-snapshot-operator:latest
