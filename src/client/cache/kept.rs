//! One object of a table: decoded, or as the bytes that it is decoded from when somebody asks.
//!
//! A typed object takes several times its JSON, and most objects rest for hours. Where their bytes
//! are held by the store of the same process anyway, an object that nobody asked for between two
//! coolings is let go, and decoded again when it is asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::table::Row;
use crate::api::Raw;

/// An object and when its present version arrived, on the monotonic clock.
pub(super) struct Kept<T> {
    object: OnceLock<Arc<T>>,
    /// `None` for an object that stays decoded.
    raw: Option<Raw>,
    pub(super) since: Instant,
    /// Whether it was asked for since the last cooling.
    used: AtomicBool,
}

impl<T: Row> Kept<T> {
    pub(super) fn new(object: Arc<T>, raw: Option<Raw>, since: Instant) -> Kept<T> {
        Kept { object: OnceLock::from(object), raw, since, used: AtomicBool::new(true) }
    }

    /// The object, kept decoded for the next who asks.
    pub(super) fn object(&self, slim: fn(&mut T)) -> &Arc<T> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.object.get_or_init(|| self.decode(slim))
    }

    /// The bytes that it is decoded from.
    pub(super) fn raw(&self) -> Option<&Raw> {
        self.raw.as_ref()
    }

    /// The object for one look.
    pub(super) fn peek(&self, slim: fn(&mut T)) -> Arc<T> {
        self.object.get().cloned().unwrap_or_else(|| self.decode(slim))
    }

    fn decode(&self, slim: fn(&mut T)) -> Arc<T> {
        let decoded = self.raw.as_ref().and_then(T::revive);
        // It was decoded from the same bytes when it came.
        let mut object = decoded.unwrap_or_else(|| unreachable!("an object of bad bytes"));
        slim(&mut object);
        Arc::new(object)
    }

    /// What is let go of an object that nobody asked for since the last time.
    pub(super) fn cool(&mut self) -> Option<Arc<T>> {
        if self.used.swap(false, Ordering::Relaxed) || self.raw.is_none() {
            return None;
        }
        self.object.take()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn slim(map: &mut ConfigMap) {
        map.data = None;
    }

    #[test]
    fn what_nobody_asks_for_is_let_go_and_decoded_again() {
        let text = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{}}"#;
        let raw = Raw(Bytes::from_static(text.as_bytes()));
        let object = || {
            let mut map: ConfigMap = raw.decode().unwrap();
            slim(&mut map);
            Arc::new(map)
        };
        let now = Instant::now();
        let mut kept = Kept::new(object(), Some(raw.clone()), now);
        assert!(kept.cool().is_none(), "it has just come");
        assert!(kept.cool().is_some());
        assert_eq!(kept.peek(slim), object());
        assert!(kept.object.get().is_none(), "one look keeps nothing");
        assert_eq!(*kept.object(slim), object());
        assert!(kept.object.get().is_some());
        assert!(kept.cool().is_none(), "it was asked for");
        assert_eq!(kept.cool(), Some(object()));
        let mut decoded = Kept::new(object(), None, now);
        assert!(decoded.cool().is_none() && decoded.cool().is_none(), "it has no bytes");
    }
}
