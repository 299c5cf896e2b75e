# A base by its digest makes the image the same at every build:
# --build-arg BASE=python:3.13-slim@sha256:…
ARG BASE=python:3.13-slim

# -- builds the virtual environment --------------------------------------------------------------
FROM ${BASE} AS builder

WORKDIR /src
COPY deploy/build.lock deploy/requirements.lock deploy/
# Two environments: what builds is not in the image, nor is pip.  Everything is locked by hash and
# comes as a wheel, so that installing runs no code of a package.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/immich-conch
RUN /opt/build/bin/python -m pip install --no-cache-dir --no-compile --require-hashes --no-deps \
    --only-binary=:all: -r deploy/build.lock
RUN /opt/build/bin/python -m pip --python /opt/immich-conch/bin/python install --no-cache-dir \
    --require-hashes --no-deps --only-binary=:all: -r deploy/requirements.lock
COPY pyproject.toml README.rst LICENSE ./
COPY immich_conch immich_conch
COPY twisted twisted
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .
RUN /opt/build/bin/python -m pip --python /opt/immich-conch/bin/python install --no-cache-dir \
    --no-deps --no-index dist/*.whl \
    && /opt/build/bin/python -m pip --python /opt/immich-conch/bin/python check
# What the image is made of, in CycloneDX.
RUN install -d /opt/immich-conch/share/doc/immich-conch \
    && /opt/build/bin/python -m cyclonedx_py environment --pyproject pyproject.toml \
    --output-reproducible --output-format JSON \
    --output-file /opt/immich-conch/share/doc/immich-conch/sbom.cdx.json /opt/immich-conch

# -- the image -----------------------------------------------------------------------------------
FROM ${BASE}

COPY --from=builder /opt/immich-conch /opt/immich-conch

# Twisted keeps a cache beside its plugins; the service's user could not write it there.
# /data belongs to that user, and a new named volume takes owner and mode over from here.
RUN /opt/immich-conch/bin/twistd --help | grep -q immich-sftp \
    && install -d -o 10001 -g 10001 -m 0700 /data \
    && install -d /usr/share/doc \
    && ln -s /opt/immich-conch/share/doc/immich-conch /usr/share/doc/immich-conch

ENV PATH=/opt/immich-conch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    IMMICH_CONCH_ENDPOINT=tcp:22 \
    IMMICH_CONCH_HOST_KEY_DIR=/data/host-keys \
    IMMICH_CONCH_SPOOL_DIR=/data/spool

# No root, and port 22 all the same: Docker sets net.ipv4.ip_unprivileged_port_start=0 in every
# container with a network of its own.  Where that is not so (host network, some other engines),
# set IMMICH_CONCH_ENDPOINT=tcp:2222.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 22

# twistd commits what is whole in the spool before it ends, for at most 30 s.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
    CMD ["python", "-m", "immich_conch.healthcheck"]
CMD ["twistd", "-n", "--pidfile=", "immich-sftp"]
