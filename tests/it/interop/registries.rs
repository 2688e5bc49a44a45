//! Registries of others: Debian's docker-registry, which pods pull from with credentials; skopeo,
//! which copies to and from the cluster's own; and a second cluster, which pulls from the first.

use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::cluster::tools::{self, has};
use crate::cluster::{Cluster, Output, Program, Space, WASMCTL, guests, http, until};

/// User and password of the registry, and the line that its file of passwords has for them.
const CREDENTIALS: &str = "robot:secret";
const HTPASSWD: &str = "robot:$2b$04$E/9Ba0ITTpGyPM0yMWEN3eHjkdFtFXjoDO09AgS1kiNcAGflP5NSq\n";

/// A docker-registry on loopback that wants a password; stopped with the test.
struct Registry {
    /// Host and port.
    host: String,
    _program: Program,
    _dir: TempDir,
}

impl Registry {
    fn start(program: &Path) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("htpasswd"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1
storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}
http: {{addr: '127.0.0.1:0'}}
auth: {{htpasswd: {{realm: tests, path: {}}}}}
",
            at("data").display(),
            at("htpasswd").display()
        );
        std::fs::write(at("config.yml"), config).unwrap();
        let config = at("config.yml");
        let args = ["serve", config.to_str().unwrap()];
        let program = Program::start_with(program, &args, Some(dir.path()), &[]);
        let host = until("the registry's address", || {
            let log = program.stderr();
            let line = log.lines().find_map(|line| line.split_once("listening on "));
            let (_, rest) = line.ok_or("it does not listen yet")?;
            Ok(rest.split('"').next().unwrap_or_default().to_string())
        });
        Registry { host, _program: program, _dir: dir }
    }
}

/// A cluster's own registry as other tools see it.
struct Own {
    host: String,
    token: String,
    /// Has the cluster's `ca.crt`.
    certificates: TempDir,
}

