#!/bin/sh
# Prints what the chart makes of its defaults, without CRD and key: operator.yaml, for `kubectl apply -k` without helm.
set -eu
echo '# Made by `make generate` from charts/windlass; do not edit.'
helm template windlass "$(dirname "$0")/../../charts/windlass" --namespace windlass --kube-version 1.34 \
  --set crds.install=false,key.existingSecret=windlass-operator-key |
  sed -e '/^# Source:/d' -e '/helm.sh\/chart:/d' -e 's/managed-by: Helm/managed-by: kustomize/'
