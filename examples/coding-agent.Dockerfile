# An image for examples/coding-agent.yaml: a stock coding CLI and git. For examples/codex.yaml: @openai/codex@0.169.
FROM docker.io/library/node:22-bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git \
 && rm -rf /var/lib/apt/lists/* \
 && npm install -g @anthropic-ai/claude-code@2.1
USER 1000:1000
WORKDIR /tmp