impl Own {
    /// With the token of an account that may use all of it.
    fn of(cluster: &Cluster, name: &str) -> Own {
        cluster.apply(&format!(
            "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}}}
rules: [{{nonResourceURLs: ['/v2/*'], verbs: [get, head, post, patch, put, delete]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects: [{{kind: ServiceAccount, name: {name}, namespace: default}}]
"
        ));
        let kubectl = tools::kubectl().expect("looked for");
        let token = cluster.run(kubectl, &format!("create token {name}"), "").ok();
        let view = "config view --raw -o jsonpath={.clusters[0].cluster";
        let server = cluster.run(kubectl, &format!("{view}.server}}"), "").ok();
        let host = server.trim_start_matches("https://").to_string();
        let ca = cluster.run(kubectl, &format!("{view}.certificate-authority-data}}"), "").ok();
        let certificates = tempfile::tempdir().unwrap();
        let decoded = cluster.run(Path::new("base64"), "-d", &ca).ok();
        assert!(decoded.contains("BEGIN CERTIFICATE"), "{decoded}");
        std::fs::write(certificates.path().join("ca.crt"), decoded).unwrap();
        Own { host, token: token.trim().to_string(), certificates }
    }

    fn url(&self, image: &str) -> String {
        format!("docker://{}/{image}", self.host)
    }

    /// Options of skopeo for this end of a copy (`src-`, `dest-`, or nothing).
    fn options(&self, end: &str) -> String {
        let dir = self.certificates.path().display();
        format!("--{end}creds any:{} --{end}cert-dir {dir}", self.token)
    }
}

fn pod(name: &str, image: &str, secret: Option<&str>) -> String {
    let secrets = secret.map_or(String::new(), |s| format!("imagePullSecrets: [{{name: {s}}}]"));
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  {secrets}
  containers: [{{name: main, image: '{image}', args: [exit=0]}}]
"
    )
}

#[test]
fn pods_pull_from_a_registry_that_wants_a_password() {
    let Some((registry, skopeo)) = tools::registry_tools() else { return };
    let Some(space) = Space::with_kubectl("foreign-registry") else { return };
    let registry = Registry::start(registry);
    let own = Own::of(space.cluster, "copier");
    let skopeo = |words: &str| -> Output { space.cluster.run(skopeo, words, "") };
    let (there, host) = (format!("docker://{}/team/tool:v1", registry.host), &registry.host);
    let plain = format!("--dest-tls-verify=false --dest-creds {CREDENTIALS}");
    let from = own.options("src-");
    skopeo(&format!("copy {from} {plain} {} {there}", own.url("tool:v1"))).ok();
    let image = format!("{host}/team/tool:v1");

    // With a wrong password, with the right one, and then with none: that the node has it is no
    // reason to give it to everyone.
    for (secret, password) in [("wrong", "guess"), ("right", "secret")] {
        let made = format!(
            "create secret docker-registry {secret} --docker-server={host} \
             --docker-username=robot --docker-password={password}"
        );
        space.kubectl(&made).ok();
        space.apply(&pod(secret, &image, Some(secret)));
    }
    space.wait_value("pod right", ".status.phase", "Succeeded");
    space.apply(&pod("nobody", &image, None));
    let digest = skopeo(&format!("inspect --raw --tls-verify=false --creds {CREDENTIALS} {there}"));
    has(&digest.ok(), &["application/wasm"]);
    let id = space.value("pod right", ".status.containerStatuses[0].imageID");
    assert!(id.starts_with(&format!("{host}/team/tool@sha256:")), "{id}");
    for name in ["nobody", "wrong"] {
        let state = ".status.containerStatuses[0].state.waiting.reason";
        until(name, || match &*space.value(&format!("pod {name}"), state) {
            "ErrImagePull" | "ImagePullBackOff" => Ok(()),
            other => Err(other.to_string()),
        });
        let told = space.kubectl(&format!("describe pod {name}")).ok();
        has(&told, &["Failed to pull image", "its registry refused"]);
    }
    space.apply(&pod("missing", &format!("{host}/team/none:v1"), Some("right")));
    until("an event", || {
        let told = space.kubectl("describe pod missing").ok();
        let found = told.contains("was not found in its registry");
        found.then_some(()).ok_or(told)
    });

    // By digest, and back into the cluster's own registry.
    let pinned = id.replace("docker://", "");
    space.apply(&pod("pinned", &pinned, Some("right")));
    space.wait_value("pod pinned", ".status.phase", "Succeeded");
    let (back, to) = (own.url("back/tool:v1"), own.options("dest-"));
    let plain = format!("--src-tls-verify=false --src-creds {CREDENTIALS}");
    skopeo(&format!("copy {plain} {to} {there} {back}")).ok();
    space.apply(&pod("back", "back/tool:v1", None));
    space.wait_value("pod back", ".status.phase", "Succeeded");
    let one = own.options("");
    has(&skopeo(&format!("list-tags {one} {}", own.url("back/tool"))).ok(), &["\"v1\""]);
    skopeo(&format!("delete {one} {back}")).ok();
    skopeo(&format!("inspect --raw {one} {back}")).fails();
    // Who shows nothing, or a token that is none, is not let in.
    let dir = own.certificates.path().display();
    for creds in ["", "--creds any:guess"] {
        let told =
            skopeo(&format!("inspect --raw --cert-dir {dir} {creds} {}", own.url("tool:v1")));
        has(&told.fails(), &["unauthorized"]);
    }
}

#[test]
fn a_second_cluster_pulls_from_the_first() {
    let Some(first) = Space::with_kubectl("first-cluster") else { return };
    let own = Own::of(first.cluster, "second-cluster");
    let host = &own.host;
    std::fs::write(
        own.certificates.path().join("registries.yaml"),
        format!(
            "mirrors:
  apps.example.com:
    endpoint: ['https://{host}']
    rewrite: {{'^shop/(.*)$': '$1'}}
    fallback: false
  ghcr.io:
    endpoint: [cluster]
    rewrite: {{'^(.*)$': 'ghcr/$1'}}
    fallback: false
configs:
  '{host}':
    auth: {{username: any, password: {}}}
    tls: {{ca_file: ca.crt}}
",
            own.token
        ),
    )
    .unwrap();
    let file = own.certificates.path().join("registries.yaml");
    let second = Cluster::start_with(1, &["--registries", file.to_str().unwrap()]);
    second.push(&guests::path("rust-http-p2.wasm"), "ghcr/team/hello:v1");
    let images = [
        ("named", format!("{host}/hello:v1")),
        ("mirrored", "apps.example.com/shop/hello:v1".to_string()),
        ("rewritten", "ghcr.io/team/hello:v1".to_string()),
    ];
    for (name, image) in &images {
        second.apply(&guests::deployment(name, image, 1));
        second.apply(&guests::service(name));
    }
    for (name, image) in &images {
        second.wasmctl(&format!("rollout status deployment {name} --timeout 90s")).ok();
        let url = second.service_url("default", name);
        has(&until("an answer", || http::get(&url)), &["hello from rust"]);
        let path = "-o jsonpath={.items[0].status.containerStatuses[0].imageID}";
        let id = second.wasmctl(&format!("get pods -l app={name} {path}")).ok();
        let named = image.rsplit_once(':').unwrap().0;
        assert!(id.starts_with(&format!("{named}@sha256:")), "{id}");
    }
    // What the mirror does not have is not looked for elsewhere.
    second.apply(&pod("gone", "ghcr.io/team/none:v1", None));
    until("an event", || {
        let told = second.run(Path::new(WASMCTL), "describe pod gone", "").ok();
        let found = told.contains("ghcr/team/none:v1 was not found in its registry");
        found.then_some(()).ok_or(told)
    });
}

#[test]
fn a_file_of_registries_that_is_wrong_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registries.yaml");
    std::fs::write(&file, "mirrors: {ghcr.io: {endpoint: [ghcr.io]}}").unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let args = ["up", "--listen", "127.0.0.1:0", "--data-dir", data, "--registries"];
    let args = [&args[..], &[file.to_str().unwrap()]].concat();
    let mut program = Program::start(crate::cluster::WASMFLEET, &args, Some(dir.path()));
    assert_eq!(program.wait_end().code(), Some(1));
    has(&program.stderr(), &["registries.yaml: mirrors.ghcr.io: endpoint \"ghcr.io\" is none"]);
}

/// A file of a layer.
fn file(archive: &mut tar::Builder<Vec<u8>>, name: &str, text: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    archive.append_data(&mut header, name, text.as_bytes()).unwrap();
}

const OCI: &str = "application/vnd.oci.image";

/// A directory as builders of images leave it (image-spec, image-layout.md).
struct Layout<'a>(&'a Path);

