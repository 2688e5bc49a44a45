//! Get and list.

use super::*;

#[tokio::test(start_paused = true)]
async fn lists_are_stored_bytes_in_key_order() {
    let cluster = Cluster::new().await;
    let empty = cluster.get(MAPS).await;
    assert!(empty.text().ends_with("\"items\":[]}\n"), "{}", empty.text());
    for name in ["b", "a", "c"] {
        cluster.config_map(name, json!({})).await;
    }
    let answer = cluster.get(MAPS).await;
    let list = answer.expect(200);
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(names(&list), ["a", "b", "c"]);
    assert_eq!(version(&list), cluster.store.revision());
    let one = cluster.get(&format!("{MAPS}/b")).await;
    assert!(answer.text().contains(one.text().trim_end()));
    let all = cluster.get("/api/v1/configmaps").await.expect(200);
    assert_eq!(names(&all), ["a", "b", "c"]);
    assert_eq!(
        names(&cluster.get("/api/v1/namespaces/kube-system/configmaps").await.expect(200)),
        [""; 0]
    );
}

#[tokio::test(start_paused = true)]
async fn pages_come_from_one_revision() {
    let cluster = Cluster::new().await;
    for name in ["a", "b", "c", "d"] {
        cluster.config_map(name, json!({})).await;
    }
    let first = cluster.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let third = cluster.get(&format!("{MAPS}?limit=1&continue={token}")).await.expect(200);
    assert_eq!((names(&third), &third["metadata"]["remainingItemCount"]), (vec!["c"], &json!(1)));
    cluster.config_map("bb", json!({})).await;
    cluster.delete(&format!("{MAPS}/c"), &json!({})).await.expect(200);
    let next = format!("{MAPS}?limit=2&continue={token}");
    let second = cluster.get(&next).await.expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(version(&second), version(&first));
    assert_eq!(second["metadata"].get("continue"), None);
    cluster.get(&format!("{next}&resourceVersion=1")).await.failure(400);
    cluster.get(&format!("{MAPS}?continue=rubbish")).await.failure(400);

    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let expired = cluster.get(&next).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let fresh = expired["metadata"]["continue"].as_str().unwrap();
    let rest = cluster.get(&format!("{MAPS}?continue={fresh}")).await.expect(200);
    assert_eq!(names(&rest), ["bb", "d"]);
    assert_eq!(version(&rest), cluster.store.revision());
}

