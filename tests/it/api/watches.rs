//! Watches over the HTTP door (lines) and in the process (events).

use std::time::Duration;

use super::*;

/// Reads lines of a watch; virtual time runs while it waits.
struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    async fn open(cluster: &Cluster, query: &str) -> Lines {
        let path = format!("{MAPS}?watch=true&{query}");
        let response = cluster.open("GET", &path, &[], "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        Lines { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event, `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(frame.data_ref().unwrap());
        }
    }

    /// Type and name of the next event.
    async fn short(&mut self) -> String {
        match self.next().await {
            Some(event) => format!(
                "{} {}",
                event["type"].as_str().unwrap(),
                event["object"]["metadata"]["name"].as_str().unwrap_or("-")
            ),
            None => "end".into(),
        }
    }

    async fn shorts(&mut self, count: usize) -> String {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.short().await);
        }
        all.join(", ")
    }
}

#[tokio::test(start_paused = true)]
async fn state_first_then_changes() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let mut lines = Lines::open(&cluster, "timeoutSeconds=5").await;
    assert_eq!(lines.short().await, "ADDED a");
    cluster.config_map("b", json!({})).await;
    cluster.merge(&format!("{MAPS}/b"), &json!({"data": {"x": "y"}})).await.expect(200);
    cluster.delete(&format!("{MAPS}/b"), &json!({})).await.expect(200);
    assert_eq!(lines.shorts(2).await, "ADDED b, MODIFIED b");
    let deleted = lines.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(version(&deleted["object"]), cluster.store.revision());
    assert_eq!(lines.short().await, "end");
}

#[tokio::test(start_paused = true)]
async fn from_a_version_exactly_what_follows() {
    let cluster = Cluster::new().await;
    let first = cluster.config_map("a", json!({})).await;
    cluster.config_map("b", json!({})).await;
    let from = version(&first);
    let mut lines =
        Lines::open(&cluster, &format!("resourceVersion={from}&timeoutSeconds=5")).await;
    cluster.config_map("c", json!({})).await;
    assert_eq!(lines.shorts(3).await, "ADDED b, ADDED c, end");
    let api = "/api/v1/namespaces/kube-system/configmaps";
    cluster.post(api, &json!({"metadata": {"name": "other"}})).await.expect(201);
    let mut lines = Lines::open(&cluster, "resourceVersion=0&timeoutSeconds=1").await;
    assert_eq!(lines.shorts(4).await, "ADDED a, ADDED b, ADDED c, end");
}

