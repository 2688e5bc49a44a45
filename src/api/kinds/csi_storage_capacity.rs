//! CSIStorageCapacity (storage.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use serde_json::Value;

use super::{checks, labels, storage, workload};
use crate::api::field::{Errors, Path};
use crate::api::quantity::Quantity;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for CSIStorageCapacity {
    const META: KindMeta = KindMeta {
        singular: "csistoragecapacity",
        delete_returns_object: true,
        unconditional_update: false,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        for amount in [&mut self.capacity, &mut self.maximum_volume_size].into_iter().flatten() {
            if let Ok(quantity) = Quantity::parse(&amount.0) {
                amount.0 = quantity.to_string();
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(topology) = &self.node_topology {
            labels::validate_selector(errors, &Path::new("nodeTopology"), topology);
        }
        checks::dns_subdomain(errors, &Path::new("storageClassName"), &self.storage_class_name);
        let amounts =
            [("capacity", &self.capacity), ("maximumVolumeSize", &self.maximum_volume_size)];
        for (field, amount) in amounts {
            storage::validate_optional_amount(errors, &Path::new(field), amount.as_ref());
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("nodeTopology");
        checks::immutable(errors, &path, &self.node_topology, &old.node_topology);
        let path = Path::new("storageClassName");
        checks::immutable(errors, &path, &self.storage_class_name, &old.storage_class_name);
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("CSIStorageCapacity")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("StorageClassName", "string", "The class that has so much room."),
            Column::new("Capacity", "string", "The room that is left."),
        ];
        COLUMNS
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let capacity = self.capacity.as_ref().map_or("<unset>", |amount| amount.0.as_str());
        vec![table::name(&self.metadata), self.storage_class_name.clone().into(), capacity.into()]
    }
}
