# docker build -t siamese-transfer . && docker run --gpus all --shm-size 8g -v "$PWD:/data" siamese-transfer doctor
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/siamese-transfer
COPY . .
RUN make setup VENV=/opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["siamese-transfer"]
CMD ["--help"]
