{{/*
The name of the server's objects: the name of the release if it contains "jobs", otherwise with the name of the chart
after it. At most 40 characters, which leaves 23 for suffixes such as -gateway-metrics.
*/}}
{{- define "jobs.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains "jobs" $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end }}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select the pods of a component: (dict "root" $ "component" "server"). */}}
{{- define "jobs.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "jobs.labels" -}}
{{ include "jobs.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Fields of every pod: (dict "root" $). */}}
{{- define "jobs.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Fields of every container: (dict "root" $ "image" .Values.image.server). */}}
{{- define "jobs.container" -}}
image: "{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Fields of the pods of server and gateway: (dict "root" $ "component" … "values" .Values.…). */}}
{{- define "jobs.scheduling" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "jobs.selector" . | nindent 8 }}
{{- with .values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "jobs.databaseEnv" -}}
- name: JOBS_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: {{ .Values.database.requestUrlKey }}}}
- name: JOBS_OWNER_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: {{ .Values.database.ownerUrlKey }}}}
{{- end }}

{{- define "jobs.serverSettings" -}}
JOBS_LISTEN: 0.0.0.0:50051
JOBS_METRICS_LISTEN: 0.0.0.0:9464
JOBS_LOG_FORMAT: json
{{- if eq .Values.auth.mode "jwt" }}
JOBS_AUTH: jwt
JOBS_JWT_KEYS: {{ required "auth.jwt.keys is required" .Values.auth.jwt.keys }}
JOBS_JWT_ISSUER: {{ required "auth.jwt.issuer is required" .Values.auth.jwt.issuer }}
JOBS_JWT_AUDIENCE: {{ required "auth.jwt.audience is required" .Values.auth.jwt.audience }}
{{- if not .Values.server.tls.secretName }}
{{- if not .Values.tlsTerminatedByProxy }}{{ fail "auth.mode jwt needs server.tls.secretName or tlsTerminatedByProxy" }}{{ end }}
JOBS_TLS_TERMINATED_BY_PROXY: "true"
{{- end }}
{{- else if eq .Values.auth.mode "trustedPeers" }}
JOBS_TRUSTED_PEERS: {{ required "auth.trustedPeers is required" (join "," .Values.auth.trustedPeers) }}
{{- else }}
JOBS_INSECURE_METADATA: "true"
{{- end }}
{{- if .Values.server.tls.secretName }}
JOBS_TLS_CERT: /tls/tls.crt
JOBS_TLS_KEY: /tls/tls.key
{{- end }}
{{- if include "jobs.serverClientCA" . }}
JOBS_TLS_CLIENT_CA: /tls/ca.crt
{{- end }}
{{- with .Values.devices }}
{{- if .caSecretName }}
JOBS_DEVICE_LISTEN: 0.0.0.0:50052
{{- if .trustDomain }}
JOBS_DEVICE_CA: /devices/ca.crt
JOBS_DEVICE_TRUST_DOMAIN: {{ .trustDomain }}
{{- else }}
JOBS_DEVICE_CA_DIR: /devices
{{- end }}
{{- if .tlsSecretName }}
JOBS_DEVICE_TLS_CERT: /devices-tls/tls.crt
JOBS_DEVICE_TLS_KEY: /devices-tls/tls.key
{{- else if not $.Values.server.tls.secretName }}{{ fail "devices needs devices.tlsSecretName or server.tls.secretName" }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.webhooks }}
{{- if .secretName }}
JOBS_WEBHOOK_KEYS_FILE: /webhooks/{{ .key }}
JOBS_WEBHOOK_ALLOWED_PORTS: {{ join "," .ports | quote }}
{{- with .networks }}
JOBS_WEBHOOK_ALLOWED_NETWORKS: {{ join "," . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The Secrets that the server reads: their names, by the folder. */}}
{{- define "jobs.serverSecrets" -}}
{{- $devices := .Values.devices }}
tls: {{ .Values.server.tls.secretName | quote }}
webhooks: {{ .Values.webhooks.secretName | quote }}
devices: {{ $devices.caSecretName | quote }}
devices-tls: {{ ternary $devices.tlsSecretName "" (ne $devices.caSecretName "") | quote }}
{{- end }}

{{- define "jobs.serverClientCA" -}}
{{- if or .Values.server.tls.requireClientCertificates (eq .Values.auth.mode "trustedPeers") }}
{{- if not .Values.server.tls.secretName }}{{ fail "client certificates need server.tls.secretName" }}{{ end }}true
{{- end }}
{{- end }}

{{- define "jobs.gatewaySettings" -}}
JOBS_GATEWAY_UPSTREAM: dns:///{{ include "jobs.name" . }}-headless:50051
JOBS_GATEWAY_LISTEN: 0.0.0.0:8080
JOBS_GATEWAY_METRICS_LISTEN: 0.0.0.0:9090
{{- if eq .Values.auth.mode "jwt" }}
JOBS_GATEWAY_REQUIRE_TOKEN: "true"
{{- if not .Values.gateway.tls.secretName }}
{{- if not .Values.tlsTerminatedByProxy }}{{ fail "auth.mode jwt needs gateway.tls.secretName or tlsTerminatedByProxy" }}{{ end }}
JOBS_GATEWAY_TLS_TERMINATED_BY_PROXY: "true"
{{- end }}
{{- else if eq .Values.auth.mode "trustedPeers" }}
JOBS_GATEWAY_TRUSTED_PEERS: {{ required "gateway.trustedPeers is required" (join "," .Values.gateway.trustedPeers) }}
{{- else }}
JOBS_GATEWAY_INSECURE_METADATA: "true"
{{- $service := printf "%s-gateway" (include "jobs.name" .) }}
{{- $namespace := .Release.Namespace }}
JOBS_GATEWAY_ALLOWED_HOSTS: {{ printf "%s,%s.%s,%s.%s.svc,%s.%s.svc.cluster.local" $service $service $namespace $service $namespace $service $namespace }}
{{- end }}
{{- if .Values.gateway.tls.secretName }}
JOBS_GATEWAY_TLS_CERT: /tls/tls.crt
JOBS_GATEWAY_TLS_KEY: /tls/tls.key
{{- end }}
{{- if include "jobs.gatewayClientCA" . }}
JOBS_GATEWAY_TLS_CLIENT_CA: /tls/ca.crt
{{- end }}
{{- if .Values.server.tls.secretName }}
JOBS_GATEWAY_UPSTREAM_CA: /server-tls/ca.crt
JOBS_GATEWAY_UPSTREAM_SERVER_NAME: {{ required "server.tls.serverName is required" .Values.server.tls.serverName }}
{{- end }}
{{- if include "jobs.serverClientCA" . }}
JOBS_GATEWAY_UPSTREAM_CERT: /tls/tls.crt
JOBS_GATEWAY_UPSTREAM_KEY: /tls/tls.key
{{- end }}
{{- end }}

{{- define "jobs.gatewayClientCA" -}}
{{- if or .Values.gateway.tls.requireClientCertificates (eq .Values.auth.mode "trustedPeers") }}
{{- if not .Values.gateway.tls.secretName }}{{ fail "client certificates need gateway.tls.secretName" }}{{ end }}true
{{- end }}
{{- end }}

{{/* The probe of the server: the kubelet's gRPC probe, which does not support TLS, or a command. */}}
{{- define "jobs.serverProbe" -}}
{{- if .Values.server.tls.secretName }}
exec:
  command:
    - jobs-grpc
    - health
    - --ca=/tls/ca.crt
    - --tls-server-name={{ required "server.tls.serverName is required" .Values.server.tls.serverName }}
    {{- if include "jobs.serverClientCA" . }}
    - --cert=/tls/tls.crt
    - --key=/tls/tls.key
    {{- end }}
{{- else }}
grpc: {port: 50051}
{{- end }}
{{- end }}

{{- define "jobs.gatewayProbe" -}}
{{- if include "jobs.gatewayClientCA" . }}
exec: {command: [/jobs-gateway, health]}
{{- else }}
httpGet: {path: /healthz, port: http, scheme: {{ if .Values.gateway.tls.secretName }}HTTPS{{ else }}HTTP{{ end }}}
{{- end }}
{{- end }}

{{/* Peers of a NetworkPolicy: public addresses, as in jobs_grpc/webhooks/addresses.py. */}}
{{- define "jobs.publicAddresses" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except:
      - 0.0.0.0/8
      - 10.0.0.0/8
      - 100.64.0.0/10
      - 127.0.0.0/8
      - 168.63.129.16/32
      - 169.254.0.0/16
      - 172.16.0.0/12
      - 192.0.0.0/24
      - 192.168.0.0/16
      - 198.18.0.0/15
      - 224.0.0.0/3
- ipBlock:
    cidr: 2000::/3
    except: [2001::/23, 2002::/16]
{{- end }}
