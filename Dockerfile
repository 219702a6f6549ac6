# The build in a container, for hosts with nothing but podman or docker: docs/containers.md.
#
#   podman build -t mos-builder .
#   podman run --rm -v $PWD:/workspace -w /workspace mos-builder build
#
# For a build that can be repeated: BASE and RUST by digest, SNAPSHOT a snapshot of Debian's archive.
ARG BASE=debian:bookworm-slim
ARG RUST=rust:slim-bookworm

FROM ${RUST} AS rust

FROM ${BASE} AS tools
ARG SNAPSHOT=
# What scripts/setup installs for the quickstart, git for sources, and QEMU for boot tests.
ARG PACKAGES="bc binutils bison busybox-static ca-certificates cpio flex gcc git libc6-dev libelf-dev make mawk patch qemu-system-x86 xz-utils"
# A snapshot's lists are old by their own word. Nothing is fetched for what BASE has already.
RUN set -eu; \
    missing=; \
    for package in $PACKAGES; do \
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"; \
    done; \
    [ -n "$missing" ] || exit 0; \
    if [ -n "$SNAPSHOT" ]; then \
        . /etc/os-release; \
        rm -f /etc/apt/sources.list.d/*; \
        echo "deb [check-valid-until=no] $SNAPSHOT $VERSION_CODENAME main" > /etc/apt/sources.list; \
    fi; \
    apt-get -q update; \
    DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $missing; \
    apt-get clean; \
    rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/log/*
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo/bin /usr/local/cargo/bin
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo \
    PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ARG TARGETS="x86_64-unknown-linux-musl"
RUN set -eu; \
    for target in $TARGETS; do \
        [ -d "$(rustc --print target-libdir --target "$target")" ] || rustup target add "$target"; \
    done

FROM tools AS program
COPY . /src
RUN set -eu; cd /src; \
    if ! target/release/mosbuild version > /dev/null 2>&1; then \
        rm -rf target; \
        cargo build --release --locked -p mosbuild; \
    fi; \
    mkdir -p /usr/local/bin; \
    strip -o /usr/local/bin/mosbuild target/release/mosbuild

FROM tools
COPY --from=program /usr/local/bin/mosbuild /usr/local/bin/mosbuild
# Beside the workspace's state, so that it outlives the container.
ENV MOSBUILD_CACHE_DIR=/workspace/.mosbuild/store
WORKDIR /workspace
ENTRYPOINT ["mosbuild"]
CMD ["--help"]