impl Layout<'_> {
    /// Writes a blob, and answers its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let blobs = self.0.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let hex = hex::encode(Sha256::digest(bytes));
        std::fs::write(blobs.join(&hex), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    }

    fn json(&self, media_type: &str, text: &Value) -> Value {
        self.blob(media_type, text.to_string().as_bytes())
    }

    /// An image of Linux of these layers, the first of them compressed.
    fn linux(&self, layers: &[Vec<u8>]) -> Value {
        let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let layers = layers.iter().enumerate().map(|(at, layer)| match at {
            0 => self.blob(&format!("{OCI}.layer.v1.tar+gzip"), &gzip(layer)),
            _ => self.blob(&format!("{OCI}.layer.v1.tar"), layer),
        });
        let layers: Vec<Value> = layers.collect();
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.json(&format!("{OCI}.config.v1+json"), &config);
        self.manifest(&config, &layers)
    }

    fn manifest(&self, config: &Value, layers: &[Value]) -> Value {
        let media_type = format!("{OCI}.manifest.v1+json");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers,
            "mediaType": media_type});
        self.json(&media_type, &manifest)
    }

    /// Gives what has this descriptor the tag `v1`.
    fn tag(&self, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        std::fs::write(self.0.join("index.json"), index.to_string()).unwrap();
        std::fs::write(self.0.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = tempfile::tempfile().unwrap();
    plain.write_all(bytes).unwrap();
    plain.rewind().unwrap();
    let packed = Command::new("gzip").arg("-c").stdin(plain).output().unwrap();
    assert!(packed.status.success());
    packed.stdout
}

#[test]
fn the_files_of_an_image_are_mounted() {
    let Some((_, skopeo)) = tools::registry_tools() else { return };
    let Some(space) = Space::with_kubectl("image-files") else { return };
    let own = Own::of(space.cluster, "builder");
    let (mut base, mut above) = (tar::Builder::new(Vec::new()), tar::Builder::new(Vec::new()));
    file(&mut base, "etc/motd", "of the base\n");
    file(&mut base, "etc/kept", "kept\n");
    file(&mut base, "gone", "gone\n");
    file(&mut base, "cache/old", "old\n");
    file(&mut above, "etc/motd", "of the upper layer\n");
    // What the layer takes away: a file, and all that was in a directory.
    file(&mut above, ".wh.gone", "");
    file(&mut above, "cache/.wh..wh..opq", "");
    file(&mut above, "cache/new", "new\n");
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout(dir.path());
    layout.tag(layout.linux(&[base.into_inner().unwrap(), above.into_inner().unwrap()]));
    let words = format!(
        "copy {} oci:{}:v1 {}",
        own.options("dest-"),
        dir.path().display(),
        own.url("built/files:v1")
    );
    space.cluster.run(skopeo, &words, "").ok();
    space.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: files, image: {reference: 'built/files:v1'}}]
  containers:
  - name: main
    image: 'tool:v1'
    args: [cat=/files/etc/motd, cat=/files/etc/kept, cat=/files/cache/new, sleep=3600000]
    volumeMounts: [{name: files, mountPath: /files}]
