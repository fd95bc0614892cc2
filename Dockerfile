# `bmg` with exactly the packages of uv.lock, run by a user who is not root.
#
#   docker build --tag bmg:cpu  --build-arg COMMIT="$(git rev-parse HEAD)" .
#   docker build --tag bmg:cuda --build-arg ACCELERATOR=cuda .
#   docker build --tag bmg:tpu  --build-arg ACCELERATOR=tpu .
#
# ACCELERATOR  cpu, cuda or tpu: the JAX build, as in `make setup`. CUDA's libraries are Python
#              packages; of the machine it needs the driver and NVIDIA's container toolkit alone.
# BASE         ubuntu:22.04: Python 3.10 with Launchpad and Reverb, on x86-64;
#              python:3.13-slim-bookworm: the newest JAX without them, also on ARM.
# COMMIT       of the code, for results.json; the image does not hold the repository.
ARG BASE=ubuntu:22.04

# What `bmg` needs in order to run. tini is process 1: it hands signals on and takes in processes
# whose parent has ended. apt has one version of each package, so none is named.
FROM ${BASE} AS base
# hadolint ignore=DL3008,SC2086
RUN command -v python3 || python="libpython3.10 python3.10 python3.10-venv"; \
    apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates tini $python \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
ARG ACCELERATOR=cpu
WORKDIR /opt/bmg
# No tests' and documents' packages; the package itself as a wheel, so that .venv is all there is.
ENV UV_NO_DEFAULT_GROUPS=1 UV_NO_EDITABLE=1
# First what the code stands on, which is installed again only when the lock changes.
COPY LICENSE NOTICE README.md pyproject.toml setup.py uv.lock ./
COPY scripts/setup.sh scripts/
RUN UV_NO_INSTALL_PROJECT=1 scripts/setup.sh "${ACCELERATOR}"
COPY . .
RUN scripts/setup.sh "${ACCELERATOR}"

FROM base
# The same path: the scripts in .venv/bin hold it.
COPY --from=build /opt/bmg/.venv /opt/bmg/.venv
RUN useradd --uid 1000 --user-group --create-home --home-dir /data bmg
# HOME also for a user that the image does not know: docker run --user "$(id -u)".
ENV HOME=/data PATH=/opt/bmg/.venv/bin:$PATH PYTHONUNBUFFERED=1
# Run directories: runs/GAME below it.
WORKDIR /data
# By number, so that Kubernetes can see that it is not root.
USER 1000:1000
ARG COMMIT
ENV BMG_COMMIT=$COMMIT
ENTRYPOINT ["tini", "--", "bmg"]
CMD ["--help"]
