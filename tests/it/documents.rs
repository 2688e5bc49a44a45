//! Tables in documents that are made from the code. `WASMFLEET_WRITE_DOCUMENTS=1` writes them.

use std::path::Path;

use wasmfleet::api::kinds::POD_SPEC;
use wasmfleet::api::kinds::pod_fields::{Row, Verdict};

const HEAD: &str = "# What becomes of each field of a Pod

For every field of a Pod's `spec`, also in the templates of workloads: **honoured** has the effect that Kubernetes
documents; **nothing to do** has no effect that could be missed, as the last column says; **warned** is stored, and the
answer has a `Warning` header with the text; **refused** is answered with 422, the field's path and the text. A field that
asks for nothing (empty, or the value given after *unless*) is always accepted. The table is made from
`src/api/kinds/pod_field_rows.rs`, and a test holds them equal: `WASMFLEET_WRITE_DOCUMENTS=1 cargo test --test it documents`.

What the table cannot say: a container without `limits.memory` has 256 MiB on each node. Its `command` is the program's
name and first arguments, and never another program: the image is one program, and there is no shell ([guests](guests.md)).
A node takes a pod once it comes, as a kubelet does: one that names its `nodeName` and asks for more than is left there,
for other labels or for a port of the host that is taken fails with the reason (`OutOfcpu`, `NodeAffinity`).

| field of `spec` | | |
|---|---|---|
";

fn rows_of(rows: &[Row], path: &str, lines: &mut String) {
    for row in rows {
        let name = if path.is_empty() { row.field.into() } else { format!("{path}.{}", row.field) };
        let verdict = match row.verdict {
            Verdict::Honoured => "honoured",
            Verdict::Harmless => "nothing to do",
            Verdict::Warned => "warned",
            Verdict::Refused => "refused",
            Verdict::Within(rows) | Verdict::Keys(rows) => {
                rows_of(rows, &name, lines);
                continue;
            }
        };
        let unless = match row.unless {
            [] => String::new(),
            values => format!(", unless `{}`", values.join("`, `")),
        };
        lines.push_str(&format!("| `{name}` | {verdict}{unless} | {} |\n", row.text));
    }
}

#[test]
fn the_table_of_pod_fields_is_the_codes() {
    let mut wanted = HEAD.to_string();
    rows_of(POD_SPEC, "", &mut wanted);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pod-fields.md");
    if std::env::var_os("WASMFLEET_WRITE_DOCUMENTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, &wanted).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/pod-fields.md is old: WASMFLEET_WRITE_DOCUMENTS=1 writes it");
}
