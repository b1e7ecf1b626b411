#!/bin/sh
# Serves the repository to the swarm. The image's copy is the seed; the served one is on the pod's volume, so it
# survives a restart of the container, not the loss of the pod.
set -eu
[ -d /srv/git/app ] || { cp -R /opt/seed/app /srv/git/app.new && mv /srv/git/app.new /srv/git/app; }
exec git daemon --reuseaddr --export-all --enable=receive-pack --base-path=/srv/git /srv/git
