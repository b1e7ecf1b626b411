# Images of the project. `docker build --target operator .` builds from source.
# scripts/images passes BINARIES=prebuilt and so takes build/release/bin as it
# is; that must have been built on Debian 12, too.
ARG BINARIES=build

FROM docker.io/library/debian:12-slim AS build
WORKDIR /src
COPY scripts/deps scripts/deps
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends $(bash scripts/deps print build)
COPY . .
RUN cmake --preset release && \
    cmake --build --preset release --target swarm-operator swarm-sidecar agentctl && \
    mkdir /out && cp build/release/bin/swarm-operator build/release/bin/swarm-sidecar build/release/bin/agentctl /out/

FROM scratch AS prebuilt
COPY build/release/bin/ /out/

FROM ${BINARIES} AS binaries

FROM docker.io/library/debian:12-slim AS operator
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates \
      libcpprest2.10 libyaml-cpp0.7 libspdlog1.10 libfmt9 libssl3 libprometheus-cpp-core1.0 && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*
COPY --from=binaries /out/swarm-operator /usr/local/bin/
USER 64532:64532
ENTRYPOINT ["/usr/local/bin/swarm-operator"]

# agentctl is static: the sidecar copies it into the agents' containers.
FROM docker.io/library/debian:12-slim AS sidecar
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends \
      libspdlog1.10 libfmt9 libssl3 libprometheus-cpp-core1.0 libsimdjson14 && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*
COPY --from=binaries /out/swarm-sidecar /out/agentctl /usr/local/bin/
USER 64532:64532
ENTRYPOINT ["/usr/local/bin/swarm-sidecar"]

# An example agent: whatever the agent needs and nothing of ours, since the
# sidecar mounts agentctl into it.
FROM docker.io/library/debian:12-slim AS agent
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends \
      bash ca-certificates gawk git procps && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* && \
    useradd --uid 1000 --create-home agent
USER 1000:1000
WORKDIR /home/agent
CMD ["bash"]
