"""What the chart becomes, with every set of values in values/ and with wrong ones, by Helm 3 and by Helm 4."""

from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from charts import CHART, RELEASE, REPOSITORY, VALUES, Helm, Json, of_kind, operator_container

from evolution_operator.settings import Settings, read_settings

pytestmark = pytest.mark.helm

DEPLOY = REPOSITORY / "deploy"


@pytest.mark.parametrize("values", VALUES)
def test_both_versions_of_helm_find_nothing_wrong_and_make_the_same(helm3: Helm, helm4: Helm, values: str) -> None:
    for helm in (helm3, helm4):
        helm("lint", CHART, "--strict", "--quiet", "-f", VALUES[values])
    three, four = (without_random(helm.objects(values)) for helm in (helm3, helm4))
    assert sorted(three, key=identity) == sorted(four, key=identity)
    assert len({identity(object_) for object_ in three}) == len(three)


SETTINGS: dict[str, dict[str, object]] = {
    "minimal": {"store": "s3://evolution/runs", "metrics_port": 9464, "namespaces": ()},
    "production": {
        "s3_endpoint": "https://s3.example.com",
        "region": "eu-central-1",
        "gpu_prices": (("h100", 2.5), ("l40s", 0.8)),
        "currency": "EUR",
    },
    "namespaced": {"namespaces": ("team-a", "team-b")},
    "web-identity": {"store": "s3://evolution", "s3_endpoint": "https://minio.example.com:9000"},
    "metrics-https": {
        "metrics_port": 9443,
        "metrics_per_run": False,
        "metrics_runs": 1000,
        "metrics_hours": 0.5,
        "metrics_certificate": "/metrics/tls/tls.crt",
        "metrics_key": "/metrics/tls/tls.key",
        "metrics_token_file": "/metrics/token/token",
    },
    "no-metrics": {"metrics_port": None},
    "placed": {"log_format": "plain", "resync_seconds": 30.0, "progress_seconds": 5.0},
    "trying-out": {
        "store": "s3://evolution/runs",
        "s3_endpoint": f"http://{RELEASE}-dev-store.evolution-system.svc:9000",
    },
}
"""What the operator makes of sets of values."""


@pytest.mark.parametrize("values", VALUES)
def test_the_operator_understands_what_the_chart_tells_it(
    helm3: Helm, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of the Secret")
    told = operator_container(helm3.objects(values))
    environment = {variable["name"]: variable["value"] for variable in told["env"]}
    settings = read_settings(told["args"], environment)
    assert settings.liveness_port == told["ports"][0]["containerPort"]
    assert {name: getattr(settings, name) for name in SETTINGS.get(values, {})} == SETTINGS.get(values, {})


def test_every_setting_of_the_operator_is_set_by_some_value() -> None:
    changed = {name for expected in SETTINGS.values() for name in expected}
    assert set(Settings.__dataclass_fields__) - changed == {"liveness_port"}, "the probes know it"


def test_the_operator_is_granted_what_it_is_granted_in_deploy(helm3: Helm) -> None:
    (role,) = (role for role in of_kind(helm3.objects("minimal"), "ClusterRole") if role["metadata"]["name"] == RELEASE)
    assert role["rules"] == rules_in("cluster", "ClusterRole")
    granted = of_kind(
        helm3.objects("namespaced", "--set", "test.evolution.source="),
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
    )
    roles = [(each["kind"], each["metadata"]["namespace"]) for each in granted if each["metadata"]["name"] == RELEASE]
    expected = [(kind, namespace) for kind in ("Role", "RoleBinding") for namespace in ("team-a", "team-b")]
    assert sorted(roles) == expected
    assert all(
        role["rules"] == rules_in("namespaced", "Role")
        for role in of_kind(granted, "Role")
        if role["metadata"]["name"] == RELEASE
    )
    for binding in of_kind(granted, "RoleBinding"):
        assert binding["subjects"][0]["namespace"] == "evolution-system"


def test_people_are_granted_what_they_are_granted_in_deploy(helm3: Helm) -> None:
    made = {each["metadata"]["name"]: each for each in of_kind(helm3.objects("minimal"), "ClusterRole")}
    for role in yaml.safe_load_all((DEPLOY / "cluster" / "run-authors.yaml").read_text()):
        mine = made[role["metadata"]["name"]]
        assert mine["rules"] == role["rules"]
        assert mine["metadata"]["labels"].items() >= role["metadata"]["labels"].items()


def test_the_pod_is_that_of_deploy(helm3: Helm) -> None:
    plain = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "cluster" / "operator.yaml").read_text())}
    theirs = plain["Deployment"]["spec"]["template"]["spec"]
    (mine,) = (each["spec"]["template"]["spec"] for each in of_kind(helm3.objects("minimal"), "Deployment"))
    assert without(mine, "containers") == without(theirs, "containers")
    container, other = mine["containers"][0], theirs["containers"][0]
    different = ("args", "env", "envFrom", "imagePullPolicy")
    assert without(container, *different) == without(other, *different)
    plain_variables = {each["name"]: each["value"] for each in other["env"]} | plain["ConfigMap"]["data"]
    assert {each["name"] for each in container["env"]} <= plain_variables.keys()


