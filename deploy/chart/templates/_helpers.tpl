{{- define "liftserve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "liftserve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "liftserve.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "liftserve.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "liftserve.selector" -}}
app.kubernetes.io/name: {{ include "liftserve.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "liftserve.labels" -}}
app.kubernetes.io/name: {{ include "liftserve.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "liftserve.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "liftserve.claim" -}}
{{- .Values.model.claim | default (printf "%s-model" (include "liftserve.fullname" .)) -}}
{{- end -}}

{{/* Pod Security "restricted", by construction: every pod and every container of this chart uses these two. */}}
{{- define "liftserve.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "liftserve.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* What lift-server reads as --config. */}}
{{- define "liftserve.config" -}}
{{- $listen := ternary "127.0.0.1:8431" "0.0.0.0:8431" .Values.tls.enabled -}}
{{- $config := dict "model" (printf "/models/%s" .Values.model.path) "listen" $listen "admin" "0.0.0.0:8432"
  "threads" .Values.server.threads "kv_memory_mb" .Values.server.kvMemoryMb "kv_cache" .Values.server.kvCache "max_batch" .Values.server.maxBatch
  "max_queue" .Values.server.maxQueue "prefill_chunk" .Values.server.prefillChunk "variants" .Values.server.variants
  "drain_seconds" .Values.server.drainSeconds "log_level" .Values.server.logLevel
  "status_page" .Values.server.statusPage "device" (ternary "cuda" "auto" .Values.gpu.enabled) -}}
{{ mustToPrettyJson $config }}
{{- end -}}

{{/* Numbers from values files come as floats; this prints them as integers. */}}
{{- define "liftserve.grpcPort" -}}
{{ ternary 8443 8431 .Values.tls.enabled }}
{{- end -}}
