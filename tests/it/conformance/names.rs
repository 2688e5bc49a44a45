//! The names of upstream's conformance tests, from the data file.

/// One line of the data.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    pub class: &'static str,
    pub sig: &'static str,
    pub name: &'static str,
    /// Why it is not ported; empty if it is, or if nobody has looked yet.
    pub why_not: &'static str,
}

impl Name {
    /// Upstream runs such a test alone, because it reads or changes what others use.
    pub fn is_serial(&self) -> bool {
        self.name.contains("[Serial]")
    }
}

pub fn all() -> impl Iterator<Item = Name> + Clone {
    let text = include_str!("../../data/conformance/v1.37.tsv");
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [class, sig, name, _file, _release, why_not] = fields[..] else {
            panic!("a line of the data with other than six columns: {line}");
        };
        Name { class, sig, name, why_not }
    })
}
