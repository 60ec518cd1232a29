# Build:  docker build -t notifier:0.1.0 .
# Run:    deploy/compose.yaml, explained in docs/operations.md
#
# Two stages: pip, the build tools and their caches stay in the first.
ARG PYTHON_IMAGE=python:3.13.14-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-dev.lock ./
# What runs: the versions and hashes of the lock file and nothing else.
RUN python -m venv --without-pip /opt/notifier \
 && python -m pip --python /opt/notifier/bin/python install --require-hashes --only-binary :all: -r requirements.lock
# What builds the package: its part of the development lock, so that it is held to its hashes, too. What a notification
# passes is compiled (pyproject.toml says what); mypy, which does it, has to see the types of the libraries.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN awk '/^[^ ]/ { keep = /^(ast-serialize|hatch-mypyc|hatchling|librt|mypy|mypy-extensions|packaging|pathspec|pluggy|setuptools|trove-classifiers)==/ } keep' requirements-dev.lock > build.lock \
 && python -m pip install --require-hashes --only-binary :all: -r requirements.lock -r build.lock
COPY pyproject.toml README.md LICENSE ./
COPY notifier notifier
RUN HATCH_BUILD_HOOKS_ENABLE=1 CFLAGS=-fvisibility=hidden python -m hatchling build -t wheel -d dist \
 && python -m pip --python /opt/notifier/bin/python install --no-deps --no-index dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="notifier" \
      org.opencontainers.image.description="Authenticated notifications over WebSocket, stored until they are acknowledged" \
      org.opencontainers.image.licenses="MIT"
# The numbers are given, so that Kubernetes can check runAsNonRoot and volumes can be prepared.
RUN groupadd --system --gid 10001 notifier \
 && useradd --system --uid 10001 --gid notifier --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin notifier \
 && install --directory --owner notifier --group notifier --mode 0700 /data
COPY --from=build /opt/notifier /opt/notifier
# Nothing is written outside /data: the root file system may be read-only.
ENV PATH=/opt/notifier/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NOTIFIER_HOST=0.0.0.0 \
    NOTIFIER_ENGINE=sqlite:////data/notifier.db
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# No shell and no curl: the module reads NOTIFIER_PORT and asks /livez.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-m", "notifier.cli.health"]
ENTRYPOINT ["notifier"]
CMD ["serve"]
