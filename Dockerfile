# jaxcnn for CPUs or, with an extra, for NVIDIA GPUs:
#
#   docker build -t jaxcnn .
#   docker build -t jaxcnn:cuda --build-arg EXTRAS=cuda .
#
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" jaxcnn new --from lenet5_digits
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" --gpus all jaxcnn:cuda train lenet5_digits.py
#
# CUDA comes with JAX's own wheels, so that both are made alike; the host has the driver and NVIDIA's
# container toolkit. Datasets are mounted too: -v "$TFDS_DATA_DIR:/data" -e TFDS_DATA_DIR=/data
ARG PYTHON=3.13

FROM python:${PYTHON} AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim
ARG EXTRAS=
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    wheel="$(echo /dist/*.whl)" \
    && pip install --no-cache-dir "${wheel}${EXTRAS:+[$EXTRAS]}"
# Any user may run it, and keeps compiled programs and fonts where everybody may write.
ENV HOME=/tmp
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["jaxcnn"]
CMD ["--help"]
