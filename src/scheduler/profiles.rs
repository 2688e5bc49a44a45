//! Profiles: which plugins decide about a pod, by its `spec.schedulerName`. Pods that name none of
//! them are another scheduler's.

use super::NAME;
use super::framework::{Framework, Frameworks};
use super::plugins::default_framework;
use super::pod_info::PodInfo;

/// The profiles by name; there is at least one.
pub struct Profiles {
    list: Vec<(String, Framework)>,
}

impl Default for Profiles {
    fn default() -> Profiles {
        Profiles { list: vec![(NAME.into(), default_framework())] }
    }
}

impl Profiles {
    /// `None` without any.
    pub fn new(list: Vec<(String, Framework)>) -> Option<Profiles> {
        (!list.is_empty()).then_some(Profiles { list })
    }

    pub fn has(&self, scheduler: &str) -> bool {
        self.list.iter().any(|(name, _)| name == scheduler)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(name, _)| name.as_str())
    }
}

impl Frameworks for Profiles {
    /// Of pods that are another scheduler's, the first.
    fn of(&self, pod: &PodInfo) -> &Framework {
        let own = self.list.iter().find(|(name, _)| *name == pod.wants.scheduler);
        &own.unwrap_or(&self.list[0]).1
    }

    fn schedulers(&self) -> Vec<&str> {
        self.names().collect()
    }
}

impl std::fmt::Debug for Profiles {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self.names()).finish()
    }
}
