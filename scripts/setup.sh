# Sourced by ./demo and ./check: makes a fresh Debian 12 or 13 machine ready.
# Installs what is missing, nothing else; a second run takes a moment.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
cd "$here"
[ -d recovery ] || cd ..

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        echo "cannot install Debian packages: not root and no sudo; as root: $*" >&2
        exit 1
    fi
}

# package:file it provides
missing=""
for pair in \
    mmdebstrap:/usr/bin/mmdebstrap \
    nginx-light:/usr/sbin/nginx \
    zstd:/usr/bin/zstd \
    bmap-tools:/usr/bin/bmaptool \
    dosfstools:/usr/sbin/mkfs.vfat \
    mtools:/usr/bin/mcopy \
    debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg \
    python3-venv:/usr/share/doc/python3-venv; do
    [ -e "${pair#*:}" ] || missing="$missing ${pair%%:*}"
done
# A Python that makes virtual environments by itself needs no python3-venv.
if python3 -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    missing=$(printf '%s' "$missing" | sed 's/ python3-venv//')
fi
if [ -n "$missing" ]; then
    echo "== installing Debian packages:$missing"
    as_root apt-get update -q >/dev/null
    # Only the files are needed; the web server of the tests runs from its own configuration.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $missing >/dev/null
fi

wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)
if [ "$(cat .venv/.orbital-setup 2>/dev/null)" != "$wanted" ]; then
    echo "== installing Python packages into .venv"
    python3 -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
    printf '%s\n' "$wanted" > .venv/.orbital-setup
fi
