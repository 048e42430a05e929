{{/* The name of every object: nameOverride, or the release's name. */}}
{{- define "kms.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "kms.selector" -}}
app.kubernetes.io/name: rootvouch-kms
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kms.labels" -}}
{{ include "kms.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "kms.account" -}}
{{- default (include "kms.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "kms.image" -}}
{{- $repository := required "image.repository: want the repository of the rootvouch-kms image" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ required "image.digest or image.tag: want one of them" .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Every container runs without privileges and capabilities. */}}
{{- define "kms.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
{{- end -}}

{{- define "kms.podSecurity" -}}
fsGroup: {{ .Values.userID }}
fsGroupChangePolicy: OnRootMismatch
runAsGroup: {{ .Values.userID }}
runAsNonRoot: true
runAsUser: {{ .Values.userID }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* kms.json. The value config must not set a member that the chart sets. */}}
{{- define "kms.config" -}}
{{- $domain := required "trustDomain: want the trust domain" .Values.trustDomain -}}
{{- $c := dict "version" 1 -}}
{{- $_ := set $c "listen" ":8443" -}}
{{- $_ := set $c "health_listen" ":8444" -}}
{{- $_ := set $c "workload_api" (printf "unix:///spiffe-workload-api/%s" .Values.workloadAPI.socket) -}}
{{- $_ := set $c "spiffe_id" (default (printf "spiffe://%s/kms" $domain) .Values.spiffeID) -}}
{{- $_ := set $c "admin_socket" "/run/rootvouch-kms/admin.sock" -}}
{{- $_ := set $c "log_dir" "/var/lib/rootvouch-kms/log" -}}
{{- $_ := set $c "evidence_dir" "/var/lib/rootvouch-kms/evidence" -}}
{{- $_ := set $c "collateral_dir" "/var/lib/rootvouch/collateral" -}}
{{- if and .Values.kek.secret.name .Values.kek.source -}}
{{- fail "kek: got both secret and source, want one of them" -}}
{{- else if .Values.kek.secret.name -}}
{{- $_ := set $c "kek" (dict "credential" "kms.kek") -}}
{{- else if .Values.kek.source -}}
{{- $_ := set $c "kek" .Values.kek.source -}}
{{- else -}}
{{- fail "kek: want secret.name or source" -}}
{{- end -}}
{{- if .Values.etcd.endpoints -}}
{{- $e := dict "endpoints" .Values.etcd.endpoints "prefix" .Values.etcd.prefix -}}
{{- $_ := required "etcd.secret: want a Secret with ca.crt, tls.crt and tls.key" .Values.etcd.secret -}}
{{- $_ := set $e "ca_file" "/run/etcd/ca.crt" -}}
{{- $_ := set $e "cert_file" "/run/etcd/tls.crt" -}}
{{- $_ := set $e "key_file" "/run/etcd/tls.key" -}}
{{- $_ := set $c "etcd" $e -}}
{{- $_ := set $c "replica" (required "etcd.replica: want a name that no other server has" .Values.etcd.replica) -}}
{{- else -}}
{{- $_ := set $c "store" "/var/lib/rootvouch-kms/kms.db" -}}
{{- end -}}
{{- range $name, $value := .Values.config -}}
{{- if hasKey $c $name -}}
{{- fail (printf "config.%s: the chart sets it" $name) -}}
{{- end -}}
{{- $_ := set $c $name $value -}}
{{- end -}}
{{- toPrettyJson $c -}}
{{- end -}}

{{- define "kms.env" -}}
- name: CREDENTIALS_DIRECTORY
  value: /run/credentials
{{- end -}}

{{- define "kms.mounts" -}}
- name: config
  mountPath: /etc/rootvouch-kms
  readOnly: true
- name: data
  mountPath: /var/lib/rootvouch-kms
- name: collateral
  mountPath: /var/lib/rootvouch/collateral
  readOnly: true
- name: run
  mountPath: /run/rootvouch-kms
- name: workload-api
  mountPath: /spiffe-workload-api
  readOnly: true
{{- if .Values.kek.secret.name }}
# With subPath the key is a file and no link: the server follows no link to a key.
- name: kek
  mountPath: /run/credentials/kms.kek
  subPath: kms.kek
  readOnly: true
{{- end }}
{{- if .Values.etcd.endpoints }}
- name: etcd
  mountPath: /run/etcd
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A claim: its size, then the root context. */}}
{{- define "kms.claim" -}}
{{- $root := index . 1 -}}
accessModes: [ReadWriteOnce]
{{- with $root.Values.persistence.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ index . 0 }}
{{- end -}}
