# The service in a container. docs/service.md shows how to build and run it.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
# Variables of pip, such as an index with the CPU builds of torch: docker build --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml constraints.txt README.md LICENSE /build/
COPY src /build/src
RUN python3 -m venv /opt/latens \
  && /opt/latens/bin/pip install --no-cache-dir --constraint /build/constraints.txt '/build[serve]' \
  && rm -rf /build
RUN useradd --system --no-create-home --home-dir /nonexistent latens
USER latens
EXPOSE 8080
HEALTHCHECK --start-period=60s CMD ["/opt/latens/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz', timeout=5)"]
ENTRYPOINT ["/opt/latens/bin/latens", "serve", "--host", "0.0.0.0"]
CMD ["--token-file", "/run/secrets/latens-token"]