@pytest.mark.parametrize(
    ("values", "endpoints"), [("production", "podMetricsEndpoints"), ("metrics-https", "endpoints")]
)
def test_metrics_are_scraped_as_in_deploy(helm3: Helm, values: str, endpoints: str) -> None:
    plain = yaml.safe_load((DEPLOY / "monitoring" / "podmonitor.yaml").read_text())["spec"]["podMetricsEndpoints"][0]
    made = helm3.objects(values)
    (monitor,) = of_kind(made, "PodMonitor", "ServiceMonitor")
    (endpoint,) = monitor["spec"][endpoints]
    assert endpoint["metricRelabelings"] == plain["metricRelabelings"]
    assert endpoint["honorLabels"] is True
    (service,) = of_kind(made, "Service")
    chosen = service["metadata"]["labels"] if endpoints == "endpoints" else pod_labels(made)
    assert chosen.items() >= monitor["spec"]["selector"]["matchLabels"].items()
    assert pod_labels(made).items() >= service["spec"]["selector"].items()
    assert ("tlsConfig" in endpoint, "authorization" in endpoint) == (values == "metrics-https",) * 2


def test_alerts_can_be_left_out_one_by_one_and_name_where_their_runbooks_are(helm3: Helm) -> None:
    every = {each["metadata"]["name"] for each in of_kind(helm3.objects("production"), "PrometheusRule")}
    some = {each["metadata"]["name"] for each in of_kind(helm3.objects("metrics-https"), "PrometheusRule")}
    assert every - some == {"evolution-no-improvement", "evolution-ledger-mismatch"}
    for rule in of_kind(helm3.objects("production"), "PrometheusRule"):
        assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        for alert in (each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each):
            page = f"https://git.example.com/evolution/blob/main/docs/runbooks/{alert['alert']}.md"
            assert alert["annotations"]["runbook_url"] == page


