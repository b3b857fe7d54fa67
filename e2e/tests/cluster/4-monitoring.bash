# Prometheus finds the agents as docs/alerts.md says, and the chart's alerts are evaluated on what it scrapes.

monitored=(--set monitoring.podMonitor.enabled=true --set monitoring.prometheusRule.enabled=true --set monitoring.dashboards.enabled=true)
without_the_prometheus_operator_is_refused() {
  local kind said
  for kind in podMonitor prometheusRule; do
    if said=$(install --dry-run=server --set "monitoring.$kind.enabled=true" 2>&1); then return 1; fi
    contains "$said" "monitoring.$kind.enabled is true, but this cluster serves no"
    contains "$said" "install the Prometheus operator first, or leave it false"
  done
}
with_the_prometheus_operator_is_taken() { # its own definitions, from its own module
  local crds
  crds=$(cd "$repository/e2e/chart/prometheus-operator" && GOFLAGS=-mod=readonly go mod download -json github.com/prometheus-operator/prometheus-operator)
  crds=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<< "$crds")/example/prometheus-operator-crd
  kubectl apply --server-side -f "$crds/monitoring.coreos.com_podmonitors.yaml" -f "$crds/monitoring.coreos.com_prometheusrules.yaml"
  kubectl wait --for condition=Established --timeout 5m crd/podmonitors.monitoring.coreos.com crd/prometheusrules.monitoring.coreos.com
  until_true 60 server_takes "${monitored[@]}"
  install "${with_bucket[@]}" "${monitored[@]}" > /dev/null
  is "$(kubectl -n "$space" get podmonitors,prometheusrules -o name | wc -l)" 2
  install "${with_bucket[@]}" > /dev/null
}
find_pods() { # find_pods FILE: what Prometheus' own discovery would tell, which Debian leaves out of its build
  kubectl get pods -A -o json | python3 -c '
import json, re, sys
meta = lambda kind, pairs: {f"__meta_kubernetes_pod_{kind}_" + re.sub("[^a-zA-Z0-9_]", "_", name): value for name, value in (pairs or {}).items()}
targets = []
for pod in json.load(sys.stdin)["items"]:
    for container in pod["spec"]["containers"] if pod["status"].get("podIP") else []:
        for port in container.get("ports", []):
            targets.append({"targets": [pod["status"]["podIP"] + ":" + str(port["containerPort"])], "labels": {
                "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
                "__meta_kubernetes_pod_name": pod["metadata"]["name"],
                "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
                "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                **meta("label", pod["metadata"].get("labels")), **meta("annotation", pod["metadata"].get("annotations"))}})
json.dump(targets, open(sys.argv[1] + ".new", "w"))' "$1"
  mv "$1.new" "$1"
}
as_the_operator_does() { # a PodMonitor on standard input, as the Prometheus operator writes it for Prometheus
  python3 -c '
import json, re, sys
monitor = json.load(sys.stdin)["spec"]
(endpoint,) = monitor["podMetricsEndpoints"]
label = lambda name: "__meta_kubernetes_pod_label_" + re.sub("[^a-zA-Z0-9_]", "_", name)
keep = lambda source, value: {"action": "keep", "source_labels": [source], "regex": re.escape(value)}
rules = [keep("__meta_kubernetes_namespace", "|".join(monitor["namespaceSelector"]["matchNames"])), keep("__meta_kubernetes_pod_container_port_name", endpoint["port"])]
rules += [keep(label(name), value) for name, value in monitor["selector"]["matchLabels"].items()]
rules += [{"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}, {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"}]
rules += [{"source_labels": [label(monitor["jobLabel"])], "target_label": "job"}]
rules += [{re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), key): value for key, value in rule.items()} for rule in endpoint["relabelings"]]
print("- " + json.dumps({"job_name": "podmonitor", "metrics_path": endpoint["path"], "file_sd_configs": [{"files": [sys.argv[1]]}], "relabel_configs": rules}))' "$1"
}
start_prometheus() { # what docs/alerts.md gives to a plain one, what its operator makes of the PodMonitor, pods by their annotations, and the rules of the chart
  local ports rules=$scratch/rules.yaml pods=$scratch/pods.json
  mapfile -t ports < <(free_ports 1)
  prometheus=127.0.0.1:${ports[0]}
  helm template "$release" "$chart" -n "$space" "${monitored[@]}" "${with_bucket[@]}" --set monitoring.prometheusRule.alerts.EtcdSnapshotDamaged.for=3s \
    --show-only templates/prometheusrule.yaml | sed -n '/^spec:/,$s/^  //p' > "$rules"
  find_pods "$pods"
  {
    echo 'global: {scrape_interval: 1s, evaluation_interval: 1s}'
    sed -n '/^rule_files:/,/^```/p' "$repository/docs/alerts.md" | sed '/^```/d; /- role: pod/d' |
      sed "s#^- /etc/prometheus/.*#- $rules#; s#kubernetes_sd_configs:#file_sd_configs: [{files: [$pods]}]#; s#job_name: .*#job_name: documented#"
    cat << END
- job_name: annotated
  file_sd_configs: [{files: [$pods]}]
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "true", action: keep}
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], regex: (.+), target_label: __metrics_path__}
  - {source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port], regex: '([^:]+)(?::\d+)?;(\d+)', replacement: '\$1:\$2', target_label: __address__}
