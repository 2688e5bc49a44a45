//! A node's native code, over HTTPS from its control plane. What comes is written down as it is: the
//! engine checks it.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::AsyncWriteExt;

use crate::api::ApiError;
use crate::client::node_paths::{COMPILE_LIMIT, CodeQuery, INVALID_MODULE};
use crate::client::remote::{Body, Remote};
use crate::engine::compile::CompileError;
use crate::engine::seal::Trust;
use crate::engine::supply::{CodeSource, FetchError, Server, Wanted};

/// The longest silence in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// How often code is asked for that is still being made: with the server's own wait, longer than its
/// compiler may take.
const MAX_ASKS: usize = 8;
/// What a node takes at most, in bytes: the compiler's own bound, and a seal.
const MAX_FILE_BYTES: u64 = (1 << 30) + 1024;

/// The control plane as a source of code.
struct ControlPlaneCode {
    remote: Remote,
    node: String,
}

/// The node's control plane; only what its CA (PEM) signed is run.
pub fn server(remote: Remote, node: &str, ca: &str) -> anyhow::Result<Server> {
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).context("the cluster's CA")?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).context("the cluster's CA")?;
    let trust = Trust::new(&certificate.public_key().subject_public_key.data)?;
    let source = ControlPlaneCode { remote, node: node.to_string() };
    Ok(Server { source: std::sync::Arc::new(source), trust })
}

#[async_trait::async_trait]
impl CodeSource for ControlPlaneCode {
    async fn fetch(&self, wanted: &Wanted, into: std::fs::File) -> Result<(), FetchError> {
        let query = CodeQuery {
            digest: wanted.key.digest.clone(),
            triple: wanted.target.triple().to_string(),
            cpu: wanted.target.cpu().to_string(),
            settings: wanted.key.settings_hash.clone(),
            namespace: wanted.runner.namespace.clone(),
            pod: wanted.runner.pod.clone(),
            image: wanted.runner.image.clone(),
        };
        let path = query.path(&self.node);
        let (method, program) = match &wanted.program {
            Some(program) => (Method::POST, program.clone()),
            None => (Method::GET, Bytes::new()),
        };
        for _ in 0..MAX_ASKS {
            let asked = self.remote.answer(method.clone(), &path, program.clone()).await;
            let answer = asked.map_err(of_api)?;
            // It is still being made.
            if answer.status() != StatusCode::ACCEPTED {
                return write_down(answer.into_body(), into).await;
            }
        }
        Err(FetchError::Unavailable("the control plane is still compiling it".to_string()))
    }
}

async fn write_down(mut body: Body, into: std::fs::File) -> Result<(), FetchError> {
    let failed = |error: &dyn std::fmt::Display| {
        FetchError::Unavailable(format!("code from the control plane: {error}"))
    };
    let mut file = tokio::fs::File::from_std(into);
    let mut length = 0;
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await.map_err(|e| failed(&e))?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|e| failed(&e))?.into_data() else { continue };
        length += data.len() as u64;
        if length > MAX_FILE_BYTES {
            return Err(failed(&"it is larger than any code may be"));
        }
        file.write_all(&data).await.map_err(|e| failed(&e))?;
    }
    file.flush().await.map_err(|e| failed(&e))
}

fn of_api(error: ApiError) -> FetchError {
    let message = error.message.clone();
    let causes = error.details.iter().flat_map(|details| &details.causes);
    for cause in causes {
        match cause.reason.as_str() {
            INVALID_MODULE => return FetchError::Verdict(CompileError::Invalid(message)),
            COMPILE_LIMIT => return FetchError::Verdict(CompileError::Limit(message)),
            _ => {}
        }
    }
    match error.code {
        // A 404 is also what a control plane of an older release answers.
        400 | 403 | 404 => FetchError::NeedsProgram(message),
        501 => FetchError::Unable(message),
        _ => FetchError::Unavailable(message),
    }
}
