//! Gives back the room that decoding left in a Pod's lists. A list of unknown length is begun for four
//! items, and items of a Pod take up to a kilobyte each, so that half of a decoded Pod is such room.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Volume};

/// For a Pod that will be held for long.
pub fn give_back(pod: &mut Pod) {
    fit(&mut pod.metadata.owner_references);
    fit(&mut pod.metadata.finalizers);
    fit(&mut pod.metadata.managed_fields);
    if let Some(spec) = &mut pod.spec {
        give_back_spec(spec);
    }
    if let Some(status) = &mut pod.status {
        give_back_status(status);
    }
}

fn give_back_spec(spec: &mut PodSpec) {
    spec.containers.shrink_to_fit();
    fit(&mut spec.init_containers);
    fit(&mut spec.ephemeral_containers);
    fit(&mut spec.volumes);
    fit(&mut spec.tolerations);
    fit(&mut spec.image_pull_secrets);
    let init = spec.init_containers.iter_mut().flatten();
    init.chain(&mut spec.containers).for_each(container);
    spec.volumes.iter_mut().flatten().for_each(volume);
}

fn container(container: &mut Container) {
    fit(&mut container.args);
    fit(&mut container.command);
    fit(&mut container.env);
    fit(&mut container.env_from);
    fit(&mut container.ports);
    fit(&mut container.volume_mounts);
}

fn volume(volume: &mut Volume) {
    if let Some(projected) = &mut volume.projected {
        fit(&mut projected.sources);
        for source in projected.sources.iter_mut().flatten() {
            source.config_map.iter_mut().for_each(|one| fit(&mut one.items));
            source.secret.iter_mut().for_each(|one| fit(&mut one.items));
            source.downward_api.iter_mut().for_each(|one| fit(&mut one.items));
        }
    }
    volume.config_map.iter_mut().for_each(|one| fit(&mut one.items));
    volume.secret.iter_mut().for_each(|one| fit(&mut one.items));
    volume.downward_api.iter_mut().for_each(|one| fit(&mut one.items));
}

fn give_back_status(status: &mut PodStatus) {
    fit(&mut status.conditions);
    fit(&mut status.host_ips);
    fit(&mut status.pod_ips);
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for list in lists {
        fit::<ContainerStatus>(list);
    }
}

fn fit<T>(list: &mut Option<Vec<T>>) {
    if let Some(list) = list {
        list.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Raw;

    #[test]
    fn lists_of_a_decoded_pod_are_as_long_as_what_is_in_them() {
        let text = json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"},
            "spec": {
                "containers": [{"name": "c", "args": ["x"], "volumeMounts": [
                    {"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "projected": {"sources": [
                    {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}]}}],
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
                    "restartCount": 0}],
            },
        });
        let mut pod: Pod = Raw(text.to_string().into()).decode().expect("a pod");
        let before = pod.clone();
        give_back(&mut pod);
        assert_eq!(pod, before);
        let (spec, status) = (pod.spec.expect("a spec"), pod.status.expect("a status"));
        let volumes = spec.volumes.expect("volumes");
        let projected = volumes[0].projected.as_ref().expect("projected");
        let sources = projected.sources.as_ref().expect("sources");
        let rooms = [
            spec.containers.capacity(),
            spec.containers[0].args.as_ref().map_or(0, Vec::capacity),
            spec.containers[0].volume_mounts.as_ref().map_or(0, Vec::capacity),
            volumes.capacity(),
            sources.capacity(),
            status.conditions.as_ref().map_or(0, Vec::capacity),
            status.container_statuses.as_ref().map_or(0, Vec::capacity),
        ];
        assert_eq!(rooms, [1; 7]);
    }
}