",
    );
    space.wait_value("pod reader", ".status.phase", "Running");
    let log = until("what it reads", || {
        let log = space.wasmctl("logs reader").ok();
        log.contains("new").then_some(log.clone()).ok_or(log)
    });
    has(&log, &["of the upper layer\n", "kept\n", "new\n"]);
    assert!(!log.contains("of the base"), "{log}");
    // The same files as an archive; what the upper layer took away is not among them.
    let archive = space.wasmctl("cp reader:/files -").ok();
    has(&archive, &["files/etc/motd", "of the upper layer\n", "files/cache/new"]);
    for gone in ["files/gone", "cache/old", ".wh."] {
        assert!(!archive.contains(gone), "{gone}");
    }
    for name in ["gone", "cache/old"] {
        space.wasmctl(&format!("exec reader -- tool cat=/files/{name}")).fails();
    }
    has(&space.wasmctl("cp - reader:/files").fails(), &["standard input"]);
}

/// An image for Linux and for Wasm under one name, as builders for several platforms make it.
#[test]
fn an_index_of_platforms_is_copied_and_runs() {
    let Some((registry, skopeo)) = tools::registry_tools() else { return };
    let Some(space) = Space::with_kubectl("image-index") else { return };
    let registry = Registry::start(registry);
    let own = Own::of(space.cluster, "indexer");
    let skopeo = |words: &str| -> Output { space.cluster.run(skopeo, words, "") };
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout(dir.path());
    let mut files = tar::Builder::new(Vec::new());
    file(&mut files, "bin/sh", "no program of ours\n");
    let mut linux = layout.linux(&[files.into_inner().unwrap()]);
    linux["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let config = json!({"architecture": "wasm", "os": "wasip1"});
    let config = layout.json("application/vnd.wasm.config.v0+json", &config);
    let program = std::fs::read(guests::path("rust-cmd-p1.wasm")).unwrap();
    let mut wasm = layout.manifest(&config, &[layout.blob("application/wasm", &program)]);
    wasm["platform"] = json!({"os": "wasip1", "architecture": "wasm"});
    let media_type = format!("{OCI}.index.v1+json");
    let index = |entries: &[&Value]| json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    layout.tag(layout.json(&media_type, &index(&[&linux, &wasm])));

    // To the cluster's own registry, from there to another one, and back.
    let from = format!("oci:{}:v1", dir.path().display());
    let (to, one) = (own.options("dest-"), own.options(""));
    skopeo(&format!("copy --all {to} {from} {}", own.url("built/both:v1"))).ok();
    let plain = format!("-tls-verify=false --dest-creds {CREDENTIALS}");
    let there = format!("docker://{}/team/both:v1", registry.host);
    let source = own.options("src-");
    skopeo(&format!("copy --all {source} --dest{plain} {} {there}", own.url("built/both:v1"))).ok();
    let plain = format!("--src-tls-verify=false --src-creds {CREDENTIALS}");
    skopeo(&format!("copy --all {plain} {to} {there} {}", own.url("back/both:v1"))).ok();
    let raw = skopeo(&format!("inspect --raw {one} {}", own.url("back/both:v1"))).ok();
    has(&raw, &[&media_type, "wasip1", wasm["digest"].as_str().unwrap()]);
    let listed = space.wasmctl("images").ok();
    has(&listed, &["built/both", "index of 2"]);
    has(&space.wasmctl("inspect built/both:v1").ok(), &["_start", "fd_write"]);

    let host = &registry.host;
    let secret = "create secret docker-registry robot --docker-username=robot";
    space.kubectl(&format!("{secret} --docker-server={host} --docker-password=secret")).ok();
    space.apply(&pod("own", "built/both:v1", None));
    space.apply(&pod("foreign", &format!("{host}/team/both:v1"), Some("robot")));
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(raw.as_bytes())));
    for name in ["own", "foreign"] {
        space.wait_value(&format!("pod {name}"), ".status.phase", "Succeeded");
        let id = space.value(&format!("pod {name}"), ".status.containerStatuses[0].imageID");
        assert!(id.ends_with(&digest), "{name}: {id}");
    }

    // Without one for Wasm: refused where it is known, told where it is not.
    layout.tag(layout.json(&media_type, &index(&[&linux])));
    skopeo(&format!("copy --all {to} {from} {}", own.url("built/linux:v1"))).ok();
    let there = format!("docker://{}/team/linux:v1", registry.host);
    let plain = format!("--dest-tls-verify=false --dest-creds {CREDENTIALS}");
    skopeo(&format!("copy --all {source} {plain} {} {there}", own.url("built/linux:v1"))).ok();
    let why = "it is an index of one image (linux/amd64), and none is for the platform wasm";
    let refused =
        space.kubectl_with("apply -f -", &pod("none", "built/linux:v1", None), &[]).fails();
    has(&refused, &["spec.containers[0].image", why]);
    space.apply(&pod("none", &format!("{host}/team/linux:v1"), Some("robot")));
    until("why", || {
        let told = space.kubectl("describe pod none").ok();
        told.contains(why).then_some(()).ok_or(told)
    });
}
