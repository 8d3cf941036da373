"""Holds the chart and the kustomizations of deploy/ to docs/spec/controlplane.md 9. Started by `run`."""

import copy
import functools
import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/chart"
VALUES = ROOT / "tests/manifests/values"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SETS = sorted(path.stem for path in VALUES.glob("*.yaml"))
IMAGE = "registry.example.com/warren:0.1.0"


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def template(chart, *arguments, namespace="istio-system"):
    return run(os.environ["HELM"], "template", "ztunnel", chart, "-n", namespace, "--include-crds", *arguments)


def objects(text):
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.load_all(text, Loader=Loader) if one}


def render(*arguments, chart=CHART, namespace="istio-system"):
    done = template(chart, *arguments, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


@functools.cache
def text_of_set(name):
    done = template(CHART, "-f", VALUES / f"{name}.yaml")
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_set(name):
    return objects(text_of_set(name))


def daemonset(rendered):
    return next(one for (kind, _), one in rendered.items() if kind == "DaemonSet")


def pod(rendered):
    return daemonset(rendered)["spec"]["template"]


def container(rendered, name="istio-proxy"):
    (one,) = (one for one in pod(rendered)["spec"]["containers"] if one["name"] == name)
    return one


def env(rendered):
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container(rendered)["env"]}


def field(path):
    return {"fieldRef": {"fieldPath": path}}


def amount(resource):
    return {"resourceFieldRef": {"resource": resource, "divisor": "1"}}


