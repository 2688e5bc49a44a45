//! Indexes of images and referrers in the registry of artifacts, and pulls of an index.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use wasmfleet::apiserver::artifacts::ImageCheck;
use wasmfleet::images::{PullPolicy, Reference, digest_of};

use super::images::puller;
use super::registry::{Fixture, Reply, program};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn entry(digest: &str, platform: &str) -> Value {
    let mut entry = json!({"mediaType": MANIFEST, "digest": digest, "size": 1});
    if let Some((os, architecture)) = platform.split_once('/') {
        entry["platform"] = json!({"os": os, "architecture": architecture});
    }
    entry
}

fn index(media_type: &str, entries: &[Value]) -> String {
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string()
}

impl Fixture {
    async fn put(&self, name: &str, version: &str, text: &str) -> Reply {
        let path = format!("/v2/{name}/manifests/{version}");
        self.send(Method::PUT, &path, text.to_string()).await
    }

    /// Pushes a text by its digest, which is the answer.
    async fn put_by_digest(&self, name: &str, text: &Value) -> (String, Reply) {
        let text = text.to_string();
        let digest = digest_of(text.as_bytes());
        let reply = self.put(name, &digest, &text).await;
        assert_eq!(reply.code, StatusCode::CREATED, "{:?}", reply.body);
        (digest, reply)
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "").await
    }

    async fn delete(&self, name: &str, version: &str) -> Reply {
        self.send(Method::DELETE, &format!("/v2/{name}/manifests/{version}"), "").await
    }

    /// The manifest of an artifact about another manifest.
    async fn about(&self, name: &str, subject: &str, artifact_type: &str) -> Value {
        let config = self.push_blob(name, "{}").await;
        let config = json!({"mediaType": EMPTY, "digest": config, "size": 2});
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type,
            "config": config, "layers": [config],
            "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1}})
    }
}

