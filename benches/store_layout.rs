//! The store's log-first layout beside plain inserts into one B-tree, on the same disk.
//!
//! Both write 2 KiB JSON-like values under random keys with the same group commit, one redb
//! transaction and one flush for all that wait. Prints one JSON object: writes per second of each
//! with 1 and with 64 clients, and how many `fdatasync` calls per second the disk itself makes
//! after a 4 KiB overwrite. Arguments: the directory to write in (default: the system's temporary
//! one) and the seconds for each figure (default: 3).

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{Database, TableDefinition};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use wasmfleet::store::redb::{Options, RedbStore};
use wasmfleet::store::{Expect, Key, Op, Store, Value};

const VALUE_BYTES: usize = 2048;
const CLIENTS: [usize; 2] = [1, 64];
/// As the store's own: how many writes one transaction takes, how many may wait.
const BATCH: usize = 1024;
const PLAIN: TableDefinition<&[u8], &[u8]> = TableDefinition::new("plain");

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let time = Duration::from_secs_f64(seconds);
    let directory = tempfile::tempdir_in(directory).expect("a directory to write in");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut figures = serde_json::Map::new();
    figures.insert("fdatasync_per_second".to_owned(), json!(fdatasync(directory.path(), time)));
    for clients in CLIENTS {
        let path = directory.path().join(format!("log-{clients}"));
        let log_first = runtime.block_on(log_first(&path, clients, time));
        let path = directory.path().join(format!("plain-{clients}"));
        let plain = runtime.block_on(plain(&path, clients, time));
        figures.insert(
            format!("clients_{clients}"),
            json!({
                "log_first_writes_per_second": log_first.round(),
                "plain_writes_per_second": plain.round(),
            }),
        );
    }
    figures.insert("value_bytes".to_owned(), json!(VALUE_BYTES));
    figures.insert("optimised".to_owned(), json!(!cfg!(debug_assertions)));
    println!("{}", serde_json::Value::Object(figures));
}

/// Something like an object of the API: repeated field names, random values.
fn value(random: &mut StdRng) -> Vec<u8> {
    let mut text = String::from("{\"apiVersion\":\"v1\",\"kind\":\"Pod\"");
    while text.len() < VALUE_BYTES - 1 {
        let number: u64 = random.random();
        text.push_str(&format!(",\"annotation-{}\":\"{number:016x}\"", number % 50));
    }
    text.truncate(VALUE_BYTES - 1);
    text.push('}');
    text.into_bytes()
}

fn key(random: &mut StdRng) -> Key {
    Key::new(&["pods", "default", &format!("pod-{:016x}", random.random::<u64>())])
}

fn fdatasync(directory: &Path, time: Duration) -> f64 {
    let mut file = std::fs::File::create(directory.join("probe")).expect("a file");
    file.write_all(&[0; 1 << 20]).and_then(|()| file.sync_all()).expect("a written file");
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < time {
        file.seek(SeekFrom::Start(count % 256 * 4096)).expect("a seek");
        file.write_all(&[count as u8; 4096]).expect("a write");
        file.sync_data().expect("a flush");
        count += 1;
    }
    (count as f64 / begin.elapsed().as_secs_f64()).round()
}

/// Lets `clients` write one after the other until the time is over; writes per second.
async fn drive<F: Future<Output = ()>>(
    clients: usize,
    time: Duration,
    write: impl Fn(Key, Vec<u8>) -> F,
) -> f64 {
    let begin = Instant::now();
    let client = async |number: usize| {
        let mut random = StdRng::seed_from_u64(number as u64);
        let mut count = 0_u64;
        while begin.elapsed() < time {
            write(key(&mut random), value(&mut random)).await;
            count += 1;
        }
        count
    };
    let counts = futures::future::join_all((0..clients).map(client)).await;
    counts.iter().sum::<u64>() as f64 / begin.elapsed().as_secs_f64()
}

async fn log_first(path: &Path, clients: usize, time: Duration) -> f64 {
    let store = Arc::new(RedbStore::open(path, Options::default()).expect("a store"));
    let rate = drive(clients, time, |key, value| {
        let store = store.clone();
        async move {
            let put = Op::Put { key, value: Value::plain(value), expect: Expect::Absent };
            store.commit(vec![put]).await.expect("a commit");
        }
    })
    .await;
    store.close().await;
    rate
}

type Insert = (Key, Vec<u8>, oneshot::Sender<()>);

async fn plain(path: &Path, clients: usize, time: Duration) -> f64 {
    let database = Database::create(path).expect("a database");
    let (sender, queue) = mpsc::channel::<Insert>(BATCH);
    let writer = std::thread::spawn(move || plain_writer(&database, queue));
    let rate = drive(clients, time, |key, value| {
        let sender = sender.clone();
        async move {
            let (reply, answer) = oneshot::channel();
            sender.send((key, value, reply)).await.expect("a writer");
            answer.await.expect("an answer");
        }
    })
    .await;
    drop(sender);
    writer.join().expect("a writer that ends");
    rate
}

fn plain_writer(database: &Database, mut queue: mpsc::Receiver<Insert>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(more) = queue.try_recv()
        {
            batch.push(more);
        }
        let transaction = database.begin_write().expect("a transaction");
        {
            let mut table = transaction.open_table(PLAIN).expect("a table");
            for (key, value, _) in &batch {
                table.insert(&key.0[..], &value[..]).expect("an insert");
            }
        }
        transaction.commit().expect("a commit");
        for (_, _, reply) in batch {
            // A client that has gone waits for nothing.
            let _ = reply.send(());
        }
    }
}
