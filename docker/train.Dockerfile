# Training, prediction and the page, on CPU or on GPU.
#   docker build -f docker/train.Dockerfile -t multitask .
#   docker build -f docker/train.Dockerfile --build-arg REQUIREMENTS=requirements-gpu.txt -t multitask:gpu .
#   docker build -f docker/train.Dockerfile --build-arg REQUIREMENTS=requirements-cluster.txt -t multitask:cluster .
#   docker run --rm -v "$PWD:/work" multitask -m multitask.train
#   docker run --rm --gpus all -v "$PWD:/work" multitask:gpu -m multitask.train
FROM python:3.12-slim-bookworm

ARG REQUIREMENTS=requirements.txt
COPY requirements.txt requirements-gpu.txt requirements-cluster.txt /opt/multitask/
RUN python -m pip install --no-cache-dir --require-hashes -r /opt/multitask/${REQUIREMENTS}

COPY multitask /opt/multitask/multitask
COPY model_training/recipes /opt/multitask/model_training/recipes
ENV PYTHONPATH=/opt/multitask \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    KERAS_HOME=/work/.keras \
    MPLCONFIGDIR=/tmp/matplotlib

# Files that a run writes into the mounted folder belong to this user; give --user "$(id -u)" to make them yours.
RUN useradd --create-home --uid 1000 multitask
USER 1000
WORKDIR /work
ENTRYPOINT ["python"]
CMD ["-m", "multitask.train", "--help"]
