# Sourced by e2e/chart/test, which has `render`, `refuses` and `check`, `chart` and `scratch`: what the chart renders for Prometheus and Grafana.

monitoring=(
  --set monitoring.podMonitor.enabled=true --set monitoring.podMonitor.labels.release=prometheus
  --set monitoring.prometheusRule.enabled=true --set monitoring.prometheusRule.labels.release=prometheus
  --set monitoring.dashboards.enabled=true --set monitoring.dashboards.annotations.grafana_folder=etcd
)
monitoring_is_off() {
  local said
  said=$(render) || return 1
  [[ $said != *monitoring.coreos.com* && $said != *grafana_dashboard* ]]
}
one_of_two_scrapes() { # the annotations, or the PodMonitor
  local without with
  without=$(render) && with=$(render "${monitoring[@]}") || return 1
  [[ $without == *'prometheus.io/scrape: "true"'* && $with != *prometheus.io/* && $with == *"kind: PodMonitor"* ]]
}
pods_are_found() { # the PodMonitor selects by labels and port that the pods have
  render "${monitoring[@]}" --show-only templates/podmonitor.yaml > "$scratch/podmonitor.yaml" || return 1
  render --show-only templates/agent.yaml > "$scratch/agent.yaml" || return 1
  local line lines
  lines=$(sed -n '/^    matchLabels:/,/^  [a-z]/s/^      //p' "$scratch/podmonitor.yaml")
  [ -n "$lines" ] || { say "it selects everything"; return 1; }
  while read -r line; do
    grep -qF "        $line" "$scratch/agent.yaml" || { say "no pod has $line"; return 1; }
  done <<< "$lines"
  grep -q 'port: http' "$scratch/podmonitor.yaml" && grep -q 'name: http' "$scratch/agent.yaml"
}
# rules ARGUMENT...: the alerts as a plain rule file
rules() {
  render "${monitoring[@]}" --show-only templates/prometheusrule.yaml "$@" | sed -n '/^spec:/,$s/^  //p'
}
rules_are_rules() {
  local prometheus
  prometheus=$(e2e/tools/build prometheus) || return 1
  rules > "$scratch/rules.yaml" && "$prometheus/prometheus/promtool" check rules "$scratch/rules.yaml" > "$scratch/said" 2>&1 || { cat "$scratch/said"; return 1; }
  [ "$(grep -c 'alert: ' "$scratch/rules.yaml")" = "$(cat "$chart"/alerts/*.yaml | grep -c 'alert: ')" ]
}
numbers_are_the_settings() {
  local said left
  said=$(rules --set settings.etcd-snapshot-reconcile-interval=1h30m --set settings.etcd-snapshot-retention=7 --set settings.etcd-s3-retention=9) || return 1
  for left in '3 * 600' '[1800s]' '< 5' '>= 5' 'daemonset=~'; do
    [[ $said != *"$left"* ]] || { say "still there: $left"; return 1; }
  done
  for left in '3 * 5400' '[16200s]' 'storage="local", kind="good"}) < 7' 'storage="s3", kind="good"}) < 9' 'daemonset="snapshots-etcd-snapshot-operator"'; do
    [[ $said == *"$left"* ]] || { say "not there: $left"; return 1; }
  done
}
alerts_have_switches() {
  local said=monitoring.prometheusRule
  said=$(rules --set $said.alerts.EtcdSnapshotDamaged.enabled=false --set $said.alerts.EtcdSnapshotNone.severity=page --set $said.alerts.EtcdSnapshotNone.for=2h \
    --set $said.alertLabels.team=platform --set $said.runbookUrl=https://example.com/runbooks/) || return 1
  [[ $said != *"alert: EtcdSnapshotDamaged"* && $said == *"severity: page"* && $said == *"for: 2h"* && $said == *"team: platform"* &&
    $said == *"runbook_url: https://example.com/runbooks/EtcdSnapshotNone.md"* && $said != *docs/runbooks* ]]
}
runbooks_of() { sed -n 's/^ *runbook_url: //p'; }
runbooks_are_there() { # a page for each alert, in this repository and, once it is published, at a URL of this version
  local page url
  [ -n "$(rules | runbooks_of)" ] || { say "no runbooks"; return 1; }
  for page in $(rules | runbooks_of); do
    [[ $page == docs/runbooks/* && -f $page ]] || { say "$page"; return 1; }
  done
  cp -r "$chart" "$scratch/published"
  echo 'sources: [https://example.com/published]' >> "$scratch/published/Chart.yaml"
  for url in $(chart=$scratch/published rules | runbooks_of); do
    [[ $url == "https://example.com/published/blob/v$(sed -n 's/^appVersion: //p' "$chart/Chart.yaml")/docs/runbooks/"*.md ]] || { say "$url"; return 1; }
  done
}
dashboards_are_whole() {
  render "${monitoring[@]}" --show-only templates/dashboards.yaml > "$scratch/dashboards.yaml" || return 1
  grep -q 'grafana_dashboard: "1"' "$scratch/dashboards.yaml" || return 1
  local file
  for file in "$chart"/dashboards/*.json; do
    sed -n "/^  $(basename "$file"): |-/,/^---/s/^    //p" "$scratch/dashboards.yaml" | diff -q - "$file" || return 1
  done
}

check "nothing of monitoring without values" monitoring_is_off
check "a PodMonitor in place of annotations" one_of_two_scrapes
check "the PodMonitor finds the pods" pods_are_found
check "the alerts are rules, all of them" rules_are_rules
check "the alerts know interval, retention and DaemonSet" numbers_are_the_settings
check "each alert has a switch" alerts_have_switches
check "each alert has a runbook that is there" runbooks_are_there
check "the dashboards arrive whole" dashboards_are_whole
check "an alert that there is not" refuses "additional properties 'EtcdSnapshotDamagd' not allowed" --set monitoring.prometheusRule.alerts.EtcdSnapshotDamagd.enabled=false
check "an alert after a time that is none" refuses "at '/monitoring/prometheusRule/alerts/EtcdSnapshotNone/for'" --set monitoring.prometheusRule.alerts.EtcdSnapshotNone.for=soon
