//! projected: several sources in one directory, among them tokens of the pod's service account.

use k8s_openapi::api::core::v1::{Volume, VolumeProjection};

use super::{
    Content, Context, DEFAULT_MODE, Files, Need, VolumeError, VolumeKind, add, config_map,
    downward_api, secret,
};

/// The lifetime of tokens that name none (core/v1 ServiceAccountTokenProjection).
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

pub static KIND: VolumeKind = VolumeKind {
    name: "projected",
    matches: |v| v.projected.is_some(),
    needs,
    content,
    refreshes: true,
};

fn sources(volume: &Volume) -> impl Iterator<Item = &VolumeProjection> {
    volume.projected.iter().filter_map(|p| p.sources.as_ref()).flatten()
}

fn needs(volume: &Volume, needs: &mut Vec<Need>) {
    for source in sources(volume) {
        if let Some(map) = &source.config_map {
            needs.push(Need::ConfigMap(map.name.clone()));
        }
        if let Some(secret) = &source.secret {
            needs.push(Need::Secret(secret.name.clone()));
        }
        if let Some(token) = &source.service_account_token {
            let audience = token.audience.clone().unwrap_or_default();
            let expiration_seconds = token.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
            needs.push(Need::Token { audience, expiration_seconds });
        }
    }
}

fn content(volume: &Volume, context: &Context) -> Result<Content, VolumeError> {
    let mut files = Files::new();
    let projected = volume.projected.as_ref();
    let mode = projected.and_then(|p| p.default_mode).unwrap_or(DEFAULT_MODE);
    for source in sources(volume) {
        if let Some(map) = &source.config_map {
            let optional = map.optional == Some(true);
            let items = map.items.as_deref();
            config_map::project(context, &map.name, items, mode, optional, &mut files)?;
        }
        if let Some(from) = &source.secret {
            let optional = from.optional == Some(true);
            let items = from.items.as_deref();
            secret::project(context, &from.name, items, mode, optional, &mut files)?;
        }
        if let Some(downward) = &source.downward_api {
            let items = downward.items.as_deref().unwrap_or_default();
            downward_api::project(context, items, mode, &mut files)?;
        }
        if let Some(token) = &source.service_account_token {
            let audience = token.audience.clone().unwrap_or_default();
            let seconds = token.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
            let text = context.objects.tokens.get(&(audience, seconds)).ok_or_else(|| {
                VolumeError::Missing("no token of the service account was issued".into())
            })?;
            add(&mut files, &token.path, text.as_bytes(), mode)?;
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err(VolumeError::Unsupported(volume.name.clone()));
        }
    }
    Ok(Content::Files(files))
}
