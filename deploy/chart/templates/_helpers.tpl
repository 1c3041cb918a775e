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

{{/* What runs the pods; autoscalers name it too. */}}
{{- define "liftserve.kind" -}}
{{ ternary "StatefulSet" "Deployment" .Values.ledger.enabled }}
{{- end -}}

{{/* What lift-server reads as --config. */}}
{{- define "liftserve.config" -}}
{{- $s := .Values.server -}}
{{- $config := dict "model" (printf "/models/%s" .Values.model.path) "listen" "0.0.0.0:8431" "admin" "0.0.0.0:8432"
  "threads" $s.threads "kv_memory_mb" $s.kvMemoryMb "kv_cache" $s.kvCache "max_batch" $s.maxBatch "max_queue" $s.maxQueue
  "prefill_chunk" $s.prefillChunk "variants" $s.variants "drain_seconds" $s.drainSeconds "log_level" $s.logLevel
  "status_page" $s.statusPage "vllm_metrics" $s.vllmMetrics "memory_schedule" $s.memorySchedule
  "request_log" (ternary "-" "" $s.requestLog) "max_connection_age_seconds" $s.maxConnectionAgeSeconds
  "device" (ternary "cuda" "auto" .Values.gpu.enabled) -}}
{{- if .Values.tls.enabled -}}
{{- $config = merge $config (dict "tls_cert" "/tls/tls.crt" "tls_key" "/tls/tls.key" "tls_reload_seconds" .Values.tls.reloadSeconds) -}}
{{- if .Values.tls.clientCA.existingSecret -}}
{{- $config = merge $config (dict "tls_client_ca" "/client-ca/ca.crt" "tls_client_auth" (ternary "require" "optional" .Values.tls.clientCA.required)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.auth.existingSecret -}}
{{- $config = merge $config (dict "auth_keys" (printf "/auth/%s" .Values.auth.file)) -}}
{{- end -}}
{{- with .Values.ledger -}}
{{- if .enabled -}}
{{- $config = merge $config (dict "ledger" "/ledger/ledger.db" "ledger_sync" .sync "ledger_interval_seconds" .intervalSeconds "ledger_retention_days" .retentionDays) -}}
{{- end -}}
{{- end -}}
{{ mustToPrettyJson $config }}
{{- end -}}
