{{/*
What the Prometheus operator's kinds need: a clear refusal on a cluster that does not serve them, instead of one without words.
A template rendered away from any cluster (helm template, most GitOps) cannot know, so it is rendered as asked: there is no
cluster without the namespace kube-system.
Call it with (dict "root" $ "kind" "PodMonitor" "setting" "monitoring.podMonitor.enabled").
*/}}
{{- define "etcd-snapshot-operator.requireMonitoringKind" -}}
{{- $served := .root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) }}
{{- if and (not $served) (lookup "v1" "Namespace" "" "kube-system") }}
{{- fail (printf "%s is true, and this cluster does not serve %s.monitoring.coreos.com: install the Prometheus operator first, or set it to false" .setting .kind) }}
{{- end }}
{{- end }}

{{/*
Annotations for the pods, for a Prometheus that looks for them; nothing where a PodMonitor does it.
*/}}
{{- define "etcd-snapshot-operator.prometheusAnnotations" -}}
{{- if and .Values.monitoring.podAnnotations (not .Values.monitoring.podMonitor.enabled) -}}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: "9469"
{{- end }}
{{- end }}

{{/*
The alerts of one rule file with this release's settings: the switches and severities of values, the reconcile interval, what
retention keeps, the DaemonSet's name and where the runbooks are. The files are whole without it, for use without Helm.
Call it with (dict "root" $ "file" "alerts/…yaml"); what comes out is a list of groups, without those that are empty.
*/}}
{{- define "etcd-snapshot-operator.alertGroups" -}}
{{- $root := .root }}
{{- $rules := $root.Values.monitoring.prometheusRule }}
{{- $interval := int64 $rules.reconcileIntervalSeconds }}
{{- $groups := list }}
{{- range (fromYaml ($root.Files.Get .file)).groups }}
{{- $kept := list }}
{{- range .rules }}
{{- $own := get $rules.alerts .alert | default dict }}
{{- if not (and (hasKey $own "enabled") (not $own.enabled)) }}
{{- $expr := .expr | replace "3 * 600" (printf "3 * %d" $interval) | replace "[1800s]" (printf "[%ds]" (mul 3 $interval)) }}
{{- $copies := dict "EtcdSnapshotLocalCopiesMissing" $rules.localRetention "EtcdSnapshotS3CopiesMissing" $rules.s3Retention }}
{{- if hasKey $copies .alert }}
{{- $expr = $expr | replace "< 5" (printf "< %d" (int64 (get $copies .alert))) | replace ">= 5" (printf ">= %d" (int64 (get $copies .alert))) }}
{{- end }}
{{- $daemonset := printf `namespace=%q, daemonset=%q` $root.Release.Namespace (include "etcd-snapshot-operator.fullname" $root) }}
{{- $expr = $expr | replace `daemonset=~".*etcd-snapshot-operator.*"` $daemonset }}
{{- $rule := dict "alert" .alert "expr" $expr }}
{{- with get $own "for" | default (get . "for") }}
{{- $_ := set $rule "for" . }}
{{- end }}
{{- $severity := get $own "severity" | default .labels.severity }}
{{- $_ := set $rule "labels" (mergeOverwrite (deepCopy .labels) (deepCopy $rules.alertLabels) (dict "severity" $severity)) }}
{{- $annotations := deepCopy .annotations }}
{{- with $rules.runbookUrl }}
{{- $_ := set $annotations "runbook_url" (printf "%s/%s" (trimSuffix "/" .) (base $annotations.runbook_url)) }}
{{- end }}
{{- $_ := set $rule "annotations" $annotations }}
{{- $kept = append $kept $rule }}
{{- end }}
{{- end }}
{{- if $kept }}
{{- $groups = append $groups (dict "name" .name "rules" $kept) }}
{{- end }}
{{- end }}
{{- if $groups }}
{{- toYaml $groups }}
{{- end }}
{{- end }}