#[tokio::test(start_paused = true)]
async fn selectors_turn_changes_into_additions_and_deletions() {
    let cluster = Cluster::new().await;
    cluster.config_map("x", json!({"on": "1"})).await;
    let query = "labelSelector=on%3D1&timeoutSeconds=9";
    let mut lines = Lines::open(&cluster, query).await;
    let path = format!("{MAPS}/x");
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    cluster.merge(&path, &label("0".into())).await.expect(200);
    cluster.merge(&path, &json!({"data": {"not": "seen"}})).await.expect(200);
    let off = cluster.merge(&path, &label("1".into())).await.expect(200);
    assert_eq!(lines.shorts(3).await, "ADDED x, DELETED x, ADDED x");
    cluster.config_map("y", json!({})).await;
    cluster.delete(&path, &json!({})).await.expect(200);
    let gone = lines.next().await.unwrap();
    assert_eq!(
        (gone["type"].as_str(), version(&gone["object"])),
        (Some("DELETED"), version(&off) + 2)
    );

    let one = "fieldSelector=metadata.name%3Dy&timeoutSeconds=2";
    let mut lines = Lines::open(&cluster, one).await;
    cluster.config_map("z", json!({})).await;
    cluster.merge(&format!("{MAPS}/y"), &json!({"data": {"a": "z"}})).await.expect(200);
    assert_eq!(lines.shorts(3).await, "ADDED y, MODIFIED y, end");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_tell_how_far_a_quiet_watch_has_come() {
    let cluster = Cluster::new().await;
    let query = "allowWatchBookmarks=true&timeoutSeconds=90&resourceVersion=1";
    let mut lines = Lines::open(&cluster, query).await;
    let secret = json!({"metadata": {"name": "s"}});
    cluster.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    let start = tokio::time::Instant::now();
    let minute = lines.next().await.unwrap();
    assert!((45..=60).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(minute["type"], "BOOKMARK");
    let revision = cluster.store.revision().to_string();
    assert_eq!(
        minute["object"],
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": revision}})
    );
    assert_eq!(lines.shorts(2).await, "BOOKMARK -, end");
    assert_eq!(start.elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_ends_its_state_with_a_bookmark() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&\
                 allowWatchBookmarks=true&timeoutSeconds=5";
    let mut lines = Lines::open(&cluster, query).await;
    assert_eq!(lines.short().await, "ADDED a");
    let end = lines.next().await.unwrap();
    let meta = &end["object"]["metadata"];
    assert_eq!(meta["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(version(&end["object"]), cluster.store.revision());
    cluster.config_map("b", json!({})).await;
    assert_eq!(lines.shorts(2).await, "ADDED b, BOOKMARK -");
    for bad in [
        "sendInitialEvents=true",
        "sendInitialEvents=false",
        "resourceVersionMatch=NotOlderThan",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x",
    ] {
        cluster.get(&format!("{MAPS}?watch=1&{bad}")).await.failure(422);
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_is_an_error_event() {
    let cluster = Cluster::new().await;
    let old = version(&cluster.config_map("a", json!({})).await);
    cluster.config_map("b", json!({})).await;
    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let mut lines = Lines::open(&cluster, &format!("resourceVersion={old}")).await;
    let error = lines.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(
        (&error["object"]["code"], &error["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert!(lines.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn tables_are_sent_row_by_row() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let answer = cluster.send("GET", &path, &accept, "").await;
    let event = answer.expect(200);
    assert_eq!(event["object"]["kind"], "Table");
    assert_eq!(event["object"]["rows"][0]["cells"][0], "a");
}

#[tokio::test(start_paused = true)]
async fn a_cache_follows_the_api_in_the_process() {
    use k8s_openapi::api::core::v1::ConfigMap;
    use wasmfleet::base::Tasks;
    use wasmfleet::client::cache::Cache;
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let (cache, tasks) = (Cache::new(), Tasks::default());
    cache.keep::<ConfigMap>(cluster.api(), "", &tasks);
    cache.wait_synced().await;
    let count = || cache.view().count::<ConfigMap>();
    assert_eq!(count(), 1);
    cluster.config_map("b", json!({})).await;
    while count() < 2 {
        tokio::task::yield_now().await;
    }
    tasks.shut_down(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_sees_its_own_pods_come_and_go() {
    let cluster = Cluster::new().await;
    for name in ["p", "q"] {
        cluster.pod(name).await;
    }
    let from = cluster.store.revision();
    let mut shorts = Vec::new();
    let watch = |node: &str| {
        let query = format!("fieldSelector=spec.nodeName%3D{node}&resourceVersion={from}");
        format!("{PODS}?watch=1&timeoutSeconds=9&{query}")
    };
    let mut watches = Vec::new();
    for node in ["n1", "n2"] {
        let response = cluster.open("GET", &watch(node), &[], "").await;
        watches.push(Lines { body: response.into_body(), buffer: Vec::new() });
    }
    for (pod, node) in [("p", "n1"), ("q", "n2")] {
        let binding = json!({"target": {"name": node}});
        cluster.post(&format!("{PODS}/{pod}/binding"), &binding).await.expect(201);
    }
    let status = json!({"status": {"phase": "Running"}});
    cluster.merge(&format!("{PODS}/p/status"), &status).await.expect(200);
    let now = json!({"gracePeriodSeconds": 0});
    for pod in ["p", "q"] {
        cluster.delete(&format!("{PODS}/{pod}"), &now).await.expect(200);
    }
    for lines in &mut watches {
        shorts.push(lines.shorts(3).await);
    }
    assert_eq!(watches[0].short().await, "end");
    assert_eq!(shorts, ["ADDED p, MODIFIED p, DELETED p", "ADDED q, DELETED q, end"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_says_from_where_and_whether_state_comes_first() {
    let cluster = Cluster::new().await;
    let first = version(&cluster.config_map("a", json!({})).await);
    let matched = "resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let mut lines = Lines::open(&cluster, &format!("sendInitialEvents=false&{matched}")).await;
    assert_eq!(lines.short().await, "end");
    let query = format!("sendInitialEvents=true&{matched}&resourceVersion={first}");
    assert_eq!(Lines::open(&cluster, &query).await.shorts(2).await, "ADDED a, end");
    let path = format!("{MAPS}?watch=1&sendInitialEvents=true&{matched}&resourceVersion=1000");
    cluster.get(&path).await.failure(504);
    cluster.get(&format!("{MAPS}?watch=1&resourceVersion=x")).await.failure(400);
    cluster.get(&format!("{MAPS}?watch=1&resourceVersion=1000")).await.failure(504);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_have_the_form_that_was_asked_for() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&\
                 allowWatchBookmarks=true&timeoutSeconds=1";
    let bookmark = async |form: &str| {
        let accept = format!("application/json;as={form};g=meta.k8s.io");
        let path = format!("{MAPS}?{query}");
        let answer = cluster.send("GET", &path, &[("accept", &accept)], "").await;
        let line = answer.text().lines().nth(1).unwrap().to_string();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        event["object"].clone()
    };
    let end = json!({"resourceVersion": cluster.store.revision().to_string(),
        "annotations": {"k8s.io/initial-events-end": "true"}});
    for version in ["v1", "v1beta1"] {
        let meta = bookmark(&format!("PartialObjectMetadata;v={version}")).await;
        assert_eq!(meta["apiVersion"], format!("meta.k8s.io/{version}"));
        assert_eq!((&meta["kind"], &meta["metadata"]), (&json!("PartialObjectMetadata"), &end));
    }
    let table = bookmark("Table;v=v1").await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["object"]["metadata"], end);
}

#[tokio::test(start_paused = true)]
async fn deprecated_paths_watch() {
    let cluster = Cluster::new().await;
    for name in ["a", "b"] {
        cluster.config_map(name, json!({})).await;
    }
    let watch = async |path: &str| {
        let answer = cluster.get(&format!("/api/v1/watch/{path}?timeoutSeconds=1")).await;
        assert_eq!(answer.code, 200);
        answer.text().lines().filter(|line| line.contains("\"kind\":\"ConfigMap\"")).count()
    };
    assert_eq!(watch("configmaps").await, 2);
    assert_eq!(watch("namespaces/default/configmaps").await, 2);
    assert_eq!(watch("namespaces/default/configmaps/b").await, 1);
    cluster.post("/api/v1/watch/namespaces/default/configmaps", &json!({})).await.failure(405);
    assert_eq!(cluster.get("/api/v1/watch/nothing").await.code, 404);
}

/// Who does not read is ended, and costs others nothing.
#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_cut_off_alone() {
    use wasmfleet::store::hub::HubOptions;
    use wasmfleet::store::memory;
    const BACKLOG: usize = 20;
    let hub = HubOptions { backlog_events: BACKLOG, ..HubOptions::default() };
    let store = MemoryStore::new(memory::Options { hub, ..memory::Options::default() });
    let cluster = Cluster::with(store, Options::default()).await;
    let from = cluster.store.revision();
    let query = format!("resourceVersion={from}&timeoutSeconds=60");
    let mut slow = Lines::open(&cluster, &query).await;
    let mut quick = Lines::open(&cluster, &query).await;
    for n in 0..3 * BACKLOG {
        cluster.config_map(&format!("n{n}"), json!({})).await;
        assert_eq!(quick.short().await, format!("ADDED n{n}"));
    }
    // It begins again from what it has seen, which is all in the history.
    assert_eq!(slow.short().await, "end");
    let mut again = Lines::open(&cluster, &query).await;
    for n in 0..3 * BACKLOG {
        assert_eq!(again.short().await, format!("ADDED n{n}"));
    }
}
