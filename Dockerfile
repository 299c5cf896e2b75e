# -- builds the virtual environment --------------------------------------------------------------
FROM python:3.13-slim AS builder

RUN python -m venv /opt/immich-conch
WORKDIR /src
COPY pyproject.toml README.rst LICENSE ./
COPY immich_conch immich_conch
COPY twisted twisted
RUN /opt/immich-conch/bin/pip install --no-cache-dir .

# -- the image -----------------------------------------------------------------------------------
FROM python:3.13-slim

COPY --from=builder /opt/immich-conch /opt/immich-conch

# Twisted keeps a cache beside its plugins; the service's user could not write it there.
# /data belongs to that user, and a new named volume takes owner and mode over from here.
RUN /opt/immich-conch/bin/twistd --help | grep -q immich-sftp \
    && install -d -o 10001 -g 10001 -m 0700 /data

ENV PATH=/opt/immich-conch/bin:$PATH \
    PYTHONUNBUFFERED=1 \
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
