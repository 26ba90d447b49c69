{{- define "windlass.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-windlass" .Release.Name) (contains "windlass" .Release.Name) -}}
{{- printf "%s-operator" ($name | trunc 54 | trimSuffix "-") -}}
{{- end -}}

{{- define "windlass.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "windlass.fullname" .) -}}
{{- end -}}

{{- define "windlass.keySecretName" -}}
{{- .Values.key.existingSecret | default (printf "%s-key" (include "windlass.fullname" .)) -}}
{{- end -}}

{{- define "windlass.image" -}}
{{- $separator := ternary "@" ":" (hasPrefix "sha256:" .Values.image.tag) -}}
{{- printf "%s%s%s" .Values.image.repository $separator .Values.image.tag -}}
{{- end -}}

{{/* What tells the operator's pods from others; a Deployment cannot change it. */}}
{{- define "windlass.selector" -}}
app.kubernetes.io/name: windlass-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "windlass.labels" -}}
{{ include "windlass.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: windlass
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Peers of a NetworkPolicy: the pods that may read metrics. */}}
{{- define "windlass.prometheusPeers" -}}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ .namespace }}}
  {{- with .podLabels }}
  podSelector:
    matchLabels: {{- toYaml . | nindent 6 }}
  {{- end }}
{{- end -}}

{{/* Rights on a namespace's objects, each with the verbs that the operator uses and no other. */}}
{{- define "windlass.jobRules" -}}
- apiGroups: [windlass.dev]
  resources: [llmtrainingjobs]
  verbs: [list, watch, patch, delete] # patch: the storage finalizer; delete: ttlSecondsAfterFinished
- apiGroups: [windlass.dev]
  resources: [llmtrainingjobs/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, delete]
# Made for a job's first attempt, and applied for the next ones.
- apiGroups: [""]
  resources: [secrets, services, serviceaccounts]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list] # list: why a pod's volume cannot be mounted
{{- end -}}
