//! The house rules that a machine can hold: who imports whom, what stays out of which room, and
//! the sizes of files. ARCHITECTURE.md tells why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Room → the rooms that it may import.
const EDGES: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("api", &[]),
    ("store", &["base"]),
    ("client", &["api", "base"]),
    ("artifact", &[]),
    ("engine", &["artifact", "base"]),
    ("runtime", &["engine", "artifact", "base"]),
    ("images", &["artifact", "client", "api", "base"]),
    ("volumes", &["client", "api", "base"]),
    ("apiserver", &["store", "engine", "artifact", "images", "client", "api", "base"]),
    ("controllers", &["client", "api", "base"]),
    ("scheduler", &["client", "api", "base"]),
    ("proxy", &["client", "api", "base"]),
    ("node", &["runtime", "images", "volumes", "client", "api", "base"]),
    ("cli", &["artifact", "images", "client", "api", "base"]),
    (
        "daemon",
        &[
            "apiserver",
            "store",
            "engine",
            "artifact",
            "images",
            "controllers",
            "scheduler",
            "proxy",
            "node",
            "runtime",
            "volumes",
            "client",
            "api",
            "base",
        ],
    ),
];

/// Text that may stand only in these rooms, and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("wasmtime", &["engine", "runtime"], "the engine is behind the runtime's trait"),
    ("Timestamp::now", &["base", "daemon", "cli"], "the time comes from a Clock"),
    ("SystemTime::now", &["base", "daemon", "cli"], "the time comes from a Clock"),
    ("env::var", &["daemon", "cli"], "settings come as options"),
    ("println!", &["daemon", "cli"], "only programs print"),
];

/// Text that a room must not have at all.
const NEVER_IN: &[(&str, &[&str])] = &[("api", &["tokio", "std::fs", "std::net::Tcp"])];

const MAX_LINES: usize = 800;
const MAX_WIDTH: usize = 120;

struct Source {
    path: PathBuf,
    room: String,
    /// Without comments and without the unit tests at the end of the file.
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.into_iter().map(|path| source(&root, path)).collect()
}

fn source(root: &Path, path: PathBuf) -> Source {
    let text = std::fs::read_to_string(&path).unwrap();
    let inside = path.strip_prefix(root).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    let room = first.trim_end_matches(".rs").to_string();
    let product = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = product.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    Source { path, room, code, text }
}

/// The rooms that `crate::ROOM` names.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |rest: &str| -> String {
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut rooms: BTreeSet<String> = code.split("crate::").skip(1).map(word).collect();
    // `use crate::{a::…, b::…}` names several at once.
    for block in code.split("crate::{").skip(1) {
        let block = block.split(';').next().unwrap_or_default();
        rooms.extend(block.split([',', '{', '}']).map(|part| word(part.trim())));
    }
    rooms.remove("");
    rooms
}

#[test]
fn rooms_import_only_what_they_may() {
    let edges: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(allowed) = edges.get(source.room.as_str()) else { continue };
        for room in imports(&source.code) {
            let known = edges.contains_key(room.as_str());
            if known && room != source.room && !allowed.contains(&room.as_str()) {
                wrong.push(format!("{} imports {room}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that ARCHITECTURE.md does not have:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_table() {
    let rooms: BTreeSet<String> = sources().into_iter().map(|source| source.room).collect();
    let known = EDGES.iter().map(|(room, _)| room.to_string());
    let known: BTreeSet<String> = known.chain(["bin".into(), "lib".into()]).collect();
    assert_eq!(rooms, known);
}

#[test]
fn words_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (word, rooms, why) in ONLY_IN {
            let name = if *word == "wasmtime" { "wasmtime::" } else { word };
            if source.code.contains(name) && !rooms.contains(&source.room.as_str()) {
                wrong.push(format!("{}: {word} ({why})", source.path.display()));
            }
        }
        for (room, words) in NEVER_IN {
            for word in
                words.iter().filter(|word| source.room == *room && source.code.contains(**word))
            {
                wrong.push(format!("{}: {word} is not for the room {room}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_have_a_doc_and_a_size() {
    let mut wrong = Vec::new();
    for source in sources() {
        let path = source.path.display();
        if !source.text.starts_with("//!") {
            wrong.push(format!("{path}: begins without a module doc"));
        }
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{path}: {lines} lines, at most {MAX_LINES}"));
        }
        for (n, line) in source.text.lines().enumerate() {
            if line.chars().count() > MAX_WIDTH {
                wrong.push(format!("{path}:{}: wider than {MAX_WIDTH}", n + 1));
            }
        }
        for word in ["todo!(", "unimplemented!(", "dbg!("] {
            if source.code.contains(word) {
                wrong.push(format!("{path}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
