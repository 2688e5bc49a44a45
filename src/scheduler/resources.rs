//! Amounts of resources: what pods ask for and nodes have.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use crate::api::quantity::Quantity;

/// An amount of a resource, wide enough for the sum of any number of what a quantity can say.
pub type Amount = i128;

/// Amounts that pods ask for and nodes have. CPU in thousandths of a core, all else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    pub milli_cpu: Amount,
    pub memory_bytes: Amount,
    /// Extended resources and the rest by name.
    pub others: BTreeMap<String, Amount>,
}

impl Resources {
    pub(super) fn add(&mut self, other: &Resources, sign: Amount) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory_bytes += sign * other.memory_bytes;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += sign * amount;
        }
    }

    pub(super) fn max(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }

    /// Reads a map of quantities; what cannot be read counts as 0 (the API validates them).
    pub fn read(map: Option<&BTreeMap<String, WireQuantity>>) -> Resources {
        let mut resources = Resources::default();
        for (name, amount) in map.into_iter().flatten() {
            let Ok(amount) = Quantity::parse(&amount.0) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = amount.milli().into(),
                "memory" => resources.memory_bytes = amount.value().into(),
                "pods" => {}
                other => {
                    resources.others.insert(other.into(), amount.value().into());
                }
            }
        }
        resources
    }
}
