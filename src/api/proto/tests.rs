//! Bodies as Go clients send them, and bodies that nobody should.

use serde_json::json;

use super::*;

/// Builds wire bytes by hand, as a Go client would.
fn bytes_field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![(number << 3 | 2) as u8];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn varint_field(number: u32, value: u8) -> Vec<u8> {
    vec![(number << 3) as u8, value]
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [bytes_field(1, api_version.as_bytes()), bytes_field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes_field(1, &types), bytes_field(2, raw)].concat()
}

#[test]
fn zeros_are_absent_unless_a_pointer_or_required() {
    // Deployment{spec{replicas: 0 (pointer), minReadySeconds: 0 (plain), paused: false}}
    let spec = [varint_field(1, 0), varint_field(5, 0), varint_field(7, 0)].concat();
    let decoded = decode(&body("apps/v1", "Deployment", &bytes_field(2, &spec))).unwrap();
    let expected = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0}});
    assert_eq!(decoded, expected);

    // ConfigMap{metadata{name: "a", generateName: "", creationTimestamp: {}}}
    let metadata = [bytes_field(1, b"a"), bytes_field(2, b""), bytes_field(8, b"")].concat();
    let decoded = decode(&body("v1", "ConfigMap", &bytes_field(1, &metadata))).unwrap();
    let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    assert_eq!(decoded, expected);
}

#[test]
fn empty_messages_are_kept_and_inlined_ones_are_flattened() {
    // Pod{spec{volumes[{name: "v", volumeSource{emptyDir{}}}]}}
    let volume = [bytes_field(1, b"v"), bytes_field(2, &bytes_field(2, b""))].concat();
    let raw = bytes_field(2, &bytes_field(1, &volume));
    let decoded = decode(&body("v1", "Pod", &raw)).unwrap();
    assert_eq!(decoded["spec"], json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
}

#[test]
fn int_or_string_and_maps_decode() {
    // Service{spec{ports[{port: 80, targetPort{type 1, strVal "http"}}], selector{"app": ""}}}
    let target = [varint_field(1, 1), varint_field(2, 0), bytes_field(3, b"http")].concat();
    let port = [varint_field(3, 80), bytes_field(4, &target)].concat();
    let spec = [bytes_field(1, &port), bytes_field(2, &bytes_field(1, b"app"))].concat();
    let decoded = decode(&body("v1", "Service", &bytes_field(2, &spec))).unwrap();
    assert_eq!(
        decoded["spec"],
        json!({"ports": [{"port": 80, "targetPort": "http"}], "selector": {"app": ""}})
    );
}

#[test]
fn bad_bodies_are_errors() {
    let error = |bytes: &[u8]| decode(bytes).unwrap_err();
    assert_eq!(error(b"{}"), ProtoError::Magic);
    assert_eq!(error(b"k8s\0"), ProtoError::NoKind);
    assert_eq!(error(b"k8s\0\x0a\xff"), ProtoError::Truncated);
    assert_eq!(error(&vec![0; MAX_BODY_BYTES + 1]), ProtoError::TooLarge);
    let unknown = error(&body("example.com/v1", "Pod", b""));
    assert_eq!(
        unknown.to_string(),
        "no kind \"Pod\" is registered for version \"example.com/v1\" in protobuf"
    );
    assert_eq!(error(&body("v1", "Pod", &varint_field(1, 1))), ProtoError::WireType("metadata"));
    let not_text = bytes_field(1, &bytes_field(1, b"\xff"));
    assert_eq!(error(&body("v1", "Pod", &not_text)), ProtoError::Utf8("name"));
    let quantity = bytes_field(1, b"1x");
    let limits = [bytes_field(1, b"cpu"), bytes_field(2, &quantity)].concat();
    let raw = bytes_field(2, &bytes_field(1, &limits));
    let text = error(&body("v1", "ResourceQuota", &raw)).to_string();
    assert!(text.contains("quantities must match"), "{text}");
}

#[test]
fn nesting_and_number_of_values_are_bounded() {
    // JSONSchemaProps nests through `not` (field 28, so a two-byte key).
    let mut schema = Vec::new();
    for _ in 0..MAX_DEPTH {
        let mut outer = bytes_field(1, &schema);
        outer.splice(0..1, [0xe2, 0x01]);
        schema = outer;
    }
    let validation = bytes_field(1, &schema);
    let version = bytes_field(4, &validation);
    let spec = bytes_field(7, &version);
    let deep = body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &bytes_field(2, &spec));
    assert_eq!(decode(&deep).unwrap_err(), ProtoError::TooDeep);

    let many = [0x12, 0x00].repeat(MAX_VALUES + 1);
    let many = body("v1", "PodList", &many);
    assert_eq!(decode(&many).unwrap_err(), ProtoError::TooManyValues);
}

proptest::proptest! {
    #[test]
    fn random_bytes_never_panic(raw in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        for kind in ["Pod", "Secret", "Event", "List", "DeleteOptions", "Status"] {
            let _ = decode(&body("v1", kind, &raw));
        }
        let _ = decode(&raw);
        let _ = decode(&[MAGIC.as_slice(), &raw].concat());
    }
}
