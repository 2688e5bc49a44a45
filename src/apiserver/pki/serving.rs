//! The server's own certificate: made in memory at start, made again long before it expires, so
//! that a server that runs for years needs no restart and no key ever lies on the disk.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Pki, PkiError, SERVER_DAYS};

/// When a certificate is replaced: after two thirds of its validity.
const RENEW_AFTER: Duration = Duration::from_secs(SERVER_DAYS as u64 * 24 * 60 * 60 * 2 / 3);

pub(super) struct RenewingCertificate {
    pki: Pki,
    names: Vec<String>,
    ips: Vec<IpAddr>,
    current: Mutex<(Arc<CertifiedKey>, Instant)>,
}

impl RenewingCertificate {
    pub(super) fn new(pki: Pki, names: &[String], ips: &[IpAddr]) -> Result<Self, PkiError> {
        let first = Arc::new(pki.server_certificate(names, ips)?);
        let current = Mutex::new((first, Instant::now()));
        Ok(RenewingCertificate { pki, names: names.to_vec(), ips: ips.to_vec(), current })
    }
}

impl ResolvesServerCert for RenewingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock();
        if current.1.elapsed() > RENEW_AFTER {
            // A failure keeps the present certificate, which is good for weeks; the next
            // connection tries again.
            match self.pki.server_certificate(&self.names, &self.ips) {
                Ok(new) => *current = (Arc::new(new), Instant::now()),
                Err(error) => tracing::warn!(%error, "the server certificate was not renewed"),
            }
        }
        Some(current.0.clone())
    }
}

impl fmt::Debug for RenewingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewingCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}
