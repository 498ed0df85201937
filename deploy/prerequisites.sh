# shellcheck shell=bash
# Sourced by ./run, ./test and .ci/run: installs what is missing on Debian and its relatives, and nothing that is there.

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "need root to run: $*" >&2
        return 1
    fi
}

# Installs Debian packages; refreshes the lists first when they are empty or too old to find them.
install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "please install the equivalents of these Debian packages, then start again: $*" >&2
        return 1
    fi
    echo "installing $*" >&2
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends)
    as_root "${install[@]}" "$@" >&2 || {
        as_root apt-get update >&2
        as_root "${install[@]}" "$@" >&2
    }
}

has_program() {
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/usr/local/sbin/$1" ]
}

has_postgres() {
    command -v postgres >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null
}

# Whether a C library can be built against.
has_library() {
    command -v pkg-config >/dev/null && pkg-config --exists "$1"
}

# Whether protoc finds the imports that come with it (google/protobuf/*.proto): Debian keeps them in another package than protoc.
has_protobuf_imports() {
    local dir is_found=no
    dir=$(mktemp -d)
    echo 'syntax = "proto3"; import "google/protobuf/timestamp.proto";' >"$dir/imports.proto"
    protoc --proto_path="$dir" --descriptor_set_out=/dev/null "$dir/imports.proto" 2>/dev/null && is_found=yes
    rm -r "$dir"
    [ "$is_found" = yes ]
}

# What the crates with C or C++ in them need: librdkafka a compiler, zlib and OpenSSL; samael xmlsec and clang (for its bindings);
# chirpstack_api protoc and its imports.
need_build_tools() {
    local missing=()
    command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null || missing+=(build-essential)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    command -v cmake >/dev/null || missing+=(cmake)
    command -v protoc >/dev/null || missing+=(protobuf-compiler)
    has_protobuf_imports || missing+=(libprotobuf-dev)
    command -v clang >/dev/null || missing+=(clang)
    compgen -G "/usr/lib/llvm-*/lib/libclang*.so*" >/dev/null || missing+=(libclang-dev)
    has_library zlib || missing+=(zlib1g-dev)
    has_library openssl || missing+=(libssl-dev)
    has_library libxml-2.0 || missing+=(libxml2-dev)
    has_library xmlsec1-openssl || missing+=(libxmlsec1-dev)
    if [ -r "${CARGO_HOME:-$HOME/.cargo}/env" ] && ! command -v cargo >/dev/null; then
        # shellcheck disable=SC1091
        . "${CARGO_HOME:-$HOME/.cargo}/env"
    fi
    local has_cargo=yes
    command -v cargo >/dev/null || has_cargo=no
    if [ "$has_cargo" = no ]; then
        command -v curl >/dev/null || missing+=(curl ca-certificates)
    fi
    if [ "${#missing[@]}" -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    if [ "$has_cargo" = no ]; then
        # The version in Cargo.toml (rust-version), with what .ci/run needs.
        curl --proto '=https' --tlsv1.2 -fsSL https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95.0 -c rustfmt -c clippy >&2
        # shellcheck disable=SC1091
        . "${CARGO_HOME:-$HOME/.cargo}/env"
    fi
}

# Installing the servers' packages starts them on Debian: not here, where Sluse starts its own.
need_servers() {
    local missing=()
    has_program mosquitto || missing+=(mosquitto)
    has_postgres || missing+=(postgresql)
    has_program redis-server || missing+=(redis-server)
    # The load test lets an engine's clock jump with it.
    compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || missing+=(libfaketime)
    if [ "${#missing[@]}" -gt 0 ]; then
        if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ]; then
            as_root sh -c 'printf "#!/bin/sh\nexit 101\n" > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d'
            local status=0
            install_packages "${missing[@]}" || status=$?
            as_root rm -f /usr/sbin/policy-rc.d
            return "$status"
        fi
        install_packages "${missing[@]}"
    fi
}

# The mail server that the tests write to.
need_mail_server() {
    python3 -c 'import aiosmtpd' 2>/dev/null || /usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null ||
        install_packages python3 python3-aiosmtpd
}

# What engine/tests/schemathesis.sh runs on.
need_schemathesis() {
    local missing=()
    command -v curl >/dev/null || missing+=(curl ca-certificates)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    if [ "${#missing[@]}" -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
}

# Where the Kafka server's jars are. A change of deploy/kafka/pom.xml is another directory.
kafka_dir() {
    local version
    version=$(cksum "$(dirname "${BASH_SOURCE[0]}")/kafka/pom.xml" | cut -d' ' -f1)
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/sluse/kafka-$version"
}

# Kafka for tests: Java from Debian, the server's jars by Maven. Sets KAFKA_TEST_DIR: sluse itself refuses unknown SLUSE_ variables.
need_kafka() {
    KAFKA_TEST_DIR=$(kafka_dir)
    export KAFKA_TEST_DIR
    local missing=()
    command -v java >/dev/null || missing+=(default-jre-headless)
    if [ ! -e "$KAFKA_TEST_DIR/complete" ]; then
        command -v mvn >/dev/null || missing+=(maven)
    fi
    if [ "${#missing[@]}" -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    if [ ! -e "$KAFKA_TEST_DIR/complete" ]; then
        echo "fetching Kafka's server into $KAFKA_TEST_DIR" >&2
        mvn -B -q -f "$(dirname "${BASH_SOURCE[0]}")/kafka/pom.xml" \
            org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
            -DincludeScope=runtime -DoutputDirectory="$KAFKA_TEST_DIR" >&2
        touch "$KAFKA_TEST_DIR/complete"
    fi
}
