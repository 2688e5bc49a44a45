//! What a sleeping guest costs: measured in a process of its own.

use super::harness::{Harness, text};
use crate::alone::{is_alone, resident_bytes};

const GUESTS: usize = 1000;
/// The aim is some 20 KB for wasmtime's part; the bound leaves room for an allocator's mood.
const MAX_BYTES_EACH: usize = 64 << 10;

#[test]
fn a_thousand_sleeping_guests_are_cheap() {
    let name = "runtime::density::a_thousand_sleeping_guests_are_cheap";
    if !is_alone(name) {
        return;
    }
    let threads = tokio::runtime::Runtime::new().expect("threads");
    threads.block_on(async {
        let harness = Harness::new();
        let sleep = text!("p1-sleep.wat");
        let mut running = Vec::new();
        let mut before = 0;
        // The first ones pay for what all share.
        for guest in 0..GUESTS + 50 {
            if guest == 50 {
                before = resident_bytes();
            }
            let (spec, _) = harness.spec(&sleep).await;
            let mut one = harness.start(spec).await.expect("it starts");
            one.started().await;
            running.push(one);
        }
        // `started` is told before the guest first runs: it is asleep after its first turn.
        for one in &running {
            while one.container.usage().cpu_micros == 0 {
                tokio::task::yield_now().await;
            }
        }
        let each = (resident_bytes() - before) / GUESTS;
        println!("{each} bytes for each of {GUESTS} sleeping guests");
        assert!(each < MAX_BYTES_EACH, "{each} bytes for a sleeping guest");
    });
}
