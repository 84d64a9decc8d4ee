#!/usr/bin/env bash
# Reviews a pull request of a Slipway project and writes what it found as Markdown, for a comment.
#
#   review.sh BASE OUTPUT [PROJECT]
#
# BASE is what the pull request goes to (origin/main), OUTPUT the Markdown file, PROJECT the folder of slipway.yaml.
# It validates the project file, judges promotions (order, approvals, audit), and shows what changes on the cluster:
# the compiled pipeline, and the manifests of every model as kustomize renders them. It exits with 1 if the pull request
# may not be merged. It needs git, slipway[pipelines], and kustomize or kubectl; both commits must be in the checkout.
set -uo pipefail

base=${1:?usage: review.sh BASE OUTPUT [PROJECT]}
output=${2:?usage: review.sh BASE OUTPUT [PROJECT]}
project=${3:-.}
limit=18000 # characters a section; a comment on GitHub holds 65,536
status=0

work=$(mktemp -d)
trap 'git worktree remove --force "$work/base" 2>/dev/null; rm -rf "$work"' EXIT
left=$(git merge-base "$base" HEAD) || { echo "error: $base and HEAD share no history here; fetch all of it" >&2; exit 1; }
git worktree add --quiet --detach "$work/base" "$left" || exit 1

# section TITLE FILE [LANGUAGE]: a folded part of the report. The fence is one that no file holds by accident.
section() {
  printf '<details><summary>%s</summary>\n\n~~~~~~~~%s\n' "$1" "${3:-}"
  head -c "$limit" "$2"
  [ "$(wc -c <"$2")" -le "$limit" ] || printf '\n(cut; the job has the whole)\n'
  printf '\n~~~~~~~~\n\n</details>\n\n'
}

render() { # render FOLDER: what kustomize makes of it; the files themselves where there is no kustomize
  if command -v kustomize >/dev/null; then kustomize build "$1"
  elif command -v kubectl >/dev/null; then kubectl kustomize "$1"
  else cat "$1"/*.yaml; fi
}

render_all() { # render_all CHECKOUT TARGET: one file a model and environment
  local folder name
  for folder in "$1"/manifests/models/*/*/; do
    [ -f "$folder/kustomization.yaml" ] || continue
    name=${folder#"$1"/manifests/models/}
    name=${name%/}
    mkdir -p "$2/${name%/*}"
    if ! render "$folder" >"$2/$name.yaml" 2>"$work/errors"; then
      [ "$1" = . ] && { status=1; printf '**%s does not render**\n\n' "$name"; section "Errors" "$work/errors"; }
    fi
  done
}

{
  printf '<!-- slipway review -->\n## Slipway\n\n'

  if slipway validate --no-data -f "$project" >"$work/validate" 2>&1; then
    printf -- '- The project file is valid.\n'
  else
    status=1
    printf -- '- **The project file is not valid.**\n\n'
    section "Problems" "$work/validate"
  fi

  if slipway promote --check -f "$project" --base "$base" >"$work/check" 2>&1; then
    printf -- '- Promotions: nothing forbids the merge.\n\n'
  else
    status=1
    printf -- '- **Promotions: this may not be merged.**\n\n'
  fi
  section "Models and environments" "$work/check"

  if git diff --quiet "$left" HEAD -- "$project/slipway.yaml" '*.py'; then
    printf 'The pipeline stays as it is.\n\n'
  else
    mkdir -p "$work/old/pipeline" "$work/new/pipeline"
    [ ! -f "$work/base/$project/slipway.yaml" ] ||
      slipway compile -f "$work/base/$project" --manifests "$work/old/pipeline" >/dev/null 2>&1
    if slipway compile -f "$project" --manifests "$work/new/pipeline" >"$work/compile" 2>&1; then
      (cd "$work" && diff -ruN old/pipeline new/pipeline) >"$work/pipeline.diff"
      section "Pipeline" "$work/pipeline.diff" diff
    else
      status=1
      printf '**The project does not compile.**\n\n'
      section "Errors" "$work/compile"
    fi
  fi

  mkdir -p "$work/old/manifests" "$work/new/manifests"
  render_all "$work/base" "$work/old/manifests"
  render_all . "$work/new/manifests"
  (cd "$work" && diff -ruN old/manifests new/manifests) >"$work/manifests.diff"
  if [ -s "$work/manifests.diff" ]; then
    section "What changes on the cluster" "$work/manifests.diff" diff
  else
    printf 'Nothing changes on the cluster.\n'
  fi
} >"$output"

cat "$output"
exit "$status"
