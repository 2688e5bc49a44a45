//! What pods and workloads are told of the programs that they name, when they are applied.

use super::*;

const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";

struct Fixture {
    cluster: Cluster,
    _dir: tempfile::TempDir,
}

impl Fixture {
    /// A program that begins with 16 MiB, and one that has no memory.
    async fn with_programs() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::with_images(dir.path()).await;
        for (image, memory) in [("large:v1", "(memory 256)"), ("none:v1", "")] {
            let program = format!(r#"(module {memory} (func (export "_start")))"#);
            cluster.push(image, wat::parse_str(program).unwrap()).await;
        }
        Fixture { cluster, _dir: dir }
    }

    /// The warnings of a write that must be taken.
    async fn warned(&self, method: &str, path: &str, body: &Value) -> Vec<String> {
        let answer = self.cluster.send(method, path, &[], body.to_string()).await;
        assert!(answer.code == 200 || answer.code == 201, "{}", answer.text());
        let all = answer.headers.get_all("warning").iter();
        all.map(|text| text.to_str().unwrap().to_string()).collect()
    }

    async fn warned_of_pod(&self, name: &str, image: &str, memory: Option<&str>) -> Vec<String> {
        let mut pod = pod(name);
        set(&mut pod["spec"], image, memory);
        self.warned("POST", PODS, &pod).await
    }
}

fn set(spec: &mut Value, image: &str, memory: Option<&str>) {
    let container = &mut spec["containers"][0];
    container["image"] = image.into();
    container["resources"] = match memory {
        Some(memory) => json!({"limits": {"memory": memory}}),
        None => json!({}),
    };
}

#[tokio::test(start_paused = true)]
async fn a_limit_below_what_a_program_begins_with_is_warned_of() {
    let fixture = Fixture::with_programs().await;
    let told = fixture.warned_of_pod("small", "large:v1", Some("16Mi")).await;
    let text = "299 - \"spec.containers[0].resources.limits.memory: container main is limited to \
                16Mi (16777216 bytes), and its program cannot run with less than 16908288 bytes: \
                its memories and tables begin with 16777216, and an instance counts 131072 more; \
                set the limit to 17Mi at least, or link the program with a smaller memory\"";
    assert_eq!(told, [text]);
    // Whoever has enough, no limit, another image or one that nobody knows, is told nothing.
    for (n, (image, memory)) in [
        ("large:v1", Some("17Mi")),
        ("large:v1", Some("16908288")),
        ("large:v1", None),
        ("none:v1", Some("1Ki")),
        ("other:v1", Some("1Mi")),
        ("registry.example/large:v1", Some("1Mi")),
    ]
    .into_iter()
    .enumerate()
    {
        let told = fixture.warned_of_pod(&format!("p{n}"), image, memory).await;
        assert_eq!(told, [""; 0], "{image} {memory:?}");
    }
    let told = fixture.warned_of_pod("by-one", "large:v1", Some("16908287")).await;
    assert!(told[0].contains("limited to 16908287 (16908287 bytes)"), "{told:?}");
    // Init containers, too.
    let mut body = pod("init");
    body["spec"]["initContainers"] = json!([{"name": "first", "image": "large:v1",
        "resources": {"limits": {"memory": "1Mi"}}}]);
    let told = fixture.warned("POST", PODS, &body).await;
    assert!(told[0].contains("spec.initContainers[0].resources.limits.memory: container first"));
}

#[tokio::test(start_paused = true)]
async fn a_template_is_warned_of_like_its_pods() {
    let fixture = Fixture::with_programs().await;
    let mut body = deployment("web");
    set(&mut body["spec"]["template"]["spec"], "large:v1", Some("32Mi"));
    assert_eq!(fixture.warned("POST", DEPLOYMENTS, &body).await, [""; 0]);
    let path = format!("{DEPLOYMENTS}/web");
    let field = "spec.template.spec.containers[0].resources.limits.memory: ";
    // A change of the limit alone is seen, and what does not touch it is not told of again.
    set(&mut body["spec"]["template"]["spec"], "large:v1", Some("8Mi"));
    let told = fixture.warned("PUT", &path, &body).await;
    assert!(told.len() == 1 && told[0].contains(field), "{told:?}");
    body["spec"]["replicas"] = json!(3);
    assert_eq!(fixture.warned("PUT", &path, &body).await, [""; 0]);
    let mut job = json!({"metadata": {"name": "job"}, "spec": {"schedule": "0 0 * * *",
        "jobTemplate": {"spec": {"template": {"spec": pod("")["spec"]}}}}});
    let spec = &mut job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    spec["restartPolicy"] = json!("Never");
    set(spec, "large:v1", Some("1Mi"));
    let told = fixture.warned("POST", CRON_JOBS, &job).await;
    assert!(told[0].contains("spec.jobTemplate.spec.template.spec.containers[0]."), "{told:?}");
    // A namespace's default limit is one, too, once there are pods.
    let range = json!({"metadata": {"name": "small"}, "spec": {"limits": [
        {"type": "Container", "default": {"memory": "4Mi"}}]}});
    let ranges = "/api/v1/namespaces/default/limitranges";
    fixture.cluster.post(ranges, &range).await.expect(201);
    let told = fixture.warned_of_pod("defaulted", "large:v1", None).await;
    assert!(told.iter().any(|text| text.contains("limited to 4Mi")), "{told:?}");
}
