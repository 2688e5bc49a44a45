//! Memory, for tests that measure it: other tests in the same process would be measured, too.

use std::process::Command;

/// Of x86-64 and most of aarch64.
const PAGE_BYTES: usize = 4096;

/// Whether the caller, a test of this full name, is alone in its process. Where it is not, the test has
/// been run by another process meanwhile.
///
/// # Panics
/// If it failed there.
pub fn is_alone(test: &str) -> bool {
    if std::env::args().any(|arg| arg == "--exact") {
        return true;
    }
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args(["--exact", test, "--nocapture"]).output();
    let output = output.expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "no test has the name {test}: {text}");
    false
}

/// What this process has in memory now.
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number") * PAGE_BYTES
}
