//! Logs through the node's door.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use wasmfleet::runtime::LogStream;
use wasmfleet::runtime::fake::{FakeEnd, Script};

use super::harness::Rig;

async fn read(rig: &Rig, query: &str) -> Result<String, String> {
    let mut stream = rig.node.read_log("default", "a", "web", query).map_err(|e| e.message)?;
    let mut text = Vec::new();
    while let Some(piece) = stream.next().await {
        text.extend_from_slice(&piece.unwrap());
    }
    Ok(String::from_utf8(text).unwrap())
}

#[tokio::test(start_paused = true)]
async fn logs_are_read_followed_and_kept_over_a_restart() {
    let rig = Rig::start().await;
    let mut script = Script::runs();
    script.logs = "one\ntwo\nthr".into();
    rig.runtime.script_default(script);
    rig.create("a", json!({"containers": [{"name": "web", "image": "hello"}]})).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    assert_eq!(read(&rig, "").await.unwrap(), "one\ntwo\n");
    assert_eq!(read(&rig, "tailLines=1").await.unwrap(), "two\n");
    assert_eq!(read(&rig, "limitBytes=5").await.unwrap(), "one\nt");
    assert_eq!(
        read(&rig, "timestamps=true&tailLines=1").await.unwrap(),
        "2026-01-01T00:00:00.000000000Z two\n".replace(
            "00.000000000",
            read(&rig, "timestamps=true&tailLines=1").await.unwrap()[17..29].as_ref()
        )
    );
    assert!(read(&rig, "sinceTime=2027-01-01T00:00:00Z").await.unwrap().is_empty());
    let error = read(&rig, "previous=true").await.unwrap_err();
    assert_eq!(error, "previous terminated container \"web\" in pod \"a\" not found");

    let mut follow = rig.node.read_log("default", "a", "web", "follow=true&tailLines=1").unwrap();
    assert_eq!(follow.next().await.unwrap().unwrap(), "two\n");
    let running = rig.running();
    running.logs.write(LogStream::Stderr, b"ee\nfour\n");
    running.logs.write(LogStream::Stdout, b"ee\n");
    let mut rest = Vec::new();
    while !rest.ends_with(b"three\n") {
        rest.extend_from_slice(&follow.next().await.unwrap().unwrap());
    }
    assert_eq!(String::from_utf8(rest).unwrap(), "ee\nfour\nthree\n");
    rig.runtime.finish(&running.id, FakeEnd::Exit(1));
    assert!(follow.next().await.is_none(), "the end of the container ends the stream");
    rig.pod_is("a", "Running ready web:running/1").await;
    assert_eq!(read(&rig, "").await.unwrap(), "one\ntwo\n");
    let previous = read(&rig, "previous=true").await.unwrap();
    assert_eq!(previous, "one\ntwo\nee\nfour\nthree\n");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_said() {
    let rig = Rig::start().await;
    let error = rig.node.read_log("default", "a", "web", "").err().unwrap();
    assert_eq!((error.code, error.message.as_str()), (404, "pods \"a\" not found"));
    let mut script = Script::runs();
    script.prepare_takes = Duration::from_secs(60);
    rig.runtime.script_default(script);
    rig.create("a", json!({"containers": [{"name": "web", "image": "hello"}]})).await;
    rig.pod_is("a", "Pending unready web:ContainerCreating/0").await;
    let error = rig.node.read_log("default", "a", "web", "").err().unwrap();
    let text = "container \"web\" in pod \"a\" is waiting to start: ContainerCreating";
    assert_eq!((error.code, error.message.as_str()), (400, text));
    let error = rig.node.read_log("default", "a", "other", "").err().unwrap();
    assert_eq!(error.message, "container other is not valid for pod a");
    let error = rig.node.read_log("default", "a", "web", "tailLines=x").err().unwrap();
    assert_eq!(error.code, 400);
}
