# syntax=docker/dockerfile:1
# Two stages: what is needed to install stays in the first, the second holds the virtual environment and no more.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/voxcloud
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY infra ./infra
COPY flows ./flows
COPY voxcloud ./voxcloud
RUN infra/container/install.sh /opt/voxcloud requirements.lock --wheel \
    && /opt/voxcloud/bin/python -m compileall -q /opt/voxcloud/lib \
    && rm -rf /opt/voxcloud/lib/python3.11/site-packages/pip*

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="voxcloud" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --create-home --uid 1000 voxcloud
COPY --from=build /opt/voxcloud /opt/voxcloud
ENV PATH=/opt/voxcloud/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER voxcloud
WORKDIR /data
HEALTHCHECK --interval=60s --timeout=20s --start-period=20s CMD ["voxcloud", "--version"]
ENTRYPOINT ["voxcloud"]
CMD ["--help"]
