# Files and objects come and go, and the records with them.

file_has_a_record() {
  put_file etcd-snapshot-$node-1700000000 < "$scratch/snapshot"
  until_true 60 field_is "file://$directory/etcd-snapshot-$node-1700000000" .status.readyToUse true
  is "$(field "file://$directory/etcd-snapshot-$node-1700000000" .spec.nodeName)" "$node"
  is "$(field "file://$directory/etcd-snapshot-$node-1700000000" .status.size)" "$(stat -c %s "$scratch/snapshot")"
}
cut_off_file_is_damaged() {
  put_file etcd-snapshot-$node-1700000001 < "$scratch/cut-off"
  until_true 60 field_is "file://$directory/etcd-snapshot-$node-1700000001" .status.readyToUse false
  until_true 60 field_is "file://$directory/etcd-snapshot-$node-1700000001" .metadata.annotations.etcd-snapshot-operator\\.dev/verdict damaged
}
kubectl_reads_well() {
  local table
  table=$(kubectl get etcdsnapshotfiles)
  say "$table"
  contains "$(head -1 <<< "$table" | tr -s ' ')" "NAME SNAPSHOTNAME NODE LOCATION SIZE CREATIONTIME READY"
}
metrics_are_read_through_the_api_server() {
  until_true 60 metric_is 'etcd_snapshot_files{kind="good",storage="local"}' 1
  until_true 60 metric_is 'etcd_snapshot_files{kind="damaged",storage="local"}' 1
}
with_bucket=(--set settings.etcd-s3=true --set settings.etcd-s3-config-secret=s3 --set settings.etcd-snapshot-reconcile-interval=5s)
missing_secret_is_said_and_stops_nothing() {
  install "${with_bucket[@]}" > "$scratch/notes"
  contains "$(cat "$scratch/notes")" "the one that the Secret s3 in kube-system names"
  until_true 60 says "secrets kube-system/s3"
}
secret_that_comes_is_read() {
  kubectl -n kube-system create secret generic s3 --from-literal=etcd-s3-endpoint="$s3" --from-literal=etcd-s3-bucket=$bucket \
    --from-literal=etcd-s3-insecure=true --from-literal=etcd-s3-access-key=operator --from-literal=etcd-s3-secret-key=hush-of-the-operator
  until_true 60 no_longer_says "kube-system/s3"
}
objects_have_records() {
  put_object etcd-snapshot-$node-1700000000 "$scratch/snapshot"
  put_object etcd-snapshot-$node-1700000002 "$scratch/snapshot"
  until_true 90 field_is "s3://$bucket/etcd-snapshot-$node-1700000000" .status.readyToUse true
  until_true 90 field_is "s3://$bucket/etcd-snapshot-$node-1700000002" .status.readyToUse true
  until_true 60 metric_is 'etcd_snapshot_files{kind="plausible",storage="s3"}' 2
}
object_deleted_by_hand_loses_its_record() {
  delete_object etcd-snapshot-$node-1700000002
  until_true 90 is_gone "s3://$bucket/etcd-snapshot-$node-1700000002"
  is "$(field "s3://$bucket/etcd-snapshot-$node-1700000000" .status.readyToUse)" true
}
deleted_record_comes_back() {
  kubectl delete etcdsnapshotfile "$(record_of "file://$directory/etcd-snapshot-$node-1700000000")"
  until_true 60 field_is "file://$directory/etcd-snapshot-$node-1700000000" .status.readyToUse true
}

check "a file in the directory of the node has a record" file_has_a_record
check "a file that was cut off is not ready" cut_off_file_is_damaged
check "kubectl get reads well" kubectl_reads_well
check "the counts in the metrics are right, read through the API server's proxy" metrics_are_read_through_the_api_server
check "a Secret that is missing is said in readyz, and stops nothing" missing_secret_is_said_and_stops_nothing
check "a Secret that comes later is read without a restart" secret_that_comes_is_read
check "objects in the bucket have records" objects_have_records
check "an object that was deleted by hand loses its record" object_deleted_by_hand_loses_its_record
check "a record that was deleted by hand comes back" deleted_record_comes_back
