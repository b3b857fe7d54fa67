# Snapshots are saved on schedule and by hand, sent up, listed and deleted, all of it in the pod; and by whom not.

secret_names() { # secret_names BUCKET FOLDER IDENTITY: read at the next beat, without a restart
  kubectl -n kube-system patch secret s3 --type merge -p \
    "{\"stringData\": {\"etcd-s3-bucket\": \"$1\", \"etcd-s3-folder\": \"$2\", \"etcd-s3-access-key\": \"$3\", \"etcd-s3-secret-key\": \"hush-of-the-$3\"}}"
}
saved() { get "$@" "http://$s3/$bucket_to_write/$folder/$object"; } # object=NAME saved [FLAG...]
newest() { # newest PLACE BASE: where the newest snapshot of that base name is that can be restored; a younger one may be on its way
  local found
  found=$(kubectl get etcdsnapshotfiles -o jsonpath='{range .items[?(@.status.readyToUse==true)]}{.spec.location}{"\n"}{end}' |
    grep -F "$1/$2-$node-" | sort | tail -n 1)
  [ -n "$found" ] && echo "$found"
}
whole_story_of() { # whole_story_of NAME: file, object, both sidecars and both records agree
  local at digest
  at=$(object=$1 saved -I | tr -d '\r' | tr '[:upper:]' '[:lower:]')
  contains "$at" "x-amz-meta-k3s-cluster-id: $cluster"
  contains "$at" "x-amz-meta-k3s-node-name: $node"
  digest=$(on_node sha256sum "$directory/$1" | cut -d' ' -f1)
  contains "$at" "x-amz-meta-etcd-snapshot-sha256: $digest"
  contains "$(on_node cat "${directory%/*}/.metadata/$1")" "$digest"
  is "$(object=.metadata/$1 saved)" "$(on_node cat "${directory%/*}/.metadata/$1")"
  for at in "file://$directory/$1" "s3://$bucket_to_write/$folder/$1"; do
    until_true 60 field_is "$at" .status.readyToUse true
    is "$(field "$at" .spec.nodeName)" "$node"
    contains "$(field "$at" .metadata.annotations.etcd-snapshot-operator\\.dev/manifest)" "$digest"
  done
}
saves_on_schedule() {
  local name
  kubectl -n kube-system create configmap k3s-etcd-snapshot-extra-metadata --from-literal=team=platform
  secret_names $bucket_to_write $folder writer
  install "${with_bucket[@]}" --set settings.etcd-snapshot-name=scheduled --set-string 'settings.etcd-snapshot-schedule-cron=@every 10s' > /dev/null
  until_true 60 newest "file://$directory" scheduled
  until_true 60 newest "s3://$bucket_to_write/$folder" scheduled
  # Back to every twelve hours: nothing else comes while the story looks.
  install "${with_bucket[@]}" > /dev/null
  name=$(newest "s3://$bucket_to_write/$folder" scheduled)
  whole_story_of "${name##*/}"
}
extra_metadata_is_kept_with_it() {
  local name
  name=$(newest "s3://$bucket_to_write/$folder" scheduled) name=${name##*/}
  contains "$(on_node cat "${directory%/*}/.metadata/$name" | tr -d ' ')" '"team":"platform"'
  contains "$(object=.metadata/$name saved | tr -d ' ')" '"team":"platform"'
  is "$(field "file://$directory/$name" .spec.metadata.team)" platform
  until_true 60 field_is "s3://$bucket_to_write/$folder/$name" .spec.metadata.team platform
}
saves_by_hand() {
  local said name
  said=$(plugin save --name by-hand --node "$node")
  name=$(sed -n 's/^Snapshot \(.*\) saved\.$/\1/p' <<< "$said")
  whole_story_of "$name"
}
in_the_image_nothing_else_runs() { # neither a shell nor anything but what the pod has
  contains "$(kubectl -n "$space" exec "$(pod)" -c agent -- etcd-snapshot-operator --version)" "$(sed -n 's/^appVersion: //p' "$chart/Chart.yaml")"
  contains "$(kubectl -n "$space" exec "$(pod)" -c agent -- etcd-snapshot-operator ready)" ready
  local said
  if said=$(kubectl -n "$space" exec "$(pod)" -c agent -- sh -c true 2>&1); then return 1; fi
  contains "$said" "not found"
}
may_not() { # who may look at pods, and no more
  kubectl -n "$space" create serviceaccount looker
  kubectl -n "$space" create role looker --verb list --resource pods
  kubectl -n "$space" create rolebinding looker --role looker --serviceaccount "$space:looker"
  cp "$KUBECONFIG" "$scratch/looker"
  kubectl --kubeconfig "$scratch/looker" config set-credentials looker --token "$(kubectl -n "$space" create token looker)"
  kubectl --kubeconfig "$scratch/looker" config set-context --current --user looker
}
who_may_not_is_told_what_is_missing() {
  local said line
  may_not
  if said=$(KUBECONFIG=$scratch/looker plugin save --name by-others -n "$space" 2>&1); then return 1; fi
  contains "$said" "the rights that are missing: create and get on pods/exec in the namespace $space"
  line=$(sed -n 's/.*\(kubectl exec .*\)/\1/p' <<< "$said")
  is "$line" "kubectl exec -n $space $(pod) -c agent -- etcd-snapshot-operator save --name=by-others"
  # Somebody who has them types the line, or gives these rights and no others.
  contains "$(eval "$line")" " saved." # whatever became of the upload
  kubectl -n "$space" create role execs --verb create,get --resource pods/exec
  kubectl -n "$space" create rolebinding execs --role execs --serviceaccount "$space:looker"
  until_true 30 saves_by_others
}
saves_by_others() { contains "$(KUBECONFIG=$scratch/looker plugin save --name by-others -n "$space")" " saved."; }
deletes_by_hand() { # file, object, sidecars and records; all that was saved here
  local names name
  names=$(on_node ls "$directory" | grep -E '^(scheduled|by-hand|by-others)-')
  # shellcheck disable=SC2086
  plugin delete --yes --node "$node" $names
  for name in $names; do
    if on_node test -e "$directory/$name" || on_node test -e "${directory%/*}/.metadata/$name"; then say "$name is still there"; return 1; fi
    if object=$name saved -I 2> /dev/null; then say "$name is still in the bucket"; return 1; fi
    until_true 60 is_gone "file://$directory/$name"
    until_true 60 is_gone "s3://$bucket_to_write/$folder/$name"
  done
}
another_secret_needs_no_restart() { # the bucket that the operator may only look at, again
  local before
  before=$(kubectl -n "$space" get pod "$(pod)" -o jsonpath='{.metadata.uid}')
  secret_names $bucket "" operator
  put_object etcd-snapshot-$node-1700000002 "$scratch/snapshot"
  until_true 90 field_is "s3://$bucket/etcd-snapshot-$node-1700000002" .status.readyToUse true
  delete_object etcd-snapshot-$node-1700000002
  until_true 90 is_gone "s3://$bucket/etcd-snapshot-$node-1700000002"
  is "$(kubectl -n "$space" get pod "$(pod)" -o jsonpath='{.metadata.uid}')" "$before"
}

check "a snapshot is saved on schedule and sent up with the documented rights; each has its sidecar and its record" saves_on_schedule
check "extra metadata of the ConfigMap is kept with it" extra_metadata_is_kept_with_it
check "kubectl etcd-snapshot save does the same by hand, in the pod" saves_by_hand
check "in the image there is the operator, which says its version and how it is, and nothing else to run" in_the_image_nothing_else_runs
check "who may not is told which rights are missing and what others can type, and both are true" who_may_not_is_told_what_is_missing
check "kubectl etcd-snapshot delete takes file, object, sidecars and records" deletes_by_hand
check "a Secret that names another bucket is read without a restart" another_secret_needs_no_restart
