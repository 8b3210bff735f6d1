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


FROM debian:bookworm-slim
# The certificates verify Postgres servers and endpoints over TLS.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /app/data
COPY --from=build /build/target/release/cloudflare-images-webhook /usr/local/bin/

WORKDIR /app
# A numeric user lets Kubernetes check that it is not root.
USER 10001
ENV APP_PROFILE=production \
    APP__SERVER__LISTEN=0.0.0.0:8080 \
    APP__OPS__LISTEN=0.0.0.0:9090
VOLUME /app/data
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["cloudflare-images-webhook", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["cloudflare-images-webhook"]
CMD ["serve"]
