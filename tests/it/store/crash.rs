//! kill -9, for real: this program starts itself as a writer, kills it at some moment, sometimes
//! kills the next one while it recovers, and then looks at what the store holds.
//!
//! Each client of the writer owns its keys and has one commit under way at most. It says what it
//! is about to commit, and the revision once that was acknowledged. So after the kill a client's
//! keys must hold exactly its acknowledged commits, or those and the last one it was about to make:
//! anything else is a lost or a half visible commit.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wasmfleet::store::hub::HubOptions;
use wasmfleet::store::redb::{Options, RedbStore};
use wasmfleet::store::{Expect, Key, Op, ReadError, Store, Value};

const CHILD: &str = "WASMFLEET_CRASH_CHILD";
/// What the child does once the store is open: write, or nothing.
const WRITE: &str = "write";
const RECOVER: &str = "recover";
const SEEDS: &str = "WASMFLEET_CRASH_SEEDS";
const DEFAULT_SEEDS: u64 = 20;
const ROUNDS: u64 = 2;
const CLIENTS: usize = 6;
const KEYS: usize = 8;
/// The writer ends by itself if nobody kills it.
const MOST_COMMITS: usize = 20_000;
/// The latest moment to kill a process that recovers: about as long as start and recovery take.
const RECOVERY: Duration = Duration::from_millis(60);

/// Odd seeds checkpoint all the time, even ones never.
fn options(seed: u64) -> Options {
    if seed.is_multiple_of(2) {
        return Options::default();
    }
    let hub = HubOptions { ring_events: 50, ..HubOptions::default() };
    Options { hub, checkpoint_revisions: 20, ..Options::default() }
}

/// What a commit does to a client's keys: the number of each key with its new content.
type Changes = BTreeMap<usize, Option<u64>>;

/// A value: the revision (spliced in), the content, and padding of a size that depends on it.
fn value(content: u64) -> Value {
    let padding = "x".repeat((content % 1500) as usize);
    Value { bytes: format!(" {content} {padding}").into(), splice_at: Some(0) }
}

fn parse_value(bytes: &[u8]) -> (u64, u64) {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut words = text.split(' ');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (revision, content) = (number(), number());
    let whole = value(content).at(revision);
    assert_eq!(bytes, &whole[..], "a value is whole");
    (revision, content)
}

fn key(client: usize, number: usize) -> Key {
    Key::new(&["crash", &client.to_string(), &number.to_string()])
}

fn say(line: &str) {
    // One write, so that lines of clients do not mix.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn format_changes(changes: &Changes) -> String {
    let change = |(number, content): (&usize, &Option<u64>)| match content {
        Some(content) => format!("{number}={content}"),
        None => format!("{number}-"),
    };
    changes.iter().map(change).collect::<Vec<_>>().join(",")
}

fn parse_changes(text: &str) -> Changes {
    let change = |part: &str| match part.split_once('=') {
        Some((number, content)) => (number.parse().unwrap(), Some(content.parse().unwrap())),
        None => (part.trim_end_matches('-').parse().unwrap(), None),
    };
    text.split(',').map(change).collect()
}

