{{/* Name before the names of all objects. */}}
{{- define "slipway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of an object of the cluster: two releases in two namespaces do not meet. */}}
{{- define "slipway.clusterName" -}}
{{- printf "%s-operator-%s" (include "slipway.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* Labels that choose the pods of a part: dict "root" $ "part" "operator". */}}
{{- define "slipway.selector" -}}
app.kubernetes.io/name: slipway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* Labels of an object of a part. */}}
{{- define "slipway.labels" -}}
{{ include "slipway.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end -}}

{{/* Reference of an image: dict "root" $ "part" .Values.operator. */}}
{{- define "slipway.image" -}}
{{- $name := printf "%s/%s" .root.Values.image.registry .part.image -}}
{{- if .part.digest -}}
{{- printf "%s@%s" $name .part.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Namespaces in which rollouts are carried out, as JSON. */}}
{{- define "slipway.namespaces" -}}
{{- if .Values.operator.namespaces -}}
{{- .Values.operator.namespaces | uniq | toJson -}}
{{- else -}}
{{- list .Release.Namespace | toJson -}}
{{- end -}}
{{- end -}}

{{- define "slipway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "slipway.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{- define "slipway.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Placement of pods: the values of a part. */}}
{{- define "slipway.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "slipway.trialRedisUrl" -}}
{{- printf "redis://%s-redis.%s:6379/0" (include "slipway.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "slipway.collectorUrl" -}}
{{- if .Values.predictor.settings.collectorUrl -}}
{{- .Values.predictor.settings.collectorUrl -}}
{{- else if .Values.collector.enabled -}}
{{- printf "http://%s-collector.%s:9000" (include "slipway.fullname" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* Rules with which the operator works in a namespace. */}}
{{- define "slipway.operatorRules" -}}
- apiGroups: [slipway.dev]
  resources: [rollouts]
  verbs: [get, list, watch, patch]
- apiGroups: [slipway.dev]
  resources: [rollouts/status, rollouts/finalizers]
  verbs: [patch, update]
- apiGroups: [serving.kserve.io]
  resources: [inferenceservices]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [serving.kserve.io]
  resources: [servingruntimes]
  verbs: [get, list]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
