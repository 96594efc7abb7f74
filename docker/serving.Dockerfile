# TF-Serving with our monitoring settings; the models are mounted, not copied.
#   docker build -f docker/serving.Dockerfile -t multitask-serving .
#   docker run --rm -p 127.0.0.1:8501:8501 -v "$PWD/serving/models:/models:ro" multitask-serving
ARG TAG=2.20.0
FROM tensorflow/serving:${TAG}

COPY serving/batching.config serving/monitoring.config /etc/serving/

# The image starts as root and needs nothing that root can do.
USER 65534:65534

EXPOSE 8500 8501

# The image has no curl: bash opens the connection itself. The port opens only when every model is loaded, but a version
# can still fail later, so the state is read.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8501 && printf 'GET /v1/models/multitask HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '\"AVAILABLE\"' <&3"]

# models.config is written by `python -m multitask.publish`; its first labels may name versions that are still loading.
# No batching: on a CPU it is slower (8 to 11 requests/s against 12 to 18, 2 cores, 16 clients), ten empty requests end the
# port for good, and one request of a wrong shape fails all in its batch. For a GPU see the profile of compose.yaml, which
# lets nobody but a gateway that validates reach it.
ENTRYPOINT ["/usr/bin/tensorflow_model_server", \
    "--port=8500", "--rest_api_port=8501", \
    "--model_config_file=/models/models.config", "--model_config_file_poll_wait_seconds=5", \
    "--allow_version_labels_for_unavailable_models=true", \
    "--monitoring_config_file=/etc/serving/monitoring.config"]
