//! The table that a run prints.

/// Rows, and remarks about the run.
#[derive(Default)]
pub struct Report {
    notes: Vec<String>,
    rows: Vec<[String; 5]>,
}

const HEAD: [&str; 5] = ["figure", "wasmfleet", "peer", "ratio", "aim"];

impl Report {
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("{text}");
        self.notes.push(text);
    }

    /// `what` says what it is in which unit; `ratio` is ours to the peer's.
    pub fn row(
        &mut self,
        what: &str,
        ours: String,
        peer: Option<String>,
        ratio: String,
        aim: &str,
    ) {
        let peer = peer.unwrap_or_else(|| "-".into());
        eprintln!("{what}: {ours} | {peer} | {ratio}");
        self.rows.push([what.into(), ours, peer, ratio, aim.into()]);
    }

    /// A row of two medians, with their ratio.
    pub fn compare(&mut self, what: &str, ours: f64, peer: Option<f64>, aim: &str) {
        let ratio = peer.map_or("-".into(), |peer| format!("{:.2}", ours / peer));
        self.row(what, number(ours), peer.map(number), ratio, aim);
    }

    pub fn print(&self) {
        let rows = std::iter::once(HEAD.map(String::from)).chain(self.rows.iter().cloned());
        let rows: Vec<[String; 5]> = rows.collect();
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        println!();
        for row in &rows {
            let [what, ours, peer, ratio, aim] = row;
            let [w0, w1, w2, w3, _] = widths;
            println!("{what:<w0$}  {ours:>w1$}  {peer:>w2$}  {ratio:>w3$}  {aim}");
        }
        println!();
        for note in &self.notes {
            println!("{note}");
        }
    }
}

/// Three digits that matter.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The median, 0 of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
