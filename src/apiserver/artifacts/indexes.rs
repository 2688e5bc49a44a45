//! Indexes in the registry: what one may name, and the program that it means.

use std::io;
use std::sync::Arc;

use super::errors::{OciError, OciResult};
use super::manifests::refused;
use super::{Artifacts, IndexRecord, Record};
use crate::images::digest_hex;
use crate::images::index::{self, Index};
use crate::images::layout::LayoutError;

/// Manifests of one index: of each its record is read. Builds for all platforms there are have some
/// dozens, with the attestations about each.
const MAX_ENTRIES: usize = 256;

impl Artifacts {
    /// What is recorded of an index, all of whose manifests are here.
    pub(super) fn record_of_index(
        &self,
        repository: &str,
        digest: &str,
        index: &Index,
    ) -> OciResult<Record> {
        let count = index.manifests.len();
        if count > MAX_ENTRIES {
            return Err(refused(&format!(
                "it is an index of {count} manifests, and {MAX_ENTRIES} is the most"
            )));
        }
        let media_type = match &*index.media_type {
            "" | index::OCI_TYPE => index::OCI_TYPE,
            index::DOCKER_TYPE => index::DOCKER_TYPE,
            other => return Err(refused(&format!("it is an index of the unknown type {other:?}"))),
        };
        let mut manifests: Vec<String> = Vec::new();
        for entry in &index.manifests {
            let below = &entry.digest;
            if digest_hex(below).is_none() {
                return Err(refused(&LayoutError::Digest(below.clone()).to_string()));
            }
            if self.record(repository, below)?.is_none() {
                let message = format!("push the manifest {below} before the index that names it");
                return Err(OciError::bad("MANIFEST_BLOB_UNKNOWN", message));
            }
            if !manifests.contains(below) {
                manifests.push(below.clone());
            }
        }
        let (program, why) = match index.program().map_err(LayoutError::from) {
            Err(why) => (None, why.to_string()),
            Ok(program) => {
                match self.record(repository, program)?.is_some_and(|below| below.index.is_some()) {
                    true => (None, LayoutError::Nested.to_string()),
                    false => (Some(program.to_string()), String::new()),
                }
            }
        };
        Ok(Record {
            digest: digest.to_string(),
            media_type: media_type.to_string(),
            index: Some(IndexRecord { manifests, program, why }),
            ..Record::default()
        })
    }

    /// What is recorded of a tag or a digest; of an index, of the program that it means, if it has one.
    pub(super) fn meant(&self, repository: &str, version: &str) -> io::Result<Option<Arc<Record>>> {
        let record = self.record(repository, version)?;
        let index = record.as_ref().and_then(|record| record.index.as_ref());
        match index.and_then(|index| index.program.clone()) {
            Some(program) => self.record(repository, &program),
            None => Ok(record),
        }
    }

    /// The index of a repository that names a manifest.
    pub(super) fn named_by(&self, repository: &str, digest: &str) -> io::Result<Option<String>> {
        let names = |record: &Record| {
            let index = record.index.as_ref();
            index.is_some_and(|index| index.manifests.iter().any(|below| below == digest))
        };
        let records = self.records(repository)?;
        Ok(records.into_iter().find(names).map(|record| record.digest))
    }
}
