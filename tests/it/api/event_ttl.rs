//! Events, of both groups, live for their time.

use super::*;

#[tokio::test(start_paused = true)]
async fn events_expire_and_history_is_compacted() {
    let cluster = Cluster::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"},
        "reason": "Tested", "message": "m", "type": "Normal"});
    let path = "/api/v1/namespaces/default/events";
    cluster.post(path, &event).await.expect(201);
    let at = |minutes: i64| -> jiff::Timestamp {
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::from_mins(minutes)
    };
    let old = cluster.store.revision();
    for minute in 0..10 {
        cluster.config_map(&format!("x{minute}"), json!({})).await;
        cluster.server.housekeep(at(minute)).await.unwrap();
    }
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={old}");
    cluster.get(&exact).await.failure(410);
    let recent = cluster.store.revision() - 3;
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={recent}");
    cluster.get(&exact).await.expect(200);
    cluster.get(&format!("{path}/e")).await.expect(200);
    cluster.server.housekeep(at(61)).await.unwrap();
    cluster.get(&format!("{path}/e")).await.failure(404);
}

/// They are the same objects: what is made or written in either group goes from both, in time.
#[tokio::test(start_paused = true)]
async fn events_of_both_groups_live_for_their_time() {
    let event_ttl = std::time::Duration::from_secs(600);
    let options = Options { event_ttl, ..Options::default() };
    let cluster = Cluster::with(MemoryStore::default(), options).await;
    let paths = ["/api/v1", "/apis/events.k8s.io/v1"]
        .map(|prefix| format!("{prefix}/namespaces/default/events"));
    let core = |name: &str| {
        json!({"metadata": {"name": name}, "type": "Normal",
        "involvedObject": {"namespace": "default"}, "reason": "Tested"})
    };
    let newer = |name: &str, time: &str| {
        json!({"metadata": {"name": name}, "type": "Normal",
        "regarding": {"namespace": "default"}, "reason": "Tested", "action": "Testing",
        "reportingController": "example.com/tests", "reportingInstance": "one",
        "eventTime": time})
    };
    let at = |minutes: i64| -> jiff::Timestamp {
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::from_mins(minutes)
    };
    let early = "2026-01-01T00:00:00.000000Z";
    cluster.post(&paths[0], &core("core")).await.expect(201);
    cluster.post(&paths[1], &newer("newer", early)).await.expect(201);
    cluster.post(&paths[1], &newer("series", early)).await.expect(201);
    cluster.post(&paths[0], &core("written")).await.expect(201);
    let there = async || {
        let [core, newer] = [&paths[0], &paths[1]].map(|path| cluster.get(path));
        let (core, newer) = (core.await.expect(200), newer.await.expect(200));
        assert_eq!(names(&core), names(&newer));
        names(&core).into_iter().map(String::from).collect::<Vec<String>>()
    };
    for minute in 0..10 {
        if minute == 5 {
            let series = json!({"series": {"count": 2,
                "lastObservedTime": "2026-01-01T00:07:00.000000Z"}});
            cluster.merge(&format!("{}/series", paths[1]), &series).await.expect(200);
            let note = json!({"message": "written again"});
            cluster.merge(&format!("{}/written", paths[0]), &note).await.expect(200);
        }
        cluster.server.housekeep(at(minute)).await.unwrap();
        assert_eq!(there().await, ["core", "newer", "series", "written"], "minute {minute}");
    }
    cluster.server.housekeep(at(10)).await.unwrap();
    assert_eq!(there().await, ["series", "written"]);
    for minute in 11..17 {
        cluster.server.housekeep(at(minute)).await.unwrap();
    }
    let left = there().await;
    assert_eq!(left, ["series"]);
    cluster.server.housekeep(at(17)).await.unwrap();
    assert_eq!(there().await, [""; 0]);
}

/// More Events than one look reads are all gone after one round; a watch sees it as it sees every
/// deletion.
#[tokio::test(start_paused = true)]
async fn all_events_that_are_due_expire_in_one_round() {
    use wasmfleet::store::{Expect, Key, Op, Value as StoreValue};
    const COUNT: usize = 6000;
    let cluster = Cluster::new().await;
    let put = |index: usize| {
        let name = format!("e{index:05}");
        let text = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": name,
            "namespace": "default", "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let key = Key::new(&["", "events", "default", &name]);
        Op::Put { key, value: StoreValue::plain(text.to_string()), expect: Expect::Absent }
    };
    cluster.store.commit((0..COUNT).map(put).collect()).await.unwrap();
    let last = cluster.store.revision();
    let hour = "2026-01-01T01:00:00Z".parse().unwrap();
    cluster.server.housekeep(hour).await.unwrap();
    let path = "/api/v1/namespaces/default/events";
    assert_eq!(names(&cluster.get(path).await.expect(200)), [""; 0]);
    let watch = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={last}");
    let mut revisions = Vec::new();
    for line in cluster.get(&watch).await.text().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["type"], "DELETED");
        revisions.push(version(&event["object"]));
    }
    assert_eq!(revisions.len(), COUNT);
    assert!(revisions[0] > last && revisions.is_sorted());
}
