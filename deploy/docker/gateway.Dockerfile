# syntax=docker/dockerfile:1
# Build in the root of the repository:
#   docker build --file deploy/docker/gateway.Dockerfile --tag jobs-gateway:dev .
FROM --platform=$BUILDPLATFORM golang:1.26-trixie AS build
WORKDIR /src
COPY gateway ./
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags="-s -w -X main.version=$VERSION" -o /jobs-gateway .

# It has certificate authorities and no shell.
FROM gcr.io/distroless/static-debian13:nonroot
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="jobs-gateway" \
      org.opencontainers.image.description="A multi-tenant jobs service for device fleets: REST gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/jobs-grpc/jobs-grpc" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /jobs-gateway /jobs-gateway
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=6s --start-period=30s CMD ["/jobs-gateway", "health"]
ENTRYPOINT ["/jobs-gateway"]