class Contract(unittest.TestCase):
    """Each row of section 9, in every set of values that does not say otherwise."""

    def test_there_are_at_least_six_sets_of_values(self):
        self.assertGreaterEqual(len(SETS), 6)

    def test_the_chart_passes_lint_with_every_set(self):
        for name in SETS:
            done = run(os.environ["HELM"], "lint", "--strict", CHART, "-f", VALUES / f"{name}.yaml")
            self.assertEqual(done.returncode, 0, f"{name}: {done.stdout}{done.stderr}")

    def test_names_and_selectors(self):
        names = {"revision": "ztunnel-1-30", "warren": "ztunnel-warren"}
        for name in SETS:
            one = daemonset(of_set(name))
            self.assertEqual(one["metadata"]["name"], names.get(name, "ztunnel"), name)
            self.assertEqual(one["metadata"]["namespace"], "istio-system")
            extra = {"warren/track": "canary"} if name == "warren" else {}
            self.assertEqual(one["spec"]["selector"], {"matchLabels": {"app": "ztunnel", **extra}}, name)

    def test_labels_and_annotations_of_pods(self):
        for name in SETS:
            meta = pod(of_set(name))["metadata"]
            want = {
                "app": "ztunnel", "app.kubernetes.io/name": "ztunnel", "sidecar.istio.io/inject": "false",
                "istio.io/dataplane-mode": "none", "app.kubernetes.io/managed-by": "Helm",
                "app.kubernetes.io/instance": "ztunnel", "app.kubernetes.io/part-of": "istio",
                "app.kubernetes.io/version": "0.1.0", "helm.sh/chart": "warren-0.1.0",
            }
            want |= {"team": "mesh"} if name == "revision" else {}
            want |= {"warren/track": "canary"} if name == "warren" else {}
            self.assertEqual(meta["labels"], want, name)
            want = {"sidecar.istio.io/inject": "false", "prometheus.io/port": "15020", "prometheus.io/scrape": "true"}
            want |= {"istio.io/rev": "1-30"} if name == "revision" else {}
            want |= {"example.com/a": "b"} if name == "everything" else {}
            self.assertEqual(meta["annotations"], want, name)

    def test_a_revision_is_annotated_on_the_daemonset_too(self):
        self.assertEqual(daemonset(of_set("revision"))["metadata"]["annotations"], {"istio.io/rev": "1-30"})
        self.assertNotIn("annotations", daemonset(of_set("defaults"))["metadata"])

    def test_update_strategy(self):
        special = {
            "trust-bundle": {"type": "OnDelete"},
            "everything": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}},
        }
        usual = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        for name in SETS:
            self.assertEqual(daemonset(of_set(name))["spec"]["updateStrategy"], special.get(name, usual), name)

    def test_scheduling(self):
        anywhere = [
            {"effect": "NoSchedule", "operator": "Exists"},
            {"key": "CriticalAddonsOnly", "operator": "Exists"},
            {"effect": "NoExecute", "operator": "Exists"},
        ]
        for name in SETS:
            spec = pod(of_set(name))["spec"]
            self.assertEqual(spec["priorityClassName"], "system-node-critical", name)
            for key in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(key, spec)
            if name == "everything":
                self.assertEqual(spec["nodeSelector"], {"kubernetes.io/os": "linux", "example.com/mesh": "true"})
                self.assertEqual(spec["tolerations"], [{"key": "example.com/only", "operator": "Exists"}])
                self.assertEqual(list(spec["affinity"]), ["nodeAffinity"])
            else:
                self.assertEqual(spec["nodeSelector"], {"kubernetes.io/os": "linux"})
                self.assertEqual(spec["tolerations"], anywhere)
                self.assertNotIn("affinity", spec)

    def test_container(self):
        images = {
            "ambient": "registry.example.com/istio/warren:1.30.3-distroless",
            "everything": "registry.example.com/warren@sha256:" + "0123456789abcdef" * 4,
        }
        for name in SETS:
            one = container(of_set(name))
            self.assertEqual(one["name"], "istio-proxy")
            self.assertEqual(one["image"], images.get(name, IMAGE), name)
            self.assertEqual(one["args"], ["proxy", "ztunnel"])
            self.assertNotIn("command", one)
            self.assertEqual(one["ports"], [{"name": "ztunnel-stats", "containerPort": 15020, "protocol": "TCP"}])

    def test_security_context(self):
        for name in SETS:
            want = {
                "privileged": False, "allowPrivilegeEscalation": True,
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "NET_RAW"]},
                "runAsUser": 0, "runAsGroup": 1337, "runAsNonRoot": False, "readOnlyRootFilesystem": True,
            }
            if name == "openshift":
                want["seLinuxOptions"] = {"type": "spc_t"}
            if name == "everything":
                want["seLinuxOptions"] = {"level": "s0:c1"}
            if name == "warren":
                want["seccompProfile"] = {"type": "RuntimeDefault"}
            rendered = of_set(name)
            self.assertEqual(container(rendered)["securityContext"], want, name)
            self.assertNotIn("securityContext", pod(rendered)["spec"])

    def test_probes(self):
        for name in SETS:
            one = container(of_set(name))
            self.assertEqual(one["readinessProbe"], {"httpGet": {"port": 15021, "path": "/healthz/ready"}})
            self.assertFalse({"livenessProbe", "startupProbe", "lifecycle"} & one.keys())

    def test_resources(self):
        special = {
            "bigbang": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            "everything": {"requests": {"memory": "64Mi"}, "limits": {"cpu": "1"}},
        }
        for name in SETS:
            # In `everything` a null takes the default of the processors away.
            want = special.get(name, {"requests": {"cpu": "200m", "memory": "512Mi"}})
            self.assertEqual(container(of_set(name))["resources"], want, name)

    def test_grace_period(self):
        for name in SETS:
            rendered, want = of_set(name), 120 if name == "everything" else 30
            self.assertEqual(pod(rendered)["spec"]["terminationGracePeriodSeconds"], want)
            self.assertEqual(env(rendered)["TERMINATION_GRACE_PERIOD_SECONDS"], str(want))

    def test_environment_of_the_defaults_in_order(self):
        istiod = "istiod.istio-system.svc:15012"
        want = [
            ("CA_ADDRESS", istiod), ("XDS_ADDRESS", istiod), ("RUST_LOG", "info"), ("RUST_BACKTRACE", "1"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"), ("INPOD_ENABLED", "true"),
            ("TERMINATION_GRACE_PERIOD_SECONDS", "30"), ("POD_NAME", field("metadata.name")),
            ("POD_NAMESPACE", field("metadata.namespace")), ("NODE_NAME", field("spec.nodeName")),
            ("INSTANCE_IP", field("status.podIP")), ("SERVICE_ACCOUNT", field("spec.serviceAccountName")),
            ("ZTUNNEL_CPU_LIMIT", amount("limits.cpu")),
            ("ZTUNNEL_RESOURCE_CPU_REQUEST", amount("requests.cpu")),
        ]
        self.assertEqual(list(env(of_set("defaults")).items()), want)

    def test_environment_of_other_sets(self):
        want = {
            "ambient": {"ISTIO_META_ENABLE_HBONE": "true", "ISTIO_META_DNS_CAPTURE": "true"},
            "bigbang": {"ISTIO_META_ENABLE_HBONE": "true", "ZTUNNEL_RESOURCE_CPU_LIMIT": amount("limits.cpu")},
            "revision": {"CA_ADDRESS": "istiod-1-30.mesh.svc:15012", "XDS_ADDRESS": "istiod-1-30.mesh.svc:15012"},
            "everything": {
                "CA_ADDRESS": "ca.example.com:443", "XDS_ADDRESS": "xds.example.com:15012", "LOG_FORMAT": "json",
                "NETWORK": "network-1", "RUST_LOG": "info,access=warn", "ISTIO_META_CLUSTER_ID": "east",
                "ZTUNNEL_WORKER_THREADS": "4", "IPV6_ENABLED": "false", "SECRET_TTL": "12h",
                "CRL_PATH": "/var/run/secrets/istio/crl/ca-crl.pem",
            },
            "warren": {
                "ISTIO_META_ISTIO_VERSION": "1.30.3", "WARREN_LOCAL_JOIN": "false",
                "WARREN_MISSING_POLICY": "deny", "WARREN_SECCOMP": "log", "WARREN_BUFFER_BUDGET": "134217728",
                "WARREN_CHAOS": "true",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.observability:4318",
                "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1",
                "OTEL_LOGS_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_HEADERS": {"secretKeyRef": {"name": "collector", "key": "headers"}},
            },
        }
        for name, variables in want.items():
            found = env(of_set(name))
            self.assertEqual({key: found.get(key) for key in variables}, variables, name)

    def test_what_is_ours_is_not_rendered_unless_it_is_asked_for(self):
        for name in set(SETS) - {"warren"}:
            ours = [key for key in env(of_set(name)) if key.startswith(("WARREN_", "OTEL_"))]
            self.assertEqual(ours, [], name)

    def test_every_value_of_a_variable_is_text_and_no_name_comes_twice(self):
        for name in SETS:
            names = [one["name"] for one in container(of_set(name))["env"]]
            self.assertEqual(len(names), len(set(names)), name)
            for key, value in env(of_set(name)).items():
                self.assertIsInstance(value, (str, dict), key)

    def test_a_variable_of_env_goes_before_the_one_of_the_chart(self):
        found = env(render("--set", f"image={IMAGE},env.RUST_LOG=debug"))
        self.assertEqual(found["RUST_LOG"], "debug")

    def test_a_large_number_keeps_its_digits(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(f"image: {IMAGE}\nenv: {{HTTP2_STREAM_WINDOW_SIZE: 4194304}}\n")
            file.flush()
            self.assertEqual(env(render("-f", file.name))["HTTP2_STREAM_WINDOW_SIZE"], "4194304")

    def test_volumes(self):
        usual_mounts = {
            "istiod-ca-cert": "/var/run/secrets/istio", "istio-token": "/var/run/secrets/tokens",
            "cni-ztunnel-sock-dir": "/var/run/ztunnel", "tmp": "/tmp",
        }
        token = {"path": "istio-token", "expirationSeconds": 43200, "audience": "istio-ca"}
        for name in SETS:
            rendered = of_set(name)
            volumes = {one.pop("name"): one for one in pod(rendered)["spec"]["volumes"]}
            mounts = {one["name"]: one["mountPath"] for one in container(rendered)["volumeMounts"]}
            want = {
                "istio-token": {"projected": {"sources": [{"serviceAccountToken": token}]}},
                "istiod-ca-cert": {"configMap": {"name": "istio-ca-root-cert"}},
                "cni-ztunnel-sock-dir": {"hostPath": {"path": "/var/run/ztunnel", "type": "DirectoryOrCreate"}},
                "tmp": {"emptyDir": {}},
            }
            more = {}
            if name == "everything":
                want["istiod-ca-cert"] = {"configMap": {"name": "roots"}}
                want["crl-volume"] = {"configMap": {"name": "istio-ca-crl", "optional": True}}
                want["extra"] = {"emptyDir": {}}
                more = {"crl-volume": "/var/run/secrets/istio/crl", "extra": "/extra"}
            if name == "trust-bundle":
                bundle = {"name": "istio.io:istiod-ca:root-cert", "path": "root-cert.pem"}
                want["istiod-ca-cert"] = {"projected": {"sources": [{"clusterTrustBundle": bundle}]}}
            self.assertEqual(volumes, want, name)
            self.assertEqual(mounts, usual_mounts | more, name)

    def test_which_objects_there_are(self):
        usual = {("DaemonSet", "ztunnel"), ("ServiceAccount", "ztunnel")}
        want = {
            "bigbang": usual | {("NetworkPolicy", "ztunnel")},
            "openshift": usual | {("ClusterRole", "ztunnel"), ("ClusterRoleBinding", "ztunnel")},
            "revision": {
                ("DaemonSet", "ztunnel-1-30"), ("ServiceAccount", "ztunnel-1-30"), ("ResourceQuota", "ztunnel-1-30"),
                ("NetworkPolicy", "ztunnel-1-30-1-30"),
            },
            "everything": usual | {("ResourceQuota", "ztunnel")},
            "warren": {
                ("DaemonSet", "ztunnel-warren"), ("NetworkPolicy", "ztunnel-warren"), ("PodMonitor", "ztunnel-warren"),
            },
        }
        for name in SETS:
            self.assertEqual(set(of_set(name)), want.get(name, usual), name)

    def test_scope(self):
        cluster = render("-f", VALUES / "openshift.yaml", "--set", "resourceScope=cluster")
        self.assertEqual({kind for kind, _ in cluster}, {"ClusterRole", "ClusterRoleBinding"})
        namespace = render("-f", VALUES / "openshift.yaml", "--set", "resourceScope=namespace")
        self.assertEqual({kind for kind, _ in namespace}, {"DaemonSet", "ServiceAccount"})

    def test_service_account(self):
        self.assertEqual(of_set("bigbang")[("ServiceAccount", "ztunnel")]["imagePullSecrets"], [{"name": "private-registry"}])
        for name, want in (("defaults", "ztunnel"), ("revision", "ztunnel-1-30"), ("warren", "ztunnel")):
            self.assertEqual(pod(of_set(name))["spec"]["serviceAccountName"], want)

    def test_no_token_for_the_api_server_is_mounted_unless_it_is_asked_for(self):
        for name in SETS:
            self.assertIs(pod(of_set(name))["spec"]["automountServiceAccountToken"], False, name)
        asked = render("--set", f"image={IMAGE},warren.serviceAccount.automountToken=true")
        self.assertIs(pod(asked)["spec"]["automountServiceAccountToken"], True)

    def test_network_policy_opens_the_ports_of_the_contract(self):
        def ports(name):
            (policy,) = [one for (kind, _), one in of_set(name).items() if kind == "NetworkPolicy"]
            self.assertEqual(policy["spec"]["egress"], [{}])
            return {(port["protocol"], port["port"]) for rule in policy["spec"]["ingress"] for port in rule["ports"]}

        every = {("TCP", port) for port in (15021, 15020, 15000, 15008, 15001, 15006, 15053)} | {("UDP", 15053)}
        self.assertEqual(ports("bigbang"), every)
        self.assertEqual(ports("revision"), every)
        self.assertEqual(ports("warren"), {("TCP", 15021), ("TCP", 15020), ("TCP", 15008)})

    def test_openshift_grants_the_one_constraint_to_the_account(self):
        rendered = of_set("openshift")
        (rule,) = rendered[("ClusterRole", "ztunnel")]["rules"]
        self.assertEqual((rule["resourceNames"], rule["verbs"]), (["privileged"], ["use"]))
        (subject,) = rendered[("ClusterRoleBinding", "ztunnel")]["subjects"]
        self.assertEqual(subject, {"kind": "ServiceAccount", "name": "ztunnel", "namespace": "istio-system"})

    def test_resource_quota(self):
        for name, pods in (("revision", "5000"), ("everything", "100")):
            (quota,) = [one for (kind, _), one in of_set(name).items() if kind == "ResourceQuota"]
            self.assertEqual(quota["spec"]["hard"], {"pods": pods})
            (scope,) = quota["spec"]["scopeSelector"]["matchExpressions"]
            self.assertEqual(scope, {"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]})

    def test_the_keeper_is_a_second_container_only_where_it_is_asked_for_and_has_the_least_privilege(self):
        for name in SETS:
            names = [one["name"] for one in pod(of_set(name))["spec"]["containers"]]
            self.assertEqual(names, ["istio-proxy", "keeper"] if name == "warren" else ["istio-proxy"], name)
        keeper = container(of_set("warren"), "keeper")
        self.assertEqual(keeper["image"], container(of_set("warren"))["image"])
        self.assertEqual(keeper["args"], ["keeper"])
        self.assertEqual(keeper["securityContext"], {
            "privileged": False, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True, "runAsUser": 0, "runAsGroup": 1337, "runAsNonRoot": False,
            "seccompProfile": {"type": "RuntimeDefault"}})
        self.assertEqual(keeper["volumeMounts"], [{"name": "cni-ztunnel-sock-dir", "mountPath": "/var/run/ztunnel"}])
        self.assertEqual({one["name"]: one["value"] for one in keeper["env"]}, {
            "RUST_LOG": "info", "RUST_BACKTRACE": "1", "WARREN_SECCOMP": "log", "WARREN_KEEPER_HOLD": "10s"})

    def test_the_keeper_looks_for_sockets_where_the_proxy_does(self):
        paths = {"INPOD_UDS": "/a/b.sock", "WARREN_HANDOVER_UDS": "/a/c.sock", "WARREN_KEEPER_UDS": "/a/d.sock"}
        sets = [part for name, path in paths.items() for part in ("--set", f"env.{name}={path}")]
        rendered = render("--set", f"image={IMAGE},warren.keeper.enabled=true,warren.istioVersion=1.30.3", *sets)
        env = {one["name"]: one["value"] for one in container(rendered, "keeper")["env"]}
        self.assertEqual(env, {"RUST_LOG": "info", "RUST_BACKTRACE": "1", **paths})

    def test_pod_monitor_scrapes_the_port_of_the_container(self):
        monitor = of_set("warren")[("PodMonitor", "ztunnel-warren")]
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        self.assertEqual(endpoint, {"port": "ztunnel-stats", "path": "/stats/prometheus", "interval": "15s"})


class Values(unittest.TestCase):
    """Where values come from."""

    def test_values_yaml_documents_the_defaults(self):
        lines = (CHART / "values.yaml").read_text().splitlines()
        documented = "\n".join(line[2:] for line in lines if line.startswith("# "))
        self.assertEqual(yaml.safe_load(documented), yaml.safe_load((CHART / "files/defaults.yaml").read_text()))
        self.assertIsNone(yaml.safe_load((CHART / "values.yaml").read_text()))

    def test_every_default_is_known_to_the_schema(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        defaults = yaml.safe_load((CHART / "files/defaults.yaml").read_text())
        self.assertEqual(set(defaults) - {"networkPolicy"} - set(schema["definitions"]), set())

    def test_global_counts_unless_the_chart_is_told_otherwise(self):
        image = lambda *sets: container(render(*[part for one in sets for part in ("--set", one)]))["image"]
        self.assertEqual(image("global.hub=a.io", "global.tag=1"), "a.io/warren:1")
        self.assertEqual(image("global.hub=a.io", "hub=b.io", "tag=2"), "b.io/warren:2")
        self.assertEqual(image("hub=b.io"), "b.io/warren:0.1.0")

    def test_upstream_is_passed_through(self):
        direct = render("-f", VALUES / "bigbang.yaml")
        values = {"upstream": yaml.safe_load((VALUES / "bigbang.yaml").read_text())}
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            self.assertEqual(render("-f", file.name), direct)

    def test_a_chart_that_wraps_ours_as_upstream_renders_the_same(self):
        """As a package of Big Bang does."""
        with tempfile.TemporaryDirectory() as folder:
            wrapper = pathlib.Path(folder)
            (wrapper / "charts").mkdir()
            (wrapper / "charts/warren").symlink_to(CHART)
            dependency = {"name": "warren", "version": "0.1.0", "alias": "upstream", "condition": "upstream.enabled"}
            (wrapper / "Chart.yaml").write_text(yaml.safe_dump(
                {"apiVersion": "v2", "name": "ztunnel", "version": "0.1.0-bb.0", "dependencies": [dependency]}))
            (wrapper / "values.yaml").write_text(yaml.safe_dump(
                {"upstream": {"enabled": True, **yaml.safe_load((VALUES / "bigbang.yaml").read_text())}}))
            wrapped = render(chart=wrapper)
        direct = of_set("bigbang")
        for one in (wrapped, direct):
            for value in one.values():
                value["metadata"]["labels"].pop("helm.sh/chart", None)
            pod(one)["metadata"]["labels"].pop("helm.sh/chart")
        self.assertEqual(wrapped, direct)

    def test_the_defaults_of_a_release_of_ztunnels_chart_are_left_out(self):
        """`helm upgrade --reuse-values` brings them along."""
        old = run(os.environ["HELM"], "show", "values", os.environ["ZTUNNEL_CHART"]).stdout
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(old)
            file.flush()
            self.assertEqual(render("-f", file.name, "--set", f"image={IMAGE}"), of_set("defaults"))


def plain(one):
    """An object without what is documented to differ from ztunnel's chart."""
    one = copy.deepcopy(one)
    meta = one["metadata"]
    templates = [meta] + ([one["spec"]["template"]["metadata"]] if one["kind"] == "DaemonSet" else [])
    for part in templates:
        labels = part.get("labels", {})
        for label in ("helm.sh/chart", "app.kubernetes.io/version", "install.operator.istio.io/owning-resource",
                      "operator.istio.io/component"):
            labels.pop(label, None)
        if not part.get("annotations"):
            part.pop("annotations", None)
    if one["kind"] == "DaemonSet":
        spec = one["spec"]
        if spec["updateStrategy"]["type"] == "OnDelete":
            spec["updateStrategy"].pop("rollingUpdate", None)
        spec["template"]["spec"].pop("automountServiceAccountToken", None)
        (inner,) = spec["template"]["spec"]["containers"]
        inner.pop("image")
        for amounts in inner["resources"].values():
            amounts.update({name: str(value) for name, value in amounts.items()})
        for variable in inner["env"]:
            if "value" in variable:
                variable["value"] = str(variable["value"])
    if one["kind"] == "NetworkPolicy":
        one["spec"]["ingress"].sort(key=json.dumps)
    return one


class Incumbent(unittest.TestCase):
    """The same values make the same objects as ztunnel's own chart."""

    def test_renders_differ_in_the_image_alone(self):
        self.maxDiff = None
        for name in set(SETS) - {"warren"}:
            theirs = render("-f", VALUES / f"{name}.yaml", chart=os.environ["ZTUNNEL_CHART"])
            ours = of_set(name)
            self.assertEqual(set(ours), set(theirs), name)
            for key in ours:
                self.assertEqual(plain(ours[key]), plain(theirs[key]), f"{name}: {key}")


class Refusals(unittest.TestCase):
    """What is unknown or contradicts itself is refused, and the message has the path."""

    CASES = [
        ("unknwon=1", "'unknwon'"), ("warren.trace=1", "/warren"), ("warren.tracing.url=x", "/warren/tracing"),
        ("logAsJson=maybe", "/logAsJson"), ("global.logAsJson=maybe", "/global/logAsJson"),
        ("upstream.logAsJson=maybe", "/upstream/logAsJson"), ("upstream.nothing=1", "/upstream"),
        ("imagePullPolicy=Sometimes", "/imagePullPolicy"), ("profile=ambiant", "/profile"),
        ("platform=windows", "/platform"), ("resourceScope=some", "/resourceScope"),
        ("compatibilityVersion=latest", "/compatibilityVersion"),
        ("resources.requests.memory=much", "/resources/requests/memory"), ("resources.request.cpu=1", "/resources"),
        ("env.1A=x", "/env"), ("env.A.B=x", "/env/A"), ("podLabels.app=other", "/podLabels/app"),
        ("terminationGracePeriodSeconds=-1", "/terminationGracePeriodSeconds"),
        ("updateStrategy.type=Recreate", "/updateStrategy/type"),
        ("updateStrategy.type=OnDelete,updateStrategy.rollingUpdate.maxSurge=1", "/updateStrategy"),
        ("updateStrategy.rollingUpdate.maxUnavailable=1", "/updateStrategy/rollingUpdate"),
        ("updateStrategy.rollingUpdate.maxSurge=0", "/updateStrategy/rollingUpdate"),
        ("updateStrategy.rollingUpdate.maxSurge=0,updateStrategy.rollingUpdate.maxUnavailable=0", "/updateStrategy/rollingUpdate"),
        ("peerCaCrl.enabled=true,env.CRL_PATH=/x", "/env"), ("dnsPolicy=None", "dnsConfig"),
        ("warren.chaos=true,env.WARREN_CHAOS=false", "/env"),
        ("warren.localJoin=false,env.WARREN_LOCAL_JOIN=true", "/env"),
        ("warren.missingPolicy=deny,env.WARREN_MISSING_POLICY=ignore", "/env"),
        ("warren.missingPolicy=allow", "/warren/missingPolicy"),
        ("warren.seccomp=log,env.WARREN_SECCOMP=off", "/env"),
        ("warren.seccomp=kill", "/warren/seccomp"),
        ("warren.keeper.hold=61s", "/warren/keeper/hold"), ("warren.keeper.on=true", "/warren/keeper"),
        ("warren.keeper.hold=9s,env.WARREN_KEEPER_HOLD=8s", "warren.keeper.hold"),
        ("warren.bufferBudget=67108864,env.WARREN_BUFFER_BUDGET=67108864", "/env"),
        ("warren.bufferBudget=64Mi", "/warren/bufferBudget"), ("warren.bufferBudget=1000", "/warren/bufferBudget"),
        ("warren.istioVersion=1.30.3,env.ISTIO_META_ISTIO_VERSION=1", "/env"),
        ("warren.tracing.logs=true", "/warren/tracing"), ("warren.tracing.endpoint=collector:4317", "/warren/tracing/endpoint"),
        ("warren.tracing.endpoint=http://a,warren.tracing.samplerArg=0.5", "/warren/tracing"),
        ("warren.tracing.endpoint=http://a,warren.tracing.sampler=traceidratio,warren.tracing.samplerArg=2", "/warren/tracing/samplerArg"),
        ("warren.tracing.headersSecret.name=a", "/warren/tracing/headersSecret"),
        ("warren.serviceAccount.create=false", "/warren/serviceAccount"),
        ("warren.seccompProfile.type=Localhost", "/warren/seccompProfile"),
        ("warren.seccompProfile.type=RuntimeDefault,warren.seccompProfile.localhostProfile=a", "/warren/seccompProfile"),
        ("warren.selectorLabels.app=x", "/warren/selectorLabels"), ("warren.podMonitor.interval=often", "/warren/podMonitor/interval"),
        ("_internal_defaults_do_not_set=1", "/_internal_defaults_do_not_set"),
    ]

    def test_each_is_refused_by_its_path(self):
        for given, path in self.CASES:
            with self.subTest(given):
                done = template(CHART, "--set", f"image={IMAGE}", "--set", given)
                self.assertNotEqual(done.returncode, 0, f"{given} is taken")
                self.assertIn(path, done.stderr)

    def test_the_readme_shows_what_helm_says(self):
        text = (ROOT / "deploy/README.md").read_text()
        ((command, printed),) = re.findall(r"```text\n\$ helm (.*)\n((?:.*\n)+?)```", text)
        done = subprocess.run([os.environ["HELM"], *command.split()], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(done.stderr.strip(), printed.strip())

    def test_without_a_registry_the_chart_says_what_to_set(self):
        done = template(CHART)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("Set image to a whole reference with a slash, or set hub.", done.stderr)

    def test_chaos_through_global_contradicts_its_variable(self):
        done = template(CHART, "--set", f"image={IMAGE},global.warren.chaos=true,env.WARREN_CHAOS=false")
        self.assertIn("warren.chaos", done.stderr)


class Kustomizations(unittest.TestCase):
    """deploy/kubernetes."""

    def build(self, name):
        done = run(os.environ["KUSTOMIZE"], "build", ROOT / "deploy/kubernetes" / name)
        self.assertEqual(done.returncode, 0, done.stderr)
        return objects(done.stdout)

    def test_the_base_is_what_the_chart_makes_for_the_ambient_profile(self):
        ours, chart = self.build("base"), render("--set", f"image={IMAGE},profile=ambient")
        for one in chart.values():
            metas = [one["metadata"]] + ([one["spec"]["template"]["metadata"]] if one["kind"] == "DaemonSet" else [])
            for meta in metas:
                kept = ("app", "app.kubernetes.io/name", "app.kubernetes.io/part-of", "sidecar.istio.io/inject", "istio.io/dataplane-mode")
                meta["labels"] = {key: value for key, value in meta["labels"].items() if key in kept}
        self.assertEqual(ours, chart)

    def test_the_swap_changes_the_image_and_nothing_else(self):
        self.assertEqual(self.build("swap-image"), {("DaemonSet", "ztunnel"): {
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ztunnel", "namespace": "istio-system"},
            "spec": {"template": {"spec": {"containers": [{"name": "istio-proxy", "image": IMAGE}]}}}}})

    def test_the_canary_has_its_own_selector_and_nodes_and_the_account_that_is_trusted(self):
        base, canary = self.build("base"), self.build("canary")
        self.assertEqual(set(canary), {("DaemonSet", "ztunnel-warren")})
        spec = daemonset(canary)["spec"]
        self.assertEqual(spec["selector"]["matchLabels"], {"app": "ztunnel", "warren/track": "canary"})
        self.assertEqual(spec["template"]["spec"]["serviceAccountName"], "ztunnel")
        affinity = spec["template"]["spec"].pop("affinity")
        self.assertEqual(self.nodes(affinity), {"key": "node-proxy", "operator": "In", "values": ["both", "warren"]})
        spec["template"]["metadata"]["labels"].pop("warren/track")
        self.assertEqual(spec["template"], daemonset(base)["spec"]["template"])

    def test_the_daemonset_that_is_there_leaves_the_nodes_of_the_canary_alone(self):
        patch = yaml.safe_load((ROOT / "deploy/kubernetes/canary/existing.yaml").read_text())
        self.assertEqual(patch["spec"]["updateStrategy"], {"type": "OnDelete", "rollingUpdate": None})
        affinity = patch["spec"]["template"]["spec"]["affinity"]
        self.assertEqual(self.nodes(affinity), {"key": "node-proxy", "operator": "NotIn", "values": ["warren"]})

    def test_the_keeper_of_its_own_pods_is_that_of_the_chart(self):
        ours, chart = self.build("keeper"), render("--set", f"image={IMAGE},warren.keeper.enabled=true")
        self.assertEqual(container(ours, "keeper"), container(chart, "keeper"))
        for key in ("nodeSelector", "tolerations", "priorityClassName", "automountServiceAccountToken"):
            self.assertEqual(pod(ours)["spec"][key], pod(chart)["spec"][key])
        mounted = [one for one in pod(chart)["spec"]["volumes"] if one["name"] == "cni-ztunnel-sock-dir"]
        self.assertEqual(pod(ours)["spec"]["volumes"], mounted)

    def nodes(self, affinity):
        (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (expression,) = term["matchExpressions"]
        return expression


class Image(unittest.TestCase):
    """deploy/Dockerfile and what the chart starts."""

    def test_the_image_starts_as_the_chart_expects(self):
        text = (ROOT / "deploy/Dockerfile").read_text()
        self.assertRegex(text, r'(?m)^ENTRYPOINT \["/usr/local/bin/ztunnel"\]$')
        self.assertRegex(text, r"(?m)^WORKDIR /$")
        self.assertRegex(text, r"(?m)^ENV .*ISTIO_META_ISTIO_VERSION=")
        self.assertIn("--profile dist", text)
        self.assertIn("--no-default-features", text)
        for script in ("deploy/rootfs.sh", "deploy/sbom.py"):
            self.assertIn(script, text)
            self.assertTrue(os.access(ROOT / script, os.X_OK), script)

    def test_the_bill_of_materials_has_licence_and_digest_of_each_crate_of_the_proxy(self):
        for target in ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"):
            done = run(ROOT / "deploy/sbom.py", target)
            self.assertEqual(done.returncode, 0, done.stderr)
            bill = json.loads(done.stdout)
            names = {one["name"] for one in bill["components"]}
            self.assertGreater(len(names), 100)
            self.assertLessEqual({"rustls", "aws-lc-sys", "h2", "tokio"}, names)
            self.assertEqual("ring" in names, target.startswith("x86_64"))
            self.assertFalse({"proptest", "prost-build", "syn"} & names, target)
            for one in bill["components"]:
                self.assertTrue(one["licenses"] and one["hashes"], one["name"])

    def test_the_image_without_an_engine_has_the_same_configuration_and_is_the_same_each_time(self):
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / name for name in ("a.tar", "b.tar")]
            for file in files:
                done = run(ROOT / "deploy/image.sh", "/bin/ls", "registry.example.com/warren:0.1.0", file, "1.30.3")
                self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(files[0].read_bytes(), files[1].read_bytes())
            run("tar", "-C", folder, "-xf", files[0])
            blobs = pathlib.Path(folder) / "blobs/sha256"
            index = json.loads((pathlib.Path(folder) / "index.json").read_text())
            manifest = json.loads((blobs / index["manifests"][0]["digest"].split(":")[1]).read_text())
            config = json.loads((blobs / manifest["config"]["digest"].split(":")[1]).read_text())["config"]
            self.assertEqual(config["Entrypoint"], ["/usr/local/bin/ztunnel"])
            self.assertEqual(config["WorkingDir"], "/")
            self.assertIn("ISTIO_META_ISTIO_VERSION=1.30.3", config["Env"])
            layer = blobs / manifest["layers"][0]["digest"].split(":")[1]
            names = run("tar", "-tvf", layer).stdout
            self.assertRegex(names, r"\./usr/local/bin/ztunnel -> warren")
            self.assertFalse(re.search(r"\./(bin|usr/bin)/(sh|bash|busybox)", names), "there is a shell in the image")


if __name__ == "__main__":
    unittest.main()
