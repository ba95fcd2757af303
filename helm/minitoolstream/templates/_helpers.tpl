{{/* Labels of an object of a component: (list $ "ingress" "minitoolstream-ingress"); the last may be left out. */}}
{{- define "minitoolstream.labels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ $.Chart.Name }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: minitoolstream
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- if gt (len .) 2 }}
app: {{ index . 2 }}
{{- end }}
{{- end }}

{{- define "minitoolstream.image" -}}
{{- $ := index . 0 -}}
{{- $image := index . 1 -}}
{{ $image.repository }}:{{ $image.tag | default $.Chart.AppVersion }}
{{- end }}

{{- define "minitoolstream.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "minitoolstream.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Addresses of all instances of Tarantool, separated by commas. */}}
{{- define "minitoolstream.tarantoolAddresses" -}}
{{- $tarantool := .Values.tarantool -}}
{{- $addresses := list -}}
{{- range $number := until (int $tarantool.replicaCount) -}}
{{- $addresses = append $addresses (printf "%s-%d.%s:%d" $tarantool.name $number $tarantool.name (int $tarantool.service.port)) -}}
{{- end -}}
{{- join "," $addresses -}}
{{- end }}

{{/* Settings of all brokers, as YAML: where the chart's own stores are, and over it what the values say. */}}
{{- define "minitoolstream.config" -}}
{{- $own := dict -}}
{{- if .Values.tarantool.enabled -}}
{{- $_ := set $own "TARANTOOL_ADDRESS" (include "minitoolstream.tarantoolAddresses" .) -}}
{{- $_ := set $own "TARANTOOL_USER" "minitoolstream" -}}
{{- end -}}
{{- if .Values.minio.enabled -}}
{{- $_ := set $own "MINIO_ENDPOINT" (printf "%s:%d" .Values.minio.name (int .Values.minio.service.port)) -}}
{{- end -}}
{{- toYaml (merge (deepCopy .Values.global.config) $own) -}}
{{- end }}

{{- define "minitoolstream.storageClass" -}}
{{- with .Values.global.storageClass }}
storageClassName: {{ . }}
{{- end }}
{{- end }}

{{/* What the Prometheus operator looks for. */}}
{{- define "minitoolstream.monitoringLabels" -}}
{{- toYaml .Values.monitoring.labels -}}
{{- end }}
