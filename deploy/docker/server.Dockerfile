# syntax=docker/dockerfile:1
# Build in the root of the repository:
#   docker build --file deploy/docker/server.Dockerfile --tag jobs-grpc:dev .
ARG PYTHON=3.14

FROM python:${PYTHON}-trixie AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/jobs-grpc
COPY requirements/build.lock requirements/server.lock requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --require-hashes --requirement requirements/build.lock && \
    python -m pip --python /opt/jobs-grpc/bin/python install --no-compile --only-binary :all: \
      --require-hashes --requirement requirements/server.lock
COPY pyproject.toml README.md LICENSE ./
COPY jobs_grpc jobs_grpc
COPY generated generated
COPY protos protos
# Debug symbols and Cython sources are a third of the packages. Bytecode is compiled here because the
# container cannot write it.
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /src/wheels . && \
    python -m pip --python /opt/jobs-grpc/bin/python install --no-compile --no-deps wheels/*.whl && \
    find /opt/jobs-grpc \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete && \
    find /opt/jobs-grpc \( -path '*/asyncpg/*.so' -o -path '*/uvloop/*.so' \) \
      -exec strip --strip-unneeded {} + && \
    /opt/jobs-grpc/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/jobs-grpc

FROM python:${PYTHON}-slim-trixie
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="jobs-grpc" \
      org.opencontainers.image.description="A multi-tenant jobs service for device fleets: gRPC server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/jobs-grpc/jobs-grpc" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/jobs-grpc /opt/jobs-grpc
ENV PATH=/opt/jobs-grpc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 50051
HEALTHCHECK --interval=15s --timeout=6s --start-period=30s CMD ["jobs-grpc", "health"]
ENTRYPOINT ["jobs-grpc"]
CMD ["serve"]
