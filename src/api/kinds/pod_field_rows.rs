//! The rows of [`super::pod_fields`], one list a type, in alphabetical order as upstream's schema.
//! To honour a field: make the node agent or the scheduler do it, then change its row here.

use super::pod_fields::{Row, harmless, honoured, keys, refused, warned, within};

const NO_USERS: &str = "a Wasm sandbox has no users; this has no effect";
const NO_KERNEL: &str = "a Wasm sandbox makes no system calls; this has no effect";
const NO_HOST: &str = "Wasm pods have no access to the host";
const NO_CLAIMS: &str = "resource claims are not supported";
const NAMES_NOT_SERVED: &str = "a pod's host name is hostname, or the pod's own name";
const NO_VOLUME: &str = "this kind of volume is not supported; supported are configMap, \
                         downwardAPI, emptyDir, ephemeral, hostPath, image, \
                         persistentVolumeClaim, projected and secret";

/// core/v1 PodSpec.
pub const POD_SPEC: &[Row] = &[
    honoured("activeDeadlineSeconds"),
    within("affinity", AFFINITY),
    honoured("automountServiceAccountToken"),
    within("containers", CONTAINER),
    warned("dnsConfig", "names are resolved by the cluster, with its own configuration"),
    warned("dnsPolicy", "names are resolved by the cluster, as with ClusterFirst")
        .unless(&["ClusterFirst"]),
    honoured("enableServiceLinks"),
    within("ephemeralContainers", EPHEMERAL_CONTAINER),
    honoured("hostAliases"),
    refused("hostIPC", NO_HOST).unless(&["false"]),
    refused("hostNetwork", NO_HOST).unless(&["false"]),
    refused("hostPID", NO_HOST).unless(&["false"]),
    warned("hostUsers", NO_USERS).unless(&["true"]),
    honoured("hostname"),
    warned("hostnameOverride", NAMES_NOT_SERVED),
    honoured("imagePullSecrets"),
    within("initContainers", CONTAINER),
    honoured("nodeName"),
    honoured("nodeSelector"),
    warned("os", "Wasm runs on nodes of every operating system; this has no effect"),
    honoured("overhead"),
    honoured("preemptionPolicy"),
    honoured("priority"),
    honoured("priorityClassName"),
    honoured("readinessGates"),
    refused("resourceClaims", NO_CLAIMS),
    refused("resources", "resources of a whole pod are not supported; set those of containers")
        .unless(&["{}"]),
    honoured("restartPolicy"),
    warned("runtimeClassName", "its handler chooses nothing: pods run in the node's Wasm runtime"),
    honoured("schedulerName"),
    honoured("schedulingGates"),
    within("securityContext", POD_SECURITY_CONTEXT),
    honoured("serviceAccount"),
    honoured("serviceAccountName"),
    warned("setHostnameAsFQDN", NAMES_NOT_SERVED).unless(&["false"]),
    // What `kubectl debug --copy-to` asks for by default.
    warned("shareProcessNamespace", "containers of a Wasm pod share no processes")
        .unless(&["false"]),
    honoured("subdomain"),
    honoured("terminationGracePeriodSeconds"),
    honoured("tolerations"),
    within("topologySpreadConstraints", SPREAD_CONSTRAINT),
    within("volumes", VOLUME),
    honoured("workloadRef"),
];

/// core/v1 Container, for containers and init containers.
pub const CONTAINER: &[Row] = &[
    honoured("args"),
    honoured("command"),
    within("env", ENV_VAR),
    honoured("envFrom"),
    honoured("image"),
    honoured("imagePullPolicy"),
    within("lifecycle", LIFECYCLE),
    within("livenessProbe", PROBE),
    honoured("name"),
    within("ports", CONTAINER_PORT),
    within("readinessProbe", PROBE),
    warned("resizePolicy", "resources of running pods cannot be changed yet"),
    within("resources", RESOURCES),
    honoured("restartPolicy"),
    refused("restartPolicyRules", "rules by exit code are not supported; set restartPolicy"),
    within("securityContext", SECURITY_CONTEXT),
    within("startupProbe", PROBE),
    honoured("stdin"),
    honoured("stdinOnce"),
    honoured("terminationMessagePath"),
    honoured("terminationMessagePolicy"),
    honoured("tty"),
    refused("volumeDevices", "block devices are not supported"),
    within("volumeMounts", VOLUME_MOUNT),
    warned("workingDir", "Wasm containers start in the root of their file system"),
];

