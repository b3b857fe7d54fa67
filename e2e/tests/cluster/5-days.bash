# Bad days: pods, nodes, rights and certificates go.

versions() { kubectl get etcdsnapshotfiles -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.uid} {.metadata.resourceVersion}{"\n"}{end}' | sort; }
another_pod_than() { local now; now=$(pod) && [ -n "$now" ] && [ "$now" != "$1" ] && kubectl -n "$space" wait --for condition=Ready "pod/$now" --timeout 1s; }
killed_pod_comes_back_and_writes_nothing() {
  local before old
  before=$(versions) old=$(pod)
  [ -n "$before" ]
  kubectl -n "$space" delete pod "$old" --grace-period=0 --force
  until_true 90 another_pod_than "$old"
  until_true 90 metric_is 'etcd_snapshot_files{kind="good",storage="local"}' 1
  is "$(versions)" "$before"
}
leaders() { # of all agents
  local one sum=0
  for one in $(agents -o jsonpath='{.items[*].metadata.name}'); do
    sum=$((sum + $(kubectl get --raw "/api/v1/namespaces/$space/pods/$one:9469/proxy/metrics" | sed -n 's/^etcd_snapshot_leader{.*} //p; s/^etcd_snapshot_leader //p')))
  done
  echo $sum
}
holder() { # of the bucket that is looked after now
  kubectl -n "$space" get leases -o jsonpath='{range .items[*]}{.spec.renewTime} {.spec.holderIdentity}{"\n"}{end}' | sort | sed -n '$s/.* //p'
}
one_leads() { is "$(leaders)" 1; }
agents_ready() { is "$(kubectl -n "$space" get ds "$agent" -o jsonpath='{.status.numberReady}')" "$1"; }
holds_another() { local now; now=$(holder) && [ -n "$now" ] && [ "$now" != "$1" ]; }
directory_that_is_absent_is_an_event() { # no certificates on that node yet
  kubectl label node server-2 node-role.kubernetes.io/control-plane=
  until_true 90 mount_failed
}
mount_failed() { contains "$(kubectl -n "$space" get events --field-selector reason=FailedMount -o jsonpath='{.items[*].message}')" "/etc/kubernetes/pki/etcd is not a directory"; }
agent_comes_once_it_is_there() {
  cp -r "$etcd_pki/." "$scratch/cluster/node-2/host/etc/kubernetes/etcd-pki"
  mkdir -p "$scratch/cluster/node-2/host/etc/kubernetes/pki"
  mv "$scratch/cluster/node-2/host/etc/kubernetes/etcd-pki" "$scratch/cluster/node-2/host/etc/kubernetes/pki/etcd"
  # Kubelet waits longer from try to try: a new pod mounts at once.
  kubectl -n "$space" delete pod --field-selector spec.nodeName=server-2 --grace-period=0 --force
  until_true 120 agents_ready 2
  until_true 60 one_leads
}
etcd_elsewhere_is_said() { # no member listens on the address of that node
  contains "$(ask readyz server-2)" "ill: etcd member"
  is "$(ask readyz server-2 | head -n 1)" ready
  if plugin save --node server-2 > "$scratch/said" 2>&1; then return 1; fi
  contains "$(cat "$scratch/said")" "$net.0.2:2379"
}
snapshots_of_all_nodes_are_listed() {
  local said
  said=$(plugin ls)
  say "$said"
  contains "$said" "On the node $node:"
  contains "$said" "On the node server-2:"
  contains "$said" "etcd-snapshot-$node-1700000000"
  plugin ls --output json | python3 -c '
import json, sys
items = json.load(sys.stdin)["items"]
files = [(item["spec"]["nodeName"], item["spec"]["location"]) for item in items]
assert files and len(files) == len(set(files)), files'
  # Of which node is asked where there are several.
  if said=$(plugin save 2>&1); then return 1; fi
  contains "$said" "There are agents on $node, server-2: choose one with --node"
}
another_leader_follows() {
  local first
  first=$(holder)
  [ -n "$first" ]
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
  kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --timeout 5m
  is "$(pod)" "$before"
  until_true 60 agents_ready 1
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
  helm install second "$chart" --namespace second --create-namespace --wait --timeout 10m --set nameOverride=keeper > "$scratch/notes"
  contains "$(cat "$scratch/notes")" "the CRD was installed by the release $release in the namespace $space"
  contains "$(cat "$scratch/notes")" "the release $release in the namespace $space is here too"
  # Whatever its pods are called, both are found, and one is to be chosen.
  local said
  if said=$(plugin ls 2>&1); then return 1; fi
  contains "$said" "agents of several releases: $space/$release, second/second"
  contains "$(plugin ls --instance second)" "etcd-snapshot-$node-1700000000"
  is "$(versions)" "$before"
  helm uninstall second --namespace second --wait
  kubectl -n second wait --for delete pod --all --timeout 5m
  kubectl delete namespace second --wait=false
}
any_etcd_is_saved_without_root() { # from a Secret onto a volume, in a namespace that allows nothing more; as if the etcd were elsewhere
  local said name
  kubectl create namespace any
  kubectl label namespace any pod-security.kubernetes.io/enforce=restricted
  kubectl -n any create secret generic etcd-client --from-file "$etcd_pki/ca.crt" --from-file "tls.crt=$etcd_pki/healthcheck-client.crt" \
    --from-file "tls.key=$etcd_pki/healthcheck-client.key"
  on_node install -d -o 65532 -g 65532 /var/lib/rancher/volume
  kubectl apply -f - << END
{apiVersion: v1, kind: PersistentVolume, metadata: {name: any}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 10Gi}, hostPath: {path: /var/lib/rancher/volume},
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}}}
END
  helm install any "$chart" -n any --set distribution=generic --set "settings.etcd-endpoint=https://$net.0.1:2379" --set etcd.certificatesSecret=etcd-client \
    --wait --timeout 10m > /dev/null
  said=$(plugin save -n any)
  name=$(sed -n 's/^Snapshot \(.*\) saved\.$/\1/p' <<< "$said")
  is "${name%-*}" on-demand-any-etcd-snapshot-operator
  until_true 60 field_is "file:///var/lib/etcd-snapshot-operator/snapshots/$name" .status.readyToUse true
  plugin delete --yes -n any "$name"
  helm uninstall any -n any --wait
  kubectl -n any wait --for delete pod --all --timeout 5m
  # Snapshots outlive the release.
  is "$(kubectl -n any get persistentvolumeclaims -o name)" persistentvolumeclaim/any-etcd-snapshot-operator
  kubectl delete namespace any --wait=false
}
etcd_on_loopback_needs_the_network_of_the_host() {
  # To the agent, nothing listens on the address of the node any more.
  on_node iptables -I INPUT -p tcp -d "$net.0.1" --dport 2379 -j REJECT --reject-with tcp-reset
  until_true 90 says "ill: etcd member"
  is "$(ask readyz | head -n 1)" ready
  install "${with_bucket[@]}" --set hostNetwork=true --set settings.etcd-endpoint=https://127.0.0.1:2379 > /dev/null
  until_true 90 no_longer_says "ill: etcd member"
  plugin save --name through-the-host --etcd-s3=false
  plugin delete --yes --etcd-s3=false "$(on_node ls "$directory" | grep '^through-the-host-')"
  on_node iptables -D INPUT -p tcp -d "$net.0.1" --dport 2379 -j REJECT --reject-with tcp-reset
  install "${with_bucket[@]}" > /dev/null
  until_true 90 no_longer_says "ill: etcd member"
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
  check "once it is there, the agent comes" agent_comes_once_it_is_there
  check "an etcd that is not on the node's address is said, and the agent is ready all the same" etcd_elsewhere_is_said
  check "kubectl etcd-snapshot ls asks every agent" snapshots_of_all_nodes_are_listed
  check "a leader that was killed is followed by another" another_leader_follows
else
  say "left out without a cluster of our own: directories that are absent, another leader, renewed certificates, rights"
fi
check "a second release is warned of, and writes nothing" two_releases_do_not_fight
check "a node that is drained keeps its agent" drained_node_keeps_its_agent
check "K3s at work is waited for" k3s_at_work_is_waited_for
check "a directory that is removed under the pod is said, and loses no record" removed_directory_is_said_and_loses_no_record
check "a verb that is denied is said, and the rest goes on" denied_verb_is_said
if [ -n "${etcd_pki-}" ]; then
  check "renewed certificates need no restart" renewed_certificates_need_no_restart
  check "any etcd is saved from a Secret onto a volume, without root" any_etcd_is_saved_without_root
  check "an etcd on 127.0.0.1 alone is said, and hostNetwork is the remedy" etcd_on_loopback_needs_the_network_of_the_host
fi
