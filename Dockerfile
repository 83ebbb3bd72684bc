# An image that trains: its arguments are the flags of crate_jax.main.
#
#   docker build --tag crate_jax .                            CPU; --build-arg EXTRAS=cuda or EXTRAS=tpu
#   docker run --rm --gpus all --volume "$PWD/runs:/crate_jax/runs" crate_jax --config=configs/tiny.py --workdir=runs/tiny
#
# The folder that is mounted must be writable for the user USER_ID.
FROM python:3.12-slim

ARG EXTRAS=""
WORKDIR /crate_jax

# The packages first: they are installed again only when these files change. The install points to this
# folder, so that the code may come later.
COPY setup.cfg pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir --editable ".${EXTRAS:+[$EXTRAS]}"
COPY . .

# Not root, unless it is 0: a TPU of Google Kubernetes Engine belongs to root.
ARG USER_ID=1000
ENV HOME=/var/lib/crate_jax PYTHONUNBUFFERED=1
RUN mkdir -p "$HOME" runs && chown "$USER_ID" "$HOME" runs
USER $USER_ID

ENTRYPOINT ["python", "-m", "crate_jax.main"]
