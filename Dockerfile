# syntax=docker/dockerfile:1
# Any image of Debian 12 with apt, gcc and rustup will do. To pin this one for good, add its digest: rust:1.95-bookworm@sha256:…
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm

# Both stages run on the machine that builds, for whichever machine the image is: nothing is emulated.
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS build
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked cargo-auditable@0.7.7 auditable2cdx@0.1.0

ARG TARGETARCH
RUN set -eu; \
    case "$TARGETARCH" in \
        amd64) machine=x86_64; compiler=gcc-x86-64-linux-gnu ;; \
        arm64) machine=aarch64; compiler=gcc-aarch64-linux-gnu ;; \
        *) echo "TARGETARCH is '$TARGETARCH': images are for amd64 and arm64, and built by BuildKit or buildah" >&2; exit 1 ;; \
    esac; \
    echo "$machine" >/machine; \
    rustup target add "$machine-unknown-linux-gnu"; \
    if ! command -v "$machine-linux-gnu-gcc"; then \
        apt-get update; \
        apt-get install --yes --no-install-recommends "$compiler" "libc6-dev-$TARGETARCH-cross"; \
        rm -rf /var/lib/apt/lists/*; \
    fi

ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_PROFILE_RELEASE_STRIP=true
WORKDIR /source
COPY . .
# Dependencies are downloaded and compiled once, and kept beside the image. Cargo goes by times: without `touch` it would take what
# another checkout left there a moment ago for newer than these files.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target,sharing=locked \
    set -eu; \
    find . -path ./target -prune -o -type f -exec touch {} +; \
    target=$(cat /machine)-unknown-linux-gnu; \
    cargo auditable build --release --locked --bin minitoolstream --target "$target"; \
    install -D --target-directory /image/usr/local/bin "target/$target/release/minitoolstream"; \
    mkdir -p /image/usr/share/sbom; \
    auditable2cdx /image/usr/local/bin/minitoolstream >/image/usr/share/sbom/minitoolstream.cdx.json

# What the binary is linked with, from Debian, with what scanners of images read; and what names of users and hosts need.
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS libraries
WORKDIR /packages
ARG TARGETARCH
RUN set -eu; \
    dpkg --add-architecture "$TARGETARCH"; \
    apt-get update; \
    apt-get download "libc6:$TARGETARCH" "libgcc-s1:$TARGETARCH" "gcc-12-base:$TARGETARCH"; \
    rm -rf /var/lib/apt/lists/*; \
    mkdir -p /image/etc /image/var/lib/dpkg/status.d /volumes/data; \
    for package in *.deb; do \
        dpkg-deb --extract "$package" .; \
        dpkg-deb --field "$package" >"/image/var/lib/dpkg/status.d/${package%%_*}"; \
    done; \
    cp --parents --no-dereference lib*/ld-linux* lib/*/ld-linux* lib/*/libc.so.6 lib/*/libm.so.6 lib/*/libgcc_s.so.1 \
        usr/share/doc/*/copyright /image; \
    cp /etc/os-release /image/etc; \
    echo 'nonroot:x:65532:65532::/:/sbin/nologin' >/image/etc/passwd; \
    echo 'nonroot:x:65532:' >/image/etc/group; \
    echo 'hosts: files dns' >/image/etc/nsswitch.conf

FROM scratch
COPY --from=libraries /image /
COPY --from=libraries --chown=65532:65532 /volumes /
COPY --from=build /image /
USER 65532:65532
# Nobody reaches the loopback of a container.
ENV PATH=/usr/local/bin \
    SERVER_HOST=0.0.0.0
EXPOSE 50051 50052 8080
# The default of DATA_DIR, ./data, is the volume /data here.
WORKDIR /
ENTRYPOINT ["minitoolstream"]
CMD ["serve"]
ARG VERSION=0.1.0
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="MiniToolStream" \
      org.opencontainers.image.description="A message stream for messages of any size" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/minitoolstream/minitoolstream" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