END
    helm template "$release" "$chart" -n "$space" "${monitored[@]}" --show-only templates/podmonitor.yaml |
      kubectl create --dry-run=client -o json -f - | as_the_operator_does "$pods"
  } > "$scratch/prometheus.yaml"
  "$tools/prometheus/promtool" check config "$scratch/prometheus.yaml" > /dev/null
  "$tools/prometheus/prometheus" "--config.file=$scratch/prometheus.yaml" "--storage.tsdb.path=$scratch/prometheus" "--web.listen-address=$prometheus" \
    > "$scratch/prometheus.log" 2>&1 < /dev/null &
  prometheus_id=$!
  disown
  until_true 60 get "http://$prometheus/-/ready"
}
series() { # series QUERY: the labels of each, and its value
  local found
  found=$(get -G "http://$prometheus/api/v1/query" --data-urlencode "query=$1") || return 1
  python3 -c '
import json, sys
for one in json.load(sys.stdin)["data"]["result"]:
    print(*[f"{name}={value}" for name, value in sorted(one["metric"].items())] + [one["value"][1]])' <<< "$found" | sort
}
series_are() { local found && found=$(series "$1") && is "$found" "$2"; }
prometheus_finds_the_agents() {
  find_pods "$scratch/pods.json"
  # Alerts and dashboard show the node, and go on over a restart of the pod.
  until_true 60 series_are 'sum by (job, namespace, instance) (up{job=~"documented|etcd-snapshot-operator"})' \
    "instance=$node job=documented namespace=$space 1"$'\n'"instance=$node job=etcd-snapshot-operator namespace=$space 1"
  until_true 60 series_are 'sum by (job) (up{job="annotated"})' "job=annotated 1"
  until_true 60 series_are 'count(etcd_snapshot_build_info)' "3"
}
firing_is() { series_are 'count by (alertname, instance) (ALERTS{alertstate="firing", job="etcd-snapshot-operator"})' "$1"; }
an_alert_fires_and_is_silent() { # for the file that was cut off, and no other
  until_true 60 firing_is "alertname=EtcdSnapshotDamaged instance=$node 1"
  on_node rm "$directory/etcd-snapshot-$node-1700000001"
  until_true 60 firing_is ""
  series_are 'count(count by (alertname) (max_over_time(ALERTS{alertstate="firing"}[1h])))' "1"
}

check "without the Prometheus operator, what needs it is refused and not half installed" without_the_prometheus_operator_is_refused
check "with it, its API takes what the chart has for it" with_the_prometheus_operator_is_taken
if [ -n "${etcd_pki-}" ]; then
  start_prometheus || say "Prometheus did not start"
  check "Prometheus finds the agents as the documentation says, and by the pods' annotations" prometheus_finds_the_agents
  check "an alert fires for a damaged file, no other does, and it is silent when the file is gone" an_alert_fires_and_is_silent
else
  say "left out without a cluster of our own: Prometheus, which has no way to its pods"
fi
