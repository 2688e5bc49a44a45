//! Runs a target over its corpus and over what mutations make of it, for a time, and keeps what it
//! finds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::mutate::{Form, mutate};

const SECONDS: &str = "WASMFLEET_FUZZ_SECONDS";
const SEED: &str = "WASMFLEET_FUZZ_SEED";
const DEFAULT_SECONDS: u64 = 1;
/// A target that found so much has said enough.
const MOST_FINDINGS: usize = 3;
/// Tries at making a finding smaller.
const SHRINKS: usize = 400;
/// The longest input.
const MAX_BYTES: usize = 64 << 10;
/// Inputs take no longer than this, on a machine that does much else: what takes longer is stuck.
const SLOW: Duration = Duration::from_secs(30);

/// After this a run is taken for stuck: its input is kept, and the process ends.
const STUCK: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a target says of an input; a panic says it too.
pub type Verdict = Result<(), String>;

/// What is run, and since when.
type Present = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

/// Ends the process if an input does not end: nothing else could.
fn watch(name: &str, folder: &Path) -> Present {
    let present = Present::default();
    let (weak, name, folder) = (Arc::downgrade(&present), name.to_string(), folder.to_path_buf());
    std::thread::spawn(move || {
        while let Some(present) = weak.upgrade() {
            if let Some((since, input)) = &*present.lock()
                && since.elapsed() > STUCK
            {
                let path = write(&folder, input);
                eprintln!("fuzz target {name} is stuck with {}", path.display());
                std::process::abort();
            }
            drop(present);
            std::thread::sleep(LOOK);
        }
    });
    present
}

fn run(target: &mut impl FnMut(&[u8]) -> Verdict, input: &[u8]) -> Verdict {
    let begin = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| target(input)));
    let verdict = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    });
    match verdict {
        Ok(()) if begin.elapsed() > SLOW => Err(format!("took {:?}", begin.elapsed())),
        verdict => verdict,
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

fn corpus(name: &str) -> (PathBuf, Vec<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    (folder, inputs)
}

/// Fuzzes a target; fails with what was found.
pub fn fuzz(name: &str, form: Form, seeds: Vec<Vec<u8>>, mut target: impl FnMut(&[u8]) -> Verdict) {
    // The moment in every test run is the same each time; a longer run looks elsewhere.
    let longer = number(SECONDS).map(|_| rand::random());
    let seed = number(SEED).or(longer).unwrap_or_default();
    println!("fuzz target {name}: {SEED}={seed}");
    let (folder, mut inputs) = corpus(name);
    let present = watch(name, &folder);
    let mut target = |input: &[u8]| {
        *present.lock() = Some((Instant::now(), input.to_vec()));
        let verdict = target(input);
        *present.lock() = None;
        verdict
    };
    inputs.extend(seeds);
    let mut findings = Vec::new();
    for input in &inputs {
        if let Err(why) = run(&mut target, input) {
            findings.push(keep(&folder, &mut target, input.clone(), why));
        }
    }
    assert!(findings.is_empty(), "the corpus fails:\n{}", findings.join("\n"));
    let mut random = StdRng::seed_from_u64(seed);
    let time = Duration::from_secs(number(SECONDS).unwrap_or(DEFAULT_SECONDS));
    let (begin, mut count) = (Instant::now(), 0u64);
    while begin.elapsed() < time && findings.len() < MOST_FINDINGS {
        let mut input = inputs[random.random_range(0..inputs.len())].clone();
        for _ in 0..random.random_range(1..=4) {
            let other = &inputs[random.random_range(0..inputs.len())];
            input = mutate(form, &input, other, &mut random);
        }
        input.truncate(MAX_BYTES);
        count += 1;
        if let Err(why) = run(&mut target, &input) {
            findings.push(keep(&folder, &mut target, input, why));
        }
    }
    println!("fuzz target {name}: {count} inputs");
    assert!(findings.is_empty(), "{SEED}={seed} found:\n{}", findings.join("\n"));
}

/// Makes a finding smaller, and writes it into the corpus.
fn keep(
    folder: &Path,
    target: &mut impl FnMut(&[u8]) -> Verdict,
    mut input: Vec<u8>,
    mut why: String,
) -> String {
    let mut tries = 0;
    let mut length = input.len().div_ceil(2);
    while length > 0 && tries < SHRINKS {
        let mut at = 0;
        while at < input.len() && tries < SHRINKS {
            let mut smaller = input.clone();
            smaller.drain(at..(at + length).min(input.len()));
            tries += 1;
            match run(target, &smaller) {
                Err(found) => (input, why) = (smaller, found),
                Ok(()) => at += length,
            }
        }
        length /= 2;
    }
    format!("{}: {why}", write(folder, &input).display())
}

fn write(folder: &Path, input: &[u8]) -> PathBuf {
    let name = hex::encode(&Sha256::digest(input)[..8]);
    let path = folder.join(format!("found-{name}"));
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(&path, input).unwrap();
    path
}
