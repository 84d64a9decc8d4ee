#!/usr/bin/env bash
# lock.sh UV   Writes requirements/<extra>.txt for every extra: all versions pinned and hashed, no index named.
# dev holds everything and is resolved first; the others are held to its versions.
set -euo pipefail
uv=$1
resolve() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header "$@"
}

resolve pyproject.toml --extra dev -o requirements/dev.txt
for extra in data samples features train neural tune serve operator pipelines local; do
  resolve pyproject.toml --extra "$extra" --constraint requirements/dev.txt -o "requirements/$extra.txt"
done
echo uv setuptools | tr ' ' '\n' | resolve - -o requirements/uv.txt

# Images: what a part imports and nothing else. "# without:" names what its packages ask for and never load in this use.
for part in requirements/images/*.in; do
  resolve "$part" --constraint requirements/dev.txt \
    --excludes <(sed -n 's/^# without: //p' "$part" | tr ' ' '\n') -o "${part%.in}.txt"
done
