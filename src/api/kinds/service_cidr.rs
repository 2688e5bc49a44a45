//! ServiceCIDR (networking.k8s.io/v1). The range of this cluster's Services is shown as
//! `kubernetes`; others are stored, and no address is given out of them.
//!
//! Upstream: pkg/apis/networking/validation/validation.go.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::Value;

use super::{checks, workload};
use crate::api::field::{Errors, Path};
use crate::api::names::Network;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// The range that the server was started with.
pub const DEFAULT_NAME: &str = "kubernetes";

impl Kind for ServiceCIDR {
    const META: KindMeta = KindMeta { singular: "servicecidr", status: true, ..DEFAULT_META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let ranges = ranges(self);
        let path = Path::new("spec");
        let path = path.child("cidrs");
        match ranges.len() {
            0 => return errors.required(&path, "at least one CIDR required"),
            1 | 2 => {}
            _ => return errors.invalid(&path, &self.spec, "may only hold up to 2 values"),
        }
        for (i, range) in ranges.iter().enumerate() {
            checks::canonical_cidr(errors, &path.index(i), range);
        }
        let families: Vec<bool> = ranges
            .iter()
            .filter_map(|range| Network::parse(range))
            .map(|network| network.address.is_ipv4())
            .collect();
        if let [one, other] = families[..]
            && one == other
        {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 \
                          and 2001:db8::/64";
            errors.invalid(&path, &ranges, detail);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let (new, old) = (ranges(self), ranges(old));
        let path = Path::new("spec");
        let path = path.child("cidrs");
        // A second range makes a single stack dual.
        if new.len() != old.len() && (old.len(), new.len()) != (1, 2) {
            return errors.invalid(&path, &new, "field is immutable");
        }
        for (i, (new, old)) in new.iter().zip(&old).enumerate() {
            checks::immutable(errors, &path.index(i), new, old);
        }
    }

    fn warnings(&self) -> Vec<String> {
        match self.metadata.name.as_deref() {
            Some(DEFAULT_NAME) => Vec::new(),
            _ => vec![workload::stored_only("ServiceCIDR")],
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[table::NAME, Column::new("CIDRs", "string", "The ranges of addresses."), table::AGE];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            ranges(self).join(",").into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn ranges(cidr: &ServiceCIDR) -> Vec<String> {
    cidr.spec.as_ref().and_then(|spec| spec.cidrs.clone()).unwrap_or_default()
}
