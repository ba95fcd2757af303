# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked --bin minitoolstream && \
    strip -o /minitoolstream target/release/minitoolstream

# glibc and nothing else; the user is not root.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="MiniToolStream" \
      org.opencontainers.image.description="A message stream for messages of any size" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /minitoolstream /usr/local/bin/minitoolstream
EXPOSE 50051 50052 8080
ENTRYPOINT ["minitoolstream"]
CMD ["serve"]
