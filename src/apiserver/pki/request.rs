//! Requests for certificates (PKCS #10), as far as the server reads them: whom they name, and whether
//! who made them has the key.

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{MAX_CSR_BYTES, PkiError};

/// The subject of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    pub common_name: String,
    pub organizations: Vec<String>,
}

impl CertificateRequest {
    /// Reads PEM, and checks the signature that proves possession of the key.
    ///
    /// # Errors
    /// For everything that is no such request.
    pub fn parse(pem: &[u8]) -> Result<CertificateRequest, PkiError> {
        let bad = |why: String| PkiError::BadRequest(why);
        if pem.len() > MAX_CSR_BYTES {
            return Err(bad(format!("it has more than {MAX_CSR_BYTES} bytes")));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|_| bad("PEM block type must be CERTIFICATE REQUEST".into()))?;
        let (_, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| bad(error.to_string()))?;
        request.verify_signature().map_err(|error| bad(error.to_string()))?;
        let subject = &request.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_string).unwrap_or_default()
        };
        Ok(CertificateRequest {
            common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
        })
    }
}