const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// core/v1 EphemeralContainer.
const EPHEMERAL_CONTAINER: &[Row] = &[
    honoured("args"),
    honoured("command"),
    within("env", ENV_VAR),
    honoured("envFrom"),
    honoured("image"),
    honoured("imagePullPolicy"),
    refused("lifecycle", NOT_EPHEMERAL),
    refused("livenessProbe", NOT_EPHEMERAL),
    honoured("name"),
    refused("ports", NOT_EPHEMERAL),
    refused("readinessProbe", NOT_EPHEMERAL),
    refused("resizePolicy", NOT_EPHEMERAL),
    refused("resources", NOT_EPHEMERAL).unless(&["{}"]),
    refused("restartPolicy", NOT_EPHEMERAL),
    refused("restartPolicyRules", NOT_EPHEMERAL),
    within("securityContext", SECURITY_CONTEXT),
    refused("startupProbe", NOT_EPHEMERAL),
    honoured("stdin"),
    honoured("stdinOnce"),
    harmless("targetContainerName", "there are no processes to see; its volumes are mounted, too"),
    honoured("terminationMessagePath"),
    honoured("terminationMessagePolicy"),
    honoured("tty"),
    refused("volumeDevices", NOT_EPHEMERAL),
    within("volumeMounts", VOLUME_MOUNT),
    warned("workingDir", "Wasm containers start in the root of their file system"),
];

const AFFINITY: &[Row] =
    &[honoured("nodeAffinity"), honoured("podAffinity"), honoured("podAntiAffinity")];

const SPREAD_CONSTRAINT: &[Row] = &[
    honoured("labelSelector"),
    honoured("matchLabelKeys"),
    honoured("maxSkew"),
    honoured("minDomains"),
    honoured("nodeAffinityPolicy"),
    honoured("nodeTaintsPolicy"),
    honoured("topologyKey"),
    honoured("whenUnsatisfiable"),
];

const POD_SECURITY_CONTEXT: &[Row] = &[
    warned("appArmorProfile", NO_KERNEL),
    warned("fsGroup", NO_USERS),
    warned("fsGroupChangePolicy", NO_USERS),
    warned("runAsGroup", NO_USERS),
    harmless("runAsNonRoot", "a Wasm sandbox runs as no user, so not as root"),
    warned("runAsUser", NO_USERS),
    warned("seLinuxChangePolicy", NO_KERNEL),
    warned("seLinuxOptions", NO_KERNEL),
    within("seccompProfile", SECCOMP_PROFILE),
    warned("supplementalGroups", NO_USERS),
    warned("supplementalGroupsPolicy", NO_USERS),
    refused("sysctls", "Wasm pods have no kernel to configure"),
    warned("windowsOptions", NO_KERNEL),
];

const SECURITY_CONTEXT: &[Row] = &[
    warned("allowPrivilegeEscalation", "there are no privileges to gain in a Wasm sandbox")
        .unless(&["false"]),
    warned("appArmorProfile", NO_KERNEL),
    within("capabilities", CAPABILITIES),
    refused("privileged", "Wasm containers cannot be privileged").unless(&["false"]),
    refused("procMount", "Wasm containers have no /proc").unless(&["Default"]),
    harmless("readOnlyRootFilesystem", "there is no root file system, only volumes"),
    warned("runAsGroup", NO_USERS),
    harmless("runAsNonRoot", "a Wasm sandbox runs as no user, so not as root"),
    warned("runAsUser", NO_USERS),
    warned("seLinuxOptions", NO_KERNEL),
    within("seccompProfile", SECCOMP_PROFILE),
    warned("windowsOptions", NO_KERNEL),
];

const CAPABILITIES: &[Row] = &[
    warned("add", "a Wasm sandbox has no capabilities of the kernel"),
    harmless("drop", "a Wasm sandbox has no capabilities of the kernel"),
];

const SECCOMP_PROFILE: &[Row] = &[
    warned("localhostProfile", NO_KERNEL),
    warned("type", NO_KERNEL).unless(&["RuntimeDefault", "Unconfined"]),
];

const ENV_VAR: &[Row] = &[honoured("name"), honoured("value"), within("valueFrom", ENV_VAR_SOURCE)];

const ENV_VAR_SOURCE: &[Row] = &[
    honoured("configMapKeyRef"),
    honoured("fieldRef"),
    refused("fileKeyRef", "variables from files are not supported"),
    honoured("resourceFieldRef"),
    honoured("secretKeyRef"),
];

const LIFECYCLE: &[Row] = &[
    within("postStart", LIFECYCLE_HANDLER),
    within("preStop", LIFECYCLE_HANDLER),
    warned("stopSignal", "Wasm containers receive no signals"),
];