/// The writer's part of the program; no test of its own.
#[tokio::test]
async fn writer() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let mut words = task.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let (seed, part, path) = (word().parse().unwrap(), word(), word());
    let store = RedbStore::open(path, options(seed)).unwrap();
    say(&format!("open {}", store.revision()));
    if part == WRITE {
        futures::future::join_all((0..CLIENTS).map(|number| client(&store, number, seed))).await;
    } else {
        // Is killed long before.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

async fn client(store: &RedbStore, client: usize, seed: u64) {
    let salt = store.revision() * 1000 + client as u64;
    let mut random = StdRng::seed_from_u64(seed * 1_000_003 + salt);
    for _ in 0..MOST_COMMITS {
        let mut changes = Changes::new();
        let mut ops = Vec::new();
        for _ in 0..random.random_range(1..=3) {
            let number = random.random_range(0..KEYS);
            let key = key(client, number);
            let present = store.get(&key).unwrap();
            let delete = present.is_some() && random.random_bool(0.3);
            let expect = present.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
            if changes.contains_key(&number) {
                continue;
            }
            if delete {
                changes.insert(number, None);
                ops.push(Op::Delete { key, expect, last: Some(value(0)) });
            } else {
                let content = random.random_range(1..1_000_000_000);
                changes.insert(number, Some(content));
                ops.push(Op::Put { key, value: value(content), expect });
            }
        }
        say(&format!("try {client} {}", format_changes(&changes)));
        let revision = store.commit(ops).await.unwrap().revision;
        say(&format!("ack {client} {revision}"));
    }
}

fn start(seed: u64, part: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::crash::writer", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{seed} {part} {}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a client's keys must hold.
#[derive(Clone, Default)]
struct Client {
    /// The content of each key, with the revision where it is known.
    keys: BTreeMap<usize, (Option<u64>, u64)>,
    /// The commit that was under way.
    trying: Option<Changes>,
}

impl Client {
    fn after(&self, changes: &Changes, revision: Option<u64>) -> Client {
        let mut keys = self.keys.clone();
        for (number, content) in changes {
            match content {
                Some(content) => keys.insert(*number, (revision, *content)),
                None => keys.remove(number),
            };
        }
        Client { keys, trying: None }
    }

    fn holds(&self, found: &BTreeMap<usize, (u64, u64)>) -> bool {
        self.keys.len() == found.len()
            && self.keys.iter().zip(found).all(|(mine, theirs)| {
                let (number, (revision, content)) = mine;
                number == theirs.0
                    && *content == theirs.1.1
                    && revision.is_none_or(|revision| revision == theirs.1.0)
            })
    }
}

/// What is known of the whole store.
#[derive(Default)]
struct Model {
    clients: [Client; CLIENTS],
    /// The newest revision that was acknowledged or read.
    revision: u64,
    /// Which keys each acknowledged revision changed.
    acknowledged: BTreeMap<u64, (usize, Vec<usize>)>,
}

impl Model {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["open", revision] => self.reached(revision.parse().unwrap()),
            ["try", client, changes] => {
                self.clients[client.parse::<usize>().unwrap()].trying =
                    Some(parse_changes(changes));
            }
            ["ack", client, revision] => {
                let (number, revision) = (client.parse().unwrap(), revision.parse().unwrap());
                let client: &mut Client = &mut self.clients[number];
                let changes = client.trying.take().expect("an answer to a commit");
                *client = client.after(&changes, Some(revision));
                let keys = changes.into_keys().collect();
                let twice = self.acknowledged.insert(revision, (number, keys));
                assert!(twice.is_none(), "revision {revision} was given twice");
                self.revision = self.revision.max(revision);
            }
            _ => panic!("the writer said {line:?}"),
        }
    }

    fn reached(&mut self, revision: u64) {
        assert!(revision >= self.revision, "{revision} is before {}", self.revision);
        self.revision = revision;
    }

    /// Lets a writer work until `acks` commits were acknowledged, and kills it.
    fn write_and_kill(&mut self, seed: u64, path: &Path, acks: usize) {
        let mut child = start(seed, WRITE, path);
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut heard = 0;
        loop {
            let mut line = String::new();
            let more = lines.read_line(&mut line).unwrap() > 0;
            if more && let Some(line) = line.strip_prefix('@').and_then(|l| l.strip_suffix('\n')) {
                self.hear(line);
                heard += usize::from(line.starts_with("ack"));
            }
            if !more {
                break;
            }
            if heard == acks && line.starts_with('@') {
                // It goes on while we do this; what it still says is heard until the pipe ends.
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "the writer was killed");
        assert!(heard >= acks, "the writer ended by itself after {heard} commits");
    }

    /// Opens what is left, compares, and takes over what commits under way turned out to be.
    async fn verify(&mut self, seed: u64, path: &Path) {
        let store = RedbStore::open(path, options(seed)).unwrap();
        self.reached(store.revision());
        for (number, client) in self.clients.iter_mut().enumerate() {
            let prefix = Key::new(&["crash", &number.to_string()]);
            let mut found = BTreeMap::new();
            for entry in store.list(&prefix, None, 0, None).unwrap().entries {
                let (revision, content) = parse_value(&entry.value);
                assert_eq!(revision, entry.revision);
                let key: usize = entry.key.parts().unwrap()[2].parse().unwrap();
                found.insert(key, (revision, content));
            }
            let trying = client.trying.take().map(|changes| client.after(&changes, None));
            *client = match trying {
                Some(more) if more.holds(&found) => more,
                _ => client.clone(),
            };
            let expected = &client.keys;
            assert!(client.holds(&found), "client {number}: {found:?} is not {expected:?}");
        }
        self.verify_history(&store).await;
        store.close().await;
    }

    /// The history that is kept has every revision, and each acknowledged one as it was.
    async fn verify_history(&self, store: &RedbStore) {
        let from = match store.list(&Key::everything(), None, 1, Some(0)) {
            Err(ReadError::Compacted { oldest, .. }) => oldest,
            other => other.map(|page| page.revision).unwrap(),
        };
        if from == store.revision() {
            return;
        }
        let mut changed: BTreeMap<u64, (usize, Vec<usize>)> = BTreeMap::new();
        let mut watch = store.watch(&Key::everything(), from).unwrap();
        for event in watch.next().await.unwrap() {
            let parts = event.key.parts().unwrap();
            let (client, key) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
            changed.entry(event.revision).or_insert((client, Vec::new())).1.push(key);
        }
        for (revision, (_, keys)) in &mut changed {
            keys.sort_unstable();
            assert!(*revision > from);
        }
        let revisions: Vec<u64> = changed.keys().copied().collect();
        assert_eq!(revisions, (from + 1..=store.revision()).collect::<Vec<_>>());
        for (revision, keys) in self.acknowledged.range(from + 1..) {
            assert_eq!(&changed[revision], keys, "revision {revision}");
        }
    }
}

/// Starts a process that only opens the store, and kills it at a random moment of that.
fn kill_while_opening(seed: u64, path: &Path, random: &mut StdRng) {
    let mut child = start(seed, RECOVER, path);
    std::thread::sleep(RECOVERY.mul_f64(random.random()));
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn crash(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    if random.random_bool(0.3) {
        kill_while_opening(seed, &path, &mut random);
    }
    for _ in 0..ROUNDS {
        let acks = random.random_range(1..150);
        model.write_and_kill(seed, &path, acks);
        while random.random_bool(0.4) {
            kill_while_opening(seed, &path, &mut random);
        }
        model.verify(seed, &path).await;
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let seeds = std::env::var(SEEDS).map_or(DEFAULT_SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        println!("seed {seed}");
        crash(seed).await;
    }
}
