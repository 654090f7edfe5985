{{- define "lengthwise.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "lengthwise.selector" -}}
app.kubernetes.io/name: lengthwise
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lengthwise.labels" -}}
{{ include "lengthwise.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lengthwise.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The settings file: the user's, and over it what the pod decides. */}}
{{- define "lengthwise.settings" -}}
{{- $ledger := dict "path" nil -}}
{{- if .Values.ledger.enabled -}}
{{- $ledger = dict "path" "/var/lib/lengthwise/lengthwise.sqlite" "keep_days" .Values.ledger.keepDays -}}
{{- end -}}
{{- $pod := dict
      "listen" "0.0.0.0:8080"
      "admin" "0.0.0.0:9464"
      "workers" .Values.workers
      "timeouts" (dict "drain_s" .Values.drainSeconds)
      "policies" "/etc/lengthwise/policies/policies.yaml"
      "ledger" $ledger -}}
{{ mergeOverwrite (deepCopy .Values.settings) $pod | toYaml }}
{{- end -}}
