# docker build -t etcd-snapshot-operator .        or: buildah bud -t etcd-snapshot-operator .
FROM docker.io/library/rust:1.95-bookworm AS build
# Debian keeps one version of each at a time, so a pinned one is gone with the next.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends protobuf-compiler libprotobuf-dev ca-certificates && rm -rf /var/lib/apt/lists/*
# The dependency list goes into the binary, where `cargo audit bin` and scanners of images find it.
RUN cargo install --locked cargo-auditable --version =0.7.7
WORKDIR /src
COPY . .
# Static with glibc: names resolve without any library since 2.34. With --target the flag is for the program alone, not for build scripts.
RUN target="$(uname -m)-unknown-linux-gnu" && \
    RUSTFLAGS='-C target-feature=+crt-static' cargo auditable build --locked --release --package etcd-snapshot-operator --target "$target" && \
    mkdir /out && cp "target/$target/release/etcd-snapshot-operator" /etc/ssl/certs/ca-certificates.crt /out/

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="etcd-snapshot-operator" \
      org.opencontainers.image.description="Checks, records and keeps the etcd snapshots of any Kubernetes cluster, with the resource of K3s and RKE2" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/etcd-snapshot-operator /usr/local/bin/etcd-snapshot-operator
# kubectl exec finds it by name; the SDK of S3 looks for its files in HOME.
ENV PATH=/usr/local/bin HOME=/
# The chart runs it as root without capabilities beside etcd, and as this user elsewhere.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/etcd-snapshot-operator"]
