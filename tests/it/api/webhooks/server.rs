//! A webhook served by the test itself, over TLS on loopback.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the webhook does with a request.
pub enum Reply {
    Allow,
    /// The response's fields beside its uid.
    Response(Value),
    /// A JSON patch.
    Patch(Value),
    /// Objects that were converted, all of those that were asked for.
    Converted(Vec<Value>),
    /// This body with this code.
    Raw(u16, Vec<u8>),
    /// An answer only when there is a permit.
    After(Arc<tokio::sync::Semaphore>),
    /// Allowed, so much later.
    Late(std::time::Duration),
    Never,
}

pub struct HookServer {
    pub port: u16,
    /// Its certificate in PEM and base64.
    pub ca_bundle: String,
    /// The path and the request of each review.
    pub seen: Arc<Mutex<Vec<(String, Value)>>>,
    pub connections: Arc<AtomicUsize>,
}

type Answer = dyn Fn(&str, &Value) -> Reply + Send + Sync;

impl HookServer {
    /// `answer` is given the path and the review's request.
    pub async fn start(
        answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> HookServer {
        wasmfleet::client::remote::install_crypto();
        let names = ["127.0.0.1", "hook.default.svc"].map(String::from);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let (answer, told, count): (Arc<Answer>, _, _) =
            (Arc::new(answer), seen.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (acceptor, answer, told) = (acceptor.clone(), answer.clone(), told.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service =
                        service_fn(move |request| respond(request, answer.clone(), told.clone()));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        let ca_bundle = BASE64_STANDARD.encode(made.cert.pem());
        HookServer { port, ca_bundle, seen, connections }
    }

    /// A configuration's webhook that asks this server about every write of ConfigMaps.
    pub fn hook(&self, name: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{name}.example.com"),
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{name}", self.port),
                "caBundle": self.ca_bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"]}],
        });
        for (field, value) in more.as_object().unwrap() {
            hook[field] = value.clone();
        }
        hook
    }

    pub fn paths(&self) -> Vec<String> {
        self.seen.lock().iter().map(|(path, _)| path.clone()).collect()
    }

    pub fn last(&self) -> Value {
        self.seen.lock().last().unwrap().1.clone()
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().trim_start_matches('/').to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    assert!(review["kind"] == "AdmissionReview" || review["kind"] == "ConversionReview");
    seen.lock().push((path.clone(), review["request"].clone()));
    let uid = &review["request"]["uid"];
    let mut response = match answer(&path, &review["request"]) {
        Reply::Allow => json!({"allowed": true}),
        Reply::Response(response) => response,
        Reply::Patch(patch) => json!({"allowed": true, "patchType": "JSONPatch",
            "patch": BASE64_STANDARD.encode(patch.to_string())}),
        Reply::Converted(objects) => {
            json!({"convertedObjects": objects, "result": {"status": "Success"}})
        }
        Reply::Raw(code, body) => {
            let response = Response::builder().status(code).body(Full::new(body.into()));
            return Ok(response.unwrap());
        }
        Reply::After(gate) => {
            gate.acquire().await.unwrap().forget();
            json!({"allowed": true})
        }
        Reply::Late(latency) => {
            tokio::time::sleep(latency).await;
            json!({"allowed": true})
        }
        Reply::Never => std::future::pending().await,
    };
    if response.get("uid").is_none() {
        response["uid"] = uid.clone();
    }
    let body = json!({"kind": review["kind"], "apiVersion": review["apiVersion"],
        "response": response});
    Ok(Response::new(Full::new(body.to_string().into())))
}