#[tokio::test(start_paused = true)]
async fn versions_mean_what_the_table_says() {
    let cluster = Cluster::new().await;
    let first = cluster.config_map("a", json!({})).await;
    let old = version(&first);
    cluster.config_map("b", json!({})).await;
    let list = async |query: &str| cluster.get(&format!("{MAPS}?{query}")).await;
    for query in [
        "resourceVersion=0",
        "resourceVersion=0&limit=5",
        "limit=5",
        &format!("resourceVersion={old}"),
        &format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan"),
    ] {
        assert_eq!(names(&list(query).await.expect(200)), ["a", "b"], "{query}");
    }
    for query in [
        format!("resourceVersion={old}&limit=5"),
        format!("resourceVersion={old}&resourceVersionMatch=Exact"),
    ] {
        let exact = list(&query).await.expect(200);
        assert_eq!((names(&exact), version(&exact)), (vec!["a"], old), "{query}");
    }
    let path = "resourceVersionMatch";
    let unless = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
    for (query, field, why) in [
        ("resourceVersionMatch=Exact", path, unless),
        ("resourceVersionMatch=NotOlderThan", path, unless),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            path,
            "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "sendInitialEvents=true",
            "sendInitialEvents",
            "Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Odd",
            path,
            "Unsupported value: \"Odd\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "resourceVersion=1&continue=x&resourceVersionMatch=Exact",
            path,
            "Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
    ] {
        let refused = list(query).await.expect(422);
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {why}");
        assert_eq!(refused["message"], message, "{query}");
        let details = &refused["details"];
        assert_eq!(
            (&details["group"], &details["kind"]),
            (&json!("meta.k8s.io"), &json!("ListOptions"))
        );
        assert_eq!(
            (&details["causes"][0]["field"], &details["causes"][0]["message"]),
            (&json!(field), &json!(why))
        );
    }
    list("resourceVersion=x").await.failure(400);
    let future = list("resourceVersion=1000").await;
    assert!(future.failure(504).starts_with("Too large resource version: 1000, current: "));
    assert_eq!(future.header("retry-after"), "1");
    let details = &future.json()["details"];
    assert_eq!(details["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(details["retryAfterSeconds"], 1);
    for query in ["resourceVersionMatch=Exact", "resourceVersionMatch=NotOlderThan", "limit=1"] {
        list(&format!("resourceVersion=1000&{query}")).await.failure(504);
    }
    cluster.get(&format!("{MAPS}/a?resourceVersion=1000")).await.failure(504);
    cluster.get(&format!("{MAPS}/a?resourceVersion=0")).await.expect(200);
    cluster.get(&format!("{MAPS}/a?resourceVersion={old}")).await.expect(200);
    cluster.get(&format!("{MAPS}/a?resourceVersion=x")).await.failure(400);
    // What is forgotten can be read at no revision any more, but still be no older than.
    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let gone = list(&format!("resourceVersion={old}&resourceVersionMatch=Exact")).await;
    assert_eq!(gone.expect(410)["reason"], "Expired");
    assert_eq!(gone.json()["metadata"], json!({}));
    list(&format!("resourceVersion={old}&limit=1")).await.expect(410);
    assert_eq!(names(&list(&format!("resourceVersion={old}")).await.expect(200)), ["a", "b"]);
    // As upstream: no limit.
    assert_eq!(names(&list("limit=-1").await.expect(200)), ["a", "b"]);
    list("limit=x").await.failure(400);
}

/// Bytes that no encoder would make come out as they were stored: nothing on the way decodes them.
#[tokio::test(start_paused = true)]
async fn reads_send_stored_bytes() {
    use wasmfleet::store::{Expect, Key, Op, Value as StoreValue};
    let cluster = Cluster::new().await;
    let from = cluster.store.revision();
    let odd = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"odd","namespace":"default","labels":{"a":"b"},"resourceVersion":"9"},  "data" : {"z":"1", "a":"\u0041", "a":"twice"},"n":1.50e1 }"#;
    let put = Op::Put {
        key: Key::new(&["", "configmaps", "default", "odd"]),
        value: StoreValue::plain(odd.to_string()),
        expect: Expect::Absent,
    };
    cluster.store.commit(vec![put]).await.unwrap();
    assert_eq!(cluster.get(&format!("{MAPS}/odd")).await.text(), format!("{odd}\n"));
    for query in ["", "limit=1", "labelSelector=a%3Db", "fieldSelector=metadata.name%3Dodd"] {
        let list = cluster.get(&format!("{MAPS}?{query}")).await;
        assert!(list.text().ends_with(&format!("\"items\":[{odd}]}}\n")), "{}", list.text());
    }
    for query in ["", "&labelSelector=a%3Db", &format!("&resourceVersion={from}")] {
        let watch = cluster.get(&format!("{MAPS}?watch=1&timeoutSeconds=1{query}")).await;
        assert_eq!(watch.text(), format!("{{\"type\":\"ADDED\",\"object\":{odd}}}\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_alone_is_of_lists_or_of_objects() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let accept = async |path: &str, form: &str| {
        let form = format!("application/json;as={form};g=meta.k8s.io");
        cluster.send("GET", path, &[("accept", &form)], "").await
    };
    let one = format!("{MAPS}/a");
    for version in ["v1", "v1beta1"] {
        let list =
            accept(MAPS, &format!("PartialObjectMetadataList;v={version}")).await.expect(200);
        let item = json!([&list["apiVersion"], &list["items"][0]["apiVersion"]]);
        let expected = format!("meta.k8s.io/{version}");
        assert_eq!(item, json!([expected, expected]));
        let object = accept(&one, &format!("PartialObjectMetadata;v={version}")).await.expect(200);
        assert_eq!(object["apiVersion"], expected);
        assert_eq!(
            accept(&one, &format!("Table;v={version}")).await.expect(200)["apiVersion"],
            expected
        );
    }
    let refused = accept(MAPS, "PartialObjectMetadata;v=v1").await;
    assert!(refused.failure(406).contains("the requested object is a list"));
    accept(&one, "PartialObjectMetadataList;v=v1").await.failure(406);
    // Only tables have an opinion about it.
    cluster.get(&format!("{MAPS}?includeObject=x")).await.expect(200);
    let table = accept(&format!("{MAPS}?includeObject=x"), "Table;v=v1").await;
    assert!(table.failure(400).starts_with("Unable to convert to Table as requested: "));
}

/// A role for one name is enough to list and watch that name.
#[tokio::test(start_paused = true)]
async fn a_name_that_is_selected_is_authorized() {
    let cluster = Cluster::new().await;
    for name in ["a", "b"] {
        cluster.config_map(name, json!({})).await;
    }
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "verbs": ["*"],
        "resources": ["configmaps"], "resourceNames": ["a"]}]});
    cluster.post(&format!("{roles}/roles"), &role).await.expect(201);
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u"}]});
    cluster.post(&format!("{roles}/rolebindings"), &binding).await.expect(201);
    let user = User::new("u", &[]);
    let ask = async |method: &str, query: &str, body: &str| {
        let path = format!("{MAPS}?{query}");
        Answer::of(cluster.open_as(&user, method, &path, &[], body.to_string()).await).await
    };
    let one = "fieldSelector=metadata.name%3Da";
    assert_eq!(names(&ask("GET", one, "").await.expect(200)), ["a"]);
    assert_eq!(ask("GET", &format!("{one}&watch=1&timeoutSeconds=1"), "").await.code, 200);
    ask("GET", "", "").await.failure(403);
    ask("GET", "fieldSelector=metadata.name%3Db", "").await.failure(403);
    // The name of what is created is in its body alone.
    let other = r#"{"metadata":{"name":"c"}}"#;
    ask("POST", one, other).await.failure(403);
    ask("DELETE", one, "").await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn selectors_filter_pages() {
    let cluster = Cluster::new().await;
    for n in 0..6 {
        cluster.config_map(&format!("x{n}"), json!({"even": (n % 2 == 0).to_string()})).await;
    }
    let even = format!("{MAPS}?labelSelector=even%3Dtrue");
    assert_eq!(names(&cluster.get(&even).await.expect(200)), ["x0", "x2", "x4"]);
    let page = cluster.get(&format!("{even}&limit=2")).await.expect(200);
    assert_eq!(names(&page), ["x0", "x2"]);
    assert_eq!(page["metadata"].get("remainingItemCount"), None);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let page = cluster.get(&format!("{even}&limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&page), ["x4"]);
    let by = async |selector: &str| cluster.get(&format!("{MAPS}?fieldSelector={selector}")).await;
    assert_eq!(names(&by("metadata.name=x3").await.expect(200)), ["x3"]);
    assert_eq!(
        names(&by("metadata.name!=x3,metadata.namespace=default").await.expect(200)).len(),
        5
    );
    assert_eq!(names(&by("metadata.name=none").await.expect(200)), [""; 0]);
    let unknown = by("spec.x=1").await.failure(400);
    assert!(unknown.starts_with("\"spec.x\" is not a known field selector"), "{unknown}");
    cluster.get(&format!("{MAPS}?labelSelector=a%20b%20c")).await.failure(400);
}

#[tokio::test(start_paused = true)]
async fn pods_are_selected_by_node_and_phase() {
    let cluster = Cluster::new().await;
    for name in ["p", "q"] {
        cluster.pod(name).await;
    }
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    let by = async |selector: &str| {
        let path = format!("/api/v1/pods?fieldSelector={selector}");
        names(&cluster.get(&path).await.expect(200)).join(" ")
    };
    assert_eq!(by("spec.nodeName=n1").await, "p");
    assert_eq!(by("spec.nodeName=").await, "q");
    let drain = "spec.nodeName=n1,status.phase!=Succeeded,status.phase!=Failed";
    assert_eq!(by(drain).await, "p");
    assert_eq!(by("status.phase=Running").await, "");
}

#[tokio::test(start_paused = true)]
async fn long_lists_are_read_and_written_in_pieces() {
    use wasmfleet::store::{Expect, Key, Op, Value as StoreValue};
    const COUNT: usize = 2500;
    let cluster = Cluster::new().await;
    let put = |index: usize| {
        let name = format!("n{index:04}");
        let text = json!({"kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": "9"}});
        let key = Key::new(&["", "configmaps", "default", &name]);
        Op::Put { key, value: StoreValue::plain(text.to_string()), expect: Expect::Absent }
    };
    cluster.store.commit((0..COUNT).map(put).collect()).await.unwrap();
    let expected: Vec<String> = (0..COUNT).map(|index| format!("n{index:04}")).collect();
    assert_eq!(names(&cluster.get(MAPS).await.expect(200)), expected);
    let page = cluster.get(&format!("{MAPS}?limit=1700")).await.expect(200);
    assert_eq!(names(&page), expected[..1700]);
    assert_eq!(page["metadata"]["remainingItemCount"], 800);
    for accept in ["application/json;as=Table;v=v1;g=meta.k8s.io", "application/yaml"] {
        let answer = cluster.send("GET", MAPS, &[("accept", accept)], "").await;
        assert_eq!(answer.code, 200);
        assert!(answer.text().contains("n1234") && answer.text().contains("n2499"));
    }
    let watch = cluster.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    assert_eq!(watch.text().lines().filter(|line| line.contains("ADDED")).count(), COUNT);
}