#[tokio::test]
async fn an_index_is_served_and_means_its_program() {
    let fixture = Fixture::new();
    let wasm = fixture.push("app:wasm", program(0)).await.unwrap();
    let linux = fixture.push_files("app:linux", &["one", "two"]).await;
    let entries = [entry(&linux, "linux/amd64"), entry(&wasm.digest, "wasip1/wasm")];
    for (tag, media_type) in [("oci", INDEX), ("docker", DOCKER_LIST)] {
        let text = index(media_type, &entries);
        let digest = digest_of(text.as_bytes());
        let pushed = fixture.put("app", tag, &text).await;
        assert_eq!(pushed.code, StatusCode::CREATED, "{:?}", pushed.body);
        assert_eq!(pushed.headers["docker-content-digest"], digest.as_str());
        for version in [tag, &digest] {
            let got = fixture.get(&format!("/v2/app/manifests/{version}")).await;
            assert_eq!(got.headers["content-type"], media_type);
            assert_eq!((got.code, &*got.body), (StatusCode::OK, text.as_bytes()));
            let separator = if version == tag { ':' } else { '@' };
            let check = fixture.artifacts.check_image(&format!("app{separator}{version}"));
            let ImageCheck::Known(record) = check.unwrap() else { panic!("{version}") };
            assert_eq!(record.digest, wasm.digest);
        }
        let needed = fixture.artifacts.needed_features(&format!("app:{tag}"));
        assert_eq!(needed, ["wasm32-wasip1"]);
    }

    // What it names stays with it, and is deleted after it.
    fixture.delete("app", "wasm").await;
    let refused = fixture.delete("app", &wasm.digest).await;
    let (code, name, message) = refused.error();
    assert_eq!((code, &*name), (405, "DENIED"));
    assert!(message.contains("names it; delete that one first"), "{message}");
    fixture.artifacts.collect_older_than(Duration::ZERO).await.unwrap();
    let blob = format!("/v2/app/blobs/{}", wasm.wasm_digest);
    assert_eq!(fixture.get(&blob).await.body, program(0));
    for tag in ["oci", "docker"] {
        let digest = fixture.get(&format!("/v2/app/manifests/{tag}")).await.body;
        let deleted = fixture.delete("app", &digest_of(&digest)).await;
        assert_eq!(deleted.code, StatusCode::ACCEPTED);
    }
    assert_eq!(fixture.delete("app", &wasm.digest).await.code, StatusCode::ACCEPTED);
    fixture.artifacts.collect_older_than(Duration::ZERO).await.unwrap();
    assert_eq!(fixture.get(&blob).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_index_that_cannot_be_kept_is_refused() {
    let fixture = Fixture::new();
    let digest = fixture.push("app:v1", program(0)).await.unwrap().digest;
    fixture.push("other:v1", program(1)).await.unwrap();
    let elsewhere = fixture.get("/v2/other/manifests/v1").await.body;
    let many: Vec<Value> = (0..257).map(|_| entry(&digest, "wasip1/wasm")).collect();
    let long =
        json!({"schemaVersion": 2, "manifests": [], "annotations": {"a": "x".repeat(1 << 20)}});
    for (text, wanted, says) in [
        (
            index(INDEX, &[entry(&digest_of(b"x"), "wasip1/wasm")]),
            (400, "MANIFEST_BLOB_UNKNOWN"),
            "push the manifest sha256:",
        ),
        // Another repository's is none of this one's.
        (
            index(INDEX, &[entry(&digest_of(&elsewhere), "")]),
            (400, "MANIFEST_BLOB_UNKNOWN"),
            "before the index that names it",
        ),
        (index(INDEX, &[entry("../x", "")]), (400, "MANIFEST_INVALID"), "is not a sha256 digest"),
        (index(INDEX, &many), (400, "MANIFEST_INVALID"), "256 is the most"),
        (index("text/plain", &[]), (400, "MANIFEST_INVALID"), "unknown type \"text/plain\""),
        (long.to_string(), (413, "SIZE_INVALID"), "1048576 bytes"),
        ("[".into(), (400, "MANIFEST_INVALID"), "cannot be read"),
    ] {
        let (code, name, message) = fixture.put("app", "bad", &text).await.error();
        assert_eq!((code, &*name), wanted, "{message}");
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(fixture.artifacts.check_image("app:bad").unwrap(), ImageCheck::Unknown);
}

#[tokio::test]
async fn an_index_without_a_program_says_so() {
    let fixture = Fixture::new();
    let linux = fixture.push_files("app:linux", &["one", "two"]).await;
    let text = index(INDEX, &[entry(&linux, "linux/amd64"), entry(&linux, "linux/s390x")]);
    assert_eq!(fixture.put("app", "v1", &text).await.code, StatusCode::CREATED);
    let why =
        "it is an index of 2 images (linux/amd64, linux/s390x), and none is for the platform wasm";
    let check = fixture.artifacts.check_image("app:v1").unwrap();
    assert_eq!(check, ImageCheck::NoProgram(why.into()));
    let nested = entry(&digest_of(text.as_bytes()), "wasip1/wasm");
    let nested = index(INDEX, &[nested]);
    assert_eq!(fixture.put("app", "nested", &nested).await.code, StatusCode::CREATED);
    let check = fixture.artifacts.check_image("app:nested").unwrap();
    assert_eq!(check, ImageCheck::NoProgram("it is an index of an index".into()));
    let (_, puller) = puller(fixture, None);
    for (name, why) in [("app:v1", why), ("app:nested", "it is an index of")] {
        let image: Reference = name.parse().unwrap();
        let refused = puller.pull(&image, PullPolicy::Always).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_node_takes_the_program_of_an_index() {
    let fixture = Fixture::new();
    let old = fixture.push("app:p1", program(1)).await.unwrap().digest;
    let new = fixture.push("app:p2", program(2)).await.unwrap().digest;
    let linux = fixture.push_files("app:linux", &["one"]).await;
    let entries = [
        entry(&linux, "linux/amd64"),
        entry(&old, "wasip1/wasm"),
        entry(&new, "wasip2/wasm"),
        entry(&linux, "unknown/unknown"),
    ];
    let (all, first) = (index(INDEX, &entries), index(DOCKER_LIST, &entries[..2]));
    for (tag, text) in [("all", &all), ("first", &first)] {
        assert_eq!(fixture.put("app", tag, text).await.code, StatusCode::CREATED);
    }
    let (_, puller) = puller(fixture, None);
    for (tag, text, wanted) in [("all", &all, program(2)), ("first", &first, program(1))] {
        let image: Reference = format!("app:{tag}").parse().unwrap();
        let pulled = puller.pull(&image, PullPolicy::IfNotPresent).await.unwrap();
        assert_eq!((pulled.digest, pulled.wasm), (digest_of(text.as_bytes()), wanted));
    }
}

#[tokio::test]
async fn referrers_are_listed_by_their_subject() {
    let fixture = Fixture::new();
    // Before its subject.
    let wasm = wasmfleet::images::layout::Artifact::new(program(0), Default::default());
    let subject = &wasm.digest;
    let mut signature = fixture.about("app", subject, "application/vnd.example.sig+json").await;
    signature["annotations"] = json!({"by": "me"});
    let (signature, reply) = fixture.put_by_digest("app", &signature).await;
    assert_eq!(reply.headers["oci-subject"], subject.as_str());
    fixture.push("app:v1", program(0)).await.unwrap();
    let mut plain = fixture.about("app", subject, "").await;
    // Without layers, and of the type of its config.
    plain["layers"] = json!([]);
    let (plain, _) = fixture.put_by_digest("app", &plain).await;
    let mut listed = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    listed["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
    let (listed, _) = fixture.put_by_digest("app", &listed).await;
    let other = fixture.about("app", &digest_of(b"other"), "x/y").await;
    fixture.put_by_digest("app", &other).await;

    let path = format!("/v2/app/referrers/{subject}");
    let all = fixture.get(&path).await;
    assert_eq!((all.code, &all.headers["content-type"]), (StatusCode::OK, &INDEX.parse().unwrap()));
    assert!(!all.headers.contains_key("oci-filters-applied"));
    let all = all.json();
    assert_eq!((&all["schemaVersion"], &all["mediaType"]), (&json!(2), &json!(INDEX)));
    let of = |list: &Value, digest: &str| {
        let all = list["manifests"].as_array().unwrap();
        all.iter().find(|one| one["digest"] == *digest).cloned()
    };
    let size = fixture.get(&format!("/v2/app/manifests/{signature}")).await.body.len();
    let descriptor = json!({"mediaType": MANIFEST, "digest": signature, "size": size,
        "artifactType": "application/vnd.example.sig+json", "annotations": {"by": "me"}});
    assert_eq!(of(&all, &signature), Some(descriptor.clone()));
    assert_eq!(of(&all, &plain).unwrap()["artifactType"], EMPTY);
    let index = of(&all, &listed).unwrap();
    assert_eq!((&index["mediaType"], index.get("artifactType")), (&json!(INDEX), None));
    assert_eq!(all["manifests"].as_array().unwrap().len(), 3);

    // By type, however the plus is sent.
    for filter in ["application%2Fvnd.example.sig%2Bjson", "application/vnd.example.sig+json"] {
        let some = fixture.get(&format!("{path}?artifactType={filter}")).await;
        assert_eq!(some.headers["oci-filters-applied"], "artifactType");
        assert_eq!(some.json()["manifests"], json!([descriptor]));
    }
    // In pages.
    let mut next = format!("{path}?n=1&artifactType=application%2Fvnd.example.sig%2Bjson");
    let (mut pages, mut found) = (0, Vec::new());
    loop {
        let page = fixture.get(&next).await;
        pages += 1;
        found.extend(page.json()["manifests"].as_array().unwrap().clone());
        let Some(link) = page.headers.get("link") else { break };
        let link = link.to_str().unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        next = link.strip_prefix('<').unwrap().to_string();
    }
    assert_eq!((pages, found), (3, vec![descriptor]));

    assert_eq!(fixture.delete("app", &signature).await.code, StatusCode::ACCEPTED);
    assert_eq!(of(&fixture.get(&path).await.json(), &signature), None);
    // Nobody's, of a repository that nobody pushed to, too.
    let none = fixture.get(&format!("/v2/none/referrers/{subject}")).await;
    assert_eq!((none.code, &none.json()["manifests"]), (StatusCode::OK, &json!([])));
    assert_eq!(fixture.get("/v2/app/referrers/sha256:x").await.error().1, "DIGEST_INVALID");
    let mut wrong = fixture.about("app", "sha512:x", "x/y").await;
    let refused = fixture.put("app", "bad", &wrong.to_string()).await.error();
    assert_eq!((refused.0, &*refused.1), (400, "MANIFEST_INVALID"));
    wrong["subject"]["digest"] = json!(subject);
    wrong["layers"] = json!([{"mediaType": "x/y", "digest": digest_of(b"absent"), "size": 1}]);
    let refused = fixture.put("app", "bad", &wrong.to_string()).await.error();
    assert_eq!(refused.1, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn an_answer_with_referrers_is_bounded() {
    let fixture = Fixture::new();
    let subject = digest_of(b"subject");
    for n in 0..5 {
        let mut large = fixture.about("app", &subject, "x/y").await;
        large["annotations"] = json!({"n": n.to_string().repeat(800_000)});
        fixture.put_by_digest("app", &large).await;
    }
    let (mut next, mut sizes) = (format!("/v2/app/referrers/{subject}"), Vec::new());
    loop {
        let page = fixture.get(&next).await;
        assert!(page.body.len() < 3 << 20, "{}", page.body.len());
        sizes.push(page.json()["manifests"].as_array().unwrap().len());
        let Some(link) = page.headers.get("link") else { break };
        next = link.to_str().unwrap()[1..].split('>').next().unwrap().to_string();
    }
    assert_eq!(sizes, [2, 2, 1]);
}

#[tokio::test]
async fn referrers_go_with_their_subject() {
    let fixture = Fixture::new();
    let subject = fixture.push("app:v1", program(0)).await.unwrap().digest;
    let about = fixture.about("app", &subject, "a/signature").await;
    let (signature, _) = fixture.put_by_digest("app", &about).await;
    let about = fixture.about("app", &signature, "a/signature-of-a-signature").await;
    let (above, _) = fixture.put_by_digest("app", &about).await;
    let kept = fixture.about("app", &subject, "a/tagged").await;
    let (tagged, _) = fixture.put_by_digest("app", &kept).await;
    fixture.put("app", "kept", &kept.to_string()).await;
    let waiting = fixture.about("app", &digest_of(b"later"), "a/early").await;
    let (waiting, _) = fixture.put_by_digest("app", &waiting).await;

    let code = async |digest: &str| {
        fixture.get(&format!("/v2/app/manifests/{digest}")).await.code.as_u16()
    };
    fixture.artifacts.collect_garbage().await.unwrap();
    assert_eq!(code(&waiting).await, 200, "its subject may be on its way");
    fixture.artifacts.collect_older_than(Duration::ZERO).await.unwrap();
    assert_eq!(code(&waiting).await, 404);
    for digest in [&signature, &above, &tagged] {
        assert_eq!(code(digest).await, 200);
    }
    fixture.delete("app", &subject).await;
    fixture.artifacts.collect_older_than(Duration::ZERO).await.unwrap();
    for (digest, wanted) in [(&signature, 404), (&above, 404), (&tagged, 200)] {
        assert_eq!(code(digest).await, wanted);
    }
    let left = fixture.get(&format!("/v2/app/referrers/{subject}")).await.json();
    assert_eq!(left["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(left["manifests"][0]["digest"], tagged.as_str());
}
