//! An object's events as a table.

use jiff::Timestamp;
use serde_json::Value;

use super::super::discovery::text;
use super::super::printer;
use super::super::session::Session;
use crate::client::remote::Query;

pub async fn lines(session: &Session, object: &Value) -> anyhow::Result<Vec<String>> {
    let mut query = Query::default();
    let name = text(object, "/metadata/name");
    let fields =
        format!("involvedObject.kind={},involvedObject.name={name}", text(object, "/kind"));
    query.add("fieldSelector", &fields);
    // Events of objects without a namespace are in `default`.
    let place = match text(object, "/metadata/namespace") {
        "" => "default",
        own => own,
    };
    let path = query.on(&format!("/api/v1/namespaces/{place}/events"));
    let list = session.get_json(&path).await?;
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
    // Not those of an earlier object of the name. Some writers put a node's name for its uid.
    let uid = text(object, "/metadata/uid");
    // A mirror's are those of its static pod.
    let mirrors = text(object, "/metadata/annotations/kubernetes.io~1config.mirror");
    let own = |event: &&Value| {
        let of = text(event, "/involvedObject/uid");
        of.is_empty() || of == uid || of == name || (!mirrors.is_empty() && of == mirrors)
    };
    Ok(table(items.filter(own).collect(), Timestamp::now()))
}

fn table(mut events: Vec<&Value>, now: Timestamp) -> Vec<String> {
    if events.is_empty() {
        return vec!["Events:  <none>".into()];
    }
    events.sort_by_key(|event| last(event).to_string());
    let head = |words: [&str; 5]| words.map(str::to_string).to_vec();
    let mut rows = vec![
        head(["  Type", "Reason", "Age", "From", "Message"]),
        head(["  ----", "------", "---", "----", "-------"]),
    ];
    rows.extend(events.into_iter().map(|event| row(event, now)));
    let mut lines = vec!["Events:".to_string()];
    lines.extend(printer::aligned(&rows));
    lines
}

/// Events of the newer form have no last time.
fn last(event: &Value) -> &str {
    ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/metadata/creationTimestamp"]
        .into_iter()
        .map(|path| text(event, path))
        .find(|time| !time.is_empty())
        .unwrap_or_default()
}

fn row(event: &Value, now: Timestamp) -> Vec<String> {
    let age = |time: &str| match time.parse::<Timestamp>() {
        Ok(time) => crate::api::duration::human(now.duration_since(time).as_secs()),
        Err(_) => "<unknown>".into(),
    };
    let count = event.get("count").and_then(Value::as_i64).unwrap_or(1);
    let mut when = age(last(event));
    if count > 1 {
        when = format!("{when} (x{count} over {})", age(text(event, "/firstTimestamp")));
    }
    let from = match text(event, "/source/component") {
        "" => text(event, "/reportingComponent"),
        component => component,
    };
    vec![
        format!("  {}", text(event, "/type")),
        text(event, "/reason").into(),
        when,
        from.into(),
        text(event, "/message").trim_end().replace('\n', " "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeated_events_tell_how_often() {
        let event = json!({"type": "Warning", "reason": "BackOff", "message": "again\n",
            "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": "2026-01-01T00:01:00Z", "source": {"component": "kubelet"}});
        assert_eq!(
            table(vec![&event], "2026-01-01T00:01:05Z".parse().unwrap()),
            [
                "Events:",
                "  Type      Reason    Age                From      Message",
                "  ----      ------    ---                ----      -------",
                "  Warning   BackOff   5s (x3 over 65s)   kubelet   again",
            ]
        );
        assert_eq!(table(vec![], Timestamp::UNIX_EPOCH), ["Events:  <none>"]);
    }
}
