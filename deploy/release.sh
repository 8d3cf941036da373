#!/usr/bin/env bash
# Makes the commit and the tag of a release, in the repository of the current folder. usage: release.sh VERSION
# The version goes into Cargo.toml, Cargo.lock, the chart, the kustomizations and their tests. What CHANGELOG.md has under
# Unreleased becomes the section of the version, and the message of the tag.
set -euo pipefail
die() { echo "release.sh: $*" >&2; exit 1; }
new=${1:-}
[[ $new =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || die "\"$new\" is no version such as 1.2.3"
cd "$(git rev-parse --show-toplevel)"
[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
! git rev-parse -q --verify "refs/tags/v$new" >/dev/null || die "there is a tag v$new"
old=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
[ "$old" != "$new" ] || die "the version is $new already"
notes=$(awk '/^## \[Unreleased\]/ { on = 1; next } /^## / { on = 0 } on' CHANGELOG.md | sed '/./,$!d')
[ -n "$notes" ] || die "CHANGELOG.md has nothing under Unreleased"

quoted=${old//./\\.}
git grep -lF "$old" -- deploy tests/manifests | xargs --no-run-if-empty sed -i "s/\b$quoted\b/$new/g"
sed -i "0,/^version = \"$quoted\"$/s//version = \"$new\"/" Cargo.toml
sed -i "/^name = \"warren\"$/{n;s/^version = .*/version = \"$new\"/}" Cargo.lock
sed -i "s/^## \[Unreleased\]$/## [Unreleased]\n\n## [$new] - $(date -u +%F)/" CHANGELOG.md
git commit -qam "Version $new"
git tag -a "v$new" --cleanup=verbatim -m "warren $new" -m "$notes"
echo "v$new is made of $old: look at \`git show v$new\`, then push the branch and the tag"
