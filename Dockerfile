# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008 # Unpinned versions get Debian's security updates.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# cargo-auditable writes the software bill of materials (SBOM) into the program: each crate with its version and source.
RUN cargo install --locked cargo-auditable@0.7.7
WORKDIR /build

# The dependencies have their own layer. Docker rebuilds it only if Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo auditable build --release --locked \
    && rm -r src

COPY migrations migrations
COPY config config
COPY src src
# Cargo compares times. The sources must be newer than the empty ones above.
RUN touch src/main.rs src/lib.rs \
    && cargo auditable build --release --locked


# The files of the container image: the program, the libraries that it needs, and the certificates of authorities. Debian maintains
# them, so a new build has the newest ones.
FROM debian:bookworm-slim AS files
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgcc-s1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/release/cloudflare-images-webhook /files/usr/local/bin/
# Scanners find the packages in /var/lib/dpkg/status.d, as in distroless images. Any user of group 0 can write to /app/data, because
# OpenShift runs containers as a random user of this group.
RUN set -eu; \
    for file in $(ldd /files/usr/local/bin/cloudflare-images-webhook | grep -o '/[^ ]*'); do \
        install -D "$(realpath "$file")" "/files$file"; \
    done; \
    install -D --mode 644 /etc/ssl/certs/ca-certificates.crt /files/etc/ssl/certs/ca-certificates.crt; \
    mkdir -p /files/var/lib/dpkg/status.d; \
    for package in libc6 libgcc-s1 ca-certificates; do \
        dpkg --status "$package" > "/files/var/lib/dpkg/status.d/$package"; \
    done; \
    echo 'app:x:10001:0::/app:/sbin/nologin' > /files/etc/passwd; \
    install --directory --owner 10001 --group 0 --mode 770 /files/app /files/app/data; \
    install --directory --mode 1777 /files/tmp


FROM scratch
COPY --from=files /files /
WORKDIR /app
# A numeric user lets Kubernetes check that it is not root.
USER 10001:0
ENV APP_PROFILE=production \
    APP__SERVER__LISTEN=[::]:8080 \
    APP__OPS__LISTEN=[::]:9090
VOLUME /app/data
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["/usr/local/bin/cloudflare-images-webhook", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/cloudflare-images-webhook"]
CMD ["serve"]
