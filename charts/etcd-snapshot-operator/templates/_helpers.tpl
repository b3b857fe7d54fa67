{{- define "eso.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "eso.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "eso.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "eso.selectorLabels" -}}
app.kubernetes.io/name: {{ include "eso.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What agents are found by whatever they are called: `kubectl etcd-snapshot`, the notes and docs/alerts.md know this one. */}}
{{- define "eso.agentLabel" -}}
etcd-snapshot-operator.dev/component: agent
{{- end }}

{{- /* Of the pod of `helm test`. */}}
{{- define "eso.testLabels" -}}
app.kubernetes.io/name: {{ include "eso.name" . | trunc 58 | trimSuffix "-" }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "eso.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "eso.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The lines of metadata that every object has: `include "eso.metadata" .` or with more annotations, `(list . (dict …))`. */}}
{{- define "eso.metadata" -}}
{{- $root := . }}
{{- $more := dict }}
{{- if kindIs "slice" . }}
{{- $root = index . 0 }}
{{- $more = index . 1 }}
{{- end -}}
labels:
  {{- include "eso.labels" $root | nindent 2 }}
{{- with merge (deepCopy $more) ($root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "eso.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "eso.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "eso.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "eso.distribution" -}}
{{- if ne .Values.distribution "auto" }}
{{- .Values.distribution }}
{{- else if contains "+k3s" .Capabilities.KubeVersion.Version -}}
k3s
{{- else if contains "+rke2" .Capabilities.KubeVersion.Version -}}
rke2
{{- else -}}
kubeadm
{{- end }}
{{- end }}

{{- define "eso.kind" -}}
{{- if eq (include "eso.distribution" .) "generic" }}Deployment{{ else }}DaemonSet{{ end }}
{{- end }}

{{- /* The settings that hold, as a JSON object: the distribution's, then the values'. What is empty is not set. */}}
{{- define "eso.settings" -}}
{{- $distribution := include "eso.distribution" . }}
{{- $given := dict }}
{{- range $name, $value := .Values.settings }}
{{- if and (not (kindIs "invalid" $value)) (ne (toString $value) "") }}
{{- $_ := set $given $name $value }}
{{- end }}
{{- end }}
{{- $settings := dict "program" (ternary "rke2" "k3s" (eq $distribution "rke2")) "log-format" "json" }}
{{- $program := get $given "program" | default (get $settings "program") }}
{{- $dataDir := get $given "data-dir" | default (printf "/var/lib/rancher/%s" $program) }}
{{- $directory := "/var/lib/etcd-snapshot-operator/snapshots" }}
{{- $certificates := "/etc/kubernetes/pki/etcd" }}
{{- $files := list "ca.crt" "healthcheck-client.crt" "healthcheck-client.key" }}
{{- if has $distribution (list "k3s" "rke2") }}
{{- $directory = printf "%s/server/db/snapshots" $dataDir }}
{{- $certificates = printf "%s/server/tls/etcd" $dataDir }}
{{- $files = list "server-ca.crt" "client.crt" "client.key" }}
{{- else if eq $distribution "generic" }}
{{- $certificates = "" }}
{{- end }}
{{- if .Values.etcd.certificatesSecret }}
{{- $certificates = "/etc/etcd-snapshot-operator/etcd" }}
{{- $files = list "ca.crt" "tls.crt" "tls.key" }}
{{- else if .Values.etcd.certificatesHostPath }}
{{- $certificates = .Values.etcd.certificatesHostPath | trimSuffix "/" }}
{{- end }}
{{- $_ := set $settings "etcd-snapshot-dir" $directory }}
{{- if $certificates }}
{{- $_ := set $settings "etcd-cacert" (printf "%s/%s" $certificates (.Values.etcd.caFile | default (index $files 0))) }}
{{- $_ := set $settings "etcd-cert" (printf "%s/%s" $certificates (.Values.etcd.certFile | default (index $files 1))) }}
{{- $_ := set $settings "etcd-key" (printf "%s/%s" $certificates (.Values.etcd.keyFile | default (index $files 2))) }}
{{- end }}
{{- merge $given $settings | toJson }}
{{- end }}

{{- /* Where the certificates are on the node; empty with a Secret or without any. */}}
{{- define "eso.certificatesHostPath" -}}
{{- if and (not .Values.etcd.certificatesSecret) (ne (include "eso.distribution" .) "generic") }}
{{- (include "eso.settings" . | fromJson) | dig "etcd-cacert" "" | dir }}
{{- end }}
{{- end }}

{{- /* Whether a setting is a secret. */}}
{{- define "eso.isSecret" -}}
{{- if regexMatch "-(access-key|secret-key|session-token|password)$" . }}true{{ end }}
{{- end }}

{{- /* The settings as variables of the agent: whatever runs in the pod, by hand too, has the same ones. Secret ones come from the Secret of the release. */}}
{{- define "eso.variables" -}}
{{- $root := . }}
{{- range $name, $value := include "eso.settings" . | fromJson }}
- name: {{ $name | upper | replace "-" "_" }}
  {{- if include "eso.isSecret" $name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "eso.fullname" $root }}
      key: {{ $name }}
  {{- else }}
  value: {{ include "eso.text" $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The secret ones, as a JSON object. */}}
{{- define "eso.credentials" -}}
{{- $credentials := dict }}
{{- range $name, $value := include "eso.settings" . | fromJson }}
{{- if include "eso.isSecret" $name }}
{{- $_ := set $credentials $name (include "eso.text" $value) }}
{{- end }}
{{- end }}
{{- toJson $credentials }}
{{- end }}

{{- /* A value as text; numbers are floating in JSON. */}}
{{- define "eso.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{- /* The port in http-listen. */}}
{{- define "eso.port" -}}
{{- $listen := include "eso.settings" . | fromJson | dig "http-listen" "0.0.0.0:9469" | toString }}
{{- $port := regexFind "[0-9]+$" $listen }}
{{- if not (regexMatch ":[0-9]+$" $listen) }}
{{- fail (printf "settings.http-listen is %q: it needs a port, like 0.0.0.0:9469" $listen) }}
{{- end }}
{{- $port }}
{{- end }}

{{- /* Who has installed the CRD: nothing when there is none, this, or `release NAME in NAMESPACE`, or somebody else. */}}
{{- define "eso.crdOwner" -}}
{{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "etcdsnapshotfiles.k3s.cattle.io" }}
{{- if $crd }}
{{- $annotations := $crd.metadata.annotations | default dict }}
{{- $name := get $annotations "meta.helm.sh/release-name" }}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" }}
{{- if and (eq $name .Release.Name) (eq $namespace .Release.Namespace) -}}
this
{{- else if $name -}}
the release {{ $name }} in the namespace {{ $namespace }}
{{- else -}}
somebody else than Helm
{{- end }}
{{- end }}
{{- end }}

{{- /* Whether the CRD is part of this release. */}}
{{- define "eso.rendersCrd" -}}
{{- $owner := include "eso.crdOwner" . }}
{{- if eq .Values.crds.install "always" }}
{{- if and $owner (ne $owner "this") }}
{{- fail (printf "crds.install is always, but the CRD etcdsnapshotfiles.k3s.cattle.io was installed by %s. Leave it there with crds.install: never, or hand it over: kubectl annotate --overwrite crd etcdsnapshotfiles.k3s.cattle.io meta.helm.sh/release-name=%s meta.helm.sh/release-namespace=%s && kubectl label --overwrite crd etcdsnapshotfiles.k3s.cattle.io app.kubernetes.io/managed-by=Helm" $owner .Release.Name .Release.Namespace) }}
{{- end }}
{{- "true" }}
{{- else if and (eq .Values.crds.install "auto") (not (has (include "eso.distribution" .) (list "k3s" "rke2"))) }}
{{- if or (not $owner) (eq $owner "this") }}true{{ end }}
{{- end }}
{{- end }}

{{- /* The label of the nodes that run an etcd member. */}}
{{- define "eso.nodeLabel" -}}
{{- if eq (include "eso.distribution" .) "kubeadm" -}}
node-role.kubernetes.io/control-plane
{{- else -}}
node-role.kubernetes.io/etcd
{{- end }}
{{- end }}
