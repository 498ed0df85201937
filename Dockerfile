# syntax=docker/dockerfile:1
# Two stages: what builds it is not in what runs. The image runs as an unprivileged user on a read-only file system but for its data.
FROM rust:1.95-bookworm AS build
# librdkafka: C and C++ compilers, zlib, OpenSSL (in the base image). chirpstack_api: protoc and its imports. samael: xmlsec and clang for its bindings.
RUN apt-get update && apt-get install -y --no-install-recommends \
        clang cmake libclang-dev libprotobuf-dev libssl-dev libxml2-dev libxmlsec1-dev pkg-config protobuf-compiler zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p sluse-engine && cp target/release/sluse /usr/local/bin/sluse

# No PostgreSQL in here: set DATABASE_URL. (`sluse` without it needs the postgresql package beside it.)
FROM debian:bookworm-slim
# What the binary is linked with: `ldd` says OpenSSL (librdkafka, xmlsec), xmlsec with libxml2, zlib, and the C++ library.
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates libssl3 libstdc++6 libxml2 libxmlsec1 libxmlsec1-openssl zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/sluse --create-home sluse
COPY --from=build /usr/local/bin/sluse /usr/local/bin/sluse
USER 10001
VOLUME /var/lib/sluse
ENV SLUSE_DATA_DIR=/var/lib/sluse SLUSE_HTTP_LISTEN=0.0.0.0:3000
EXPOSE 3000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sluse"]
CMD ["serve"]
