{{/*
Puts together what holds, in this order, later ones first: the defaults, the profile, the platform, `global`, `upstream`
and what the user set at the top. `.Values` is replaced by the outcome, once, whichever template comes first.
*/}}
{{- define "warren.settle" -}}
{{- if not .settled -}}
{{- $given := omit .Values "_internal_defaults_do_not_set" -}}
{{- $upstream := $given.upstream | default dict -}}
{{- $global := mustMergeOverwrite dict (deepCopy ($upstream.global | default dict)) (deepCopy ($given.global | default dict)) -}}
{{- $known := .Files.Get "files/profiles.yaml" | fromYaml -}}
{{- $all := .Files.Get "files/defaults.yaml" | fromYaml -}}
{{- $profile := coalesce $given.profile $upstream.profile $global.profile | default "" -}}
{{- $platform := coalesce $given.platform $upstream.platform $global.platform | default "" -}}
{{- $_ := mustMergeOverwrite $all (get $known.profiles $profile | default dict) (get $known.platforms $platform | default dict) $global (omit $upstream "global") (omit $given "global" "upstream") -}}
{{- $_ := set $all "profile" $profile -}}
{{- $_ := set $all "platform" $platform -}}
{{- $_ := set . "Values" $all -}}
{{- $_ := set . "settled" true -}}
{{- include "warren.check" . -}}
{{- end -}}
{{- end -}}

{{/* Refuses what the schema cannot see: what is wrong once all sources are put together. */}}
{{- define "warren.check" -}}
{{- $v := .Values -}}
{{- if and (not (contains "/" $v.image)) (not $v.hub) -}}
{{- fail "image: no registry is known. Set image to a whole reference with a slash, or set hub." -}}
{{- end -}}
{{- if and $v.warren.chaos (hasKey $v.env "WARREN_CHAOS") -}}
{{- fail "warren.chaos: env.WARREN_CHAOS is set too. Set one of them." -}}
{{- end -}}
{{- if and $v.warren.keeper.hold (hasKey $v.env "WARREN_KEEPER_HOLD") -}}
{{- fail "warren.keeper.hold: env.WARREN_KEEPER_HOLD is set too. Set one of them." -}}
{{- end -}}
{{- if not (has $v.resourceScope (list "all" "cluster" "namespace")) -}}
{{- fail (printf "resourceScope: %v is none of all, cluster and namespace." $v.resourceScope) -}}
{{- end -}}
{{- end -}}

{{- define "warren.name" -}}{{ .Values.resourceName | default "ztunnel" }}{{- end -}}

{{- define "warren.account" -}}{{ .Values.warren.serviceAccount.name | default (include "warren.name" .) }}{{- end -}}

{{/* Whether objects of a kind are wanted: `list . "namespace"` or `list . "cluster"`; "true" or nothing. */}}
{{- define "warren.in-scope" -}}
{{- if has (index . 0).Values.resourceScope (list "all" (index . 1)) -}}true{{- end -}}
{{- end -}}

{{/* The labels of every object. */}}
{{- define "warren.labels" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* Name, namespace, labels and annotations of an object of the release's namespace; `labels` of the values too. */}}
{{- define "warren.metadata" -}}
name: {{ include "warren.name" . }}
namespace: {{ .Release.Namespace | quote }}
labels: {{- mustMergeOverwrite (include "warren.labels" . | fromYaml) (.Values.labels | default dict) | toYaml | nindent 2 }}
{{- with include "warren.annotations" . | fromYaml }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "warren.annotations" -}}
{{- $all := deepCopy (.Values.annotations | default dict) -}}
{{- if .Values.revision }}{{ $_ := set $all "istio.io/rev" .Values.revision }}{{ end -}}
{{- toYaml $all -}}
{{- end -}}

{{- define "warren.selector" -}}
{{- mustMergeOverwrite (dict "app" "ztunnel") (.Values.warren.selectorLabels | default dict) | toYaml -}}
{{- end -}}

{{- define "warren.image" -}}
{{- $v := .Values -}}
{{- if contains "/" $v.image -}}
{{ $v.image }}
{{- else -}}
{{ $v.hub }}/{{ $v.image }}:{{ $v.tag | default .Chart.AppVersion }}{{ with $v.variant }}-{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* A value as the text of a variable. YAML's large numbers come as floats and would get an exponent. */}}
{{- define "warren.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}
