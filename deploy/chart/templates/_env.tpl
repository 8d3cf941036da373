{{/*
The variables of the container, a YAML list in the order of ztunnel's chart. Of several with one name the last is kept:
the kubelet would take that one, and server-side apply refuses lists with two of a name.
*/}}
{{- define "warren.env" -}}
{{- $v := .Values -}}
{{- $all := concat (include "warren.env.chart" . | fromYamlArray) (include "warren.env.own" . | fromYamlArray) -}}
{{- range $name, $value := $v.env -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $all = append $all (dict "name" $name "value" (include "warren.text" $value)) -}}
{{- end -}}
{{- end -}}
{{- if $v.peerCaCrl.enabled -}}
{{- $all = append $all (dict "name" "CRL_PATH" "value" "/var/run/secrets/istio/crl/ca-crl.pem") -}}
{{- end -}}
{{- $last := dict -}}
{{- range $i, $one := $all }}{{ $_ := set $last $one.name $i }}{{ end -}}
{{- $kept := list -}}
{{- range $i, $one := $all -}}
{{- if eq $i (get $last $one.name) }}{{ $kept = append $kept $one }}{{ end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}

{{/* What ztunnel's chart passes, too. */}}
{{- define "warren.env.chart" -}}
{{- $v := .Values -}}
{{- $istiod := printf "istiod%s.%s.svc:15012" (empty $v.revision | ternary "" (printf "-%s" $v.revision)) $v.istioNamespace -}}
- {name: CA_ADDRESS, value: {{ $v.caAddress | default $istiod | quote }}}
- {name: XDS_ADDRESS, value: {{ $v.xdsAddress | default $istiod | quote }}}
{{- if $v.logAsJson }}
- {name: LOG_FORMAT, value: json}
{{- end }}
{{- with $v.network }}
- {name: NETWORK, value: {{ . | quote }}}
{{- end }}
- {name: RUST_LOG, value: {{ $v.logLevel | quote }}}
- {name: RUST_BACKTRACE, value: "1"}
- {name: ISTIO_META_CLUSTER_ID, value: {{ $v.multiCluster.clusterName | default "Kubernetes" | quote }}}
- {name: INPOD_ENABLED, value: "true"}
- {name: TERMINATION_GRACE_PERIOD_SECONDS, value: {{ include "warren.text" $v.terminationGracePeriodSeconds | quote }}}
{{- range list (list "POD_NAME" "metadata.name") (list "POD_NAMESPACE" "metadata.namespace") (list "NODE_NAME" "spec.nodeName") (list "INSTANCE_IP" "status.podIP") (list "SERVICE_ACCOUNT" "spec.serviceAccountName") }}
- {name: {{ first . }}, valueFrom: {fieldRef: {fieldPath: {{ last . }}}}}
{{- end }}
{{- range $name, $value := $v.meshConfig.defaultConfig.proxyMetadata }}
- {name: {{ $name }}, value: {{ include "warren.text" $value | quote }}}
{{- end }}
- {name: ZTUNNEL_CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}}
{{- if (($v.resources).limits).cpu }}
- {name: ZTUNNEL_RESOURCE_CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}}
{{- end }}
{{- if (($v.resources).requests).cpu }}
- {name: ZTUNNEL_RESOURCE_CPU_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: "1"}}}
{{- end }}
{{- end -}}

{{/* What only warren knows; nothing unless it is asked for. */}}
{{- define "warren.env.own" -}}
{{- $w := .Values.warren -}}
{{- $t := $w.tracing -}}
{{- $all := list -}}
{{- range list
  (list "ISTIO_META_ISTIO_VERSION" $w.istioVersion)
  (list "WARREN_LOCAL_JOIN" (hasKey $w "localJoin" | ternary $w.localJoin ""))
  (list "WARREN_MISSING_POLICY" $w.missingPolicy)
  (list "WARREN_SECCOMP" (kindIs "bool" $w.seccomp | ternary "off" $w.seccomp))
  (list "WARREN_BUFFER_BUDGET" $w.bufferBudget)
  (list "WARREN_CHAOS" ($w.chaos | ternary true ""))
  (list "OTEL_EXPORTER_OTLP_ENDPOINT" $t.endpoint)
  (list "OTEL_EXPORTER_OTLP_PROTOCOL" $t.protocol)
  (list "OTEL_TRACES_SAMPLER" $t.sampler)
  (list "OTEL_TRACES_SAMPLER_ARG" $t.samplerArg)
  (list "OTEL_LOGS_EXPORTER" ($t.logs | ternary "otlp" ""))
  (list "OTEL_METRICS_EXPORTER" ($t.metrics | ternary "otlp" "")) -}}
{{- $text := include "warren.text" (last . | default "" | kindIs "invalid" | ternary "" (last .)) -}}
{{- if ne $text "" }}{{ $all = append $all (dict "name" (first .) "value" $text) }}{{ end -}}
{{- end -}}
{{- with $t.headersSecret -}}
{{- $all = append $all (dict "name" "OTEL_EXPORTER_OTLP_HEADERS" "valueFrom" (dict "secretKeyRef" (dict "name" .name "key" .key))) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* The variables of the keeper: those of the proxy that it knows, too, and how long it holds connections. */}}
{{- define "warren.env.keeper" -}}
{{- $known := list "RUST_LOG" "RUST_BACKTRACE" "LOG_FORMAT" "INPOD_UDS" "WARREN_HANDOVER_UDS" "WARREN_KEEPER_UDS" "WARREN_KEEPER_HOLD" "WARREN_SECCOMP" -}}
{{- $kept := list -}}
{{- range $one := include "warren.env" . | fromYamlArray -}}
{{- if has $one.name $known }}{{ $kept = append $kept $one }}{{ end -}}
{{- end -}}
{{- with .Values.warren.keeper.hold }}{{ $kept = append $kept (dict "name" "WARREN_KEEPER_HOLD" "value" .) }}{{ end -}}
{{- toYaml $kept -}}
{{- end -}}

{{/* Requests and limits without those that are set to nothing; nothing if none is left. */}}
{{- define "warren.resources" -}}
{{- $all := dict -}}
{{- range $key := list "limits" "requests" -}}
{{- $some := dict -}}
{{- range $name, $value := get ($.Values.resources | default dict) $key | default dict -}}
{{- if $value }}{{ $_ := set $some $name $value }}{{ end -}}
{{- end -}}
{{- if $some }}{{ $_ := set $all $key $some }}{{ end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}
