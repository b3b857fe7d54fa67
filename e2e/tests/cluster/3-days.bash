# Bad days: pods, nodes, rights and certificates go.

versions() { kubectl get etcdsnapshotfiles -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.uid} {.metadata.resourceVersion}{"\n"}{end}' | sort; }
another_pod_than() { local now; now=$(pod) && [ -n "$now" ] && [ "$now" != "$1" ] && kubectl -n "$space" wait --for condition=Ready "pod/$now" --timeout 1s; }
killed_pod_comes_back_and_writes_nothing() {
  local before old
  before=$(versions) old=$(pod)
  kubectl -n "$space" delete pod "$old" --grace-period=0 --force
  until_true 90 another_pod_than "$old"
  until_true 90 metric_is 'etcd_snapshot_files{kind="good",storage="local"}' 1
  is "$(versions)" "$before"
}
leaders() { # of all agents
  local one sum=0
  for one in $(kubectl -n "$space" get pods -l "app.kubernetes.io/instance=$release" -o jsonpath='{.items[*].metadata.name}'); do
    sum=$((sum + $(kubectl get --raw "/api/v1/namespaces/$space/pods/$one:9469/proxy/metrics" | sed -n 's/^etcd_snapshot_leader{.*} //p; s/^etcd_snapshot_leader //p')))
  done
  echo $sum
}
holder() { kubectl -n "$space" get leases -o jsonpath='{.items[*].spec.holderIdentity}'; }
one_leads() { is "$(leaders)" 1; }
agents_ready() { is "$(kubectl -n "$space" get ds "$agent" -o jsonpath='{.status.numberReady}')" "$1"; }
holds_another() { local now; now=$(holder) && [ -n "$now" ] && [ "$now" != "$1" ]; }
directory_that_is_absent_is_an_event() { # no certificates on that node yet
  kubectl label node server-2 node-role.kubernetes.io/control-plane=
  until_true 90 mount_failed
}
mount_failed() { contains "$(kubectl -n "$space" get events --field-selector reason=FailedMount -o jsonpath='{.items[*].message}')" "/etc/kubernetes/pki/etcd is not a directory"; }
another_leader_follows() {
  local first
  cp -r "$etcd_pki/." "$scratch/cluster/node-2/host/etc/kubernetes/etcd-pki"
  mkdir -p "$scratch/cluster/node-2/host/etc/kubernetes/pki"
  mv "$scratch/cluster/node-2/host/etc/kubernetes/etcd-pki" "$scratch/cluster/node-2/host/etc/kubernetes/pki/etcd"
  # Kubelet waits longer from try to try: a new pod mounts at once.
  kubectl -n "$space" delete pod --field-selector spec.nodeName=server-2 --grace-period=0 --force
  until_true 120 agents_ready 2
  until_true 60 one_leads
  first=$(holder)
  kubectl -n "$space" delete pod --field-selector "spec.nodeName=${first%_*}" --grace-period=0 --force
  until_true 90 holds_another "$first"
  until_true 90 one_leads
  until_true 90 agents_ready 2
  put_object etcd-snapshot-$node-1700000003 "$scratch/snapshot"
  until_true 90 field_is "s3://$bucket/etcd-snapshot-$node-1700000003" .status.readyToUse true
  kubectl label node server-2 node-role.kubernetes.io/control-plane-
  until_true 90 agents_ready 1
}
drained_node_keeps_its_agent() {
  local before
  before=$(pod)
  kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --timeout 60s
  is "$(pod)" "$before"
  agents_ready 1
  kubectl uncordon "$node"
}
denied_verb_is_said() {
  kubectl patch clusterrole "$agent" --type json -p '[{"op": "replace", "path": "/rules/0/verbs", "value": ["get", "list", "watch", "patch", "delete"]}]'
  put_file etcd-snapshot-$node-1700000004 < "$scratch/snapshot"
  until_true 60 log_says 'create etcdsnapshotfiles'
  until_true 60 log_says 'forbidden'
  # What it may still do goes on.
  until_true 60 metric_is 'etcd_snapshot_files{kind="good",storage="local"}' 3
  kubectl patch clusterrole "$agent" --type json -p '[{"op": "replace", "path": "/rules/0/verbs", "value": ["get", "list", "watch", "create", "patch", "delete"]}]'
  until_true 60 field_is "file://$directory/etcd-snapshot-$node-1700000004" .status.readyToUse true
}
log_says() { contains "$(kubectl -n "$space" logs "$(pod)")" "$1"; }
renewed_certificates_need_no_restart() {
  local before
  before=$(kubectl -n "$space" get pod "$(pod)" -o jsonpath='{.metadata.uid} {.status.containerStatuses[0].restartCount}')
  "$repository/e2e/cluster" renew "$scratch/cluster"
  "$repository/e2e/cluster" restart "$scratch/cluster" etcd
  until_true 240 kubectl get --raw /readyz
  put_file etcd-snapshot-$node-1700000005 < "$scratch/snapshot"
  until_true 90 field_is "file://$directory/etcd-snapshot-$node-1700000005" .status.readyToUse true
  until_true 90 no_longer_says "ill: etcd"
  is "$(kubectl -n "$space" get pod "$(pod)" -o jsonpath='{.metadata.uid} {.status.containerStatuses[0].restartCount}')" "$before"
}
two_releases_do_not_fight() {
  local before
  before=$(versions)
  helm install second "$chart" --namespace second --create-namespace --wait --timeout 3m > "$scratch/notes"
  contains "$(cat "$scratch/notes")" "the CRD was installed by the release $release in the namespace $space"
  contains "$(cat "$scratch/notes")" "the release $release in the namespace $space is here too"
  is "$(versions)" "$before"
  helm uninstall second --namespace second --wait
  kubectl -n second wait --for delete pod --all --timeout 90s
  kubectl delete namespace second --wait=false
}

