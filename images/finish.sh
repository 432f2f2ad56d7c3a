#!/bin/sh
# The last step of both images: a user, a folder for its files, nothing that installs packages or changes who one is.
set -eu

echo 'evolution:x:65532:65532::/cache:/usr/sbin/nologin' >> /etc/passwd
echo 'evolution:x:65532:' >> /etc/group
mkdir -p /cache
chown 65532:65532 /cache
chmod 700 /cache

# pip: where the base has it as a program, where it lies in wait for `python -m ensurepip`, and as Debian's packages.
if python3 -m pip --version > /dev/null 2>&1; then
    python3 -m pip uninstall --quiet --yes --root-user-action ignore setuptools wheel pip
fi
dpkg-query --show --showformat '${Package}\n' 'python3*-venv' 'python3*-whl' 2> /dev/null | xargs -r dpkg --purge
rm -rf "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip"

find / -xdev -type f -perm /6000 -exec chmod a-s {} +
rm -rf /root/.cache /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/lib/apt/lists/*
