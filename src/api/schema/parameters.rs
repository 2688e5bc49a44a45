//! The query parameters of operations. Descriptions are short: kubectl shows none of them.

use serde_json::{Value, json};

type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. Valid values are: All.",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "A name associated with the actor or entity that is making these changes, at most 128 \
     printable characters.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do with unknown or duplicate fields. Valid values are: Ignore, Warn, Strict.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Take over fields owned by other managers. Only for apply patch requests.",
);
const GRACE_PERIOD: Parameter = (
    "gracePeriodSeconds",
    "integer",
    "The duration in seconds before the object should be deleted. Zero means delete immediately.",
);
const ORPHAN_DEPENDENTS: Parameter = (
    "orphanDependents",
    "boolean",
    "Deprecated: use propagationPolicy. Should the dependent objects be orphaned.",
);
const PROPAGATION_POLICY: Parameter = (
    "propagationPolicy",
    "string",
    "Whether and how garbage collection will be performed: Orphan, Background or Foreground.",
);
const RESOURCE_VERSION: Parameter =
    ("resourceVersion", "string", "Which resource versions a request may be served from.");
const RESOURCE_VERSION_MATCH: Parameter = (
    "resourceVersionMatch",
    "string",
    "How resourceVersion is applied to list calls: Exact or NotOlderThan.",
);
const LABEL_SELECTOR: Parameter = (
    "labelSelector",
    "string",
    "Restricts the returned objects by their labels. Defaults to everything.",
);
const FIELD_SELECTOR: Parameter = (
    "fieldSelector",
    "string",
    "Restricts the returned objects by their fields. Defaults to everything.",
);
const LIMIT: Parameter =
    ("limit", "integer", "The maximum number of objects to return in one answer.");
const CONTINUE: Parameter =
    ("continue", "string", "The token of an earlier answer, to get the objects after it.");
const TIMEOUT: Parameter =
    ("timeoutSeconds", "integer", "The duration after which a list or watch ends.");
const SEND_INITIAL_EVENTS: Parameter = (
    "sendInitialEvents",
    "boolean",
    "Begin a watch with the present objects and a bookmark after them.",
);
const WATCH: Parameter =
    ("watch", "boolean", "Watch for changes and return them as a stream of events.");
const ALLOW_WATCH_BOOKMARKS: Parameter =
    ("allowWatchBookmarks", "boolean", "Ask for events of type BOOKMARK.");

/// Parameters of the operation with this `x-kubernetes-action`.
pub(super) fn of_action(action: &str) -> Vec<Value> {
    let list: &[Parameter] = match action {
        "list" => &[
            PRETTY,
            ALLOW_WATCH_BOOKMARKS,
            CONTINUE,
            FIELD_SELECTOR,
            LABEL_SELECTOR,
            LIMIT,
            RESOURCE_VERSION,
            RESOURCE_VERSION_MATCH,
            SEND_INITIAL_EVENTS,
            TIMEOUT,
            WATCH,
        ],
        "post" | "put" => &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION],
        "patch" => &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE],
        "delete" => &[PRETTY, DRY_RUN, GRACE_PERIOD, ORPHAN_DEPENDENTS, PROPAGATION_POLICY],
        "deletecollection" => &[
            PRETTY,
            CONTINUE,
            DRY_RUN,
            FIELD_SELECTOR,
            GRACE_PERIOD,
            LABEL_SELECTOR,
            LIMIT,
            ORPHAN_DEPENDENTS,
            PROPAGATION_POLICY,
            RESOURCE_VERSION,
            RESOURCE_VERSION_MATCH,
            SEND_INITIAL_EVENTS,
            TIMEOUT,
        ],
        _ => &[PRETTY],
    };
    list.iter().map(query).collect()
}

fn query((name, kind, description): &Parameter) -> Value {
    json!({
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": kind, "uniqueItems": true},
    })
}

/// A parameter that is a segment of the path.
pub(super) fn path(name: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": description,
        "schema": {"type": "string", "uniqueItems": true},
    })
}
