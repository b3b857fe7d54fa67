# Installed with no values: who runs where, what the objects are like, what they say.

installs_without_values() {
  install > "$scratch/notes"
  is "$(kubectl -n "$space" get ds "$agent" -o jsonpath='{.status.numberReady}')" 1
  is "$(kubectl -n "$space" get pod "$(pod)" -o jsonpath='{.spec.nodeName}')" "$node"
}
notes_say_where() {
  contains "$(cat "$scratch/notes")" "for kubeadm, as the version"
  contains "$(cat "$scratch/notes")" "1 of $(kubectl get nodes -o name | wc -l) nodes has the label node-role.kubernetes.io/control-plane"
  contains "$(cat "$scratch/notes")" "There is no bucket"
}
notes_warn_of_no_node() {
  contains "$(helm upgrade "$release" "$chart" -n "$space" --dry-run=server --set nodeSelector.disk=none)" "WARNING: no node has the label"
  contains "$(helm install other "$chart" -n "$space" --dry-run=server --set distribution=k3s)" "there are no etcd snapshots to look after"
}
notes_warn_of_pod_security() {
  local rendered said
  kubectl create namespace restricted
  kubectl label namespace restricted pod-security.kubernetes.io/enforce=restricted
  # A Deployment for any etcd is allowed there.
  rendered=$(helm template other "$chart" -n restricted --set distribution=generic --set settings.etcd-endpoint=https://etcd:2379 --set etcd.certificatesSecret=a --show-only templates/agent.yaml)
  said=$(kubectl apply --dry-run=server -n restricted -f - <<< "$rendered" 2>&1) || { say "$said"; return 1; }
  lacks "$said" "would violate PodSecurity"
  contains "$(helm install other "$chart" -n restricted)" "enforces the pod security level restricted"
  # What the warning is about: no pod is made, and an Event says why.
  until_true 60 violates
  said=$(kubectl -n restricted get pods -o name)
  is "$said" ""
  helm uninstall other -n restricted --wait
  kubectl delete namespace restricted --wait=false
}
violates() { contains "$(kubectl -n restricted get events --field-selector reason=FailedCreate -o jsonpath='{.items[*].message}')" "violates PodSecurity"; }
notes_print_commands_that_work() {
  local line
  grep '^  kubectl ' "$scratch/notes" > "$scratch/commands"
  [ "$(wc -l < "$scratch/commands")" = 3 ]
  while read -r line; do eval "$line"; done < "$scratch/commands"
}
server_takes() { # every object as a real API server sees it, with fields that it does not know refused
  helm template dry "$chart" -n "$space" --no-hooks "$@" | kubectl apply --dry-run=server --validate=strict -f - > /dev/null
}
runs_without_rights_over_the_node() {
  local spec
  spec=$(kubectl -n "$space" get pod "$(pod)" -o json)
  python3 -c '
import json, sys
spec = json.load(sys.stdin)["spec"]
container = spec["containers"][0]["securityContext"]
assert container["readOnlyRootFilesystem"] and not container["allowPrivilegeEscalation"]
assert container["capabilities"]["drop"] == ["ALL"] and "add" not in container["capabilities"]
assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
for word in ("hostNetwork", "hostPID", "hostIPC"):
    assert not spec.get(word), word
paths = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume}
read_only = {mount["name"]: mount.get("readOnly", False) for mount in spec["containers"][0]["volumeMounts"]}
assert set(paths) == {"snapshots", "metadata", "certificates"} and read_only["certificates"], paths
' <<< "$spec"
}
directories_are_closed() { is "$(on_node stat -c %a "$directory" "${directory%/*}/.metadata" | tr '\n' ' ')" "700 700 "; }
helm_test_passes() { # and shows what the agent says
  local said
  said=$(helm test "$release" -n "$space" --timeout 10m --logs) || { say "$said"; return 1; }
  contains "$said" ready
}
image_is_small_and_holds_two_files() {
  python3 - "$scratch/image.tar" "$(sed -n 's/^appVersion: //p' "$chart/Chart.yaml")" <<'PYTHON'
import io, json, sys, tarfile
archive = tarfile.open(sys.argv[1])
def blob(of):
    return archive.extractfile("blobs/" + of["digest"].replace(":", "/")).read()
manifest = json.loads(blob(json.load(archive.extractfile("index.json"))["manifests"][0]))
config = json.loads(blob(manifest["config"]))["config"]
files, to_pull = {}, sum(layer["size"] for layer in manifest["layers"])
for layer in manifest["layers"]:
    for one in tarfile.open(fileobj=io.BytesIO(blob(layer))):
        if not one.isdir():
            files[one.name] = one.size
assert set(files) == {"etc/ssl/certs/ca-certificates.crt", "usr/local/bin/etcd-snapshot-operator"}, files
assert to_pull < 30_000_000, f"{to_pull} bytes to pull"
assert config["User"] == "65532:65532" and config["Entrypoint"] == ["/usr/local/bin/etcd-snapshot-operator"], config
of_oci = {name.rpartition(".")[2] for name in config["Labels"] if name.startswith("org.opencontainers.image.")}
assert of_oci == {"title", "description", "licenses", "version", "revision"}, config["Labels"]
assert config["Labels"]["org.opencontainers.image.version"] == sys.argv[2], config["Labels"]
PYTHON
}

check "the chart installs with no values, on the node with etcd alone" installs_without_values
check "the notes say on how many nodes it runs" notes_say_where
check "the notes warn when there is no node to run on" notes_warn_of_no_node
check "the notes warn of a namespace that refuses its pods" notes_warn_of_pod_security
check "the API server takes every object for kubeadm" server_takes
check "the API server takes every object for K3s" server_takes --set distribution=k3s
check "the API server takes every object for RKE2" server_takes --set distribution=rke2
check "the API server takes every object for any etcd" server_takes --set distribution=generic --set settings.etcd-endpoint=https://etcd:2379 --set etcd.certificatesSecret=a
check "the API server takes every object with all that can be chosen" server_takes --values "$repository/e2e/chart/everything.yaml" --set crds.install=auto
check "the pod has no capability, no host network and three directories" runs_without_rights_over_the_node
check "the directories that kubelet made are closed to all others" directories_are_closed
check "the commands that the notes print work" notes_print_commands_that_work
check "helm test asks the operator whether it is ready" helm_test_passes
if [ -z "${E2E_IMAGE_LOADED-}" ]; then check "the image holds the binary and authorities, is of this version, and small" image_is_small_and_holds_two_files; fi
