# One image for all roles. By default it is a web server; `command:` in compose.yaml makes it a worker.
FROM python:3.13-slim AS packages
COPY requirements.txt /
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: -r /requirements.txt \
    && /venv/bin/pip uninstall --yes pip

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fmv
WORKDIR /fmv
COPY --from=packages /venv /venv
COPY . .
# This command needs a key, but signs nothing with it; the key is not stored in the image.
RUN FMV_SECRET_KEY=used-while-the-image-is-built-and-nowhere-else-00000 python manage.py collectstatic --no-input \
    && python -m compileall -q fmv robots tasks
USER 10001
ENV FMV_HOST=0.0.0.0 FMV_PORT=8000
EXPOSE 8000
# The request needs a Host header that FMV_ALLOWED_HOSTS allows.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "\
import os, urllib.request as r; \
host = os.environ.get('FMV_ALLOWED_HOSTS', 'localhost').split(',')[0].strip(' .*') or 'localhost'; \
r.urlopen(r.Request(f'http://127.0.0.1:{os.environ[\"FMV_PORT\"]}/livez', headers={'Host': host}), timeout=4)"]
CMD ["gunicorn", "-c", "python:fmv.server.gunicorn", "fmv.wsgi"]
