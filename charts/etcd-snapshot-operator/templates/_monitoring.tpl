{{- /*
What the Prometheus operator's kinds need: a clear refusal on a cluster that does not serve them, instead of one without words.
What is rendered away from any cluster (helm template, most GitOps) cannot know, so it is rendered as asked: there is no cluster
without the namespace kube-system. Renders nothing.
*/}}
{{- define "eso.monitoringKind" -}}
{{- $kind := index . 1 }}
{{- with index . 0 }}
{{- $served := .Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind) }}
{{- if and (not $served) (lookup "v1" "Namespace" "" "kube-system") }}
{{- fail (printf "monitoring.%s%s.enabled is true, but this cluster serves no %s of monitoring.coreos.com/v1: install the Prometheus operator first, or leave it false" (lower (substr 0 1 $kind)) (substr 1 -1 $kind) $kind) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The metadata of an object of monitoring: `include "eso.monitoringMetadata" (list . $name (its values))`. */}}
{{- define "eso.monitoringMetadata" -}}
{{- $root := index . 0 }}
{{- $values := index . 2 -}}
name: {{ index . 1 }}
namespace: {{ $values.namespace | default $root.Release.Namespace }}
labels:
  {{- include "eso.labels" $root | nindent 2 }}
  {{- with $values.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (deepCopy $values.annotations) ($root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A duration as the settings have it, like 1h30m, in whole seconds. */}}
{{- define "eso.seconds" -}}
{{- $seconds := 0.0 }}
{{- $units := dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 "us" 0.000001 "µs" 0.000001 "ns" 0.000000001 }}
{{- range regexFindAll "[0-9.]+[a-zµ]+" . -1 }}
{{- $seconds = addf $seconds (mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[a-zµ]+$" .))) }}
{{- end }}
{{- ceil $seconds | int64 }}
{{- end }}

{{- /*
The alerts of one rule file as a list of groups, with what this release says: the switches, the reconcile interval, what retention
keeps, the DaemonSet's name, and where the runbooks are. The files are whole without it, for use without Helm.
`include "eso.alertGroups" (list . "alerts/….yaml")`.
*/}}
{{- define "eso.alertGroups" -}}
{{- $root := index . 0 }}
{{- $values := $root.Values.monitoring.prometheusRule }}
{{- $settings := include "eso.settings" $root | fromJson }}
{{- $interval := include "eso.seconds" (get $settings "etcd-snapshot-reconcile-interval" | default "10m") | int64 }}
{{- $kept := dict "EtcdSnapshotLocalCopiesMissing" (dig "etcd-snapshot-retention" 5 $settings) "EtcdSnapshotS3CopiesMissing" (dig "etcd-s3-retention" 5 $settings) }}
{{- $daemonSet := printf "namespace=%q, daemonset=%q" $root.Release.Namespace (include "eso.fullname" $root) }}
{{- $published := "" }}
{{- with $root.Chart.Sources }}{{ $published = printf "%s/blob/v%s/" (first .) $root.Chart.AppVersion }}{{ end }}
{{- $runbooks := $values.runbookUrl | default (printf "%sdocs/runbooks" $published) | trimSuffix "/" }}
{{- $groups := list }}
{{- range (fromYaml ($root.Files.Get (index . 1))).groups }}
{{- $group := .name }}
{{- $rules := list }}
{{- range .rules }}
{{- $own := get $values.alerts .alert | default dict }}
{{- if dig "enabled" true $own }}
{{- $expr := .expr | replace "3 * 600" (printf "3 * %d" $interval) | replace "[1800s]" (printf "[%ds]" (mul 3 $interval)) }}
{{- $expr = $expr | replace `daemonset=~".*etcd-snapshot-operator.*"` $daemonSet }}
{{- if hasKey $kept .alert }}
{{- $least := get $kept .alert | int64 }}
{{- $expr = $expr | replace "< 5" (printf "< %d" $least) | replace ">= 5" (printf ">= %d" $least) }}
{{- end }}
{{- $annotations := deepCopy .annotations }}
{{- $_ := set $annotations "runbook_url" (printf "%s/%s" $runbooks (base $annotations.runbook_url)) }}
{{- $labels := merge (dict "severity" (get $own "severity" | default .labels.severity)) $values.alertLabels }}
{{- $rule := dict "alert" .alert "expr" $expr "labels" $labels "annotations" $annotations }}
{{- with get $own "for" | default (get . "for") }}
{{- $_ := set $rule "for" . }}
{{- end }}
{{- $rules = append $rules $rule }}
{{- end }}
{{- end }}
{{- with $rules }}
{{- $groups = append $groups (dict "name" $group "rules" .) }}
{{- end }}
{{- end }}
{{- with $groups }}
{{- toYaml . }}
{{- end }}
{{- end }}
