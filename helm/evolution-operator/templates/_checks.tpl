{{- /* What the schema cannot say: values that are wrong together, or in this cluster. */ -}}
{{- define "evolution.checks" -}}
{{- with .Values -}}
{{- if gt (int .replicas) 1 -}}
{{- fail (printf "replicas: is %d; operators elect no leader, so a second one would do the work of the first once more. Leave it at 1: a pod that is lost is replaced, and running stages go on meanwhile." (int .replicas)) -}}
{{- end -}}
{{- if not .devObjectStore.enabled -}}
{{- if not .objectStore.uri -}}
{{- fail "objectStore.uri: is empty; give bucket and prefix, as s3://evolution/runs. (To try things out in a cluster without a store: devObjectStore.enabled.)" -}}
{{- end -}}
{{- if and .objectStore.existingSecret .objectStore.webIdentity.enabled -}}
{{- fail (printf "objectStore.webIdentity.enabled: is true beside existingSecret %s, whose keys would win; leave out one of the two" .objectStore.existingSecret) -}}
{{- end -}}
{{- if not (or .objectStore.existingSecret .objectStore.webIdentity.enabled) -}}
{{- fail (printf "objectStore.existingSecret: is empty; name the Secret with the store's credentials. To make it: kubectl -n %s create secret generic evolution-store --from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…, then --set objectStore.existingSecret=evolution-store" $.Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- if and .runtime.create (not .runtime.spec.image) -}}
{{- fail "runtime.spec.image: is empty; give the trainer's image, as registry.example.com/evolution-trainer:0.1.0, or set runtime.create to false" -}}
{{- end -}}
{{- if and .devObjectStore.enabled .runtime.create (not .runtime.spec.storeSecretName) -}}
{{- fail "runtime.spec.storeSecretName: is empty, but workers reach the throw-away store with keys alone; set it to store-credentials, the Secret that the chart's notes say how to make in each namespace with runs" -}}
{{- end -}}
{{- if and .admissionPolicies.enabled .namespaces -}}
{{- fail (printf "admissionPolicies.enabled: policies count in the whole cluster, but this release is for namespaces %s alone; leave them out here, and have them installed once per cluster" (join ", " .namespaces)) -}}
{{- end -}}
{{- if not .metrics.enabled -}}
{{- if ne .metrics.monitor.kind "None" -}}
{{- fail (printf "metrics.monitor.kind: is %s, but metrics.enabled is false, so there would be nothing to scrape; set it to None, or enable metrics" .metrics.monitor.kind) -}}
{{- end -}}
{{- end -}}
{{- $monitoring := include "evolution.serves" (dict "root" $ "api" "monitoring.coreos.com/v1") -}}
{{- if not $monitoring -}}
{{- if ne .metrics.monitor.kind "None" -}}
{{- fail (printf "metrics.monitor.kind: is %s, but this cluster does not know monitoring.coreos.com/v1; install the Prometheus Operator first, or set it to None" .metrics.monitor.kind) -}}
{{- end -}}
{{- if .metrics.rules.enabled -}}
{{- fail "metrics.rules.enabled: this cluster does not know monitoring.coreos.com/v1; install the Prometheus Operator first, or set it to false" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