def test_rules_and_dashboards_say_what_those_of_the_repository_say(helm3: Helm) -> None:
    made = helm3.objects("metrics-https")
    for rule in of_kind(made, "PrometheusRule"):
        (source,) = (
            read
            for path in (REPOSITORY / "monitoring" / "rules").glob("*.yaml")
            if (read := yaml.safe_load(path.read_text()))["metadata"]["name"] == rule["metadata"]["name"]
        )
        assert rule["spec"] == source["spec"]
    dashboards = [each for each in of_kind(made, "ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]]
    assert {each["metadata"]["namespace"] for each in dashboards} == {"monitoring"}
    shown = {name: text for each in dashboards for name, text in each["data"].items()}
    sources = (REPOSITORY / "monitoring" / "dashboards").glob("*.json")
    assert {name: text.strip() for name, text in shown.items()} == {
        path.name: path.read_text().strip() for path in sources
    }


@pytest.mark.parametrize("values", VALUES)
def test_what_helm_tests_are_pods_since_it_asks_each_of_them_for_logs(helm3: Helm, values: str) -> None:
    hooks = [each for each in helm3.objects(values) if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    assert {each["kind"] for each in hooks} == {"Pod"}
    assert len(hooks) == (2 if values in {"production", "namespaced"} else 1)


def test_limits_of_run_authors_are_those_of_deploy_with_the_given_ones_over_them(helm3: Helm) -> None:
    made = helm3.objects("production")
    (limits,) = (each for each in of_kind(made, "ConfigMap") if each["metadata"]["name"] == "evolution-limits")
    plain = yaml.safe_load((DEPLOY / "policies" / "limits.yaml").read_text())["data"]
    assert limits["data"] == plain | {"rounds": "20", "team-a.rounds": "50", "gpuHours": "200"}
    elsewhere = of_kind(helm3.objects("production", namespace="platform"), "ValidatingAdmissionPolicyBinding")
    assert {each["spec"]["paramRef"]["namespace"] for each in elsewhere} == {"platform"}
    for path in (DEPLOY / "policies").glob("*s.yaml"):
        for policy in of_kind(list(yaml.safe_load_all(path.read_text())), "ValidatingAdmissionPolicy"):
            assert policy["spec"] in [each["spec"] for each in of_kind(made, "ValidatingAdmissionPolicy")]


def test_the_operator_may_talk_to_the_name_service_the_api_server_and_the_store(helm3: Helm) -> None:
    (policy,) = of_kind(helm3.objects("production"), "NetworkPolicy")
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["egress"]]
    assert ports == [[53, 53], [443, 6443], [443]]
    assert [rule.get("to") for rule in policy["spec"]["egress"]][1:] == [
        [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
        [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    ]
    (caller,) = policy["spec"]["ingress"]
    assert caller["ports"] == [{"port": 9464}]
    assert caller["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    (closed,) = of_kind(helm3.objects("no-metrics"), "NetworkPolicy")
    assert closed["spec"]["ingress"] == []


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("https://s3.example.com", 443),
        ("http://minio.svc", 80),
        ("http://minio.svc:9000", 9000),
        ("https://[fd00::1]:8443", 8443),
        ("", 443),
    ],
)
def test_the_port_of_the_store_is_that_of_its_endpoint(helm3: Helm, endpoint: str, port: int) -> None:
    made = helm3.objects("minimal", "--set", f"networkPolicy.enabled=true,objectStore.endpoint={endpoint}")
    (policy,) = of_kind(made, "NetworkPolicy")
    assert policy["spec"]["egress"][-1]["ports"] == [{"port": port}]


def test_the_operator_finds_the_throw_away_store_and_has_its_keys(helm3: Helm) -> None:
    made = helm3.objects("trying-out", "--set", "networkPolicy.enabled=true,test.evolution.source=s3://evolution/demo")
    operator = operator_container(made)
    (probe,) = (c for pod in of_kind(made, "Pod") for c in pod["spec"]["containers"] if c["name"] == "probe")
    endpoint = urlsplit(value_of("EVOLUTION_S3_ENDPOINT", operator))
    assert value_of("EVOLUTION_S3_ENDPOINT", probe) == endpoint.geturl()

    at = {f"{s['metadata']['name']}.{s['metadata']['namespace']}.svc": s["spec"] for s in of_kind(made, "Service")}
    service = at[str(endpoint.hostname)]
    assert [port["port"] for port in service["ports"]] == [endpoint.port]
    templates = [deployment["spec"]["template"] for deployment in of_kind(made, "Deployment")]
    (pod,) = (t for t in templates if t["metadata"]["labels"].items() >= service["selector"].items())
    (store,) = pod["spec"]["containers"]
    assert f"--address=:{endpoint.port}" in store["command"]
    (policy,) = of_kind(made, "NetworkPolicy")
    assert {"port": endpoint.port} in [port for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert not pod["metadata"]["labels"].items() >= policy["spec"]["podSelector"]["matchLabels"].items()

    (secret,) = of_kind(made, "Secret")
    given = {secret["metadata"]["name"]}
    assert {each["secretRef"]["name"] for container in (operator, probe) for each in container["envFrom"]} == given
    keys = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in store["env"] if "valueFrom" in each}
    assert {key["name"] for key in keys.values()} == given
    assert {name: key["key"] for name, key in keys.items()} == {
        "MINIO_ROOT_USER": "AWS_ACCESS_KEY_ID",
        "MINIO_ROOT_PASSWORD": "AWS_SECRET_ACCESS_KEY",
    }
    assert set(secret["data"]) == {key["key"] for key in keys.values()}


def test_in_a_cluster_without_the_definitions_the_runtime_waits_for_the_next_upgrade(helm3: Helm) -> None:
    cluster = ("--api-versions", "apiregistration.k8s.io/v1")
    made = helm3.objects("trying-out", *cluster)
    assert not of_kind(made, "ClusterEvolutionRuntime")
    made = helm3.objects("trying-out", *cluster, "--api-versions", "selfevolution.io/v1alpha1")
    (runtime,) = of_kind(made, "ClusterEvolutionRuntime")
    assert runtime["metadata"]["name"] == "default"
    runtimes = of_kind(helm3.objects("namespaced"), "EvolutionRuntime", "ClusterEvolutionRuntime")
    assert [(each["kind"], each["metadata"]["namespace"]) for each in runtimes] == [
        ("EvolutionRuntime", "team-a"),
        ("EvolutionRuntime", "team-b"),
    ]


DEV = ("devObjectStore.enabled=true", "devObjectStore.image=minio:1")
NO_OTHER = ("objectStore.uri=", "objectStore.existingSecret=")
REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("objectStore.uri=",), "objectStore.uri: is empty; give bucket and prefix, as s3://evolution/runs"),
    (
        ("objectStore.uri=https://s3.example.com/evolution",),
        "at '/objectStore/uri': 'https://s3.example.com/evolution' does not match",
    ),
    (
        ("objectStore.existingSecret=",),
        "objectStore.existingSecret: is empty; name the Secret with the store's credentials",
    ),
    (("objectStore.webIdentity.enabled=true",), "beside existingSecret evolution-store, whose keys would win"),
    (("objectStore.endpoint=https://user:password@s3.example.com",), "at '/objectStore/endpoint'"),
    (DEV, "at '/objectStore/existingSecret': value must be ''"),
    (
        ("devObjectStore.enabled=true", *NO_OTHER),
        "at '/devObjectStore/image': minLength",
    ),
    (("replicas=2",), "replicas: is 2; operators elect no leader"),
    (("metric.port=9464",), "additional properties 'metric' not allowed"),
    (("metrics.enable=false",), "additional properties 'enable' not allowed"),
    (("metrics.port=90000",), "at '/metrics/port': maximum: got 90,000, want 65,535"),
    (
        ("metrics.enabled=false", "metrics.monitor.kind=PodMonitor"),
        "metrics.monitor.kind: is PodMonitor, but metrics.enabled is false",
    ),
    (
        ("metrics.monitor.kind=Both",),
        "at '/metrics/monitor/kind': value must be one of 'None', 'PodMonitor', 'ServiceMonitor'",
    ),
    (("metrics.rules.exclude={EvolutionRunStaled}",), "at '/metrics/rules/exclude/0': value must be one of"),
    (("gpuPrices.h100=dear",), "at '/gpuPrices/h100': got string, want number"),
    (("runtime.create=true",), "runtime.spec.image: is empty; give the trainer's image"),
    (
        (*DEV, *NO_OTHER, "runtime.create=true", "runtime.spec.image=trainer:1"),
        "runtime.spec.storeSecretName: is empty, but workers reach the throw-away store with keys alone",
    ),
    (("namespaces={Team_A}",), "at '/namespaces/0': 'Team_A' does not match pattern"),
    (("namespaces={team-a}", "admissionPolicies.enabled=true"), "policies count in the whole cluster"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_is_wrong_is_refused_in_words(helm3: Helm, helm4: Helm, settings: tuple[str, ...], message: str) -> None:
    for helm in (helm3, helm4):
        assert message in helm.refusal(*settings)


@pytest.mark.parametrize("setting", ["metrics.monitor.kind=PodMonitor", "metrics.rules.enabled=true"])
def test_a_cluster_without_the_prometheus_operator_is_noticed(helm3: Helm, setting: str) -> None:
    given = ("--set", setting, "--api-versions", "apiregistration.k8s.io/v1")
    done = helm3.run("template", RELEASE, CHART, "-f", VALUES["minimal"], *given)
    assert "this cluster does not know monitoring.coreos.com/v1; install the Prometheus Operator first" in done.stderr
    helm3.objects("minimal", *given, "--api-versions", "monitoring.coreos.com/v1")


def value_of(name: str, container: Json) -> str:
    (value,) = (variable["value"] for variable in container["env"] if variable["name"] == name)
    return str(value)


def identity(object_: Json) -> tuple[str, str, str]:
    meta = object_["metadata"]
    return object_["kind"], meta.get("namespace", ""), meta["name"]


def without_random(found: list[Json]) -> list[Json]:
    """The password of the throw-away store is another one each time."""
    for secret in of_kind(found, "Secret"):
        assert secret["data"].pop("AWS_SECRET_ACCESS_KEY")
    return found


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


def rules_in(installation: str, kind: str) -> list[Json]:
    documents = yaml.safe_load_all((DEPLOY / installation / "permissions.yaml").read_text())
    (role,) = (document for document in documents if document["kind"] == kind)
    rules: list[Json] = role["rules"]
    return rules


def pod_labels(found: list[Json]) -> dict[str, str]:
    (deployment,) = of_kind(found, "Deployment")
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return labels
