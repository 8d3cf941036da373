#!/usr/bin/env bash
# Two clusters on two networks, each with an istiod of its own and an Envoy as its east-west gateway: whether a service
# with endpoints on both networks is served while the far gateway runs, while it is frozen, and after that.
# usage: tests/cluster/networks.sh [install] [check] [remove]        (install and check unless something is named)
#
#   KUBECONFIG_1, KUBECONFIG_2  the clusters; the pods of one cannot reach those of the other, but its gateway and API
#   WARREN_IMAGE                the proxy's image, which the nodes have, as they have the others named here
#   WARREN_TESTS_IMAGE          the applications' image: k8s.local/warren-tests:1 unless set (image.sh)
#   ISTIO_HUB, ISTIO_TAG        of the images pilot, install-cni and proxyv2: k8s.local and dev unless set
#   ISTIO_CHARTS                the folder of Istio's charts; fetched with Go unless set
#   GATEWAY_1, GATEWAY_2        the gateways' addresses, where no controller gives services of type LoadBalancer one
#   PLAIN_ENVOY=1               proxyv2 has an Envoy without Istio's extensions: istiod is told to leave them out
#   HELM, KUBECTL, ISTIOCTL     unless they are in PATH
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
fail() { echo "tests/cluster/networks.sh: $*" >&2; exit 1; }
: "${KUBECONFIG_1:?has to name a cluster}" "${KUBECONFIG_2:?has to name another cluster}"
: "${WARREN_IMAGE:?has to be the image of the proxy, which the nodes have}"
app_image=${WARREN_TESTS_IMAGE:-k8s.local/warren-tests:1} hub=${ISTIO_HUB:-k8s.local} tag=${ISTIO_TAG:-dev}
helm=${HELM:-helm} kubectl=${KUBECTL:-kubectl} istioctl=${ISTIOCTL:-istioctl}
for tool in "$helm" "$kubectl" "$istioctl" openssl; do command -v "$tool" >/dev/null || fail "there is no $tool"; done
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
config() { local name=KUBECONFIG_$1; echo "${!name}"; }
k() { local of=$1; shift; "$kubectl" --kubeconfig "$(config "$of")" "$@"; }
h() { local of=$1; shift; "$helm" --kubeconfig "$(config "$of")" -n istio-system "$@"; }

charts() {
  local istio=istio.io/istio@v0.0.0-20260827124520-eed52ebb66ad
  [ -d /usr/local/go/bin ] && PATH=$PATH:/usr/local/go/bin
  command -v go >/dev/null || fail "ISTIO_CHARTS is not set, and there is no go to fetch the charts"
  echo "$(go mod download -json "$istio" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')/manifests/charts"
}

# One root for both authorities: the mesh is one.
roots() {
  k 1 -n istio-system get secret cacerts >/dev/null 2>&1 && k 2 -n istio-system get secret cacerts >/dev/null 2>&1 && return
  local days="-days 365" ca="basicConstraints=critical,CA:true" use="keyUsage=critical,keyCertSign,cRLSign" of
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/root-key.pem" -out "$work/root-cert.pem" $days \
    -subj /O=Istio/CN=root -addext "$use" 2>/dev/null
  for of in 1 2; do
    openssl req -newkey rsa:2048 -nodes -keyout "$work/ca-key.pem" -out "$work/ca.csr" -subj "/O=Istio/CN=cluster-$of" 2>/dev/null
    openssl x509 -req -in "$work/ca.csr" -CA "$work/root-cert.pem" -CAkey "$work/root-key.pem" -CAcreateserial $days \
      -extfile <(printf '%s\n' "$ca" "$use") -out "$work/ca-cert.pem" 2>/dev/null
    cat "$work/ca-cert.pem" "$work/root-cert.pem" > "$work/cert-chain.pem"
    k $of -n istio-system create secret generic cacerts --dry-run=client -o yaml \
      --from-file="$work/ca-cert.pem" --from-file="$work/ca-key.pem" --from-file="$work/root-cert.pem" \
      --from-file="$work/cert-chain.pem" | k $of apply -f -
  done
}

# The one filter of a gateway that only Istio's Envoy has.
plain_envoy() { cat <<'YAML'
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: plain-envoy, namespace: istio-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eastwest}]
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        name: connect_terminate
        filterChain:
          filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: waypoint_downstream_peer_metadata}}
    patch: {operation: REMOVE}
YAML
}

gateway() { cat <<YAML
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: eastwest
  namespace: istio-system
  labels: {topology.istio.io/network: network-$1}
spec:
  gatewayClassName: istio-east-west
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
    tls: {mode: Terminate, options: {gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL}}
YAML
}

