"""The Python client (kubernetes), as scripts and operators use it: pages, watches, patches, custom
resources, errors, manifests, exec and port-forward, leader election. Run by python.rs: KUBECONFIG and
NAMESPACE are set, and EXPIRES for the one step that needs a forgetful server."""

import datetime
import json
import os
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream import portforward, stream

NAMESPACE = os.environ["NAMESPACE"]
GROUP = f"{NAMESPACE}.example.com"

config.load_kube_config()
api = client.ApiClient()
core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
custom, extensions = client.CustomObjectsApi(api), client.ApiextensionsV1Api(api)


def refused(code, call, *args, **kwargs):
    """The body of an error that must come."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code, error
        return json.loads(error.body)
    raise AssertionError(f"{call.__name__} is no error")


def config_map(name, data=None, labels=None):
    meta = client.V1ObjectMeta(name=name, labels=labels)
    return client.V1ConfigMap(metadata=meta, data=data or {"a": "b"})


def pages():
    names = [f"page-{n}" for n in range(7)]
    for name in names:
        core.create_namespaced_config_map(NAMESPACE, config_map(name, labels={"set": "pages"}))
    found, token, version = [], None, None
    while True:
        options = {"limit": 3, "_continue": token} if token else {"limit": 3}
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="set=pages", **options)
        assert version in (None, page.metadata.resource_version), "one revision"
        version = page.metadata.resource_version
        found += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert len(page.items) == 3
        if len(found) == 3:
            # Not on the pages of this list.
            core.create_namespaced_config_map(
                NAMESPACE, config_map("page-3a", labels={"set": "pages"}))
    assert found == names, found
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="set=pages")


def watches():
    begin = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, config_map("seen"))
    core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"a": "c"}})
    core.delete_namespaced_config_map("seen", NAMESPACE)
    stream = watch.Watch()
    events = []
    for event in stream.stream(core.list_namespaced_config_map, NAMESPACE,
                               resource_version=begin, timeout_seconds=60):
        events.append((event["type"], event["object"].data["a"]))
        if event["type"] == "DELETED":
            stream.stop()
    assert events == [("ADDED", "b"), ("MODIFIED", "c"), ("DELETED", "c")], events
    # Where one watch stopped another goes on.
    resumed = watch.Watch()
    core.create_namespaced_config_map(NAMESPACE, config_map("later"))
    first = next(resumed.stream(core.list_namespaced_config_map, NAMESPACE,
                                resource_version=stream.resource_version, timeout_seconds=60))
    assert (first["type"], first["object"].metadata.name) == ("ADDED", "later"), first
    core.delete_namespaced_config_map("later", NAMESPACE)
    refused(400, core.list_namespaced_config_map, NAMESPACE, resource_version="nonsense")
    # The first version is known still, or is answered so that informers start anew.
    try:
        for event in watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE,
                                          resource_version="1", timeout_seconds=60):
            assert event["type"] == "ADDED", event
            break
    except ApiException as error:
        assert error.status == 410, error


def expires():
    """Of a server that keeps its history for seconds: pages and watches that come too late."""
    for n in range(3):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"old-{n}", labels={"set": "old"}))
    page = core.list_namespaced_config_map(NAMESPACE, label_selector="set=old", limit=1)
    begin, token = page.metadata.resource_version, page.metadata._continue
    core.create_namespaced_config_map(NAMESPACE, config_map("old-9", labels={"set": "old"}))
    deadline, told = time.monotonic() + 90, None
    while told is None:
        assert time.monotonic() < deadline, "the token is good for ever"
        try:
            core.list_namespaced_config_map(
                NAMESPACE, label_selector="set=old", limit=1, _continue=token)
            time.sleep(0.5)
        except ApiException as error:
            assert error.status == 410, error
            told = json.loads(error.body)
    assert told["reason"] == "Expired", told
    # The answer says how the list goes on with what is there now.
    rest = core.list_namespaced_config_map(
        NAMESPACE, label_selector="set=old", _continue=told["metadata"]["continue"])
    assert [item.metadata.name for item in rest.items] == ["old-1", "old-2", "old-9"], rest
    try:
        for event in watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE,
                                          resource_version=begin, timeout_seconds=60):
            raise AssertionError(event)
    except ApiException as error:
        assert error.status == 410, error


def deployment(ports):
    container = client.V1Container(name="main", image="hello:v1", ports=ports)
    template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": "py"}),
                                        spec=client.V1PodSpec(containers=[container]))
    spec = client.V1DeploymentSpec(replicas=0, template=template,
                                   selector=client.V1LabelSelector(match_labels={"app": "py"}))
    return client.V1Deployment(metadata=client.V1ObjectMeta(name="py"), spec=spec)


def patches():
    apps.create_namespaced_deployment(
        NAMESPACE, deployment([client.V1ContainerPort(container_port=80)]))
    # A dict is a strategic merge: containers by name, ports by number.
    body = {"spec": {"template": {"spec": {"containers": [
        {"name": "main", "ports": [{"containerPort": 81}]}]}}}}
    patched = apps.patch_namespaced_deployment("py", NAMESPACE, body)
    container = patched.spec.template.spec.containers[0]
    assert sorted(port.container_port for port in container.ports) == [80, 81], container
    assert container.image == "hello:v1"
    # A list is a JSON patch.
    body = [{"op": "test", "path": "/spec/replicas", "value": 0},
            {"op": "add", "path": "/metadata/labels", "value": {"by": "json"}}]
    patched = apps.patch_namespaced_deployment("py", NAMESPACE, body)
    assert patched.metadata.labels == {"by": "json"}
    body = [{"op": "test", "path": "/spec/replicas", "value": 1}]
    refused(422, apps.patch_namespaced_deployment, "py", NAMESPACE, body)
    merge = {"spec": {"template": {"spec": {"containers": [{"name": "other", "image": "x"}]}}}}
    patched = apps.patch_namespaced_deployment(
        "py", NAMESPACE, merge, _content_type="application/merge-patch+json")
    assert [c.name for c in patched.spec.template.spec.containers] == ["other"]
    applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "py"},
               "spec": {"paused": True}}
    patched = apps.patch_namespaced_deployment(
        "py", NAMESPACE, applied, field_manager="py", _content_type="application/apply-patch+yaml")
    assert patched.spec.paused
    entry = next(e for e in patched.metadata.managed_fields if e.manager == "py")
    assert entry.operation == "Apply" and entry.fields_v1 == {"f:spec": {"f:paused": {}}}, entry
    applied["spec"]["replicas"] = 2
    told = refused(409, apps.patch_namespaced_deployment, "py", NAMESPACE, applied,
                   field_manager="py", _content_type="application/apply-patch+yaml")
    assert told["details"]["causes"][0]["reason"] == "FieldManagerConflict", told
    scaled = apps.patch_namespaced_deployment_scale("py", NAMESPACE, {"spec": {"replicas": 1}})
    assert scaled.spec.replicas == 1 and scaled.kind == "Scale"
    apps.delete_namespaced_deployment("py", NAMESPACE)


def errors():
    core.create_namespaced_config_map(NAMESPACE, config_map("once"))
    told = refused(409, core.create_namespaced_config_map, NAMESPACE, config_map("once"))
    assert told == {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "configmaps \"once\" already exists", "reason": "AlreadyExists",
        "details": {"name": "once", "kind": "configmaps"}, "code": 409}, told
    told = refused(404, core.read_namespaced_config_map, "nobody", NAMESPACE)
    assert told["details"] == {"name": "nobody", "kind": "configmaps"}, told
    stale = core.read_namespaced_config_map("once", NAMESPACE)
    core.patch_namespaced_config_map("once", NAMESPACE, {"data": {"a": "c"}})
    stale.data = {"a": "d"}
    told = refused(409, core.replace_namespaced_config_map, "once", NAMESPACE, stale)
    assert told["reason"] == "Conflict", told
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="other"))
    refused(409, core.delete_namespaced_config_map, "once", NAMESPACE, body=options)
    deleted = core.delete_namespaced_config_map("once", NAMESPACE)
    told = api.sanitize_for_serialization(deleted)
    assert told["status"] == "Success" and told["details"]["uid"] == stale.metadata.uid, told


def custom_resources():
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
               "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                  "metadata": {"name": f"things.{GROUP}"},
                  "spec": {"group": GROUP, "scope": "Namespaced", "names": names,
                           "versions": [version]}}
    extensions.create_custom_resource_definition(definition)
    where = {"group": GROUP, "version": "v1", "namespace": NAMESPACE, "plural": "things"}
    thing = {"apiVersion": f"{GROUP}/v1", "kind": "Thing", "metadata": {"name": "one"}, "spec": {}}
    made = custom.create_namespaced_custom_object(body=thing, **where)
    assert made["spec"] == {"size": 1}, made
    # To a custom resource a dict is a merge patch.
    patched = custom.patch_namespaced_custom_object(name="one", body={"spec": {"size": 2}}, **where)
    assert patched["spec"]["size"] == 2
    custom.patch_namespaced_custom_object_status(
        name="one", body={"status": {"ready": True}}, **where)
    made["spec"]["size"] = 3
    refused(409, custom.replace_namespaced_custom_object, name="one", body=made, **where)
    listed = custom.list_namespaced_custom_object(**where)
    assert [(t["spec"]["size"], t["status"]) for t in listed["items"]] == [(2, {"ready": True})]
    things = dynamic.DynamicClient(api).resources.get(api_version=f"{GROUP}/v1", kind="Thing")
    told = things.server_side_apply(
        body={**thing, "spec": {"size": 9}}, namespace=NAMESPACE, field_manager="py",
        force_conflicts=True)
    assert told.spec.size == 9
    custom.delete_namespaced_custom_object(name="one", **where)
    extensions.delete_custom_resource_definition(f"things.{GROUP}")


def manifests():
    utils.create_from_yaml(api, "examples/hello.yaml", namespace=NAMESPACE)
    assert apps.read_namespaced_deployment("hello", NAMESPACE).spec.replicas
    try:
        utils.create_from_yaml(api, "examples/hello.yaml", namespace=NAMESPACE)
        raise AssertionError("created twice")
    except utils.FailToCreateError as error:
        assert "AlreadyExists" in str(error), error


def pod(name, image, args=None, ports=None):
    container = {"name": "main", "image": image, "args": args or [], "ports": ports or []}
    core.create_namespaced_pod(NAMESPACE, {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [container]}})
    field = f"metadata.name={name}"
    for event in watch.Watch().stream(
            core.list_namespaced_pod, NAMESPACE, field_selector=field, timeout_seconds=60):
        if event["object"].status.phase == "Running":
            return
    raise AssertionError(f"{name} does not run")


def streams():
    pod("tool", "tool:v1", ["sleep=100000"])
    pod("web", "hello:v1", ports=[{"containerPort": 8080}])
    run, plain = core.connect_get_namespaced_pod_exec, {"stdout": True, "stderr": True}
    out = stream(run, "tool", NAMESPACE, command=["tool", "hello"], stdin=False, tty=False, **plain)
    assert "arg[1]=hello" in out and "done 0" in out, out
    # A terminal: the line is edited and shown before the guest reads it.
    options = {"command": ["tool", "stdin", "exit=3"], "stdin": True, "tty": True, **plain}
    shell = stream(run, "tool", NAMESPACE, _preload_content=False, **options)
    shell.write_stdin("abc\x7fd\r")
    shell.write_stdin("\x04")
    shell.run_forever(timeout=60)
    # Reading all forgets the outcome.
    assert shell.returncode == 3, shell.returncode
    text = shell.read_all()
    assert "abc\b \bd\r\n" in text and "in: abd\r\n" in text, repr(text)
    # Ctrl-C ends a program that would not.
    options["command"] = ["tool", "spin"]
    shell = stream(run, "tool", NAMESPACE, _preload_content=False, **options)
    shell.write_stdin("\x03")
    shell.run_forever(timeout=60)
    assert shell.returncode == 130, shell.returncode
    # More than any buffer on the way holds, there and back.
    options.update(command=["tool", "stdin"], tty=False)
    pipe = stream(run, "tool", NAMESPACE, _preload_content=False, **options)
    lines = [f"line {n} " + "x" * 1000 for n in range(1000)]
    writer = threading.Thread(target=lambda: [pipe.write_stdin(line + "\n") for line in lines])
    writer.start()
    text, last = "", f"in: {lines[-1]}"
    while last not in text:
        text += pipe.read_stdout(timeout=60)
    writer.join()
    assert all(f"in: {line}\n" in text for line in lines)
    pipe.close()
    try:
        stream(run, "tool", NAMESPACE, command=["tool"], container="nobody", **plain)
        raise AssertionError("a container that is not there is no error")
    except ApiException as error:
        # The client knows the code of a refused handshake as text only.
        assert "400 Bad Request" in error.reason and "container nobody" in error.reason, error
    forward = portforward(
        core.connect_get_namespaced_pod_portforward, "web", NAMESPACE, ports="8080,81")
    http = forward.socket(8080)
    http.setblocking(True)
    http.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := http.recv(65536):
        answer += piece
    http.close()
    assert answer.startswith(b"HTTP/1.1 200") and b"hello" in answer, answer
    assert forward.error(8080) is None, forward.error(8080)
    assert "failed to connect" in forward.error(81), forward.error(81)


def leads():
    """Of two candidates one leads. The thread of the first goes on renewing to the end."""
    led, follows = threading.Event(), threading.Event()
    for name in ("first", "second"):
        started = led.set if name == "first" else (lambda: os._exit(3))
        lease = LeaseLock("leader", NAMESPACE, name)
        election = leaderelection.LeaderElection(electionconfig.Config(
            lease, lease_duration=17, renew_deadline=15, retry_period=1,
            onstarted_leading=started, onstopped_leading=lambda: os._exit(4)))
        if name == "first":
            threading.Thread(target=election.run, daemon=True).start()
            assert led.wait(60), "nobody leads"
        else:
            # The second looks once, and does not get it.
            assert not election.try_acquire_or_renew()
            follows.set()
    lease = client.CoordinationV1Api(api).read_namespaced_lease("leader", NAMESPACE)
    assert lease.spec.holder_identity == "first", lease
    assert isinstance(lease.spec.renew_time, datetime.datetime)
    assert follows.is_set()


STEPS = (pages, watches, patches, errors, custom_resources, manifests, streams, leads)
for step in (expires,) if "EXPIRES" in os.environ else STEPS:
    step()
    print(f"{step.__name__}: done", flush=True)
os._exit(0)
