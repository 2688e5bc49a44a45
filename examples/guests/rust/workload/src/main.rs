//! A command that uses what the platform offers beside WASI: who it is, its configuration, buckets
//! of keys and values, whether it is ready, and that it shall end. Its arguments are done in order:
//!
//! ```text
//! whoami            config=KEY            token=AUDIENCE       ready   unready
//! set=BUCKET/KEY/VALUE   get=BUCKET/KEY   delete=BUCKET/KEY    keys=BUCKET
//! count=BUCKET/KEY/DELTA     wait (until it shall end)         exit=0   exit=1
//! ```

wit_bindgen::generate!({
    path: "../../../../wit",
    world: "wasmfleet:workload/workload",
    generate_all,
});

use std::process::exit;

use wasi::config::store as config;
use wasi::keyvalue::{atomics, store};
use wasmfleet::workload::{identity, lifecycle, readiness};

fn main() {
    for argument in std::env::args().skip(1) {
        match run(&argument) {
            Ok(text) => println!("{text}"),
            Err(text) => {
                println!("{argument}: {text}");
                exit(1);
            }
        }
    }
}

fn run(argument: &str) -> Result<String, String> {
    let (verb, rest) = argument.split_once('=').unwrap_or((argument, ""));
    let mut parts = rest.splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default();
    match verb {
        "whoami" => Ok(format!("{:?}", identity::whoami())),
        "token" => identity::token(rest).map_err(|error| format!("{error:?}")),
        "config" => match config::get(rest).map_err(|error| format!("{error:?}"))? {
            Some(value) => Ok(value),
            None => Err("there is no such key".to_owned()),
        },
        "ready" | "unready" => {
            readiness::set_ready(verb == "ready");
            Ok(verb.to_owned())
        }
        "wait" => {
            lifecycle::subscribe_shutdown().block();
            Ok(format!("told to end, grace left: {}", lifecycle::grace_remaining().is_some()))
        }
        "exit" => exit(rest.parse().unwrap_or(1)),
        "set" => {
            let (bucket, key, value) = (open(part())?, part(), part());
            bucket.set(key, value.as_bytes()).map_err(said)?;
            Ok(format!("{key} is set"))
        }
        "get" => match open(part())?.get(part()).map_err(said)? {
            Some(value) => Ok(String::from_utf8_lossy(&value).into_owned()),
            None => Ok("nothing".to_owned()),
        },
        "delete" => {
            open(part())?.delete(part()).map_err(said)?;
            Ok("deleted".to_owned())
        }
        "keys" => {
            let answer = open(part())?.list_keys(None).map_err(said)?;
            Ok(answer.keys.join(" "))
        }
        "count" => {
            let (bucket, key) = (open(part())?, part());
            let delta = part().parse().map_err(|error| format!("{error}"))?;
            Ok(atomics::increment(&bucket, key, delta).map_err(said)?.to_string())
        }
        _ => Err("it is none of the verbs".to_owned()),
    }
}

fn open(bucket: &str) -> Result<store::Bucket, String> {
    store::open(bucket).map_err(said)
}

fn said(error: store::Error) -> String {
    format!("{error:?}")
}