const LIFECYCLE_HANDLER: &[Row] = &[
    honoured("exec"),
    within("httpGet", HTTP_GET),
    honoured("sleep"),
    refused("tcpSocket", "a connection is no hook; use httpGet or sleep"),
];

const PROBE: &[Row] = &[
    honoured("exec"),
    honoured("failureThreshold"),
    honoured("grpc"),
    within("httpGet", HTTP_GET),
    honoured("initialDelaySeconds"),
    honoured("periodSeconds"),
    honoured("successThreshold"),
    within("tcpSocket", TCP_SOCKET),
    honoured("terminationGracePeriodSeconds"),
    honoured("timeoutSeconds"),
];

const HTTP_GET: &[Row] = &[
    refused("host", "probes and hooks go to the pod's own address"),
    honoured("httpHeaders"),
    honoured("path"),
    honoured("port"),
    refused("scheme", "probes and hooks over TLS are not supported yet").unless(&["HTTP"]),
];

const TCP_SOCKET: &[Row] =
    &[refused("host", "probes go to the pod's own address"), honoured("port")];

const CONTAINER_PORT: &[Row] = &[
    honoured("containerPort"),
    harmless("hostIP", "the warning of hostPort says it"),
    warned("hostPort", "nodes do not serve ports of the host, such pods are only kept apart")
        .unless(&["0"]),
    honoured("name"),
    refused("protocol", "SCTP is not supported").unless(&["TCP", "UDP"]),
];

const RESOURCES: &[Row] =
    &[refused("claims", NO_CLAIMS), keys("limits", LIMITS), keys("requests", REQUESTS)];

const LIMITS: &[Row] = &[
    honoured("cpu"),
    honoured("memory"),
    honoured("ephemeral-storage"),
    warned("*", "this resource is not limited"),
];

const REQUESTS: &[Row] = &[
    honoured("cpu"),
    honoured("memory"),
    honoured("ephemeral-storage"),
    warned(
        "*",
        "pods are counted against what a node says it has of this resource; containers are given \
         nothing of it",
    ),
];

const VOLUME_MOUNT: &[Row] = &[
    honoured("mountPath"),
    refused("mountPropagation", "Wasm containers mount nothing themselves").unless(&["None"]),
    honoured("name"),
    honoured("readOnly"),
    harmless("recursiveReadOnly", "volumes contain no other mounts"),
    honoured("subPath"),
    honoured("subPathExpr"),
];

const VOLUME: &[Row] = &[
    refused("awsElasticBlockStore", NO_VOLUME),
    refused("azureDisk", NO_VOLUME),
    refused("azureFile", NO_VOLUME),
    refused("cephfs", NO_VOLUME),
    refused("cinder", NO_VOLUME),
    honoured("configMap"),
    warned("csi", "nodes have no CSI drivers: the pod waits for one, and does not start"),
    honoured("downwardAPI"),
    within("emptyDir", EMPTY_DIR),
    honoured("ephemeral"),
    refused("fc", NO_VOLUME),
    refused("flexVolume", NO_VOLUME),
    refused("flocker", NO_VOLUME),
    refused("gcePersistentDisk", NO_VOLUME),
    refused("gitRepo", NO_VOLUME),
    refused("glusterfs", NO_VOLUME),
    warned("hostPath", "nodes mount only what their flag --host-path allows"),
    honoured("image"),
    refused("iscsi", NO_VOLUME),
    honoured("name"),
    refused("nfs", NO_VOLUME),
    honoured("persistentVolumeClaim"),
    refused("photonPersistentDisk", NO_VOLUME),
    refused("portworxVolume", NO_VOLUME),
    within("projected", PROJECTED),
    refused("quobyte", NO_VOLUME),
    refused("rbd", NO_VOLUME),
    refused("scaleIO", NO_VOLUME),
    honoured("secret"),
    refused("storageos", NO_VOLUME),
    refused("vsphereVolume", NO_VOLUME),
];

const EMPTY_DIR: &[Row] = &[
    refused("medium", "huge pages are not supported; Memory is").unless(&["Memory"]),
    honoured("sizeLimit"),
];

const PROJECTED: &[Row] = &[honoured("defaultMode"), within("sources", PROJECTION)];

const PROJECTION: &[Row] = &[
    refused("clusterTrustBundle", "trust bundles are not supported"),
    honoured("configMap"),
    honoured("downwardAPI"),
    refused("podCertificate", "pod certificates are not supported"),
    honoured("secret"),
    honoured("serviceAccountToken"),
];
