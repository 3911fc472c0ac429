# The clone, set up, with JupyterLab at port 8888. Never built. In the clone:
#
#     docker build --tag earlystop .
#     docker run --rm --publish 127.0.0.1:8888:8888 earlystop
FROM rust:1.95-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home reader && install --directory --owner=reader /home/reader/earlystop
USER reader
WORKDIR /home/reader/earlystop

COPY --chown=reader . .
RUN cargo xtask setup

EXPOSE 8888
CMD ["cargo", "xtask", "lab", "--no-browser", "--ip=0.0.0.0"]
