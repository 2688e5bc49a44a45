//! What simulated nodes are like, and how people write that on a command line.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::{names, quantity};
use crate::node::LeaseTimes;

/// Settings of a simulator.
#[derive(Clone, Debug)]
pub struct Options {
    /// The simulator's name; its nodes are `<name>-0`, `<name>-1`… See [`crate::api::simulated`].
    pub name: String,
    pub nodes: u32,
    /// Which process it is, over restarts: who holds the Lease.
    pub holder: String,
    /// Of each node, by the names of resources.
    pub capacity: BTreeMap<String, Quantity>,
    pub labels: BTreeMap<String, LabelPattern>,
    pub taints: Vec<Taint>,
    /// From the binding to Running and Ready.
    pub start_delay: Duration,
    /// From Running to Succeeded, of pods whose `restartPolicy` is not Always; `None`: they go on.
    pub finish_after: Option<Duration>,
    pub lease: LeaseTimes,
    /// The address that all nodes tell as theirs.
    pub host_ip: IpAddr,
}

/// The value of a label, in which `{i}` is the node's index and `{i%3}` its rest by three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The index, or its rest.
    Index(Option<u32>),
}

impl LabelPattern {
    pub fn of(&self, index: u32) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Index(None) => index.to_string(),
            Part::Index(Some(modulus)) => (index % modulus).to_string(),
        };
        self.0.iter().map(part).collect()
    }

    /// Whether all nodes have the same value.
    pub fn is_plain(&self) -> bool {
        !self.0.iter().any(|part| matches!(part, Part::Index(_)))
    }
}

impl FromStr for LabelPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<LabelPattern, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, behind) =
                after.split_once('}').ok_or(format!("{text:?} has a brace without its end"))?;
            let modulus = match inside {
                "i" => None,
                other => {
                    let number = other.strip_prefix("i%").and_then(|n| n.parse().ok());
                    let number = number.filter(|n| *n > 0);
                    Some(number.ok_or(format!("{{{other}}} is neither {{i}} nor {{i%NUMBER}}"))?)
                }
            };
            parts.extend([Part::Text(before.into()), Part::Index(modulus)]);
            rest = behind;
        }
        parts.push(Part::Text(rest.into()));
        parts.retain(|part| *part != Part::Text(String::new()));
        let pattern = LabelPattern(parts);
        // The longest that it becomes.
        let value = pattern.of(crate::api::simulated::MAX_NODES - 1);
        match names::is_label_value(&value).first() {
            Some(why) => Err(format!("{value:?} is no label's value: {why}")),
            None => Ok(pattern),
        }
    }
}

/// `cpu=32,memory=64Gi,pods=110` and whatever else a node has.
///
/// # Errors
/// What is wrong, for the one who typed it.
pub fn parse_capacity(text: &str) -> Result<BTreeMap<String, Quantity>, String> {
    let mut capacity = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (name, amount) =
            part.split_once('=').ok_or(format!("{part:?} is not of the form RESOURCE=AMOUNT"))?;
        let (name, amount) = (name.trim(), amount.trim());
        if let Some(why) = names::is_qualified_name(name).first() {
            return Err(format!("{name:?} is no resource: {why}"));
        }
        let parsed = quantity::Quantity::parse(amount).map_err(|e| format!("{amount:?}: {e}"))?;
        if parsed.sign() < 0 {
            return Err(format!("{name} cannot be {amount}"));
        }
        if capacity.insert(name.to_string(), Quantity(amount.to_string())).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(capacity)
}

/// `key=value:Effect` or `key:Effect`, as `kubectl taint` writes it.
///
/// # Errors
/// What is wrong, for the one who typed it.
pub fn parse_taint(text: &str) -> Result<Taint, String> {
    let form = || format!("{text:?} is not of the form KEY=VALUE:EFFECT or KEY:EFFECT");
    let (name, effect) = text.rsplit_once(':').ok_or_else(form)?;
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!(
            "{effect:?} is no effect; there are NoSchedule, PreferNoSchedule and NoExecute"
        ));
    }
    let wrong = names::is_qualified_name(key).into_iter().chain(names::is_label_value(value));
    if let Some(why) = wrong.into_iter().next() {
        return Err(format!("{text:?}: {why}"));
    }
    let value = Some(value.to_string()).filter(|value| !value.is_empty());
    Ok(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_index() {
        let of = |text: &str, index| text.parse::<LabelPattern>().map(|one| one.of(index));
        assert_eq!(of("zone-{i%3}", 7), Ok("zone-1".into()));
        assert_eq!(of("{i}", 7), Ok("7".into()));
        assert_eq!(of("r{i%2}-{i}x", 7), Ok("r1-7x".into()));
        assert_eq!(of("", 7), Ok(String::new()));
        for bad in ["{", "{i", "{j}", "{i%0}", "{i%x}", "a b", "-{i}"] {
            assert!(bad.parse::<LabelPattern>().is_err(), "{bad}");
        }
        let plain = |text: &str| text.parse::<LabelPattern>().unwrap().is_plain();
        assert!(plain("ssd") && !plain("zone-{i%3}"));
    }

    #[test]
    fn capacities_and_taints_are_read() {
        let read = parse_capacity("cpu=32, memory=64Gi,pods=110,example.com/gpu=2").unwrap();
        assert_eq!(read["memory"].0, "64Gi");
        assert_eq!(read.len(), 4);
        for bad in ["cpu", "cpu=-1", "cpu=1,cpu=2", "cpu=lots", "a b=1"] {
            assert!(parse_capacity(bad).is_err(), "{bad}");
        }
        let taint = parse_taint("dedicated=batch:NoSchedule").unwrap();
        assert_eq!((taint.key.as_str(), taint.value.as_deref()), ("dedicated", Some("batch")));
        assert_eq!(parse_taint("gone:NoExecute").unwrap().value, None);
        for bad in ["dedicated", "a=b:Never", ":NoSchedule", "a=b c:NoSchedule"] {
            assert!(parse_taint(bad).is_err(), "{bad}");
        }
    }
}
