# Upgraded, rolled back, uninstalled, installed under another name: the records are counted each time.

crd() { kubectl get crd etcdsnapshotfiles.k3s.cattle.io -o jsonpath="{.metadata.$1}"; }
uids() { kubectl get etcdsnapshotfiles -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.uid}{"\n"}{end}' | sort; }
upgrading_twice_keeps_all() {
  local crd_before records_before turn
  crd_before=$(crd uid) records_before=$(uids)
  [ "$(wc -l <<< "$records_before")" -ge 4 ]
  for turn in 1 2; do
    install --reuse-values --set "podAnnotations.turn=t$turn" > /dev/null
    is "$(crd uid)" "$crd_before"
    is "$(crd 'annotations.helm\.sh/resource-policy')" keep
    is "$(uids)" "$records_before"
  done
}
rolling_back_keeps_all() {
  local records_before
  records_before=$(uids)
  helm rollback "$release" -n "$space" --wait --timeout 10m
  is "$(uids)" "$records_before"
  until_true 60 agents_ready 1
}
crd_is_upgraded_with_the_chart() { # to a next version of the chart, whose CRD has one more column, and back
  local records_before said
  records_before=$(uids)
  cp -r "$chart" "$scratch/next"
  sed -i 's/^version: .*/version: 99.0.0/' "$scratch/next/Chart.yaml"
  sed -i 's/^  - additionalPrinterColumns:$/&\n    - {jsonPath: .metadata.uid, name: Next, type: string}/' "$scratch/next/files/crd.yaml"
  helm upgrade "$release" "$scratch/next" -n "$space" --reuse-values --wait --timeout 10m > /dev/null
  contains "$(kubectl get etcdsnapshotfiles | head -1)" NEXT
  is "$(uids)" "$records_before"
  helm rollback "$release" -n "$space" --wait --timeout 10m
  said=$(kubectl get etcdsnapshotfiles)
  lacks "$(head -1 <<< "$said")" NEXT
  is "$(uids)" "$records_before"
}
rights_are_those_used() {
  { helm get manifest "$release" -n "$space" | kubectl get -f - -o json; } > "$scratch/objects.json"
  python3 "$here/rights" "$scratch/cluster/log/audit.json" "system:serviceaccount:$space:$agent" < "$scratch/objects.json"
}
uninstalling_keeps_records_and_files() {
  local crd_before records_before files_before left
  crd_before=$(crd uid) records_before=$(uids) files_before=$(on_node ls "$directory")
  helm uninstall "$release" -n "$space" --wait --timeout 10m
  is "$(crd uid)" "$crd_before"
  is "$(uids)" "$records_before"
  is "$(on_node ls "$directory")" "$files_before"
  left=$(kubectl get clusterroles,clusterrolebindings -o name)
  lacks "$left" etcd-snapshot-operator
}
another_name_finds_all() {
  local crd_before records_before
  crd_before=$(crd uid) records_before=$(uids)
  helm install renamed "$chart" -n "$space" --wait --timeout 10m > "$scratch/notes"
  contains "$(cat "$scratch/notes")" "the CRD was installed by the release $release in the namespace $space"
  is "$(crd uid)" "$crd_before"
  is "$(uids)" "$records_before"
}
insisting_on_a_crd_of_somebody_else_is_refused() {
  local said
  if said=$(helm upgrade renamed "$chart" -n "$space" --set crds.install=always 2>&1); then return 1; fi
  contains "$said" "was installed by the release $release in the namespace $space"
  # The sentence says how to hand it over.
  kubectl annotate --overwrite crd etcdsnapshotfiles.k3s.cattle.io meta.helm.sh/release-name=renamed "meta.helm.sh/release-namespace=$space"
  helm upgrade renamed "$chart" -n "$space" --set crds.install=always --wait --timeout 10m > /dev/null
}
crd_of_k3s_is_left_alone() {
  kubectl annotate crd etcdsnapshotfiles.k3s.cattle.io meta.helm.sh/release-name- meta.helm.sh/release-namespace-
  local before
  before=$(crd resourceVersion)
  helm upgrade renamed "$chart" -n "$space" --reset-values --wait --timeout 10m > "$scratch/notes"
  contains "$(cat "$scratch/notes")" "the CRD was installed by somebody else than Helm"
  is "$(crd resourceVersion)" "$before"
  helm uninstall renamed -n "$space" --wait --timeout 10m
  is "$(crd resourceVersion)" "$before"
}

k3s_is_told_by_the_version_of_the_server() {
  local flags=$scratch/cluster/run/kube-apiserver plan
  cp "$flags" "$scratch/flags"
  sed -i "s#/kubernetes/kube-apiserver#/cluster/kube-apiserver+k3s1#" "$flags"
  "$repository/e2e/cluster" restart "$scratch/cluster" kube-apiserver
  until_true 240 kubectl get --raw /readyz
  plan=$(helm install other "$chart" -n "$space" --dry-run=server)
  contains "$plan" "for k3s, as the version"
  contains "$plan" /var/lib/rancher/k3s/server/db/snapshots
  lacks "$plan" "kind: CustomResourceDefinition"
  cp "$scratch/flags" "$flags"
  "$repository/e2e/cluster" restart "$scratch/cluster" kube-apiserver
  until_true 240 kubectl get --raw /readyz
}

check "two upgrades keep the CRD and every record" upgrading_twice_keeps_all
check "rolling back keeps every record" rolling_back_keeps_all
check "the CRD is upgraded with the chart that installed it" crd_is_upgraded_with_the_chart
if [ -n "${etcd_pki-}" ]; then
  check "the rights are those that were used, and no others" rights_are_those_used
fi
if [ -n "${etcd_pki-}" ]; then
  check "K3s is told by the version that the API server reports" k3s_is_told_by_the_version_of_the_server
fi
check "uninstalling keeps CRD, records and files" uninstalling_keeps_records_and_files
check "installed under another name it finds them all" another_name_finds_all
check "insisting on a CRD of somebody else is refused, until it is handed over" insisting_on_a_crd_of_somebody_else_is_refused
check "a CRD that is not Helm's is left alone" crd_of_k3s_is_left_alone