k3s_at_work_is_waited_for() {
  kubectl annotate node "$node" "etcd.k3s.cattle.io/local-snapshots-timestamp=$(date -u +%FT%TZ)"
  until_true 60 says "K3s is at work"
  put_file etcd-snapshot-$node-1700000006 < "$scratch/snapshot"
  # It is verified and counted, and has no record.
  until_true 60 metric_is 'etcd_snapshot_files{kind="good",storage="local"}' 2
  is_gone "file://$directory/etcd-snapshot-$node-1700000006"
  kubectl annotate node "$node" etcd.k3s.cattle.io/local-snapshots-timestamp-
  until_true 60 field_is "file://$directory/etcd-snapshot-$node-1700000006" .status.readyToUse true
  until_true 60 no_longer_says "K3s is at work"
}
removed_directory_is_said_and_loses_no_record() { # and the agent is started anew, which alone can see the next one
  local before restarts
  before=$(records) restarts=$(kubectl -n "$space" get pod "$(pod)" -o jsonpath='{.status.containerStatuses[0].restartCount}')
  on_node cp -a "$directory" "${directory%/*}/aside"
  on_node rm -r "$directory"
  on_node mkdir -m 0700 "$directory"
  until_true 180 has_restarted_since "$restarts"
  until_true 60 log_says "has no snapshots and is not the directory that had some"
  is "$(records)" "$before"
  on_node sh -c "mv ${directory%/*}/aside/* $directory/ && rm -r ${directory%/*}/aside"
  until_true 60 says ready
  is "$(records)" "$before"
}
has_restarted_since() { [ "$(kubectl -n "$space" get pod "$(pod)" -o jsonpath='{.status.containerStatuses[0].restartCount}')" -gt "$1" ]; }

check "a pod that was killed comes back, and writes no record" killed_pod_comes_back_and_writes_nothing
if [ -n "${etcd_pki-}" ]; then
  check "a directory that is absent on a node is told in an Event" directory_that_is_absent_is_an_event
  check "a leader that was killed is followed by another" another_leader_follows
else
  say "left out without a cluster of our own: directories that are absent, another leader, renewed certificates, rights"
fi
check "a second release is warned of, and writes nothing" two_releases_do_not_fight
check "a node that is drained keeps its agent" drained_node_keeps_its_agent
check "K3s at work is waited for" k3s_at_work_is_waited_for
check "a directory that is removed under the pod is said, and loses no record" removed_directory_is_said_and_loses_no_record
check "a verb that is denied is said, and the rest goes on" denied_verb_is_said
if [ -n "${etcd_pki-}" ]; then check "renewed certificates need no restart" renewed_certificates_need_no_restart; fi