# `web` has an endpoint on each network, `far` on the second one alone. Each server answers with its cluster's name.
applications() { cat <<YAML
apiVersion: v1
kind: Namespace
metadata: {name: warren-networks, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: warren-networks, labels: {istio.io/global: "true"}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: warren-networks, labels: {istio.io/global: "true"}}
spec: {selector: {cluster: "2", app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: warren-networks, labels: {app: web, cluster: "$1"}}
spec:
  containers:
  - {name: app, image: "$app_image", args: [serve, "8080"], env: [{name: HOSTNAME, value: cluster-$1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: warren-networks}
spec: {containers: [{name: app, image: "$app_image", args: [idle]}]}
YAML
}

signal() { # signal STOP|CONT: to the Envoy of the second cluster's gateway
  local pod node uid
  pod=$(k 2 -n istio-system get pods -l gateway.networking.k8s.io/gateway-name=eastwest -o jsonpath='{.items[0].metadata.name}')
  node=$(k 2 -n istio-system get pod "$pod" -o jsonpath='{.spec.nodeName}')
  uid=$(k 2 -n istio-system get pod "$pod" -o jsonpath='{.metadata.uid}')
  k 2 -n default delete pod signal --ignore-not-found --grace-period=0 --force >/dev/null 2>&1
  k 2 apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: signal, namespace: default}
spec:
  {nodeName: $node, hostPID: true, restartPolicy: Never, containers: [{name: app, image: "$app_image",
    args: [kill, "$uid", envoy, $1], securityContext: {privileged: true}}]}
YAML
  k 2 -n default wait pod/signal --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s >/dev/null
}

install() {
  local of other charts env=() crds
  charts=${ISTIO_CHARTS:-$(charts)}
  crds=$charts/../../tests/integration/pilot/testdata/gateway-api-crd.yaml
  for of in 1 2; do
    k $of create namespace istio-system --dry-run=client -o yaml | k $of apply -f -
    k $of label namespace istio-system topology.istio.io/network=network-$of --overwrite
    [ ! -e "$crds" ] || k $of apply --server-side -f "$crds" >/dev/null
  done
  roots
  for of in 1 2; do
    local values=(--set profile=ambient --set global.hub="$hub" --set global.tag="$tag" --set global.variant=
      --set global.imagePullPolicy=IfNotPresent --set global.network=network-$of
      --set global.multiCluster.clusterName=cluster-$of)
    # Newer gateways are told of a kind of string that only Istio's Envoy has.
    [ -z "${PLAIN_ENVOY:-}" ] || env=(--set telemetry.enabled=false
      --set-string pilot.env.PILOT_ENABLE_METADATA_EXCHANGE=false
      --set-string meshConfig.defaultConfig.proxyMetadata.ISTIO_META_ISTIO_VERSION=1.29.1)
    h $of upgrade --install istio-base "$charts/base" "${values[@]}" >/dev/null
    h $of upgrade --install istiod "$charts/istio-control/istio-discovery" "${values[@]}" "${env[@]}" \
      --set-string pilot.env.AMBIENT_ENABLE_MULTI_NETWORK=true --set autoscaleEnabled=false \
      --set resources.requests.cpu=50m --set resources.requests.memory=256Mi >/dev/null
    h $of upgrade --install istio-cni "$charts/istio-cni" "${values[@]}" --set resources.requests.cpu=20m >/dev/null
    h $of upgrade --install ztunnel deploy/chart --set profile=ambient --set image="$WARREN_IMAGE" \
      --set network=network-$of --set multiCluster.clusterName=cluster-$of --set imagePullPolicy=IfNotPresent \
      --set resources.requests.cpu=50m --set resources.requests.memory=64Mi >/dev/null
  done
  for of in 1 2; do
    other=$((3 - of))
    "$istioctl" --kubeconfig "$(config $other)" create-remote-secret --name cluster-$other | k $of apply -f -
    [ -z "${PLAIN_ENVOY:-}" ] || plain_envoy | k $of apply -f -
    gateway $of | k $of apply -f -
  done
  for of in 1 2; do
    k $of -n istio-system rollout restart deployment/istiod >/dev/null
    for one in deployment/istiod daemonset/istio-cni-node daemonset/ztunnel; do
      k $of -n istio-system rollout status $one --timeout=180s
    done
    local address=GATEWAY_$of
    until k $of -n istio-system get service eastwest >/dev/null 2>&1; do sleep 1; done
    [ -z "${!address:-}" ] || k $of -n istio-system patch service eastwest --subresource=status \
      -p "{\"status\":{\"loadBalancer\":{\"ingress\":[{\"ip\":\"${!address}\"}]}}}"
    k $of -n istio-system rollout status deployment/eastwest --timeout=120s
    applications $of | k $of apply -f -
    k $of -n warren-networks wait pod --all --for=condition=Ready --timeout=60s
  done
}

# asks WHAT URL COUNT FROM: prints what COUNT connections of cluster FROM's caller came to, and leaves the answers in $out
asks() {
  out=$(k "$4" -n warren-networks exec caller -- /usr/local/bin/warren try "$2" "$3")
  local failed near far slowest
  failed=$(grep -c FAILED <<< "$out" || true) near=$(grep -c "^cluster-$4 " <<< "$out" || true)
  far=$(grep -c "^cluster-$((3 - $4)) " <<< "$out" || true)
  slowest=$(sed -n 's/.* after \([0-9]*\) ms$/\1/p' <<< "$out" | sort -n | tail -1)
  printf '| %s | %s | %s | %s | %s | %s ms |\n' "$1" "$3" "$failed" "$near" "$far" "$slowest"
  last_failed=$failed last_far=$far last_slowest=$slowest
}

check() {
  local web=http://web.warren-networks/ far=http://far.warren-networks/ wrong=0
  no() { echo "FAILED: $*"; wrong=1; }
  for from in 1 2; do
    for turn in $(seq 60); do
      out=$(k $from -n warren-networks exec caller -- /usr/local/bin/warren try $web 10 || true)
      grep -q "^cluster-$((3 - from)) " <<< "$out" && break
      [ "$turn" -lt 60 ] || fail "cluster $from does not reach the other one"
      sleep 1
    done
  done
  echo "| What | Connections | Failed | By the near one | By the far one | Slowest |"; echo "|---|---|---|---|---|---|"
  for from in 1 2; do
    asks "from network $from" $web 60 $from
    [ "$last_failed" = 0 ] || no "$last_failed of 60 from network $from"
    [ "$last_far" -gt 9 ] || no "only $last_far of 60 from network $from by the gateway"
  done
  k 1 -n warren-networks exec caller -- /usr/local/bin/warren stay $far > "$work/stay" & local stay=$!
  until grep -q cluster-2 "$work/stay"; do sleep 0.2; done
  signal STOP; frozen=1; trap 'signal CONT; rm -rf "$work"' EXIT
  asks "the far gateway frozen" $web 60 1
  [ "$last_failed" = 0 ] || no "$last_failed of 60 while the gateway was frozen: $(grep FAILED <<< "$out" | head -3)"
  asks "frozen, a service on the far network alone" $far 3 1
  [ "$last_failed" = 3 ] || no "$((3 - last_failed)) of 3 were served by a frozen gateway"
  [ "$last_slowest" -lt 30000 ] || no "a connection by the frozen gateway took $last_slowest ms"
  grep FAILED <<< "$out" | head -1
  wait $stay || true
  echo "a connection that was open when the gateway froze: $(tail -1 "$work/stay")"
  grep -q "after [1-4]\?[0-9]\{4\} ms" "$work/stay" || no "the open connection was not ended within 50 s"
  signal CONT; trap 'rm -rf "$work"' EXIT
  asks "thawed" $web 60 1
  [ "$last_failed" = 0 ] || no "$last_failed of 60 after the gateway was thawed"
  for turn in $(seq 30); do
    asks "thawed, later" $web 20 1 > "$work/later"
    [ "$last_far" -gt 0 ] && break
    [ "$turn" -lt 30 ] || no "nobody goes by the gateway that is back"
    sleep 1
  done
  cat "$work/later"
  asks "the far network alone, thawed" $far 3 1
  [ "$last_failed" = 0 ] || no "the far network is not reached by the gateway that is back"
  [ $wrong = 0 ] || exit 1
  echo "all as promised"
}

remove() {
  for of in 1 2; do
    k $of delete namespace warren-networks --ignore-not-found
    k $of -n istio-system delete gateway/eastwest envoyfilter/plain-envoy secret/istio-remote-secret-cluster-$((3 - of)) --ignore-not-found
    for release in ztunnel istio-cni istiod istio-base; do h $of uninstall $release --ignore-not-found; done
  done
}

[ $# -gt 0 ] || set -- install check
for word in "$@"; do
  case $word in install | check | remove) "$word" ;; *) fail "there is no $word" ;; esac
done
