{{- define "evolution.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end -}}

{{- define "evolution.selector" -}}
app.kubernetes.io/name: evolution-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "evolution.labels" -}}
{{ include "evolution.selector" . }}
app.kubernetes.io/part-of: evolution
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "evolution.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "evolution.name" .) "default") }}
{{- end -}}

{{- define "evolution.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{- /* Where the store is, and the Secret with its credentials: the throw-away one if it is wanted. */ -}}
{{- define "evolution.devStore" -}}{{ include "evolution.name" . }}-dev-store{{- end -}}

{{- define "evolution.storeURI" -}}
{{ .Values.devObjectStore.enabled | ternary "s3://evolution/runs" (.Values.objectStore.uri | trimSuffix "/") }}
{{- end -}}

{{- define "evolution.storeEndpoint" -}}
{{- if .Values.devObjectStore.enabled -}}
http://{{ include "evolution.devStore" . }}.{{ .Release.Namespace }}.svc:9000
{{- else -}}
{{ .Values.objectStore.endpoint | trimSuffix "/" }}
{{- end -}}
{{- end -}}

{{- define "evolution.storeSecret" -}}
{{ .Values.devObjectStore.enabled | ternary (include "evolution.devStore" .) .Values.objectStore.existingSecret }}
{{- end -}}

{{- define "evolution.storeToken" -}}
{{- with .Values.objectStore.webIdentity }}{{ if and .enabled .audience }}true{{ end }}{{ end -}}
{{- end -}}

{{- define "evolution.storeTokenMount" -}}
- name: store-token
  mountPath: /store-token
  readOnly: true
{{- end -}}

{{- define "evolution.storeTokenVolume" -}}
- name: store-token
  projected:
    sources:
      - serviceAccountToken:
          audience: {{ .Values.objectStore.webIdentity.audience }}
          path: token
{{- end -}}

{{- define "evolution.storeVariables" -}}
EVOLUTION_STORE: {{ include "evolution.storeURI" . | quote }}
{{- with include "evolution.storeEndpoint" . }}
EVOLUTION_S3_ENDPOINT: {{ . | quote }}
{{- end }}
{{- with .Values.devObjectStore.enabled | ternary "us-east-1" .Values.objectStore.region }}
AWS_REGION: {{ . | quote }}
{{- end }}
{{- if include "evolution.storeToken" . }}
AWS_WEB_IDENTITY_TOKEN_FILE: /store-token/token
{{- end }}
{{- end -}}

{{- /* A list of variables from a map, by their names. */ -}}
{{- define "evolution.env" -}}
{{- range $name := keys . | sortAlpha }}
- name: {{ $name }}
  value: {{ get $ $name | toString | quote }}
{{- end }}
{{- end -}}

{{- define "evolution.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
fsGroup: {{ int . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "evolution.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "evolution.scheduling" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Whether the API is served, or nobody can know: `helm template` asks no cluster, and those alone lack APIServices. */ -}}
{{- define "evolution.serves" -}}
{{- $known := .root.Capabilities.APIVersions -}}
{{- if or ($known.Has .api) (not ($known.Has "apiregistration.k8s.io/v1")) }}true{{ end -}}
{{- end -}}

{{- /* The rules of a role among the permissions that `make chart` copied from deploy/. */ -}}
{{- define "evolution.rules" -}}
{{- range $document := splitList "\n---\n" (.root.Files.Get (printf "files/permissions/%s.yaml" .installation)) -}}
{{- $role := fromYaml $document -}}
{{- if has $role.kind (list "ClusterRole" "Role") -}}
{{ toYaml $role.rules }}
{{- end -}}
{{- end -}}
{{- end -}}
