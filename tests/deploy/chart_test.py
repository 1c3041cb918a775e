"""The Helm chart, rendered by the real helm for every profile: schemas of Kubernetes and of the custom resources, Pod Security
"restricted", and what each profile promises."""

import json
import pathlib
import re
import tempfile
import unittest

import tools

HELM = tools.tool("helm")
tools.require("LIFT_TEST_PYTHON", "an interpreter with kubernetes-validate")

import jsonschema  # noqa: E402
import kubernetes_validate  # noqa: E402
import yaml  # noqa: E402

PROFILES = {path.stem: path for path in sorted((tools.CHART / "ci").glob("*.yaml"))}
KUBERNETES = ["1.30", "1.37"]  # the oldest the chart takes and the newest known
CRDS = {p.stem: json.loads(p.read_text()) for p in (tools.SOURCE / "tests/deploy/crds").glob("*.json")}
SENTINEL = "0" * 64


def render(profile, *flags, ok=True):
    return tools.run(HELM, "template", "prod", tools.CHART, "-n", "ml", "-f", PROFILES[profile], *flags, ok=ok)


def objects(profile, *flags):
    return [each for each in yaml.safe_load_all(render(profile, *flags).stdout) if each]


def one(profile, kind, *flags, name=None):
    found = [o for o in objects(profile, *flags) if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"{profile}: {len(found)} {kind}"
    return found[0]


def pods(objs):
    for each in objs:
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], each["spec"]
        elif each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def restricted_violations(spec):
    """The checks of the Pod Security Standard "restricted" (and "baseline", which it includes)."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected",
                         "secret"}:
            yield f"volume {kinds}"
    pod = spec.get("securityContext", {})
    for c in spec.get("initContainers", []) + spec["containers"]:
        own = c.get("securityContext", {})
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            yield f"{c['name']}: privilege escalation"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or set(own["capabilities"].get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{c['name']}: capabilities"
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")) or 0 in (own.get("runAsUser"), pod.get("runAsUser")):
            yield f"{c['name']}: root"
        if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{c['name']}: seccomp"
        if any(port.get("hostPort") for port in c.get("ports", [])):
            yield f"{c['name']}: host port"
        # Beyond the standard, ours by construction.
        if not own.get("readOnlyRootFilesystem"):
            yield f"{c['name']}: writable root"
        if not c.get("resources", {}).get("limits", {}).get("memory"):
            yield f"{c['name']}: no memory limit"
        if c["image"].endswith(":latest") or not re.search(r":[^/]+$|@sha256:", c["image"]):
            yield f"{c['name']}: image {c['image']}"
    if spec.get("automountServiceAccountToken") is not False:
        yield "service account token"


class EveryProfile(unittest.TestCase):
    def test_lint(self):
        for name, path in PROFILES.items():
            with self.subTest(name):
                tools.run(HELM, "lint", "--strict", tools.CHART, "-f", path)

    def test_schemas(self):
        checked = 0
        for name in PROFILES:
            for each in objects(name):
                with self.subTest(profile=name, kind=each["kind"], name=each["metadata"]["name"]):
                    crd = CRDS.get(each["kind"].lower())
                    if crd:
                        jsonschema.validate(each, crd)
                    else:
                        for version in KUBERNETES:
                            kubernetes_validate.validate(each, version, strict=True)
                    checked += 1
        print(f"{checked} rendered objects of {len(PROFILES)} profiles validated", flush=True)
        self.assertGreater(checked, 40)

    def test_the_schema_check_bites(self):
        deployment = one("cpu", "Deployment")
        deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(deployment, KUBERNETES[0], strict=True)
        pool = one("gateway", "InferencePool")
        pool["spec"]["targetPort"] = 1
        with self.assertRaises(jsonschema.ValidationError):
            jsonschema.validate(pool, CRDS["inferencepool"])

    def test_pod_security_restricted(self):
        seen = 0
        for name in PROFILES:
            for pod, spec in pods(objects(name)):
                with self.subTest(profile=name, pod=pod):
                    self.assertEqual(list(restricted_violations(spec)), [])
                    seen += 1
        self.assertGreaterEqual(seen, 2 * len(PROFILES) + 1)
        _, spec = next(pods(objects("cpu")))
        spec["containers"][0]["securityContext"].pop("capabilities")
        self.assertTrue(list(restricted_violations(spec)))

    def test_names_do_not_collide_and_labels_select(self):
        for name in PROFILES:
            objs = objects(name)
            ids = [(o["kind"], o["metadata"]["name"]) for o in objs]
            self.assertEqual(len(ids), len(set(ids)))
            deployment = next(o for o in objs if o["kind"] in ("Deployment", "StatefulSet"))
            labels = deployment["spec"]["template"]["metadata"]["labels"].items()
            for service in (o for o in objs if o["kind"] == "Service"):
                self.assertLessEqual(service["spec"]["selector"].items(), labels)
                named = {p["name"] for _, s in pods([deployment])
                         for c in s["containers"] + s.get("initContainers", []) for p in c.get("ports", [])}
                self.assertLessEqual({p["targetPort"] for p in service["spec"]["ports"]}, named)
            for pod, spec in pods(objs):
                if any(o["kind"] == "Job" and o["metadata"]["name"] == pod for o in objs):
                    continue
                if pod.endswith("-test"):
                    self.assertFalse(deployment["spec"]["selector"]["matchLabels"].items()
                                     <= next(o for o in objs if o["kind"] == "Pod")["metadata"]["labels"].items())


class Promises(unittest.TestCase):
    def spec(self, profile, *flags, kind="Deployment"):
        return one(profile, kind, *flags)["spec"]["template"]["spec"]

    def test_grace_outlasts_pre_stop_and_drain(self):
        spec = self.spec("cpu", "--set", "preStopSeconds=7,server.drainSeconds=600")
        self.assertEqual(spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 7)
        self.assertGreater(spec["terminationGracePeriodSeconds"], 607)

    def test_a_changed_option_rolls_the_pods(self):
        def checksum(*flags):
            return one("cpu", "Deployment", *flags)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

        self.assertNotEqual(checksum(), checksum("--set", "server.maxBatch=7"))
        self.assertEqual(checksum(), checksum("--set", "replicaCount=3"))

    def test_probes(self):
        server = self.spec("cpu")["containers"][0]
        self.assertEqual(server["readinessProbe"]["httpGet"], {"path": "/readyz", "port": "admin"})
        self.assertEqual(server["livenessProbe"]["httpGet"], {"path": "/healthz", "port": "admin"})
        self.assertIn("startupProbe", server)

    def test_the_digest_is_verified_before_the_start(self):
        (verify,) = self.spec("cpu")["initContainers"]
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "model"
            model.write_text("x")
            sha = tools.run("sha256sum", model).stdout.split()[0]
            for digest, code in ((sha, 0), (SENTINEL, 1)):
                done = tools.run(*verify["command"], ok=False, env={"MODEL": str(model), "SHA256": digest, "PATH": "/usr/bin:/bin"})
                self.assertEqual(done.returncode, code)

    def test_gpu(self):
        spec = self.spec("gpu")
        self.assertEqual(spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertIn("memory", spec["containers"][0]["resources"]["limits"])
        self.assertEqual(spec["runtimeClassName"], "nvidia")
        self.assertIn("nvidia.com/gpu", [t["key"] for t in spec["tolerations"]])
        self.assertEqual(self.config("gpu")["device"], "cuda")
        self.assertNotIn("nvidia", render("cpu").stdout)

    def config(self, profile, *flags):
        return json.loads(one(profile, "ConfigMap", *flags, name="prod-liftserve")["data"]["server.json"])

    def test_tls_is_the_servers_own_and_uses_existing_secrets(self):
        spec = self.spec("tls")
        config = self.config("tls")
        self.assertEqual((config["tls_cert"], config["tls_key"], config["tls_client_ca"], config["tls_client_auth"]),
                         ("/tls/tls.crt", "/tls/tls.key", "/client-ca/ca.crt", "require"))
        self.assertEqual(config["tls_reload_seconds"], 30)
        secrets = {v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
        self.assertEqual(secrets, {"liftserve-tls", "clients-ca"})
        self.assertEqual(spec["imagePullSecrets"], [{"name": "registry-login"}])
        self.assertEqual([c["name"] for c in spec.get("initContainers", []) + spec["containers"]], ["server"])
        self.assertNotIn("Secret", {o["kind"] for o in objects("tls")})
        service = one("tls", "Service", name="prod-liftserve")
        self.assertEqual(service["spec"]["ports"][0]["appProtocol"], "https")
        self.assertEqual(one("cpu", "Service", name="prod-liftserve")["spec"]["ports"][0]["appProtocol"], "kubernetes.io/h2c")
        self.assertEqual(self.config("billing")["tls_client_auth"], "optional")
        for key in ("tls_cert", "tls_client_ca", "auth_keys", "ledger"):
            self.assertNotIn(key, self.config("cpu"))

    def test_every_mounted_file_of_the_configuration_is_there(self):
        for profile in PROFILES:
            spec = next(s for _, s in pods(objects(profile)) if s["containers"][0]["name"] == "server")
            mounts = {m["mountPath"]: m for m in spec["containers"][0]["volumeMounts"]}
            volumes = {v["name"] for v in spec["volumes"]} | ({"ledger"} if profile == "billing" else set())
            self.assertEqual({m["name"] for m in mounts.values()}, volumes)
            for key in ("model", "tls_cert", "tls_key", "tls_client_ca", "auth_keys", "ledger"):
                path = self.config(profile).get(key)
                if path:
                    self.assertEqual(mounts["/" + path.split("/")[1]].get("readOnly", False), key != "ledger", (profile, key))

    def test_keys_and_the_ledger(self):
        config = self.config("billing")
        self.assertEqual(config["auth_keys"], "/auth/tenants.json")
        self.assertEqual((config["ledger"], config["ledger_sync"], config["ledger_interval_seconds"], config["ledger_retention_days"]),
                         ("/ledger/ledger.db", "full", 0.5, 400))
        self.assertEqual((config["request_log"], config["memory_schedule"], config["max_connection_age_seconds"]),
                         ("-", "07:00=4096,22:30=1024", 300))
        spec = self.spec("billing", kind="StatefulSet")
        self.assertIn({"secretName": "liftserve-keys", "defaultMode": 0o440}, [v.get("secret") for v in spec["volumes"]])

    def test_every_pod_keeps_a_ledger_of_its_own(self):
        self.assertFalse([o for o in objects("billing") if o["kind"] == "Deployment"])
        stateful = one("billing", "StatefulSet")["spec"]
        (claim,) = stateful["volumeClaimTemplates"]
        self.assertEqual(claim["metadata"]["name"], "ledger")
        self.assertEqual(claim["spec"]["resources"]["requests"]["storage"], "20Gi")
        self.assertEqual(claim["spec"]["storageClassName"], "fast")
        self.assertEqual(stateful["persistentVolumeClaimRetentionPolicy"], {"whenDeleted": "Retain", "whenScaled": "Retain"})
        headless = one("billing", "Service", name=stateful["serviceName"])
        self.assertEqual(headless["spec"]["clusterIP"], "None")
        self.assertEqual(one("billing", "ScaledObject")["spec"]["scaleTargetRef"], {"kind": "StatefulSet", "name": "prod-liftserve"})
        hpa = one("hpa", "HorizontalPodAutoscaler", "--set", "ledger.enabled=true")
        self.assertEqual(hpa["spec"]["scaleTargetRef"]["kind"], "StatefulSet")

    def test_calibration(self):
        job, claim = one("calibrate", "Job"), one("calibrate", "PersistentVolumeClaim")
        self.assertEqual(claim["spec"]["resources"]["requests"]["storage"], "20Gi")
        volumes = job["spec"]["template"]["spec"]["volumes"]
        self.assertIn({"claimName": claim["metadata"]["name"]}, [v.get("persistentVolumeClaim") for v in volumes])
        self.assertEqual([c["name"] for c in self.spec("calibrate")["initContainers"]], ["wait-for-model"])
        other = one("calibrate", "Job", "--set-string", "calibration.bits=2")
        self.assertNotEqual(job["metadata"]["name"], other["metadata"]["name"])

    def test_autoscaling_owns_the_replicas(self):
        for profile, kind in (("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")):
            self.assertEqual(one(profile, kind)["spec"]["scaleTargetRef"]["name"], "prod-liftserve")
            self.assertNotIn("replicas", one(profile, "Deployment")["spec"])
        self.assertEqual(one("gateway", "Deployment")["spec"]["replicas"], 3)
        queries = [t["metadata"]["query"] for t in one("keda", "ScaledObject")["spec"]["triggers"]]
        self.assertEqual(queries[0], 'sum(liftserve_requests_waiting{namespace="ml", job="liftserve"})')
        self.assertIn("liftserve_kv_cache_usage_ratio", queries[1])

    def test_network_policy_denies_by_default(self):
        policy = one("cpu", "NetworkPolicy")["spec"]
        self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
        self.assertEqual(policy["egress"], [])
        clients, monitoring = policy["ingress"]
        self.assertEqual(clients["from"], [{"podSelector": {"matchLabels": {"prod-liftserve-client": "true"}}}])
        self.assertEqual([p["port"] for p in clients["ports"]], ["grpc"])
        self.assertEqual([p["port"] for p in monitoring["ports"]], ["admin"])
        test = one("cpu", "Pod")
        self.assertEqual(test["metadata"]["labels"]["prod-liftserve-client"], "true")
        self.assertEqual(len(one("gateway", "NetworkPolicy")["spec"]["ingress"][0]["from"]), 2)

    def test_monitoring(self):
        groups = one("keda", "PrometheusRule")["spec"]["groups"]
        source = [g["name"] for p in sorted((tools.CHART / "files/rules").glob("*.yaml"))
                  for g in yaml.safe_load(p.read_text())["groups"]]
        self.assertEqual([g["name"] for g in groups], source)
        boards = one("keda", "ConfigMap", name="prod-liftserve-dashboards")
        self.assertEqual(boards["metadata"]["labels"]["grafana_dashboard"], "1")
        for text in boards["data"].values():
            self.assertTrue(json.loads(text)["panels"])
        monitor = one("keda", "ServiceMonitor")["spec"]
        admin = one("keda", "Service", name="prod-liftserve-admin")
        self.assertLessEqual(monitor["selector"]["matchLabels"].items(), admin["metadata"]["labels"].items())
        self.assertEqual(monitor["endpoints"][0]["port"], admin["spec"]["ports"][0]["name"])

    def test_inference_pool_and_test_hook(self):
        pool = one("gateway", "InferencePool")["spec"]
        labels = one("gateway", "Deployment")["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(pool["selector"]["matchLabels"].items(), labels.items())
        self.assertEqual(pool["endpointPickerRef"]["name"], "liftserve-epp")
        self.assertEqual(one("cpu", "Pod")["metadata"]["annotations"]["helm.sh/hook"], "test")

    def test_wrong_values_are_refused_by_name(self):
        cases = {
            "image.tag=latest": "tag", "replicaCont=2": "replicaCont", "server.maxBatch=0": "maxBatch",
            "server.kvCache=fp8": "kvCache",
            "model.path=../etc/passwd": "path", "tls.enabled=true": "existingSecret", "model.claim=": "claim",
            "autoscaling.kind=both": "kind", "inferencePool.enabled=true": "name",
            "autoscaling.kind=hpa,autoscaling.minReplicas=9": "minReplicas", "model.source=calibrate,model.sha256=": "checkpointClaim",
            "server.memorySchedule=7am=1": "memorySchedule", "ledger.sync=never": "sync", "ledger.size=big": "size",
            "auth.file=../keys": "file", "tls.clientCA.required=maybe": "required", "tls.image.tag=1": "image",
            "server.drainSeconds=-1": "drainSeconds", "image.digest=sha256:12": "digest",
        }
        for flags, word in cases.items():
            with self.subTest(flags):
                done = render("cpu", "--set", flags, ok=False)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(word, done.stderr)


class ManifestsForKServe(unittest.TestCase):
    def test_schemas(self):
        found = 0
        for path in sorted((tools.SOURCE / "deploy/kserve").glob("*.yaml")):
            for each in yaml.safe_load_all(path.read_text()):
                jsonschema.validate(each, CRDS[each["kind"].lower()])
                found += 1
                if each["kind"] == "ClusterServingRuntime":
                    spec = {"volumes": [], **each["spec"]}
                    self.assertEqual([v for v in restricted_violations({"automountServiceAccountToken": False, **spec})], [])
        self.assertEqual(found, 2)


class WithTheServer(unittest.TestCase):
    """The rendered configuration is one that lift-server takes."""

    def test_the_server_starts_from_the_rendered_configuration(self):
        import harness

        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            text = one("cpu", "ConfigMap", name="prod-liftserve")["data"]["server.json"]
            config = json.loads(text)
            self.assertEqual((config["listen"], config["admin"]), ("0.0.0.0:8431", "0.0.0.0:8432"))
            (folder / "server.json").write_text(text)
            # Flags of the harness override the model's path and the ports; everything else is as rendered.
            with harness.Server(harness.TINY, "--config", str(folder / "server.json")) as server:
                answer = server.client_json("generate", "--prompt", "hi", "--max-new-tokens", "1")
                self.assertEqual(answer["served_by"]["variant"], "full")
                self.assertEqual(server.get("/readyz")[0], 200)


    def test_the_server_starts_with_tls_keys_and_ledger_from_the_rendered_configuration(self):
        import certificates
        import harness

        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for mount in ("tls", "client-ca", "auth", "ledger"):
                (folder / mount).mkdir()
            certificates.make(folder, "ca", None, "authority", "")
            certificates.make(folder, "server", "ca", "localhost", "DNS:localhost,IP:127.0.0.1")
            (folder / "ca.pem").rename(folder / "client-ca/ca.crt")
            (folder / "server.pem").rename(folder / "tls/tls.crt")
            (folder / "server.key").rename(folder / "tls/tls.key")
            key = tools.run(harness.program("lift-key"), "--file", folder / "auth/tenants.json", "--tenant", "acme").stdout
            (folder / "key").write_text(key)
            text = one("billing", "ConfigMap", name="prod-liftserve")["data"]["server.json"]
            text, mounted = re.subn(r'"/(tls|client-ca|auth|ledger)/', rf'"{folder}/\1/', text)
            self.assertEqual(mounted, 5)
            (folder / "server.json").write_text(text)
            model = harness.make_lifted_model(folder)
            with harness.Server(model, "--config", str(folder / "server.json"), "--memory-schedule", "00:00=4096") as server:
                ask = ["generate", "--prompt", "hi", "--max-new-tokens", "1"]
                self.assertNotEqual(server.client(*ask).returncode, 0)
                tls = ["--tls-ca", str(folder / "client-ca/ca.crt")]
                self.assertIn("UNAUTHENTICATED", server.client(*tls, *ask).stderr)
                server.client_json(*tls, "--api-key-file", str(folder / "key"), *ask)
                usage = server.client_json(*tls, "--api-key-file", str(folder / "key"), "usage")
                self.assertEqual((usage["durable"], {e["tenant"] for e in usage["entries"]}), (True, {"acme"}))
                self.assertTrue((folder / "ledger/ledger.db").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
