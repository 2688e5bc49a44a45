//! A command on WASI 0.3 that works until its container is told to end, and then cleans up: both are
//! tasks of one program, and neither polls. Its arguments are done in order:
//!
//! ```text
//! ready    wait (until it shall end)    work=MS (the same, and a line each so many milliseconds)
//! sleep=MS    exit=0    exit=1
//! ```

wit_bindgen::generate!({
    path: "../../../../wit",
    world: "wasmfleet:workload/workload-async",
    generate_all,
});

use std::cell::Cell;
use std::rc::Rc;

use wasip3::cli::{environment, exit, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::exports::cli::run;
use wasip3::wit_stream;
use wasmfleet::workload::{readiness, shutdown};

struct Command;
wasip3::cli::command::export!(Command);

impl run::Guest for Command {
    async fn run() -> Result<(), ()> {
        for argument in environment::get_arguments().iter().skip(1) {
            let (verb, rest) = argument.split_once('=').unwrap_or((argument, ""));
            match verb {
                "ready" => {
                    readiness::set_ready(true);
                    print("ready".to_owned()).await?;
                }
                "wait" => print(told(shutdown::wait().await)).await?,
                "work" => print(work(rest.parse().map_err(drop)?).await).await?,
                "sleep" => sleep(rest.parse().map_err(drop)?).await,
                "exit" => exit::exit_with_code(rest.parse().map_err(drop)?),
                _ => return Err(()),
            }
        }
        Ok(())
    }
}

fn told(grace_millis: u64) -> String {
    format!("told to end, grace left: {}", grace_millis > 0)
}

async fn sleep(millis: u64) {
    monotonic_clock::wait_for(millis * 1_000_000).await;
}

/// Does a piece of work each `millis` milliseconds, until it is told to end.
async fn work(millis: u64) -> String {
    let (pieces, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (its_pieces, its_over) = (pieces.clone(), over.clone());
    wit_bindgen::spawn_local(async move {
        while !its_over.get() {
            its_pieces.set(its_pieces.get() + 1);
            let _ = print(format!("piece {}", its_pieces.get())).await;
            sleep(millis).await;
        }
    });
    let grace_millis = shutdown::wait().await;
    over.set(true);
    format!("{} after {} pieces", told(grace_millis), pieces.get())
}

async fn print(line: String) -> Result<(), ()> {
    let (mut writer, reader) = wit_stream::new();
    // Both ends have to make progress: one task writes while this one waits for the host.
    wit_bindgen::spawn_local(async move {
        let _ = writer.write_all(format!("{line}\n").into_bytes()).await;
    });
    stdout::write_via_stream(reader).await.map_err(drop)
}
